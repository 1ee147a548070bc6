// SCTP packets (RFC 9260) by hand, for kernels that translate them and have no SCTP sockets. Pure.

/** CRC32c, reflected: what SCTP has in place of a checksum. */
const CASTAGNOLI = 0x82f63b78;
const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = (value >>> 1) ^ (value & 1 ? CASTAGNOLI : 0);
  return value;
});

export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffff_ffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ (TABLE[(crc ^ byte) & 255] ?? 0);
  return (crc ^ 0xffff_ffff) >>> 0;
}

/** The first two packets of an association. */
export const CHUNK = { init: 1, initAck: 2 } as const;
const [CHECKSUM_AT, CHUNK_AT, CHUNK_BYTES] = [8, 12, 20];

export interface SctpPacket {
  readonly sport: number;
  readonly dport: number;
  /** 0 in an INIT, the INIT's own tag in an INIT ACK. */
  readonly tag: number;
  readonly chunk: number;
  /** By which the sender of an INIT (ACK) wants to be addressed from now on. */
  readonly initiateTag: number;
}

export function encodeSctp({ sport, dport, tag, chunk, initiateTag }: SctpPacket): Buffer {
  const out = Buffer.alloc(CHUNK_AT + CHUNK_BYTES);
  out.writeUInt16BE(sport, 0);
  out.writeUInt16BE(dport, 2);
  out.writeUInt32BE(tag, 4);
  out.writeUInt8(chunk, CHUNK_AT);
  out.writeUInt16BE(CHUNK_BYTES, CHUNK_AT + 2);
  out.writeUInt32BE(initiateTag, CHUNK_AT + 4);
  // Window, streams out and in, first TSN.
  out.writeUInt32BE(65_536, CHUNK_AT + 8);
  out.writeUInt16BE(1, CHUNK_AT + 12);
  out.writeUInt16BE(1, CHUNK_AT + 14);
  out.writeUInt32BE(1, CHUNK_AT + 16);
  out.writeUInt32LE(crc32c(out), CHECKSUM_AT);
  return out;
}

/** @throws Error for one that a receiver would have to throw away. */
export function decodeSctp(packet: Buffer): SctpPacket {
  const zeroed = Buffer.from(packet).fill(0, CHECKSUM_AT, CHUNK_AT);
  if (packet.readUInt32LE(CHECKSUM_AT) !== crc32c(zeroed)) throw new Error("the checksum is wrong");
  return {
    sport: packet.readUInt16BE(0),
    dport: packet.readUInt16BE(2),
    tag: packet.readUInt32BE(4),
    chunk: packet.readUInt8(CHUNK_AT),
    initiateTag: packet.readUInt32BE(CHUNK_AT + 4),
  };
}
