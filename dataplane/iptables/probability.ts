// The statistic match keeps a probability as a 31-bit fixed-point number, so 0.3333333333 comes back from the
// kernel as 0.33333333349. Pure arithmetic on that.

const SCALE = 0x8000_0000;

/** What the kernel stores for a probability in 0…1 (libxt_statistic: lround(2³¹ · p)). */
export function fixedPoint(probability: number): number {
  return Math.round(probability * SCALE);
}

/** The text of a stored probability, with the eleven decimals that iptables-save prints. */
export function probabilityText(fixed: number): string {
  return (fixed / SCALE).toFixed(11);
}

/** The words with every `--probability` value in the kernel's own precision: equal rules become equal words. */
export function normaliseProbability(words: readonly string[]): string[] {
  const out = [...words];
  for (let i = 0; i + 1 < out.length; i++) {
    if (out[i] !== "--probability") continue;
    const value = Number(out[i + 1]);
    if (Number.isFinite(value)) out[i + 1] = probabilityText(fixedPoint(value));
  }
  return out;
}
