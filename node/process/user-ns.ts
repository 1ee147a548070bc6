// Which ids the user namespace of this process maps: what it may do with files of others. Read once.

import { readFileSync } from "node:fs";

/** How many ids a /proc/PID/uid_map maps. Pure. */
export function mappedIds(uidMap: string): number {
  const lengths = uidMap.match(/\d+$/gm) ?? [];
  return lengths.reduce((sum, length) => sum + Number(length), 0);
}

const EVERYBODY = 2 ** 32 - 1;

let ids: number | undefined;

function ownIds(): number {
  ids ??= mappedIds(readFileSync("/proc/self/uid_map", "utf8"));
  return ids;
}

/** Files belong to one user here: none can be given to another. */
export const mapsOneUser = (): boolean => ownIds() === 1;

/** The machine's own user namespace, in which root is root. */
export const mapsEverybody = (): boolean => ownIds() === EVERYBODY;
