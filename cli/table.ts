// Small tables in kubectl's manner: upper-case heads, three spaces between columns, no lines. Pure.

const GAP = "   ";
/** SGR sequences take no room on the screen. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: ESC is what such a sequence begins with
const SGR = /\x1b\[[0-9;]*m/g;

/** The cells of each row under each other; no trailing spaces, one newline at the end. "" for no rows. */
export function formatTable(rows: readonly (readonly string[])[], indent = ""): string {
  const widths: number[] = [];
  for (const row of rows) {
    for (const [column, cell] of row.entries()) {
      widths[column] = Math.max(widths[column] ?? 0, visibleLength(cell));
    }
  }
  return rows
    .map((row) => {
      const cells = row.map((cell, column) => cell + " ".repeat((widths[column] ?? 0) - visibleLength(cell)));
      return `${(indent + cells.join(GAP)).trimEnd()}\n`;
    })
    .join("");
}

/** Characters on the screen, for text without wide characters. */
export function visibleLength(text: string): number {
  return [...text.replaceAll(SGR, "")].length;
}
