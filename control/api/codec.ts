// How API objects become values of the store: JSON text, and the store's revision as metadata.resourceVersion. One text
// of an object serves the store, the answer and the watchers.

import type { Stored } from "../../common/k8s.js";
import type { Codec } from "../store/store.js";

/**
 * Freezes an object and all it holds, for stored objects are shared by every reader. Keys whose value is undefined
 * go, so that an object is the same before and after it has been on disk.
 */
function deepFreeze<T>(value: T): T {
  if (typeof value !== "object" || value === null || Object.isFrozen(value)) return value;
  if (Array.isArray(value)) for (const item of value) deepFreeze(item);
  else
    for (const key of Object.keys(value)) {
      const item = (value as Record<string, unknown>)[key];
      if (item === undefined) Reflect.deleteProperty(value, key);
      else if (typeof item === "object") deepFreeze(item);
    }
  return Object.freeze(value);
}

const texts = new Map<object, string>();

/** The JSON of an object that is not changed any more; made once in a turn of the event loop. */
export function textOf(object: object): string {
  let text = texts.get(object);
  if (text === undefined) {
    text = JSON.stringify(object);
    if (texts.size === 0) setImmediate(() => texts.clear());
    texts.set(object, text);
  }
  return text;
}

export const objectCodec: Codec<Stored> = {
  encode: textOf,
  decode: (text) => deepFreeze(JSON.parse(text) as Stored),
  stamp: (object, revision) =>
    deepFreeze({ ...object, metadata: { ...object.metadata, resourceVersion: String(revision) } }),
};
