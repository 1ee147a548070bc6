// Command-line flags as Go programs take them (pflag): --name=value, --name value, -name. Pure.

import { parseDuration } from "../../common/duration.js";

export class FlagError extends Error {
  override readonly name = "FlagError";
}

type Kind = "string" | "number" | "boolean" | "duration";

function convert(name: string, text: string, kind: Kind): string | number | boolean {
  const bad = () => new FlagError(`invalid argument "${text}" for "--${name}" flag`);
  if (kind === "string") return text;
  if (kind === "boolean") {
    if (["true", "1", "t"].includes(text)) return true;
    if (["false", "0", "f"].includes(text)) return false;
    throw bad();
  }
  const value = kind === "number" ? Number(text || Number.NaN) : parseDuration(text);
  if (value === undefined || Number.isNaN(value)) throw bad();
  return value;
}

/**
 * Parses `args` by what flags there are; the rest are operands.
 * @throws FlagError naming an unknown flag or a bad value.
 */
export function parseFlags<T extends Record<string, Kind>>(
  args: readonly string[],
  kinds: T,
): { flags: { [K in keyof T]?: string | number | boolean }; operands: string[] } {
  const flags: Record<string, string | number | boolean> = {};
  const operands: string[] = [];
  for (let i = 0; i < args.length; i++) {
    const arg = args[i] ?? "";
    if (!arg.startsWith("-") || arg === "-") {
      operands.push(arg);
      continue;
    }
    const [name = "", inline] = splitOnce(arg.replace(/^--?/, ""), "=");
    const kind = kinds[name];
    if (!kind) throw new FlagError(`unknown flag: --${name}`);
    if (inline !== undefined) flags[name] = convert(name, inline, kind);
    else if (kind === "boolean") flags[name] = true;
    else {
      const value = args[++i];
      if (value === undefined) throw new FlagError(`flag needs an argument: --${name}`);
      flags[name] = convert(name, value, kind);
    }
  }
  return { flags: flags as { [K in keyof T]?: string | number | boolean }, operands };
}

function splitOnce(text: string, separator: string): [string, string | undefined] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
}
