// Values out of a configuration, checked: whatever is wrong is refused with the path of its field. Pure.

import { BITS, Cidr, formatIp, parseIp } from "../common/ip.js";
import { CniError, CODE } from "./types.js";

/** CniError 7: "FIELD must be WANTED, not VALUE". */
export function invalid(field: string, wanted: string, value: unknown): CniError {
  return new CniError(
    CODE.invalidConfig,
    `${field} must be ${wanted}, not ${JSON.stringify(value) ?? "absent"}`,
  );
}

export function listOf(field: string, value: unknown, { empty = false } = {}): unknown[] {
  if (Array.isArray(value) && (empty || value.length > 0)) return value;
  throw invalid(field, empty ? "a list" : "a list of at least one", value);
}

/**
 * Keys are taken in any case, as Go's decoder does: containerd writes capability arguments as HostPort, Servers, ….
 * @throws CniError 7 for what is no object, 2 for a key that is not in `allowed`.
 */
export function objectOf(
  field: string,
  value: unknown,
  allowed: readonly string[],
): Readonly<Record<string, unknown>> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw invalid(field, "an object", value);
  }
  const pairs = Object.entries(value).map(([key, inner]): [string, unknown] => {
    const known = allowed.find((one) => one.toLowerCase() === key.toLowerCase());
    if (known !== undefined) return [known, inner];
    throw new CniError(
      CODE.unsupportedField,
      `unsupported field ${field}.${key}=${JSON.stringify(inner)}; allowed: ${allowed.join(", ")}`,
    );
  });
  return Object.fromEntries(pairs);
}

export function stringOf(field: string, value: unknown): string {
  if (typeof value === "string") return value;
  throw invalid(field, "a string", value);
}

export function integerOf(field: string, value: unknown, [least, most]: readonly [number, number]): number {
  if (Number.isInteger(value) && Number(value) >= least && Number(value) <= most) return Number(value);
  throw invalid(field, `an integer from ${least} to ${most}`, value);
}

export function booleanOf(field: string, value: unknown): boolean {
  if (typeof value === "boolean") return value;
  throw invalid(field, "a boolean", value);
}

/** An address in its canonical text. */
export function addressOf(field: string, value: unknown): string {
  return refusing(field, () => {
    const { family, value: number } = parseIp(String(value));
    return formatIp(number, family);
  });
}

export function blockOf(field: string, value: unknown): Cidr {
  return refusing(field, () => Cidr.parse(String(value)));
}

/** A block, or one address as the block of it alone. */
export function blockOrAddressOf(field: string, value: unknown): Cidr {
  if (String(value).includes("/")) return blockOf(field, value);
  const ip = parseIp(addressOf(field, value));
  return Cidr.of(ip, BITS[ip.family]);
}

/** Six bytes in hexadecimal, lower case. */
export function macAddressOf(field: string, value: unknown): string {
  const text = String(value).toLowerCase();
  const first = Number.parseInt(text.slice(0, 2), 16);
  if (/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/.test(text) && first % 2 === 0) return text;
  throw invalid(field, "a unicast MAC address (like 0a:58:0a:f4:01:02)", value);
}

function refusing<T>(field: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    throw new CniError(CODE.invalidConfig, `${field}: ${(error as Error).message}`, { cause: error });
  }
}
