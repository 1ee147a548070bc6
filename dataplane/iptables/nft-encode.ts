// One rule, as words, to the expressions that iptables-nft makes of it (linux/netfilter/nf_tables.h): ports,
// addresses, interfaces and marks are native, the rest are xtables extensions. Pure; the inverse is nft-decode.ts.
//
// The form is that of iptables 1.8.9. Older and newer ones (1.8.7 to 1.8.11) differ in which matches they write
// natively; all of them read and print this form, since each has to understand rules that another one left.

import { ipFamily, ipToBytes } from "../../common/ip.js";
import type { MessageWriter } from "../kernel/netlink/codec.js";
import { type Extension, type Option, shapeOf } from "./canonical.js";
import {
  decimal,
  type ExtensionFormat,
  type Family,
  MATCHES,
  markPair,
  Options,
  portRange,
  UnsupportedRule,
} from "./nft-extensions.js";
import {
  ADDRESSES,
  BITWISE,
  CMP,
  COMPAT_ATTRIBUTE,
  COMPAT_INVERTED,
  COUNTER,
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
  REGISTER,
  RULE_ATTRIBUTE,
  VERDICT,
  VERDICTS,
} from "./nft-format.js";
import { TARGETS } from "./nft-targets.js";
import { type Counters, MAX_CHAIN_NAME } from "./rules.js";

/** Options that iptables takes once; shapeOf would see the last. */
const ONCE = ["-s", "-d", "-p", "-i", "-o", "-j"] as const;
const MAX_INTERFACE = 15;
const U32 = 0xffff_ffff;
/** TCP, UDP, SCTP. */
const PORT_PROTOCOLS = new Set([6, 17, 132]);
/** Targets of iptables that are no chains and that are not written here. */
const OTHER_TARGET = /^[A-Z0-9]{1,12}$/;

/**
 * Writes the attributes of a rule that say what it does, behind those that say where it stands.
 * @param words what follows `-A CHAIN`, comment included.
 * @param isChain whether a name is a chain of the table; asked for names that look like a target's.
 * @throws UnsupportedRule when only the iptables tools know how; the message is then unusable.
 */
export function writeRule(
  w: MessageWriter,
  words: readonly string[],
  family: Family,
  counters: Counters | undefined,
  isChain: (name: string) => boolean,
): void {
  for (const option of ONCE) {
    if (words.indexOf(option) !== words.lastIndexOf(option)) throw new UnsupportedRule(`${option} twice`);
  }
  const { base, matches, target } = shapeOf({ args: words });
  const encoder = new Encoder(w, family);
  w.list(RULE_ATTRIBUTE.expressions, () => {
    encoder.base(base);
    for (const match of matches) encoder.match(match);
    encoder.counter(counters);
    if (target) encoder.target(target, isChain);
  });
  const { number, not } = encoder.protocol;
  w.nest(RULE_ATTRIBUTE.compat, () => {
    w.u32be(COMPAT_ATTRIBUTE.protocol, number);
    w.u32be(COMPAT_ATTRIBUTE.flags, not ? COMPAT_INVERTED : 0);
  });
}

class Encoder {
  readonly #w: MessageWriter;
  readonly #family: Family;
  protocol = { number: 0, not: false };

  constructor(w: MessageWriter, family: Family) {
    this.#w = w;
    this.#family = family;
  }

