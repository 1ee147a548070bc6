// pino's JSON lines as people read them: time, level, part, message, then the rest as key=value. Pure.

import type { Style } from "./style.js";

const LEVELS: Record<number, string> = {
  10: "TRACE",
  20: "DEBUG",
  30: "INFO",
  40: "WARN",
  50: "ERROR",
  60: "FATAL",
};
/** Said in the columns, or the same in every line. */
const COLUMNS = new Set(["level", "time", "pid", "hostname", "name", "part", "msg"]);

/** One line; a line that is no log entry (a stack trace, a program's output) is returned as it is. */
export function formatLogLine(line: string, style: Style): string {
  const entry = parseEntry(line);
  if (!entry) return line;
  const level = LEVELS[Number(entry.level)] ?? String(entry.level);
  const paint = Number(entry.level) >= 50 ? style.red : Number(entry.level) >= 40 ? style.yellow : style.dim;
  const rest = Object.entries(entry).filter(([key]) => !COLUMNS.has(key));
  const words = [
    style.dim(timeOf(entry.time)),
    paint(level.padEnd(5)),
    entry.part === undefined ? "" : style.cyan(String(entry.part)),
    String(entry.msg ?? ""),
    ...rest.map(([key, value]) => `${style.dim(`${key}=`)}${valueText(value)}`),
  ];
  return words.filter((word) => word !== "").join(" ");
}

function parseEntry(line: string): Record<string, unknown> | undefined {
  if (!line.startsWith("{")) return undefined;
  try {
    const entry: unknown = JSON.parse(line);
    return typeof entry === "object" && entry !== null && "level" in entry ? { ...entry } : undefined;
  } catch {
    return undefined;
  }
}

/** Time of day in this machine's zone, with milliseconds. */
function timeOf(time: unknown): string {
  const date = new Date(typeof time === "number" || typeof time === "string" ? time : Number.NaN);
  if (Number.isNaN(date.getTime())) return String(time ?? "");
  const two = (value: number) => String(value).padStart(2, "0");
  const clock = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return `${clock}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

function valueText(value: unknown): string {
  if (typeof value === "object" && value !== null && "message" in value) return JSON.stringify(value.message);
  if (typeof value === "string") return /^[\w./:@-]+$/.test(value) ? value : JSON.stringify(value);
  return JSON.stringify(value) ?? "";
}
