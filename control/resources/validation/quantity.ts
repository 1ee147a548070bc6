// Resource quantities ("500m", "1.5Gi", "1e3"): parsing, comparing and the canonical form that the API server
// prints, after apimachinery's pkg/api/resource. Pure.

/** A parsed quantity: an exact number of nanos, and how it was written. */
export interface ParsedQuantity {
  /** In units of 10^-9, rounded up as the real parser does. */
  readonly nanos: bigint;
  /** The same in the resource's own unit (cores, bytes), as near as a number comes. */
  readonly value: number;
  readonly format: "DecimalSI" | "BinarySI" | "DecimalExponent";
}

export const QUANTITY_FORMAT =
  "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

const NANO = 1_000_000_000n;
const PATTERN = /^([+-]?)(\d+(?:\.\d*)?|\.\d+)(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E|[eE][+-]?\d{1,3})?$/;
const DECIMAL = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
const BINARY = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
/** int64 max: larger values are capped, as the real parser does. */
const MAX_NANOS = (2n ** 63n - 1n) * NANO;

const REMEMBERED = 1000;
const LONGEST_REMEMBERED = 32;

/** The function with its newest results kept: the same few quantities stand in most objects. */
function remembered<T>(work: (text: string | number) => T): (text: string | number) => T {
  const results = new Map<string | number, T>();
  return (text) => {
    const known = results.get(text);
    if (known !== undefined) return known;
    const result = work(text);
    if (typeof text === "string" && text.length > LONGEST_REMEMBERED) return result;
    if (results.size >= REMEMBERED) results.clear();
    results.set(text, result);
    return result;
  };
}

/** Undefined when `text` is no quantity. Numbers are accepted as JSON allows them. */
export const parseQuantity = remembered(parse);

function parse(text: string | number): ParsedQuantity | undefined {
  const match = PATTERN.exec(String(text).trim());
  if (!match) return undefined;
  const [, sign = "", digits = "0", suffix = ""] = match;
  const [whole = "", fraction = ""] = digits.split(".");
  const mantissa = BigInt(`${whole}${fraction}` || "0");
  const scale = BigInt(fraction.length);
  let format: ParsedQuantity["format"] = "DecimalSI";
  let numerator = mantissa * NANO;
  let denominator = 10n ** scale;
  const binary = BINARY.indexOf(suffix);
  if (binary > 0) {
    format = "BinarySI";
    numerator *= 1024n ** BigInt(binary);
  } else if (/^[eE]./.test(suffix)) {
    format = "DecimalExponent";
    const exponent = Number(suffix.slice(1));
    if (exponent >= 0) numerator *= 10n ** BigInt(exponent);
    else denominator *= 10n ** BigInt(-exponent);
  } else {
    const power = 3 * (DECIMAL.indexOf(suffix) - 3);
    if (power >= 0) numerator *= 10n ** BigInt(power);
    else denominator *= 10n ** BigInt(-power);
  }
  // Rounded up: somebody who asked for a little gets a little, not nothing.
  let nanos = (numerator + denominator - 1n) / denominator;
  if (nanos > MAX_NANOS) nanos = MAX_NANOS;
  if (sign === "-") nanos = -nanos;
  return { nanos, value: Number(nanos) / Number(NANO), format };
}

/** Canonical text: 1000m is 1, 0.5 is 500m, 1.5Gi is 1536Mi; `text` itself when it is no quantity. */
export const canonicalQuantity = remembered((text): string => {
  const parsed = parseQuantity(text);
  return parsed ? formatQuantity(parsed) : String(text);
});

/** Canonical text of an amount. */
export function formatQuantity({ nanos, format }: Omit<ParsedQuantity, "value">): string {
  if (nanos === 0n) return "0";
  const sign = nanos < 0n ? "-" : "";
  const size = nanos < 0n ? -nanos : nanos;
  if (format === "BinarySI" && size >= 1024n * NANO) {
    let whole = (size + NANO - 1n) / NANO;
    let unit = 0;
    while (whole % 1024n === 0n && unit < BINARY.length - 1) {
      whole /= 1024n;
      unit++;
    }
    return `${sign}${whole}${BINARY[unit]}`;
  }
  let whole = size;
  let unit = 0;
  while (whole % 1000n === 0n && unit < DECIMAL.length - 1) {
    whole /= 1000n;
    unit++;
  }
  if (format === "DecimalExponent")
    return unit === 3 ? `${sign}${whole}` : `${sign}${whole}e${3 * (unit - 3)}`;
  return `${sign}${whole}${DECIMAL[unit]}`;
}

/** Rounds up to milli, as the server does with every resource list, and makes each value canonical. */
export function canonicalResourceList(list: Record<string, string> | undefined): void {
  if (!list) return;
  for (const [name, text] of Object.entries(list)) list[name] = roundedToMilli(text) ?? text;
}

const roundedToMilli = remembered((text): string | undefined => {
  const parsed = parseQuantity(text);
  if (!parsed) return undefined;
  const milli = 1_000_000n;
  const rest = ((parsed.nanos % milli) + milli) % milli;
  const nanos = rest === 0n ? parsed.nanos : parsed.nanos + (milli - rest);
  return formatQuantity({ nanos, format: parsed.format });
});