  base(base: ReadonlyMap<string, Option>): void {
    const options = new Options({ name: "rule", options: base });
    this.#interface(META_KEY.iifname, options.take("-i"));
    this.#interface(META_KEY.oifname, options.take("-o"));
    const protocol = options.take("-p");
    if (protocol) {
      this.protocol = { number: protocolNumber(protocol.value, this.#family), not: protocol.not };
      this.#meta(META_KEY.l4proto);
      this.#compare(Buffer.of(this.protocol.number), protocol.not);
    }
    this.#address(ADDRESSES[this.#family].source, options.take("-s"));
    this.#address(ADDRESSES[this.#family].destination, options.take("-d"));
    options.finish();
  }

  match(match: Extension): void {
    const options = new Options(match);
    if (match.name === "mark") this.#mark(options);
    else if ((match.name === "tcp" || match.name === "udp") && match.options.size > 0) {
      this.#needProtocol(match.name);
      this.#port(0, options.take("--sport"));
      this.#port(2, options.take("--dport"));
    } else {
      if (match.name === "tcp" || match.name === "udp" || match.name === "sctp")
        this.#needProtocol(match.name);
      this.#extension("match", match.name, MATCHES.get(match.name), options);
    }
    options.finish();
  }

  counter(counters: Counters | undefined): void {
    this.#expression("counter", (w) => {
      w.u64be(COUNTER.bytes, counters?.bytes ?? 0n);
      w.u64be(COUNTER.packets, counters?.packets ?? 0n);
    });
  }

