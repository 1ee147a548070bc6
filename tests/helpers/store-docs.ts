// Small documents for tests of stores.

import type { Codec } from "../../control/store/store.js";

export interface Doc {
  n: number;
  /** Makes it as large as it has to be. */
  pad?: string;
  rev?: number;
}

export const codec: Codec<Doc> = {
  encode: (doc) => JSON.stringify(doc),
  decode: (text) => JSON.parse(text) as Doc,
  stamp: (doc, rev) => Object.freeze({ ...doc, rev }),
};
