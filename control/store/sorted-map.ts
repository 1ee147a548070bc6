// A map that also keeps its keys in order, for ranges by prefix. Pure data structure.

/** First index in `keys` whose key is not less than `key`. */
function lowerBound(keys: readonly string[], key: string): number {
  let low = 0;
  let high = keys.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((keys[middle] as string) < key) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The least string greater than every string that begins with `prefix` (keys are ASCII paths). */
function prefixEnd(prefix: string): string {
  return `${prefix}\uffff`;
}

/** Keys of a block at most: a new key moves no more than these, however many there are in all. */
const MOST_KEYS = 512;

export class SortedMap<T> {
  readonly #values = new Map<string, T>();
  /** All keys in order; only the first block may be empty, and only when it is the only one. */
  readonly #blocks: string[][] = [[]];

  get size(): number {
    return this.#values.size;
  }

  get(key: string): T | undefined {
    return this.#values.get(key);
  }

  set(key: string, value: T): void {
    if (!this.#values.has(key)) {
      const at = this.#blockOf(key);
      const block = this.#blocks[at] as string[];
      block.splice(lowerBound(block, key), 0, key);
      if (block.length > MOST_KEYS) this.#blocks.splice(at + 1, 0, block.splice(MOST_KEYS / 2));
    }
    this.#values.set(key, value);
  }

  delete(key: string): boolean {
    if (!this.#values.delete(key)) return false;
    const at = this.#blockOf(key);
    const block = this.#blocks[at] as string[];
    block.splice(lowerBound(block, key), 1);
    if (block.length === 0 && this.#blocks.length > 1) this.#blocks.splice(at, 1);
    return true;
  }

  /** The block where a key is or would be: the last one that begins with no greater key. */
  #blockOf(key: string): number {
    let low = 0;
    let high = this.#blocks.length;
    while (high - low > 1) {
      const middle = (low + high) >>> 1;
      if ((this.#blocks[middle]?.[0] as string) <= key) low = middle;
      else high = middle;
    }
    return low;
  }

  /** Keys that begin with `prefix` and are greater than `after`, in order. */
  keys(prefix: string, after?: string): string[] {
    const start = after !== undefined && after >= prefix ? after : prefix;
    const end = prefixEnd(prefix);
    const found: string[] = [];
    for (let at = this.#blockOf(start); at < this.#blocks.length; at++) {
      const block = this.#blocks[at] as string[];
      const to = lowerBound(block, end);
      found.push(...block.slice(lowerBound(block, start), to));
      if (to < block.length) break;
    }
    if (found[0] === after) found.shift();
    return found;
  }
}
