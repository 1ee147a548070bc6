// Times as the API writes them (meta/v1 Time) and as we calculate: milliseconds since the epoch. Knows nothing else.

/** RFC 3339 in UTC with whole seconds: meta/v1 Time. */
export function timestamp(ms: number): string {
  return `${new Date(ms).toISOString().slice(0, 19)}Z`;
}

/** Milliseconds since the epoch; undefined for an absent or unreadable time. */
export function parseTime(text: string | null | undefined): number | undefined {
  if (!text) return undefined;
  const ms = Date.parse(text);
  return Number.isNaN(ms) ? undefined : ms;
}
