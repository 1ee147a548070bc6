// Connection-tracking entries of one namespace, over nfnetlink: list UDP flows, delete one.
// Knows the kernel's message format (linux/netfilter/nfnetlink_conntrack.h); which flows are stale is stale-flows.ts.

import { createNetlink, type NetlinkSocket, parseAttributes } from "netlink";
import type { NetNs } from "../kernel/netns.js";

const NETLINK_NETFILTER = 12;
const CT_GET = 0x0101;
const CT_DELETE = 0x0102;
const NLM_F_DUMP = 0x300;
const NLA_F_NESTED = 0x8000;
const AF = { 4: 2, 6: 10 } as const;

const CTA_TUPLE_ORIG = 1;
const CTA_TUPLE_REPLY = 2;
const CTA_ID = 12;
const CTA_ZONE = 18;
const CTA_TUPLE_IP = 1;
const CTA_TUPLE_PROTO = 2;
const CTA_IP = { 4: { src: 1, dst: 2 }, 6: { src: 3, dst: 4 } } as const;
const CTA_PROTO_NUM = 1;
const CTA_PROTO_SRC_PORT = 2;
const CTA_PROTO_DST_PORT = 3;
const IPPROTO_UDP = 17;

/** Milliseconds: a reply that the socket lost (ENOBUFS) never comes. */
const TIMEOUT = 10_000;

/** One direction of a flow; addresses as in {@link Flow}. */
export interface Tuple {
  readonly src: string;
  readonly srcPort: number;
  readonly dst: string;
  readonly dstPort: number;
}

/** A tracked UDP flow. IPv6 addresses are 32 hexadecimal digits, see {@link addressKey}. */
export interface Flow {
  /** As the client sent it. */
  readonly original: Tuple;
  /** As the answer comes: its source is the backend. */
  readonly reply: Tuple;
  /** What the kernel needs to find the entry again: raw attributes. */
  readonly identity: readonly { readonly type: number; readonly data: Buffer }[];
}

function attributes(data: Buffer): Map<number, Buffer> {
  const out = new Map<number, Buffer>();
  parseAttributes(data, (item) => out.set(item.type, item.data));
  return out;
}

function address(bytes: Buffer | undefined): string {
  if (!bytes) return "";
  return bytes.length === 4 ? bytes.join(".") : bytes.toString("hex");
}

function parseTuple(data: Buffer | undefined, family: 4 | 6): (Tuple & { protocol: number }) | undefined {
  if (!data) return undefined;
  const parts = attributes(data);
  const [ipPart, protoPart] = [parts.get(CTA_TUPLE_IP), parts.get(CTA_TUPLE_PROTO)];
  if (!ipPart || !protoPart) return undefined;
  const [ip, proto] = [attributes(ipPart), attributes(protoPart)];
  return {
    src: address(ip.get(CTA_IP[family].src)),
    dst: address(ip.get(CTA_IP[family].dst)),
    protocol: proto.get(CTA_PROTO_NUM)?.[0] ?? 0,
    srcPort: proto.get(CTA_PROTO_SRC_PORT)?.readUInt16BE(0) ?? 0,
    dstPort: proto.get(CTA_PROTO_DST_PORT)?.readUInt16BE(0) ?? 0,
  };
}

/** A flow of one message of a dump; undefined when it is not UDP. */
export function parseFlow(message: Buffer, family: 4 | 6): Flow | undefined {
  const all = attributes(message.subarray(4));
  const original = parseTuple(all.get(CTA_TUPLE_ORIG), family);
  const reply = parseTuple(all.get(CTA_TUPLE_REPLY), family);
  if (original?.protocol !== IPPROTO_UDP || !reply) return undefined;
  const identity = [CTA_TUPLE_ORIG, CTA_ZONE, CTA_ID].flatMap((type) => {
    const data = all.get(type);
    return data ? [{ type: type === CTA_TUPLE_ORIG ? type | NLA_F_NESTED : type, data }] : [];
  });
  return { original, reply, identity };
}

function attribute(type: number, data: Buffer): Buffer {
  const out = Buffer.alloc((4 + data.length + 3) & ~3);
  out.writeUInt16LE(4 + data.length, 0);
  out.writeUInt16LE(type, 2);
  out.set(data, 4);
  return out;
}

/** Access to the conntrack table of one namespace and family. */
export class Conntrack implements Disposable {
  readonly #socket: NetlinkSocket;
  readonly #family: 4 | 6;

  private constructor(socket: NetlinkSocket, family: 4 | 6) {
    this.#socket = socket;
    this.#family = family;
  }

  /** The socket belongs to the namespace for good. Throws EPERM without CAP_NET_ADMIN there. */
  static open(ns: Pick<NetNs, "run">, family: 4 | 6): Conntrack {
    return new Conntrack(
      ns.run(() => createNetlink(NETLINK_NETFILTER)),
      family,
    );
  }

  /** All UDP flows. */
  async udpFlows(): Promise<Flow[]> {
    const messages = await this.#request(CT_GET, NLM_F_DUMP, []);
    return messages.flatMap(({ data }) => parseFlow(data, this.#family) ?? []);
  }

  /** Forgets a flow; false when the kernel had forgotten it already. */
  async delete(flow: Flow): Promise<boolean> {
    try {
      await this.#request(
        CT_DELETE,
        0,
        flow.identity.map(({ type, data }) => attribute(type, data)),
      );
      return true;
    } catch (error) {
      if (/ENOENT/.test(String(error))) return false;
      throw error;
    }
  }

  async #request(type: number, flags: number, payload: readonly Buffer[]) {
    const header = Buffer.from([AF[this.#family], 0, 0, 0]);
    const reply = this.#socket.request(type, Buffer.concat([header, ...payload]), {
      flags,
      timeout: TIMEOUT,
    });
    // An exception in a continuation of the native callback would abort the process: cross an event-loop turn.
    return new Promise<Awaited<typeof reply>[0]>((resolve, reject) => {
      reply.then(
        ([messages]) => setImmediate(resolve, messages),
        (error: unknown) => setImmediate(reject, error),
      );
    });
  }

  close(): void {
    this.#socket.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
