// Looks for a rule, given as words, among rules of the kernel. Pure.

import { MessageWriter, parseAttributes, readString } from "../kernel/netlink/codec.js";
import { canonicalRule } from "./canonical.js";
import { decodeRule } from "./nft-decode.js";
import { writeRule } from "./nft-encode.js";
import { type Family, UnsupportedRule } from "./nft-extensions.js";
import { EXPRESSION, RULE_ATTRIBUTE } from "./nft-format.js";
import type { KernelRule } from "./nft-kernel.js";
import { FOREIGN } from "./nft-memory.js";
import { specOf } from "./nft-plan.js";
import { ruleOfWords } from "./parse.js";

/** Index of the first such rule; "unreadable" when it, or one that might be it, is only for the tools to read. */
export type Found = number | "absent" | "unreadable";

const HEADER = 16;

export function findRule(rules: readonly KernelRule[], words: readonly string[], family: Family): Found {
  const wanted = expressionsOf(words, family);
  if (wanted) {
    const same = rules.findIndex(
      ({ expressions }) =>
        expressions.length === wanted.length && withoutCounters(expressions).equals(wanted),
    );
    if (same >= 0) return same;
  }
  const canonical = canonicalRule(ruleOfWords(words));
  let unreadable = false;
  const found = rules.findIndex(({ expressions }) => {
    try {
      return canonicalRule(ruleOfWords(decodeRule(expressions, family))) === canonical;
    } catch (error) {
      if (!(error instanceof UnsupportedRule)) throw error;
      unreadable = true;
      return false;
    }
  });
  // The first of two equal rules is meant, and an unreadable one before it might be equal: that is all one.
  if (found >= 0) return found;
  return unreadable || !wanted ? "unreadable" : "absent";
}

/** For each rule the line of an input that means the same; FOREIGN where there is none. */
export function linesOf(rules: readonly KernelRule[], texts: readonly string[], family: Family): string[] {
  const left = new Map<string, string[]>();
  for (const text of texts) {
    const key = canonicalRule(ruleOfWords(specOf(text, false).words));
    left.set(key, [...(left.get(key) ?? []), text]);
  }
  return rules.map(({ expressions }) => {
    try {
      return left.get(canonicalRule(ruleOfWords(decodeRule(expressions, family))))?.shift() ?? FOREIGN;
    } catch (error) {
      if (!(error instanceof UnsupportedRule)) throw error;
      return FOREIGN;
    }
  });
}

/** What a rule of these words looks like in the kernel, counters at zero; undefined when that is not known. */
export function expressionsOf(words: readonly string[], family: Family): Buffer | undefined {
  const writer = new MessageWriter().begin(0, 0, 0);
  try {
    writeRule(writer, words, family, undefined, () => true);
  } catch (error) {
    if (error instanceof UnsupportedRule) return undefined;
    throw error;
  }
  const found = parseAttributes(writer.end(), HEADER).get(RULE_ATTRIBUTE.expressions);
  return found && Buffer.from(found);
}

/** The expressions with counters at zero. */
export function withoutCounters(expressions: Buffer): Buffer {
  const out = Buffer.from(expressions);
  for (let at = 0; at + 4 <= out.length; ) {
    const length = out.readUInt16LE(at);
    if (length < 4) break;
    const element = parseAttributes(out.subarray(at, at + length), 4);
    const name = element.get(EXPRESSION.name);
    if (name && readString(name) === "counter") {
      for (const value of parseAttributes(element.get(EXPRESSION.data) ?? Buffer.alloc(0)).values())
        value.fill(0);
    }
    at += (length + 3) & ~3;
  }
  return out;
}
