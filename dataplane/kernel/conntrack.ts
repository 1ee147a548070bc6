// Connection-tracking entries of one namespace, over nfnetlink: list UDP flows, delete one.
// Knows the kernel's message format (linux/netfilter/nfnetlink_conntrack.h); which flows are stale is its users' business.

import { type MessageWriter, parseAttributes } from "./netlink/codec.js";
import { NETLINK_NETFILTER, NetlinkError, NetlinkSocket } from "./netlink/socket.js";
import type { NetNs } from "./netns.js";

/** Bytes of the fixed part of a message. */
const NFGENMSG = 4;
const CT_GET = 0x0101;
const CT_DELETE = 0x0102;
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

function address(bytes: Buffer | undefined): string {
  if (!bytes) return "";
  return bytes.length === 4 ? bytes.join(".") : bytes.toString("hex");
}

function parseTuple(data: Buffer | undefined, family: 4 | 6): (Tuple & { protocol: number }) | undefined {
  if (!data) return undefined;
  const parts = parseAttributes(data);
  const [ipPart, protoPart] = [parts.get(CTA_TUPLE_IP), parts.get(CTA_TUPLE_PROTO)];
  if (!ipPart || !protoPart) return undefined;
  const [ip, proto] = [parseAttributes(ipPart), parseAttributes(protoPart)];
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
  const all = parseAttributes(message, NFGENMSG);
  const original = parseTuple(all.get(CTA_TUPLE_ORIG), family);
  const reply = parseTuple(all.get(CTA_TUPLE_REPLY), family);
  if (original?.protocol !== IPPROTO_UDP || !reply) return undefined;
  const identity = [CTA_TUPLE_ORIG, CTA_ZONE, CTA_ID].flatMap((type) => {
    const data = all.get(type);
    // A copy: the next answer of the kernel overwrites the message.
    return data
      ? [{ type: type === CTA_TUPLE_ORIG ? type | NLA_F_NESTED : type, data: Buffer.from(data) }]
      : [];
  });
  return { original, reply, identity };
}

/** Access to the conntrack table of one namespace and family. */
export class Conntrack implements Disposable {
  readonly #socket: NetlinkSocket;
  readonly #family: 4 | 6;

  private constructor(socket: NetlinkSocket, family: 4 | 6) {
    this.#socket = socket;
    this.#family = family;
  }

  /** The socket belongs to the namespace for good. Throws SyscallError. */
  static open(ns: Pick<NetNs, "run" | "name">, family: 4 | 6): Conntrack {
    return new Conntrack(NetlinkSocket.open(ns, NETLINK_NETFILTER), family);
  }

  /** All UDP flows. Throws NetlinkError EPERM without CAP_NET_ADMIN in the namespace. */
  udpFlows(): Flow[] {
    const label = { operation: "listFlows", detail: `IPv${this.#family}` };
    return this.#socket.dump(label, CT_GET, this.#header, ({ body }) => parseFlow(body, this.#family));
  }

  /** Forgets a flow; false when the kernel had forgotten it already. */
  delete({ original, identity }: Flow): boolean {
    const detail = `udp ${original.src}:${original.srcPort} → ${original.dst}:${original.dstPort}`;
    try {
      this.#socket.change({ operation: "deleteFlow", detail }, CT_DELETE, 0, (w) => {
        this.#header(w);
        for (const { type, data } of identity) w.bytes(type, data);
      });
      return true;
    } catch (error) {
      if (error instanceof NetlinkError && error.code === "ENOENT") return false;
      throw error;
    }
  }

  /** struct nfgenmsg: the family; version and resource id are 0. */
  readonly #header = (w: MessageWriter): void => {
    w.fixed(NFGENMSG, (at) => at.writeUInt8(AF[this.#family], 0));
  };

  close(): void {
    this.#socket.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
