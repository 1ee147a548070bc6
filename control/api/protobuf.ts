// Request bodies in Kubernetes' protobuf form, turned into the JSON that the rest of the engine works with: typed
// clients (kubectl create deployment, client-go) send nothing else. Answers stay JSON. Pure.

import { ProtobufError, wireFields } from "../../common/protobuf.js";
import type { FieldInfo, Schema, TypeRef } from "./schema.js";

export const PROTOBUF = "application/vnd.kubernetes.protobuf";

/** "k8s\0" before a runtime.Unknown message. */
const MAGIC = Buffer.from([0x6b, 0x38, 0x73, 0x00]);

/** The last value of each field of a small message. */
function messageOf(bytes: Buffer): Map<number, bigint | Buffer> {
  const out = new Map<number, bigint | Buffer>();
  for (const { number, value } of wireFields(bytes)) out.set(number, value);
  return out;
}

function bytesOf(value: bigint | Buffer | undefined): Buffer {
  if (value === undefined) return Buffer.alloc(0);
  if (typeof value === "bigint") throw new ProtobufError("found a number where a message or text must be");
  return value;
}

function numberOf(value: bigint | Buffer | undefined): number {
  if (value === undefined) return 0;
  if (typeof value !== "bigint") throw new ProtobufError("found bytes where a number must be");
  return Number(BigInt.asIntN(64, value));
}

const textOf = (value: bigint | Buffer | undefined): string => bytesOf(value).toString("utf8");

/** Fields of a message by number; a message that JSON inlines is a level of its own. */
type Numbers = Map<number, FieldInfo | Numbers>;

export class ProtobufReader {
  readonly #schema: Schema;
  readonly #explicitZero: ReadonlySet<string>;
  readonly #numbers = new Map<string, Numbers>();

  constructor(schema: Schema) {
    this.#schema = schema;
    this.#explicitZero = new Set(schema.protobuf.explicitZero);
  }

  /**
   * The object in a body, as JSON of the definition.
   * @throws ProtobufError
   */
  read(body: Buffer, definition: string): Record<string, unknown> {
    if (!body.subarray(0, MAGIC.length).equals(MAGIC))
      throw new ProtobufError("the body does not begin as a protobuf object of Kubernetes does");
    const unknown = messageOf(body.subarray(MAGIC.length));
    const typeMeta = messageOf(bytesOf(unknown.get(1)));
    const apiVersion = textOf(typeMeta.get(1));
    const kind = textOf(typeMeta.get(2));
    return {
      ...(apiVersion ? { apiVersion } : {}),
      ...(kind ? { kind } : {}),
      ...this.#struct(definition, bytesOf(unknown.get(2))),
    };
  }

  #numbersOf(definition: string): Numbers {
    const kept = this.#numbers.get(definition);
    if (kept) return kept;
    const { fields } = this.#schema.definition(definition);
    const numbers: Numbers = new Map();
    for (const fact of (this.#schema.protobuf.fields[definition] ?? "").split(" ")) {
      const [name = "", path = ""] = fact.split("=");
      const info = fields.get(name);
      if (!info) continue;
      const [outer, inner] = path.split(".").map(Number) as [number, number?];
      if (inner === undefined) numbers.set(outer, info);
      else {
        const level = numbers.get(outer);
        if (level instanceof Map) level.set(inner, info);
        else numbers.set(outer, new Map([[inner, info]]));
      }
    }
    this.#numbers.set(definition, numbers);
    return numbers;
  }

  #struct(definition: string, bytes: Buffer): Record<string, unknown> {
    const out: Record<string, unknown> = {};
    const { goName } = this.#schema.definition(definition);
    this.#fill(out, goName, this.#numbersOf(definition), bytes);
    return out;
  }

  #fill(out: Record<string, unknown>, goName: string, numbers: Numbers, bytes: Buffer): void {
    for (const { number, value } of wireFields(bytes)) {
      const field = numbers.get(number);
      // A field that is newer than our types.
      if (!field) continue;
      if (field instanceof Map) this.#fill(out, goName, field, bytesOf(value));
      else this.#field(out, goName, field, value);
    }
  }

  #field(
    out: Record<string, unknown>,
    goName: string,
    { name, type }: FieldInfo,
    value: bigint | Buffer,
  ): void {
    if (type.kind === "array") {
      const list = (out[name] ?? []) as unknown[];
      list.push(this.#value(type.items, value));
      out[name] = list;
    } else if (type.kind === "map") {
      const entry = messageOf(bytesOf(value));
      const item = this.#value(type.values, entry.get(2));
      const map = (out[name] ?? {}) as Record<string, unknown>;
      Object.defineProperty(map, textOf(entry.get(1)), {
        value: item,
        enumerable: true,
        configurable: true,
        writable: true,
      });
      out[name] = map;
    } else {
      const item = this.#value(type, value);
      // Go writes scalars without a pointer always, so that a zero says no more than an absence.
      const isZero = item === "" || item === 0 || item === false || item === undefined;
      if (!isZero || (item !== undefined && this.#explicitZero.has(`${goName}.${name}`))) out[name] = item;
    }
  }

  #value(type: TypeRef, value: bigint | Buffer | undefined): unknown {
    switch (type.kind) {
      case "string":
        return type.bytes ? bytesOf(value).toString("base64") : textOf(value);
      case "integer":
        return numberOf(value);
      case "boolean":
        return numberOf(value) !== 0;
      case "ref":
        return this.#ref(type.name, bytesOf(value));
      default:
        throw new ProtobufError("a list of lists has no protobuf form");
    }
  }

  #ref(name: string, bytes: Buffer): unknown {
    const { special } = this.#schema.definition(name);
    if (special === undefined) return this.#struct(name, bytes);
    const message = messageOf(bytes);
    switch (special) {
      case "time":
      case "micro-time":
        return timeOf(message, special === "micro-time");
      case "quantity":
        return textOf(message.get(1)) || "0";
      case "int-or-string":
        return numberOf(message.get(1)) === 1 ? textOf(message.get(3)) : int32(message.get(2));
      case "any-object":
        return rawJson(bytesOf(message.get(1)));
    }
  }
}

function int32(value: bigint | Buffer | undefined): number {
  return Number(BigInt.asIntN(32, BigInt(numberOf(value))));
}

/** Undefined for Go's zero time, which is an empty message. */
function timeOf(message: Map<number, bigint | Buffer>, micro: boolean): string | undefined {
  if (!message.has(1)) return undefined;
  const milliseconds = numberOf(message.get(1)) * 1000;
  const date = new Date(milliseconds);
  if (Number.isNaN(date.getTime())) throw new ProtobufError("a time is out of range");
  const seconds = date.toISOString().slice(0, 19);
  if (!micro) return `${seconds}Z`;
  const micros = Math.floor(numberOf(message.get(2)) / 1000);
  return `${seconds}.${String(micros).padStart(6, "0")}Z`;
}

function rawJson(bytes: Buffer): unknown {
  if (bytes.length === 0) return undefined;
  try {
    return JSON.parse(bytes.toString("utf8"));
  } catch (error) {
    throw new ProtobufError(`embedded JSON cannot be read: ${(error as Error).message}`);
  }
}
