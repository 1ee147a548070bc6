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

export class SortedMap<T> {
  readonly #values = new Map<string, T>();
  readonly #keys: string[] = [];

  get size(): number {
    return this.#keys.length;
  }

  get(key: string): T | undefined {
    return this.#values.get(key);
  }

  set(key: string, value: T): void {
    if (!this.#values.has(key)) {
      // Appending in order, as a load does, needs no search.
      const last = this.#keys.at(-1);
      if (last === undefined || last < key) this.#keys.push(key);
      else this.#keys.splice(lowerBound(this.#keys, key), 0, key);
    }
    this.#values.set(key, value);
  }

  delete(key: string): boolean {
    if (!this.#values.delete(key)) return false;
    this.#keys.splice(lowerBound(this.#keys, key), 1);
    return true;
  }

  /** Keys that begin with `prefix` and are greater than `after`, in order. */
  keys(prefix: string, after?: string): string[] {
    let from = lowerBound(this.#keys, prefix);
    if (after !== undefined && after >= prefix) {
      from = lowerBound(this.#keys, after);
      if (this.#keys[from] === after) from++;
    }
    return this.#keys.slice(from, lowerBound(this.#keys, prefixEnd(prefix)));
  }
}
