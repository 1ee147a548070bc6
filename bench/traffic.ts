// Whether traffic has moved: real TCP connections to a Service, one after the other from a namespace outside the node,
// till the endpoint that is waited for answers. In a process of its own, which the proxy's work does not hold up.
// Run as a program it asks from where it stands: `traffic.js ADDRESS PORT TEXT` prints when it began and when TEXT came.

import { once } from "node:events";
import { connect, createServer } from "node:net";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { NetNs } from "../dataplane/kernel/netns.js";

const FILE = fileURLToPath(import.meta.url);
const PORT = 80;
const TARGET_PORT = 8080;
const NODE_IP = "192.168.56.11";
const CLIENT_IP = "192.168.56.1";
/** Between two connections, milliseconds: the resolution of what is measured, and the CPU that measuring takes. */
const PAUSE_MS = 1;
const ANSWER_MS = 200;
/** All that our own endpoints say. */
const WHOLE = /^[\d.]+\n$/;

/** A client outside a node, which also serves the endpoints: packets cross the node both ways. */
export class Traffic {
  /** Addresses of endpoints, port 8080, that answer with their address. */
  static readonly ENDPOINTS = ["10.247.255.1", "10.247.255.2"] as const;
  static readonly VIP = "10.96.255.1";

  readonly #client: NetNs;
  readonly #process: ReturnType<NetNs["spawn"]>;
  readonly #lines: AsyncIterator<string>;

  private constructor(client: NetNs) {
    this.#client = client;
    this.#process = client.spawn(process.execPath, [FILE, "serve"], { stdio: ["pipe", "pipe", "inherit"] });
    const { stdout } = this.#process;
    if (!stdout) throw new Error("a pipe was asked for");
    this.#lines = createInterface({ input: stdout })[Symbol.asyncIterator]();
  }

  /** Wires a client to the node's namespace. */
  static async open(node: NetNs): Promise<Traffic> {
    const client = NetNs.create("client");
    const ip = (ns: NetNs, words: string) => ns.exec("ip", words.split(" "));
    await ip(node, "link set lo up");
    await ip(node, `link add eth0 type veth peer name eth0 netns ${client.path}`);
    await ip(node, `addr add ${NODE_IP}/24 dev eth0`);
    await ip(node, "link set eth0 up");
    await ip(client, `addr add ${CLIENT_IP}/24 dev eth0`);
    await ip(client, "link set eth0 up");
    await ip(client, "link set lo up");
    await ip(client, `route add default via ${NODE_IP}`);
    for (const address of Traffic.ENDPOINTS) {
      await ip(client, `addr add ${address}/32 dev lo`);
      await ip(node, `route add ${address} via ${CLIENT_IP}`);
    }
    node.sysctl("net/ipv4/ip_forward", 1);
    // The way back to an endpoint is the way that the packet came.
    for (const device of ["all", "eth0"]) node.sysctl(`net/ipv4/conf/${device}/send_redirects`, 0);
    const traffic = new Traffic(client);
    await traffic.#line();
    return traffic;
  }

  /**
   * Milliseconds from `change` to the end of the first connection to the Service that `endpoint` answers; others are
   * being answered before and meanwhile.
   */
  async moved(endpoint: string, change: () => void): Promise<number> {
    this.#process.stdin?.write(`${endpoint}\n`);
    await this.#line();
    const start = process.hrtime.bigint();
    change();
    const end = BigInt(await this.#line());
    return Number(end - start) / 1e6;
  }

  async #line(): Promise<string> {
    const { value, done } = await this.#lines.next();
    if (done) throw new Error("the client has ended");
    return value;
  }

  async close(): Promise<void> {
    const ended = once(this.#process, "exit");
    this.#process.stdin?.end();
    await ended;
    this.#client.close();
  }
}

/** What one connection is answered with; "" when nothing comes. */
async function answer(host: string, port: number): Promise<string> {
  const socket = connect({ host, port, timeout: ANSWER_MS });
  socket.write("GET / HTTP/1.0\r\n\r\n");
  let text = "";
  socket.setEncoding("utf8").on("timeout", () => socket.destroy());
  socket.on("data", (chunk: string) => {
    text += chunk;
    // No TIME_WAIT: thousands of these follow one another.
    if (WHOLE.test(text)) socket.resetAndDestroy();
  });
  await once(socket, "close").catch(() => undefined);
  return text;
}

async function answered(host: string, port: number, text: string): Promise<void> {
  while (!(await answer(host, port)).includes(text)) await sleep(PAUSE_MS);
}

async function serve(): Promise<void> {
  const servers = Traffic.ENDPOINTS.map((address) =>
    createServer((socket) => {
      socket.on("error", () => socket.destroy());
      socket.write(`${address}\n`);
    }).listen(TARGET_PORT, address),
  );
  await Promise.all(servers.map((server) => once(server, "listening")));
  console.log("ready");
  for await (const endpoint of createInterface({ input: process.stdin })) {
    await answer(Traffic.VIP, PORT);
    console.log("begun");
    await answered(Traffic.VIP, PORT, endpoint);
    console.log(String(process.hrtime.bigint()));
  }
  process.exit();
}

if (process.argv[1] === FILE) {
  const [, , host = "", port, text = ""] = process.argv;
  if (host === "serve") await serve();
  else {
    await answer(host, Number(port));
    const begun = Date.now();
    await answered(host, Number(port), text);
    console.log(`${begun} ${Date.now()}`);
  }
}
