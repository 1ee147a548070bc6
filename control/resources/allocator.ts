// A pool of numbered things that have one owner each: cluster addresses, node ports. Random choice, an upper band
// first, as the real allocators (KEP-3070, KEP-3668). Knows numbers, not what they stand for.

/** Random integer in [0, below). Replaced in tests. */
export type RandomInt = (below: number) => number;

const defaultRandom: RandomInt = (below) => Math.floor(Math.random() * below);

/**
 * Offsets 0 … size - 1, each free or owned. The offsets below `lowerBand` are kept for those who ask for a number
 * by name, as long as there is another free one.
 */
export class Pool {
  readonly size: number;
  readonly #lowerBand: number;
  readonly #random: RandomInt;
  readonly #owners = new Map<number, string>();
  /** One bit an offset, so that a search through a nearly full pool is a scan of words. */
  readonly #taken: Uint32Array;

  constructor(size: number, lowerBand: number, random: RandomInt = defaultRandom) {
    if (!Number.isInteger(size) || size < 0) throw new RangeError(`pool size ${size} is not a count`);
    this.size = size;
    this.#lowerBand = Math.min(lowerBand, size);
    this.#random = random;
    this.#taken = new Uint32Array(Math.ceil(size / 32));
  }

  get free(): number {
    return this.size - this.#owners.size;
  }

  ownerOf(offset: number): string | undefined {
    return this.#owners.get(offset);
  }

  /** False when somebody has it. Throws RangeError when there is no such offset. */
  take(offset: number, owner: string): boolean {
    if (!Number.isInteger(offset) || offset < 0 || offset >= this.size) {
      throw new RangeError(`offset ${offset} is not in 0..${this.size - 1}`);
    }
    if (this.#owners.has(offset)) return false;
    this.#owners.set(offset, owner);
    this.#set(offset, true);
    return true;
  }

  /** Makes it `owner`'s, also where somebody has it: a reservation that will not come to be. */
  assign(offset: number, owner: string): void {
    this.#owners.set(offset, owner);
    this.#set(offset, true);
  }

  /** Any free offset, from the upper band while it has one; undefined when all are taken. */
  takeAny(owner: string): number | undefined {
    const offset = this.#pick(this.#lowerBand, this.size) ?? this.#pick(0, this.#lowerBand);
    if (offset !== undefined) this.take(offset, owner);
    return offset;
  }

  /** Offsets with their owners, in the order in which they were taken. */
  taken(): IterableIterator<[offset: number, owner: string]> {
    return this.#owners.entries();
  }

  /** Gives back what `owner` has; another's stays his. */
  release(offset: number, owner: string): void {
    if (this.#owners.get(offset) !== owner) return;
    this.#owners.delete(offset);
    this.#set(offset, false);
  }

  clear(): void {
    this.#owners.clear();
    this.#taken.fill(0);
  }

  #set(offset: number, taken: boolean): void {
    const word = offset >>> 5;
    const bit = 1 << (offset & 31);
    const now = this.#taken[word] ?? 0;
    this.#taken[word] = taken ? now | bit : now & ~bit;
  }

  /** The first free offset at or after a random one, going round within [from, to). */
  #pick(from: number, to: number): number | undefined {
    if (from >= to) return undefined;
    const start = from + this.#random(to - from);
    return this.#scan(start, to) ?? this.#scan(from, start);
  }

  #scan(from: number, to: number): number | undefined {
    for (let offset = from; offset < to; ) {
      const word = this.#taken[offset >>> 5] ?? 0;
      if (word === 0xffffffff) {
        offset = ((offset >>> 5) + 1) << 5;
        continue;
      }
      if ((word & (1 << (offset & 31))) === 0) return offset;
      offset++;
    }
    return undefined;
  }
}

/** How many of the first numbers of a range are kept for static choice: size / step, within min and max. */
export function staticBand(
  size: number,
  { min, max, step }: { min: number; max: number; step: number },
): number {
  if (size <= min) return 0;
  return Math.min(Math.max(Math.floor(size / step), min), max);
}
