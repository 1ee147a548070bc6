// The plugin "forward": asks other servers, from the pod's own network. Knows sockets and bytes.

import { randomInt } from "node:crypto";
import { decode } from "dns-packet";
import { hostPort } from "../../common/ip.js";
import type { NetNs } from "../../dataplane/kernel/netns.js";
import { parseResolvConf } from "../pods/files.js";
import { bare, RCODE, type Record, type Reply } from "./reply.js";
import type { ForwardSettings } from "./settings.js";
import { MessageReader, withLength } from "./stream.js";
import type { Transport } from "./wire.js";

/** One server's time for an answer; and for how long others are tried. */
const READ_TIMEOUT_MS = 2000;
const TRY_MS = 5000;

export interface ForwardPort {
  ns: NetNs;
  /** A file of the container; undefined when it cannot be read. */
  read(path: string): string | undefined;
}

export class Forwarder {
  readonly settings: ForwardSettings;
  readonly #ns: NetNs;
  readonly #servers: readonly { host: string; port: number }[];
  #running = 0;
  #turn = 0;

  /** @throws Error when a file of servers cannot be read or names none. */
  constructor(settings: ForwardSettings, { ns, read }: ForwardPort) {
    this.settings = settings;
    this.#ns = ns;
    this.#servers = settings.to
      .flatMap((one) => (one.startsWith("/") ? fromFile(one, read) : [one]))
      .map(split);
  }

  /** REFUSED when too many are under way, SERVFAIL when nobody answers in time. */
  async ask(query: Buffer, transport: Transport): Promise<Reply> {
    const { maxConcurrent } = this.settings;
    if (maxConcurrent > 0 && this.#running >= maxConcurrent)
      return { ...bare(RCODE.REFUSED), error: "concurrent queries exceeded maximum" };
    this.#running++;
    try {
      return await this.#askAny(query, transport);
    } finally {
      this.#running--;
    }
  }

  async #askAny(query: Buffer, transport: Transport): Promise<Reply> {
    const deadline = Date.now() + TRY_MS;
    let error = "no servers";
    for (const server of this.#ordered()) {
      if (Date.now() >= deadline) break;
      try {
        const message = await exchange(this.#ns, server, query, transport);
        return readReply(message);
      } catch (cause) {
        error = (cause as Error).message;
      }
    }
    return { ...bare(RCODE.SERVFAIL), error };
  }

  #ordered(): { host: string; port: number }[] {
    const servers = [...this.#servers];
    const { policy } = this.settings;
    const first =
      policy === "sequential" ? 0 : policy === "random" ? randomInt(servers.length) : this.#turn++;
    return servers.map((_, n) => servers[(n + first) % servers.length] as (typeof servers)[0]);
  }
}

function fromFile(path: string, read: ForwardPort["read"]): string[] {
  const { nameservers } = parseResolvConf(read(path) ?? "");
  if (nameservers.length === 0) throw new Error(`plugin/forward: no nameservers found in "${path}"`);
  return nameservers.map((host) => hostPort(host, 53));
}

function split(text: string): { host: string; port: number } {
  const colon = text.lastIndexOf(":");
  return { host: text.slice(0, colon).replace(/^\[|\]$/g, ""), port: Number(text.slice(colon + 1)) };
}

/** One question to one server under an id of our own. @throws Error: no answer in time, or none to be had. */
async function exchange(
  ns: NetNs,
  server: { host: string; port: number },
  query: Buffer,
  transport: Transport,
): Promise<Buffer> {
  const message = Buffer.from(query);
  const id = randomInt(0x10000);
  message.writeUInt16BE(id, 0);
  const isAnswer = (one: Buffer) =>
    one.length >= 12 && one.readUInt16BE(0) === id && one.readUInt8(2) >= 0x80;
  return transport === "udp"
    ? overUdp(ns, server, message, isAnswer)
    : overTcp(ns, server, message, isAnswer);
}

async function overUdp(
  ns: NetNs,
  { host, port }: { host: string; port: number },
  message: Buffer,
  isAnswer: (one: Buffer) => boolean,
): Promise<Buffer> {
  const socket = await ns.udp({ host: host.includes(":") ? "::" : "0.0.0.0" });
  try {
    return await new Promise((resolve, reject) => {
      const late = () => reject(new Error(`read udp ${host}:${port}: i/o timeout`));
      const timer = setTimeout(late, READ_TIMEOUT_MS);
      socket.once("close", () => clearTimeout(timer));
      socket.on("error", reject);
      socket.on("message", (one) => {
        if (isAnswer(one)) resolve(one);
      });
      // Connected: an ICMP error comes back, and nobody else's datagram does.
      socket.connect(port, host, () => socket.send(message));
    });
  } finally {
    socket.close();
  }
}

function overTcp(
  ns: NetNs,
  { host, port }: { host: string; port: number },
  message: Buffer,
  isAnswer: (one: Buffer) => boolean,
): Promise<Buffer> {
  const socket = ns.connect({ host, port, timeout: READ_TIMEOUT_MS });
  return new Promise<Buffer>((resolve, reject) => {
    socket.setTimeout(READ_TIMEOUT_MS, () => reject(new Error(`read tcp ${host}:${port}: i/o timeout`)));
    socket.on("error", reject);
    socket.once("close", () => reject(new Error(`read tcp ${host}:${port}: EOF`)));
    const reader = new MessageReader((one) => {
      if (isAnswer(one)) resolve(one);
    });
    socket.on("data", (chunk) => reader.push(chunk));
    socket.write(withLength(message));
  }).finally(() => socket.destroy());
}

/** @throws Error for what is no DNS message. */
function readReply(message: Buffer): Reply {
  const packet = decode(message);
  const records = (list: unknown): Record[] =>
    ((list ?? []) as Record[]).filter(({ type }) => (type as string) !== "OPT");
  return {
    rcode: message.readUInt8(3) & 0xf,
    authoritative: packet.flag_aa,
    recursive: packet.flag_ra,
    truncated: packet.flag_tc,
    answers: records(packet.answers),
    authorities: records(packet.authorities),
    additionals: records(packet.additionals),
  };
}
