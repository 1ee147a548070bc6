// Expressions of one rule to the words that iptables-save prints for it. Pure; the inverse of nft-encode.ts: what
// that does not write (rules of other versions and other tools) is left to iptables-save.

import { bytesToIp } from "../../common/ip.js";
import { parseAttributes, readString } from "../kernel/netlink/codec.js";
import { maskOf } from "./nft-encode.js";
import { type Family, hex, MATCHES, portText, UnsupportedRule } from "./nft-extensions.js";
import {
  ADDRESSES,
  BITWISE,
  CMP,
  DATA,
  EXPRESSION,
  EXTENSION,
  GOTO,
  IMMEDIATE,
  JUMP,
  META,
  META_KEY,
  OPERATOR,
  PAYLOAD,
  PAYLOAD_BASE,
  PROTOCOLS,
  RANGE,
  VERDICT,
  VERDICTS,
} from "./nft-format.js";
import { TARGETS } from "./nft-targets.js";

type Attributes = ReturnType<typeof parseAttributes>;

/** What the register holds. */
type Loaded =
  | { kind: "meta"; key: number; mask?: Buffer }
  | { kind: "payload"; base: number; offset: number; length: number; mask?: Buffer };

const PROTOCOL_NAMES = new Map([...PROTOCOLS].map(([name, number]) => [number, name]));
const VERDICT_NAMES = new Map([...VERDICTS].map(([name, code]) => [code, name]));

/**
 * The words after `-A CHAIN`.
 * @param expressions the payload of NFTA_RULE_EXPRESSIONS as the kernel prints it.
 * @throws UnsupportedRule when it is in no form that nft-encode.ts writes.
 */
export function decodeRule(expressions: Buffer, family: Family): string[] {
  const decoder = new Decoder(family);
  for (let at = 0; at + 4 <= expressions.length; ) {
    const length = expressions.readUInt16LE(at);
    if (length < 4 || at + length > expressions.length) throw new UnsupportedRule("truncated");
    const element = parseAttributes(expressions.subarray(at, at + length), 4);
    const name = element.get(EXPRESSION.name);
    if (!name) throw new UnsupportedRule("expression without a name");
    decoder.expression(readString(name), parseAttributes(element.get(EXPRESSION.data) ?? Buffer.alloc(0)));
    at += (length + 3) & ~3;
  }
  return decoder.words();
}

function need(attributes: Attributes, type: number): Buffer {
  const value = attributes.get(type);
  if (!value) throw new UnsupportedRule(`no attribute ${type}`);
  return value;
}

const u32 = (attributes: Attributes, type: number): number => need(attributes, type).readUInt32BE(0);
const value = (attributes: Attributes, type: number): Buffer =>
  need(parseAttributes(need(attributes, type)), DATA.value);

