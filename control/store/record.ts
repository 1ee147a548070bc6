// What one write leaves on disk: a line of facts and the encoded value. Pure.

/** One write, as history keeps it. */
export interface HistoryRecord {
  revision: number;
  key: string;
  createRevision: number;
  /** Revision of the value that this write replaced or deleted; 0 for a new key. */
  previousRevision: number;
  deleted: boolean;
  /** The encoded value; "" for a delete. */
  text: string;
}

export function formatRecord(record: HistoryRecord): string {
  const { createRevision, previousRevision, deleted, key, text } = record;
  return `${createRevision} ${previousRevision} ${deleted ? 1 : 0} ${key}\n${text}`;
}

/** @throws Error when the text is no record: the database was written by something else. */
export function parseRecord(revision: number, data: string): HistoryRecord {
  const newline = data.indexOf("\n");
  const match = /^(\d+) (\d+) ([01]) (.+)$/.exec(data.slice(0, newline));
  if (newline < 0 || !match) throw new Error(`store: record ${revision} cannot be read`);
  return {
    revision,
    createRevision: Number(match[1]),
    previousRevision: Number(match[2]),
    deleted: match[3] === "1",
    key: match[4] as string,
    text: data.slice(newline + 1),
  };
}
