// How API objects become values of the store: JSON text, and the store's revision as metadata.resourceVersion.

import type { Stored } from "../../common/k8s.js";
import type { Codec } from "../store/store.js";

/**
 * Freezes an object and all it holds, for stored objects are shared by every reader. Keys whose value is undefined
 * go, so that an object is the same before and after it has been on disk.
 */
function deepFreeze<T>(value: T): T {
  if (typeof value !== "object" || value === null || Object.isFrozen(value)) return value;
  for (const [key, item] of Object.entries(value)) {
    if (item === undefined) Reflect.deleteProperty(value, key);
    else deepFreeze(item);
  }
  return Object.freeze(value);
}

export const objectCodec: Codec<Stored> = {
  encode: (object) => JSON.stringify(object),
  decode: (text) => deepFreeze(JSON.parse(text) as Stored),
  stamp: (object, revision) =>
    deepFreeze({ ...object, metadata: { ...object.metadata, resourceVersion: String(revision) } }),
};
