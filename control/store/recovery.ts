// What the store does with LMDB before it opens for business: bringing the journal's newest writes into it.

import type { Database, RootDatabase } from "lmdb";
import type { JournalRecord } from "./journal.js";

/** What LMDB's writes return with separateFlushed: resolved when committed, `flushed` when on disk. */
export type FlushedWrite = Promise<boolean> & { flushed?: Promise<unknown> };

/** Every kept revision as one record, by its number. */
export function openRecords(root: RootDatabase<string, string>): Database<string, number> {
  return root.openDB<string, number>({ name: "records", encoding: "string" });
}

/** Why LMDB did not commit: its own error, which comes a moment after the one that a write rejects with. */
export async function reasonOf(error: unknown): Promise<Error> {
  const { commitError } = error as { commitError?: Promise<never> };
  return (await commitError?.catch((reason: Error) => reason)) ?? (error as Error);
}

/**
 * Writes what of the journal LMDB has not: single records that it could not take for a while, and those beyond its
 * last one while the revisions follow each other. What has been compacted stays away.
 * @throws Error why LMDB cannot take them; the journal still has them then.
 */
export async function recover(
  root: RootDatabase<string, string>,
  journaled: readonly JournalRecord[],
): Promise<void> {
  const records = openRecords(root);
  const compacted = Number(root.get("compacted") ?? "0");
  let last = Number(root.get("revision") ?? "0");
  for (const key of records.getKeys({ reverse: true, limit: 1 })) last = Math.max(last, key);
  const written: Promise<boolean>[] = [];
  for (const { revision, text } of journaled) {
    // The first write of an empty store has revision 2, as in etcd.
    if (revision === last + 1 || (last === 0 && revision === 2)) last = revision;
    else if (revision > last || revision <= compacted || records.doesExist(revision)) continue;
    written.push(records.put(revision, text));
  }
  try {
    await Promise.all(written);
  } catch (error) {
    throw await reasonOf(error);
  }
  await Promise.all(written.map((write) => (write as FlushedWrite).flushed));
}
