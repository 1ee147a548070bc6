// gb-frontend: the web page of the guestbook tutorials. It speaks redis' protocol to the Services of the leader and of
// its followers, as the PHP program does.

import type { IncomingMessage, ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { EmulatedProcess } from "./emulated.js";
import { logDate } from "./nginx.js";
import { resolveHost } from "./resolve.js";
import type { ContainerContext, Image } from "./types.js";

const PORT = 80;
const REDIS_PORT = 6379;
const TIMEOUT_MS = 5000;
/** From 5 on there is a leader, with one key for all; before there were masters, and the page named the key. */
const BEFORE = /^v?[1-4]$/;

const PAGE = `<!DOCTYPE html>
<html>
<head><title>Guestbook</title></head>
<body>
<h2>Guestbook</h2>
<form id="form"><input id="text" placeholder="Messages" autofocus> <button>Submit</button></form>
<ul id="list"></ul>
<script>
const list = document.getElementById("list"), text = document.getElementById("text");
let messages = [];
function show() {
  list.replaceChildren(...messages.map((message) => Object.assign(document.createElement("li"), { textContent: message })));
}
fetch("guestbook.php?cmd=get&key=messages").then((answer) => answer.json()).then(({ data }) => {
  messages = data.split(",").filter(Boolean);
  show();
});
document.getElementById("form").addEventListener("submit", (event) => {
  event.preventDefault();
  messages.push(text.value);
  text.value = "";
  fetch("guestbook.php?cmd=set&key=messages&value=" + encodeURIComponent(messages.join(","))).then(show);
});
</script>
</body>
</html>
`;

/** One command of redis' protocol (RESP) and its reply, null for nothing. @throws Error, the server's own too. */
async function command(socket: Socket, words: readonly string[]): Promise<string | null> {
  const bulk = words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`);
  socket.write(`*${words.length}\r\n${bulk.join("")}`);
  let got = Buffer.alloc(0);
  for await (const chunk of socket) {
    got = Buffer.concat([got, chunk as Buffer]);
    const end = got.indexOf("\r\n");
    if (end < 0) continue;
    const line = got.toString("utf8", 1, end);
    const kind = String.fromCharCode(got[0] ?? 0);
    if (kind === "-") throw new Error(line);
    if (kind !== "$") return line;
    const length = Number(line);
    if (length < 0) return null;
    if (got.length >= end + 2 + length + 2) return got.toString("utf8", end + 2, end + 2 + length);
  }
  throw new Error("the connection was closed");
}

/** @throws Error when there is no such Service, nobody answers, or the answer is an error. */
async function ask(
  context: ContainerContext,
  role: string,
  words: readonly string[],
): Promise<string | null> {
  const service = `redis-${role}`;
  const variable = `${service.toUpperCase().replace("-", "_")}_SERVICE_HOST`;
  const name = (context.env.GET_HOSTS_FROM === "env" ? context.env[variable] : undefined) ?? service;
  const host = await resolveHost(context, name);
  const socket = context.ns.connect({ host, port: REDIS_PORT, timeout: TIMEOUT_MS });
  try {
    socket.setTimeout(TIMEOUT_MS, () =>
      socket.destroy(new Error(`no answer of ${name} within ${TIMEOUT_MS} ms`)),
    );
    return await command(socket, words);
  } finally {
    socket.destroy();
  }
}

/** What the web server says to a GET of `url`. */
export async function answer(
  context: ContainerContext,
  url: URL,
): Promise<{ code: number; type: string; body: string }> {
  const html = (code: number, body: string) => ({ code, type: "text/html; charset=UTF-8", body });
  if (url.pathname === "/" || url.pathname === "/index.html") return html(200, PAGE);
  if (url.pathname !== "/guestbook.php") return html(404, "<h1>Not Found</h1>\n");
  const { searchParams } = url;
  const [write, read] = BEFORE.test(context.tag) ? ["master", "slave"] : ["leader", "follower"];
  const key = (BEFORE.test(context.tag) && searchParams.get("key")) || "guestbook";
  const isSet = searchParams.get("cmd") === "set";
  try {
    if (isSet) await ask(context, write ?? "", ["SET", key, searchParams.get("value") ?? ""]);
    const body = isSet
      ? '{"message": "Updated"}'
      : `{"data": ${JSON.stringify((await ask(context, read ?? "", ["GET", key])) ?? "")}}`;
    return { code: 200, type: "application/json", body };
  } catch (error) {
    context.stderr(`PHP Fatal error: ${(error as Error).message}\n`);
    return html(500, "");
  }
}

async function serve(
  context: ContainerContext,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const { method, url = "/", headers, httpVersion, socket } = request;
  const { code, type, body } = await answer(context, new URL(url, "http://guestbook"));
  response.writeHead(code, { "Content-Type": type, "Content-Length": Buffer.byteLength(body) });
  response.end(method === "HEAD" ? undefined : body);
  const quoted = (value: string | undefined) => `"${value ?? "-"}"`;
  context.stdout(
    `${socket.remoteAddress} - - [${logDate(new Date())}] "${method} ${url} HTTP/${httpVersion}" ${code} ${body.length} ${quoted(headers.referer)} ${quoted(headers["user-agent"])}\n`,
  );
}

export const guestbook: Image = {
  names: [
    ...["us-docker.pkg.dev/google-samples/containers/gke", "gcr.io/google_samples", "gcr.io/google-samples"],
    "corelab",
  ].map((registry) => `${registry}/gb-frontend`),
  entrypoint: [],
  cmd: ["apache2-foreground"],
  program: ([command]) =>
    command === "apache2-foreground"
      ? async (context) => {
          const process = new EmulatedProcess(context, { onTerm: 0 });
          await process.http(PORT, (request, response) => void serve(context, request, response));
          return process;
        }
      : undefined,
};
