// Figures for people: medians, tables, ratios. Pure but for the printing.

import { cpus, totalmem } from "node:os";

/** The p-th percentile (0–100) by nearest rank. Throws on an empty list. */
export function percentile(values: readonly number[], p: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const value = sorted[Math.max(0, Math.ceil((p / 100) * sorted.length) - 1)];
  if (value === undefined) throw new RangeError("percentile of no values");
  return value;
}

export const median = (values: readonly number[]): number => percentile(values, 50);

/** Prints rows of equal length under a head, columns aligned, figures to the right. */
export function printTable(head: readonly string[], rows: readonly (readonly (string | number)[])[]): void {
  const text = [head, ...rows].map((row) =>
    row.map((cell) => (typeof cell === "number" ? figure(cell) : cell)),
  );
  const width = head.map((_, i) => Math.max(...text.map((row) => row[i]?.length ?? 0)));
  for (const [n, row] of text.entries()) {
    const line = row.map((cell, i) => (i === 0 ? cell.padEnd(width[i] ?? 0) : cell.padStart(width[i] ?? 0)));
    console.log(`| ${line.join(" | ")} |`);
    if (n === 0)
      console.log(
        `| ${width.map((w, i) => (i === 0 ? "-".repeat(w) : `${"-".repeat(w - 1)}:`)).join(" | ")} |`,
      );
  }
  console.log();
}

/** Three significant digits, no exponent. */
export function figure(value: number): string {
  if (value === 0) return "0";
  const digits = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
  return value.toFixed(Math.min(digits, 3));
}

/** One line that says what the figures were taken on. */
export function machine(): string {
  const cores = cpus();
  return `${cores.length} × ${cores[0]?.model.trim() ?? "CPU"}, ${Math.round(totalmem() / 2 ** 30)} GiB, Node ${process.version}`;
}

/** Milliseconds that `work` took, and its result. */
export async function timed<T>(work: () => Promise<T>): Promise<{ ms: number; result: T }> {
  const start = performance.now();
  const result = await work();
  return { ms: performance.now() - start, result };
}
