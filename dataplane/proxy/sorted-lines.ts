// Lines of a shared chain, kept in order of their owners' keys, so that the same set gives the same text however it
// came about. Pure data structure; joining is done when somebody asks and remembered.

export interface ChainBody {
  /** One `-A` line a rule, joined by line breaks; "" for an empty chain. */
  readonly text: string;
  readonly rules: number;
}

export const EMPTY_BODY: ChainBody = { text: "", rules: 0 };

export class SortedLines {
  readonly #keys: string[] = [];
  readonly #bodies = new Map<string, ChainBody>();
  #tail = EMPTY_BODY;
  #joined: ChainBody | undefined;

  /** Replaces the lines of one owner (an empty body removes them); whether that changed anything. */
  set(key: string, body: ChainBody): boolean {
    const old = this.#bodies.get(key);
    if ((old?.text ?? "") === body.text) return false;
    if (body.text === "") {
      this.#bodies.delete(key);
      this.#keys.splice(this.#position(key), 1);
    } else {
      this.#bodies.set(key, body);
      if (!old) this.#keys.splice(this.#position(key), 0, key);
    }
    this.#joined = undefined;
    return true;
  }

  /** Replaces the lines after those of all owners; whether that changed anything. */
  setTail(tail: ChainBody): boolean {
    if (tail.text === this.#tail.text) return false;
    this.#tail = tail;
    this.#joined = undefined;
    return true;
  }

  body(): ChainBody {
    this.#joined ??= joinBodies([...this.#keys.map((key) => this.#bodies.get(key) as ChainBody), this.#tail]);
    return this.#joined;
  }

  /** Index of the first key that is not smaller. */
  #position(key: string): number {
    let [low, high] = [0, this.#keys.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#keys[middle] as string) < key) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

export function joinBodies(bodies: readonly ChainBody[]): ChainBody {
  const full = bodies.filter(({ text }) => text !== "");
  return {
    text: full.map(({ text }) => text).join("\n"),
    rules: full.reduce((sum, { rules }) => sum + rules, 0),
  };
}
