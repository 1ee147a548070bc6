// One TCP connection as a measure of a path: how long a small message takes there and back, and how much goes through.
// A program for where no file is: it comes by standard input. `serve PORT` | `ask ADDRESS PORT SECONDS`, which prints
// { "rttUs": median, "mbPerS": mean }. Knows nothing but Node.

import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";

const ROUND_TRIPS = 300;
const CHUNK = Buffer.alloc(64 << 10);
/** The last byte of a stream; then comes how many there were. */
const END = 1;

/** Sends small messages back; from the first long one on it only counts. */
function serve(port: number): void {
  const server = createServer({ noDelay: true }, (socket) => {
    let counted = 0;
    socket.on("data", (chunk) => {
      if (chunk.length === 1 && counted === 0) socket.write(chunk);
      else counted += chunk.length;
      if (chunk[chunk.length - 1] === END) socket.end(String(counted));
    });
    socket.on("close", () => server.close());
  });
  server.listen(port, () => console.log("listening"));
}

async function roundTrip(socket: Socket): Promise<number> {
  const start = process.hrtime.bigint();
  socket.write(Buffer.alloc(1));
  await once(socket, "data");
  return Number(process.hrtime.bigint() - start) / 1e3;
}

async function ask(host: string, port: number, seconds: number): Promise<void> {
  const socket = connect({ host, port, noDelay: true });
  await once(socket, "connect");
  const trips: number[] = [];
  for (let count = 0; count < ROUND_TRIPS; count++) trips.push(await roundTrip(socket));
  trips.sort((a, b) => a - b);
  const start = performance.now();
  while (performance.now() - start < seconds * 1000) if (!socket.write(CHUNK)) await once(socket, "drain");
  socket.write(Buffer.from([END]));
  const [text] = await once(socket, "data");
  const mbPerS = Number(text) / 1e3 / (performance.now() - start);
  console.log(JSON.stringify({ rttUs: trips[ROUND_TRIPS / 2], mbPerS }));
}

const [, , what, ...words] = process.argv;
if (what === "serve") serve(Number(words[0]));
else if (what === "ask") await ask(words[0] ?? "", Number(words[1]), Number(words[2]));