class Decoder {
  readonly #family: Family;
  #loaded: Loaded | undefined;
  #base: Record<"-s" | "-d" | "-i" | "-o" | "-p", readonly string[]> = {
    "-s": [],
    "-d": [],
    "-i": [],
    "-o": [],
    "-p": [],
  };
  #protocol = "";
  readonly #matches: string[][] = [];
  #target: string[] = [];

  constructor(family: Family) {
    this.#family = family;
  }

  words(): string[] {
    return [...Object.values(this.#base).flat(), ...this.#matches.flat(), ...this.#target];
  }

  expression(name: string, data: Attributes): void {
    switch (name) {
      case "meta":
        this.#loaded = { kind: "meta", key: u32(data, META.key) };
        return;
      case "payload":
        this.#loaded = {
          kind: "payload",
          base: u32(data, PAYLOAD.base),
          offset: u32(data, PAYLOAD.offset),
          length: u32(data, PAYLOAD.length),
        };
        return;
      case "bitwise":
        this.#bitwise(data);
        return;
      case "cmp":
        this.#compared(value(data, CMP.data), u32(data, CMP.operator));
        return;
      case "range":
        this.#ranged(data);
        return;
      case "counter":
        return;
      case "immediate":
        this.#verdict(parseAttributes(need(data, IMMEDIATE.data)));
        return;
      case "match":
      case "target":
        this.#extension(name, data);
        return;
      default:
        throw new UnsupportedRule(`expression ${name}`);
    }
  }

  #bitwise(data: Attributes): void {
    if (!this.#loaded || this.#loaded.mask) throw new UnsupportedRule("bitwise");
    const operation = data.get(BITWISE.operation)?.readUInt32BE(0) ?? 0;
    if (operation !== 0 || value(data, BITWISE.xor).some((byte) => byte !== 0)) {
      throw new UnsupportedRule("bitwise");
    }
    this.#loaded.mask = value(data, BITWISE.mask);
  }

  #compared(found: Buffer, operator: number): void {
    if (operator !== OPERATOR.equal && operator !== OPERATOR.unequal) throw new UnsupportedRule("cmp");
    const not = operator === OPERATOR.unequal ? ["!"] : [];
    const loaded = this.#loaded;
    this.#loaded = undefined;
    if (loaded?.kind === "meta") this.#meta(loaded, found, not);
    else if (loaded?.base === PAYLOAD_BASE.network) this.#address(loaded, found, not);
    else if (loaded?.base === PAYLOAD_BASE.transport && !loaded.mask && found.length === 2) {
      this.#port(loaded.offset, String(found.readUInt16BE(0)), not);
    } else throw new UnsupportedRule("cmp");
  }

  #ranged(data: Attributes): void {
    const loaded = this.#loaded;
    this.#loaded = undefined;
    if (loaded?.kind !== "payload" || loaded.base !== PAYLOAD_BASE.transport || loaded.mask) {
      throw new UnsupportedRule("range");
    }
    const [from, to] = [value(data, RANGE.from), value(data, RANGE.to)];
    const not = u32(data, RANGE.operator) === OPERATOR.unequal ? ["!"] : [];
    this.#port(loaded.offset, portText(from.readUInt16BE(0), to.readUInt16BE(0)), not);
  }

  #meta({ key, mask }: { key: number; mask?: Buffer }, found: Buffer, not: string[]): void {
    if (key === META_KEY.mark) {
      const suffix = mask ? `/${hex(mask.readUInt32LE(0))}` : "";
      this.#matches.push(["-m", "mark", ...not, "--mark", `${hex(found.readUInt32LE(0))}${suffix}`]);
      return;
    }
    if (mask) throw new UnsupportedRule("meta with a mask");
    if (key === META_KEY.l4proto && found.length === 1) {
      this.#protocol = PROTOCOL_NAMES.get(found.readUInt8(0)) ?? "";
      if (!this.#protocol) throw new UnsupportedRule("protocol");
      this.#set("-p", [...not, "-p", this.#protocol]);
    } else if (key === META_KEY.iifname || key === META_KEY.oifname) {
      const whole = found.at(-1) === 0;
      const name = whole ? readString(found) : `${found.toString()}+`;
      const option = key === META_KEY.iifname ? "-i" : "-o";
      this.#set(option, [...not, option, name]);
    } else throw new UnsupportedRule(`meta ${key}`);
  }

  #address(loaded: { offset: number; length: number; mask?: Buffer }, found: Buffer, not: string[]): void {
    const { source, destination, bytes } = ADDRESSES[this.#family];
    const option = loaded.offset === source ? "-s" : loaded.offset === destination ? "-d" : undefined;
    if (!option || found.length !== loaded.length) throw new UnsupportedRule("address");
    let prefix = loaded.length * 8;
    if (loaded.mask) {
      const { mask } = loaded;
      prefix = mask.reduce((bits, byte) => bits + byte.toString(2).replaceAll("0", "").length, 0);
      if (Buffer.compare(mask, maskOf(prefix, bytes)) !== 0) throw new UnsupportedRule("mask");
    }
    const address = Buffer.alloc(bytes);
    found.copy(address);
    this.#set(option, [...not, option, `${bytesToIp(address)}/${prefix}`]);
  }

  #set(option: "-s" | "-d" | "-i" | "-o" | "-p", words: string[]): void {
    if (this.#base[option].length > 0) throw new UnsupportedRule(`two ${option}`);
    this.#base[option] = words;
  }

  #port(offset: number, text: string, not: string[]): void {
    const name = this.#protocol;
    if ((name !== "tcp" && name !== "udp") || offset > 2 || offset % 2) throw new UnsupportedRule("port");
    const words = [...not, offset === 0 ? "--sport" : "--dport", text];
    const last = this.#matches.at(-1);
    if (last?.[1] === name && last.includes("--sport") && offset === 2) last.push(...words);
    else this.#matches.push(["-m", name, ...words]);
  }

  #extension(kind: "match" | "target", data: Attributes): void {
    const name = readString(need(data, EXTENSION.name));
    const format = (kind === "match" ? MATCHES : TARGETS).get(name);
    if (!format || format.revision !== u32(data, EXTENSION.revision)) {
      throw new UnsupportedRule(`${kind} ${name}`);
    }
    const words = format.decode(need(data, EXTENSION.info), this.#family);
    if (kind === "match") this.#matches.push(["-m", name, ...words]);
    else this.#target = ["-j", name, ...words];
  }

  #verdict(data: Attributes): void {
    const verdict = parseAttributes(need(data, DATA.verdict));
    const code = need(verdict, VERDICT.code).readInt32BE(0);
    if (code === JUMP || code === GOTO) {
      this.#target = [code === JUMP ? "-j" : "-g", readString(need(verdict, VERDICT.chain))];
      return;
    }
    const name = VERDICT_NAMES.get(code);
    if (!name) throw new UnsupportedRule(`verdict ${code}`);
    this.#target = ["-j", name];
  }
}
