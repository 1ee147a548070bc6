// The program behind hpa-example.ts: index.php adds a million square roots and answers "OK!". A process of its own;
// nothing imports it.

import { createServer, type ServerResponse } from "node:http";

const PORT = 80;
const ROUNDS = 1_000_000;
const HEADERS = { Server: "Apache/2.4.10 (Debian)", "X-Powered-By": "PHP/5.6.14" };

/** The sum is handed out so that no compiler leaves the loop away. */
function compute(): number {
  let x = 0.0001;
  for (let i = 0; i <= ROUNDS; i++) x += Math.sqrt(x);
  return x;
}

function answer(path: string, response: ServerResponse): number {
  if (path !== "/" && path !== "/index.php") {
    response.writeHead(404, HEADERS).end("Not Found\n");
    return 404;
  }
  const code = Number.isFinite(compute()) ? 200 : 500;
  response.writeHead(code, { ...HEADERS, "Content-Type": "text/html; charset=UTF-8" }).end("OK!");
  return code;
}

const server = createServer((request, response) => {
  const { method, url = "/", httpVersion, socket } = request;
  // Taken before the answer: afterwards the client may be gone.
  const peer = socket.remoteAddress?.replace(/^::ffff:/, "");
  const code = answer(url.split("?", 1)[0] ?? "/", response);
  process.stdout.write(
    `${peer} - - [${new Date().toISOString()}] "${method} ${url} HTTP/${httpVersion}" ${code}\n`,
  );
});
server.on("error", (error) => {
  process.stderr.write(`${error.message}\n`);
  process.exit(1);
});
server.listen(PORT);
// The first process of a PID namespace gets no signal that it has no handler for.
for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => process.exit(0));