  target(target: Extension & { readonly goto: boolean }, isChain: (name: string) => boolean): void {
    const { name } = target;
    const options = new Options(target);
    const code = VERDICTS.get(name);
    const format = TARGETS.get(name);
    const port = /\]|^[^:]*:[^:]*$/.test(target.options.get("--to-destination")?.values[0] ?? "");
    if (port && (this.protocol.not || !PORT_PROTOCOLS.has(this.protocol.number))) {
      throw new UnsupportedRule("a port without a protocol that has ports");
    }
    if (target.goto || (code === undefined && !format)) {
      if (name.length > MAX_CHAIN_NAME || (OTHER_TARGET.test(name) && !isChain(name))) {
        throw new UnsupportedRule(`target ${name}`);
      }
      this.#verdict(target.goto ? GOTO : JUMP, name);
    } else if (code !== undefined) this.#verdict(code);
    else this.#extension("target", name, format, options);
    options.finish();
  }

  #needProtocol(name: string): void {
    if (this.protocol.not || this.protocol.number !== PROTOCOLS.get(name)) {
      throw new UnsupportedRule(`-m ${name} without -p ${name}`);
    }
  }

  #interface(key: number, option: { not: boolean; value: string } | undefined): void {
    if (!option) return;
    const { value, not } = option;
    if (value === "" || value === "+" || value.length > MAX_INTERFACE) {
      throw new UnsupportedRule(`interface ${value}`);
    }
    this.#meta(key);
    // With the closing NUL the whole name has to be equal, without it the beginning.
    this.#compare(Buffer.from(value.endsWith("+") ? value.slice(0, -1) : `${value}\0`), not);
  }

  #address(offset: number, option: { not: boolean; value: string } | undefined): void {
    if (!option) return;
    const [text = "", prefixText] = option.value.split("/");
    if (ipFamily(text) !== this.#family) throw new UnsupportedRule(`address ${option.value}`);
    const { bytes: length } = ADDRESSES[this.#family];
    const prefix = prefixText === undefined ? length * 8 : decimal(prefixText, length * 8);
    if (prefix === 0) throw new UnsupportedRule(`address ${option.value}`);
    const mask = maskOf(prefix, length);
    const address = ipToBytes(text).map((byte, i) => byte & (mask[i] ?? 0));
    if (prefix % 8 === 0) {
      this.#payload(PAYLOAD_BASE.network, offset, prefix / 8);
      this.#compare(address.subarray(0, prefix / 8), option.not);
    } else {
      this.#payload(PAYLOAD_BASE.network, offset, length);
      this.#mask(mask);
      this.#compare(address, option.not);
    }
  }

  #port(offset: number, option: { not: boolean; value: string } | undefined): void {
    if (!option) return;
    const [from, to] = portRange(option.value);
    this.#payload(PAYLOAD_BASE.transport, offset, 2);
    const bytes = (port: number) => Buffer.of(port >> 8, port & 255);
    if (from === to) {
      this.#compare(bytes(from), option.not);
      return;
    }
    this.#expression("range", (w) => {
      w.u32be(RANGE.register, REGISTER);
      w.u32be(RANGE.operator, option.not ? OPERATOR.unequal : OPERATOR.equal);
      w.list(RANGE.from, () => w.bytes(DATA.value, bytes(from)));
      w.list(RANGE.to, () => w.bytes(DATA.value, bytes(to)));
    });
  }

  #mark(options: Options): void {
    const option = options.take("--mark");
    if (!option) throw new UnsupportedRule("mark");
    const [value, mask] = markPair(option.value);
    const word = (n: number) => {
      const out = Buffer.alloc(4);
      out.writeUInt32LE(n, 0);
      return out;
    };
    this.#meta(META_KEY.mark);
    if (mask !== U32) this.#mask(word(mask));
    this.#compare(word(value), option.not);
  }

  #extension(kind: string, name: string, format: ExtensionFormat | undefined, options: Options): void {
    if (!format) throw new UnsupportedRule(`${kind} ${name}`);
    const info = format.encode(options, this.#family);
    this.#expression(kind, (w) => {
      w.string(EXTENSION.name, name);
      w.u32be(EXTENSION.revision, format.revision);
      w.bytes(EXTENSION.info, info);
    });
  }

  #verdict(code: number, chain?: string): void {
    this.#expression("immediate", (w) => {
      w.u32be(IMMEDIATE.register, 0);
      w.list(IMMEDIATE.data, () => {
        w.list(DATA.verdict, () => {
          w.u32be(VERDICT.code, code);
          if (chain !== undefined) w.string(VERDICT.chain, chain);
        });
      });
    });
  }

  #meta(key: number): void {
    this.#expression("meta", (w) => {
      w.u32be(META.key, key);
      w.u32be(META.register, REGISTER);
    });
  }

  #payload(base: number, offset: number, length: number): void {
    this.#expression("payload", (w) => {
      w.u32be(PAYLOAD.register, REGISTER);
      w.u32be(PAYLOAD.base, base);
      w.u32be(PAYLOAD.offset, offset);
      w.u32be(PAYLOAD.length, length);
    });
  }

  #mask(mask: Uint8Array): void {
    this.#expression("bitwise", (w) => {
      w.u32be(BITWISE.source, REGISTER);
      w.u32be(BITWISE.target, REGISTER);
      w.u32be(BITWISE.length, mask.length);
      w.u32be(BITWISE.operation, 0);
      w.list(BITWISE.mask, () => w.bytes(DATA.value, mask));
      w.list(BITWISE.xor, () => w.bytes(DATA.value, new Uint8Array(mask.length)));
    });
  }

  #compare(value: Uint8Array, not: boolean): void {
    this.#expression("cmp", (w) => {
      w.u32be(CMP.register, REGISTER);
      w.u32be(CMP.operator, not ? OPERATOR.unequal : OPERATOR.equal);
      w.list(CMP.data, () => w.bytes(DATA.value, value));
    });
  }

  #expression(name: string, fill: (w: MessageWriter) => void): void {
    this.#w.list(EXPRESSION.element, (w) => {
      w.string(EXPRESSION.name, name);
      w.list(EXPRESSION.data, fill);
    });
  }
}

function protocolNumber(text: string, family: Family): number {
  const name = text === "icmpv6" && family === 6 ? "ipv6-icmp" : text;
  const number = PROTOCOLS.get(name) ?? decimal(text, 255);
  if (number === 0) throw new UnsupportedRule(`protocol ${text}`);
  return number;
}

export function maskOf(prefix: number, bytes: number): Uint8Array {
  return Uint8Array.from(
    { length: bytes },
    (_, i) => (0xff00 >> Math.min(8, Math.max(0, prefix - i * 8))) & 0xff,
  );
}
