// What the store does with LMDB before it opens for business: bringing the journal's newest writes into it.

import type { Database, RootDatabase } from "lmdb";
import type { JournalRecord } from "./journal.js";

/** What LMDB's writes return with separateFlushed: resolved when committed, `flushed` when on disk. */
export type FlushedWrite = Promise<boolean> & { flushed?: Promise<unknown> };

/** Every kept revision as one record, by its number. */
export function openRecords(root: RootDatabase<string, string>): Database<string, number> {
  return root.openDB<string, number>({ name: "records", encoding: "string" });
}

/** Writes what the journal holds beyond LMDB's last record, while the revisions follow each other. */
export async function recover(
  root: RootDatabase<string, string>,
  journaled: readonly JournalRecord[],
): Promise<void> {
  const records = openRecords(root);
  let last = Number(root.get("revision") ?? "0");
  for (const key of records.getKeys({ reverse: true, limit: 1 })) last = Math.max(last, key);
  const first = journaled.find((r) => r.revision > last)?.revision;
  // The first write of an empty store has revision 2, as in etcd.
  if (first === undefined || (first !== last + 1 && !(last === 0 && first === 2))) return;
  let next = first;
  const written: Promise<boolean>[] = [];
  for (const { revision, text } of journaled)
    if (revision === next) {
      written.push(records.put(revision, text));
      next++;
    }
  await Promise.all(written);
  await Promise.all(written.map((write) => (write as FlushedWrite).flushed));
}
