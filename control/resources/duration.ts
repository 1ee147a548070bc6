// Ages as people read them: apimachinery's duration.HumanDuration. Pure; knows only milliseconds.

/**
 * Two or three significant figures of a duration: 5s, 2m10s, 3h5m, 2d3h, 1y10d.
 * @param ms may be slightly negative (clocks differ): down to -1 s counts as 0s, less is "<invalid>".
 */
export function humanDuration(ms: number): string {
  const seconds = Math.trunc(ms / 1000);
  if (seconds < -1) return "<invalid>";
  if (seconds < 0) return "0s";
  if (seconds < 120) return `${seconds}s`;
  const minutes = Math.trunc(seconds / 60);
  if (minutes < 10) return pair(minutes, "m", seconds % 60, "s");
  if (minutes < 180) return `${minutes}m`;
  const hours = Math.trunc(minutes / 60);
  if (hours < 8) return pair(hours, "h", minutes % 60, "m");
  if (hours < 48) return `${hours}h`;
  const days = Math.trunc(hours / 24);
  if (days < 8) return pair(days, "d", hours % 24, "h");
  if (days < 2 * 365) return `${days}d`;
  if (days < 8 * 365) return pair(Math.trunc(days / 365), "y", days % 365, "d");
  return `${Math.trunc(days / 365)}y`;
}

function pair(large: number, largeUnit: string, small: number, smallUnit: string): string {
  return small === 0 ? `${large}${largeUnit}` : `${large}${largeUnit}${small}${smallUnit}`;
}

/** How long ago an RFC 3339 time was, as kubectl's AGE; "<unknown>" when there is none. */
export function age(time: string | undefined, now: number): string {
  if (!time) return "<unknown>";
  const at = Date.parse(time);
  return Number.isNaN(at) ? "<unknown>" : humanDuration(now - at);
}
