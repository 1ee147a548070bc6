// Schedules of CronJobs: the five fields and the descriptors that robfig/cron's standard parser takes, with its error
// texts, and nothing else. When the next time is, croner knows. Pure; the only file that speaks to croner.

import { Cron } from "croner";

/** When a schedule is due. */
export interface CronSchedule {
  /**
   * The first time after `after` (milliseconds since the epoch, both); undefined when there is none within the years
   * that croner looks at (30 February).
   */
  next(after: number): number | undefined;
}

interface Field {
  min: number;
  max: number;
  names?: readonly string[];
}

const MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const FIELDS: readonly Field[] = [
  { min: 0, max: 59 },
  { min: 0, max: 23 },
  { min: 1, max: 31 },
  { min: 1, max: 12, names: MONTHS },
  { min: 0, max: 6, names: DAYS },
];
const DESCRIPTORS: Readonly<Record<string, string>> = {
  "@yearly": "0 0 1 1 *",
  "@annually": "0 0 1 1 *",
  "@monthly": "0 0 1 * *",
  "@weekly": "0 0 * * 0",
  "@daily": "0 0 * * *",
  "@midnight": "0 0 * * *",
  "@hourly": "0 * * * *",
};
const UNITS: Readonly<Record<string, number>> = {
  ns: 1e-6,
  us: 1e-3,
  µs: 1e-3,
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
};

/** Whether the schedule names a time zone itself, which Kubernetes does not want. */
export function namesTimeZone(text: string): boolean {
  return text.includes("TZ");
}

/** Whether this machine knows the IANA time zone. */
export function isTimeZone(name: string): boolean {
  try {
    new Intl.DateTimeFormat("en", { timeZone: name });
    return !/^[+-]/.test(name);
  } catch (error) {
    if (error instanceof RangeError) return false;
    throw error;
  }
}

/**
 * Reads a schedule. Without `timeZone` the times are those of the process' own zone, as in kube-controller-manager.
 * @throws RangeError with robfig/cron's text.
 */
export function parseSchedule(text: string, timeZone?: string): CronSchedule {
  if (text === "") throw new RangeError("empty spec string");
  let zone = timeZone;
  let spec = text;
  const prefix = /^(?:CRON_)?TZ=(\S*)\s+/.exec(text);
  if (prefix) {
    zone = prefix[1] ?? "";
    if (!isTimeZone(zone)) throw new RangeError(`provided bad location ${zone}: unknown time zone ${zone}`);
    spec = text.slice(prefix[0].length).trim();
  }
  if (spec.startsWith("@every ")) return every(spec.slice("@every ".length), spec);
  if (spec.startsWith("@") && !DESCRIPTORS[spec]) throw new RangeError(`unrecognized descriptor: ${spec}`);
  return fieldSchedule(DESCRIPTORS[spec] ?? spec, zone);
}

/** @every DURATION: from one time to the next, at least a second, on whole seconds. */
function every(duration: string, spec: string): CronSchedule {
  const parts = [...duration.matchAll(/(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)/g)];
  if (parts.length === 0 || parts.map(([part]) => part).join("") !== duration)
    throw new RangeError(
      `failed to parse duration ${spec}: time: invalid duration ${JSON.stringify(duration)}`,
    );
  const ms = parts.reduce((sum, [, number, unit = ""]) => sum + Number(number) * (UNITS[unit] ?? 0), 0);
  const step = Math.max(1000, Math.floor(ms / 1000) * 1000);
  return { next: (after) => Math.floor(after / 1000) * 1000 + step };
}

function fieldSchedule(spec: string, timeZone: string | undefined): CronSchedule {
  const words = spec.split(/\s+/).filter(Boolean);
  if (words.length !== FIELDS.length)
    throw new RangeError(`expected exactly 5 fields, found ${words.length}: [${words.join(" ")}]`);
  const lists = FIELDS.map((field, i) => values(words[i] ?? "", field));
  // The numbers themselves, so that no notation of croner's own gets through; its rule for a day of the month and a
  // day of the week that are both given (either will do) is robfig's.
  const pattern = lists.map(({ numbers, star }) => (star ? "*" : numbers.join(",")));
  const cron = new Cron(pattern.join(" "), { mode: "5-part", ...(timeZone ? { timezone: timeZone } : {}) });
  return { next: (after) => cron.nextRun(new Date(after))?.getTime() };
}

/** The numbers of one field, and whether it leaves them open. */
function values(text: string, field: Field): { numbers: number[]; star: boolean } {
  const numbers = new Set<number>();
  let star = false;
  for (const expression of text.split(",").filter(Boolean)) {
    const range = oneRange(expression, field);
    star ||= range.star;
    for (let n = range.from; n <= range.to; n += range.step) numbers.add(n);
  }
  return { numbers: [...numbers].sort((a, b) => a - b), star };
}

function oneRange(text: string, field: Field): { from: number; to: number; step: number; star: boolean } {
  const [span = "", stepText, ...tooMuch] = text.split("/");
  const [low = "", high, ...more] = span.split("-");
  if (more.length > 0) throw new RangeError(`too many hyphens: ${text}`);
  if (tooMuch.length > 0) throw new RangeError(`too many slashes: ${text}`);
  const open = low === "*" || low === "?";
  const step = stepText === undefined ? 1 : integer(stepText);
  const from = open ? field.min : numberOrName(low, field);
  const single = !open && high === undefined;
  const last = high === undefined ? (stepText === undefined ? from : field.max) : numberOrName(high, field);
  const to = single || !open ? last : field.max;
  if (from < field.min)
    throw new RangeError(`beginning of range (${from}) below minimum (${field.min}): ${text}`);
  if (to > field.max) throw new RangeError(`end of range (${to}) above maximum (${field.max}): ${text}`);
  if (from > to) throw new RangeError(`beginning of range (${from}) beyond end of range (${to}): ${text}`);
  if (step === 0) throw new RangeError(`step of range should be a positive number: ${text}`);
  return { from, to, step, star: open && step === 1 };
}

function numberOrName(text: string, { names, min }: Field): number {
  const named = names?.indexOf(text.toLowerCase()) ?? -1;
  return named >= 0 ? named + (min === 1 ? 1 : 0) : integer(text);
}

function integer(text: string): number {
  if (/^[+-]?\d+$/.test(text)) {
    if (text.startsWith("-")) throw new RangeError(`negative number (${Number(text)}) not allowed: ${text}`);
    return Number(text);
  }
  const why = `strconv.Atoi: parsing ${JSON.stringify(text)}: invalid syntax`;
  throw new RangeError(`failed to parse int from ${text}: ${why}`);
}
