// What can go wrong between this process and iptables, and where in the input it went wrong.
// Knows the messages of both variants (iptables 1.8), nothing of processes.

/** iptables-restore refused an input; nothing of the table that it was about is in the kernel. */
export class RestoreError extends Error {
  override readonly name = "RestoreError";
  /** 1-based number of the offending line, when the tool named one. */
  readonly line: number | undefined;
  /** Text of that line. */
  readonly lineText: string | undefined;
  /** Table that the line belongs to. */
  readonly table: string | undefined;
  readonly stderr: string;

  constructor(where: string, input: string, stderr: string, cause: unknown) {
    const { line, text, table } = locate(input, stderr);
    const at = line === undefined ? "" : ` at line ${line}${text ? ` (${text})` : ""} of table ${table}`;
    super(`iptables-restore in ${where} failed${at}: ${reason(stderr, cause)}`, { cause });
    this.line = line;
    this.lineText = text;
    this.table = table;
    this.stderr = stderr;
  }
}

// "line 2 failed", "Error occurred at line: 4", "line 2: CHAIN_DEL failed (…)"
const LINE = /\bline:? (\d+)\b/;
const MISSING_TARGET = /Chain '([^']+)' does not exist|Couldn't load target [`']([^']+)'/;

function reason(stderr: string, cause: unknown): string {
  const lines = stderr
    .split("\n")
    .map((line) => line.replace(/^ip6?tables[\w-]*( v[\d.]+ \([\w-]+\))?: /, "").trim())
    .filter((line) => line && !/^(Error occurred|Try `)/.test(line));
  return lines.slice(0, 3).join("; ") || (cause instanceof Error ? cause.message : "no message");
}

/** The offending line. iptables-nft blames COMMIT for a missing jump target: then the jump itself is looked up. */
export function locate(input: string, stderr: string): { line?: number; text?: string; table?: string } {
  const found = LINE.exec(stderr);
  if (!found) return {};
  const lines = input.split("\n");
  let line = Number(found[1]);
  const start = lines.slice(0, line).findLastIndex((text) => text.startsWith("*"));
  const table = lines[start]?.slice(1);
  const target = MISSING_TARGET.exec(stderr);
  const name = target?.[1] ?? target?.[2];
  if (name && !lines[line - 1]?.includes(name)) {
    const jump = lines.slice(start + 1, line).findIndex((text) => text.split(" ").includes(name));
    if (jump >= 0) line = start + 2 + jump;
  }
  const text = lines[line - 1];
  return { line, ...(text !== undefined && { text }), ...(table && { table }) };
}

// iptables-nft 1.8.9 calls a chain that is not there "incompatible" when it is asked to list it. The legacy variant has
// no table where the kernel has no module for it: Debian's cloud kernel 5.10 has none of ip6tables.
const ABSENT =
  /does a matching rule exist|No chain\/target\/match|Chain '[^']+' does not exist|Table does not exist|Couldn't load target|is incompatible, use 'nft' tool/;

/** Whether a refused question (-C, -D, -S) says that its rule or chain is not there, rather than that it failed. */
export function meansAbsent(error: { exitCode: number | null; stderr: string }): boolean {
  if (ABSENT.test(error.stderr)) return true;
  // The legacy restore says no more than this for a -C that finds nothing.
  return error.exitCode === 1 && /: line \d+ failed$/m.test(error.stderr.trim());
}
