// The wire form of protobuf: fields of a message, and messages by tables of their fields (proto3). Pure; knows no message
// of anybody.
// Source: protobuf.dev, "Encoding".

/** The bytes are not what they claim to be. */
export class ProtobufError extends Error {
  override readonly name = "ProtobufError";
}

/** A field as it stands in the bytes: of numbers the value, of everything else the bytes. */
export type Wire = { number: number; value: bigint | Buffer };

/** @throws ProtobufError where the bytes end too early, or hold what proto3 does not have. */
export function* wireFields(bytes: Buffer): Generator<Wire> {
  let at = 0;
  const varint = (): bigint => {
    let result = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const byte = bytes[at++];
      if (byte === undefined) throw new ProtobufError("unexpected end of data");
      result |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return result;
    }
    throw new ProtobufError("a number is too long");
  };
  const take = (length: number): Buffer => {
    if (length < 0 || at + length > bytes.length) throw new ProtobufError("unexpected end of data");
    at += length;
    return bytes.subarray(at - length, at);
  };
  while (at < bytes.length) {
    const tag = Number(varint());
    const number = tag >>> 3;
    switch (tag & 7) {
      case 0:
        yield { number, value: varint() };
        break;
      case 1:
        yield { number, value: take(8) };
        break;
      case 2:
        yield { number, value: take(Number(varint())) };
        break;
      case 5:
        yield { number, value: take(4) };
        break;
      default:
        throw new ProtobufError(`wire type ${tag & 7} is not used by Kubernetes`);
    }
  }
}

/** int: all integers and enums, as numbers (exact to 2^53); map: of texts by texts. */
export type FieldType = "string" | "bytes" | "int" | "bool" | "map" | Message;
export type FieldSpec = readonly [number: number, type: FieldType, list?: "list"];

/** A message: its fields by name. */
export interface Message {
  readonly [name: string]: FieldSpec;
}

type One<T> = T extends "string"
  ? string
  : T extends "bytes"
    ? Buffer
    : T extends "int"
      ? number
      : T extends "bool"
        ? boolean
        : T extends "map"
          ? Record<string, string>
          : Decoded<T>;

/** What is read: every field, as proto3 has it when it was not written; a message that was not is undefined. */
export type Decoded<M> = {
  -readonly [K in keyof M]: M[K] extends readonly [number, infer T, "list"]
    ? One<T>[]
    : M[K] extends readonly [number, infer T]
      ? T extends string
        ? One<T>
        : Decoded<T> | undefined
      : never;
};

type OneOf<T> = T extends string ? One<T> : Encodable<T>;

/** What is written: the fields that say something. */
export type Encodable<M> = {
  readonly [K in keyof M]?:
    | (M[K] extends readonly [number, infer T, "list"]
        ? readonly OneOf<T>[]
        : M[K] extends readonly [number, infer T]
          ? OneOf<T>
          : never)
    | undefined;
};

function varint(value: number): Buffer {
  const bytes: number[] = [];
  // Negative ones stand as 64 bits of two's complement.
  let rest = BigInt.asUintN(64, BigInt(Math.trunc(value)));
  for (; rest > 127n; rest >>= 7n) bytes.push(Number(rest & 127n) | 128);
  return Buffer.from([...bytes, Number(rest)]);
}

function delimited(number: number, bytes: Buffer): Buffer {
  return Buffer.concat([varint((number << 3) | 2), varint(bytes.length), bytes]);
}

function field(number: number, type: FieldType, value: unknown, explicit: boolean): Buffer {
  if (type === "int" || type === "bool") {
    const numeric = Number(value);
    return numeric === 0 && !explicit
      ? Buffer.alloc(0)
      : Buffer.concat([varint(number << 3), varint(numeric)]);
  }
  if (type === "map") {
    const entries = Object.entries(value as Record<string, string>);
    return Buffer.concat(
      entries.map(([key, text]) =>
        delimited(number, Buffer.concat([delimited(1, Buffer.from(key)), delimited(2, Buffer.from(text))])),
      ),
    );
  }
  const bytes = typeof type === "string" ? Buffer.from(value as string) : encodeFields(type, value as object);
  return bytes.length === 0 && typeof type === "string" && !explicit ? bytes : delimited(number, bytes);
}

function encodeFields(message: Message, value: object): Buffer {
  const given = value as Record<string, unknown>;
  return Buffer.concat(
    Object.entries(message).flatMap(([name, [number, type, list]]) => {
      const one = given[name];
      if (one === undefined) return [];
      if (list) return (one as unknown[]).map((item) => field(number, type, item, true));
      return [field(number, type, one, false)];
    }),
  );
}

/** The bytes of a message. */
export function encode<const M extends Message>(message: M, value: Encodable<M>): Buffer {
  return encodeFields(message, value);
}

function blank(type: FieldType): unknown {
  if (type === "string") return "";
  if (type === "bytes") return Buffer.alloc(0);
  if (type === "int") return 0;
  if (type === "bool") return false;
  return type === "map" ? {} : undefined;
}

function number(value: bigint | Buffer): number {
  if (typeof value !== "bigint") throw new ProtobufError("found bytes where a number must be");
  return Number(BigInt.asIntN(64, value));
}

function bytesOf(value: bigint | Buffer): Buffer {
  if (typeof value === "bigint") throw new ProtobufError("found a number where a message or text must be");
  return value;
}

/** Numbers of a list may stand together in one field. */
function* packed(value: bigint | Buffer): Generator<bigint> {
  if (typeof value === "bigint") {
    yield value;
    return;
  }
  for (let at = 0; at < value.length; ) {
    let result = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = value[at++];
      if (byte === undefined || shift > 63n) throw new ProtobufError("unexpected end of data");
      result |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) break;
    }
    yield result;
  }
}

function single(type: FieldType, value: bigint | Buffer): unknown {
  if (type === "string") return bytesOf(value).toString("utf8");
  if (type === "bytes") return bytesOf(value);
  if (type === "int") return number(value);
  if (type === "bool") return number(value) !== 0;
  return type === "map" ? decodeFields(ENTRY, bytesOf(value)) : decodeFields(type, bytesOf(value));
}

const ENTRY = { key: [1, "string"], value: [2, "string"] } as const satisfies Message;

function decodeFields(message: Message, bytes: Buffer): Record<string, unknown> {
  const out: Record<string, unknown> = {};
  const names = new Map<number, string>();
  for (const [name, [at, type, list]] of Object.entries(message)) {
    names.set(at, name);
    out[name] = list ? [] : blank(type);
  }
  for (const { number: at, value } of wireFields(bytes)) {
    const name = names.get(at);
    // A field that is newer than the table, or that nobody here asks for.
    if (name === undefined) continue;
    const [, type, list] = message[name] as FieldSpec;
    if (list && (type === "int" || type === "bool"))
      for (const one of packed(value)) (out[name] as unknown[]).push(single(type, one));
    else if (list) (out[name] as unknown[]).push(single(type, value));
    else if (type === "map") {
      const { key, value: text } = single(type, value) as { key: string; value: string };
      Object.defineProperty(out[name], key, {
        value: text,
        enumerable: true,
        configurable: true,
        writable: true,
      });
    } else out[name] = single(type, value);
  }
  return out;
}

/** A message from its bytes. @throws ProtobufError */
export function decode<const M extends Message>(message: M, bytes: Buffer): Decoded<M> {
  return decodeFields(message, bytes) as Decoded<M>;
}
