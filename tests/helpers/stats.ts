// Statistics for tests of load balancing. Pure.

/** Pearson's chi-square of observed counts against equal shares. */
export function chiSquare(counts: readonly number[]): number {
  const total = counts.reduce((a, b) => a + b, 0);
  const expected = total / counts.length;
  return counts.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0);
}

/**
 * Upper 1-in-100,000 points of the chi-square distribution by degrees of freedom: an even balancer fails a test
 * against them once in 100,000 runs, one that favours an endpoint by a third practically always.
 */
export const CHI_SQUARE_1E5: Readonly<Record<number, number>> = {
  1: 19.51,
  2: 23.03,
  3: 25.9,
  4: 28.47,
  5: 30.86,
};

/** How often each distinct value occurs. */
export function tally(values: Iterable<string>): Map<string, number> {
  const counts = new Map<string, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return counts;
}
