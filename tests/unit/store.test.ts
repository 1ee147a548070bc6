// What every store promises, held against each there is: LMDB, and a real etcd where one is installed.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t, { type Test } from "tap";
import { EtcdStore } from "../../control/store/etcd.js";
import { LmdbStore } from "../../control/store/lmdb.js";
import { parseStoreSpec } from "../../control/store/open.js";
import {
  type Codec,
  CompactedError,
  FutureRevisionError,
  RevisionMismatch,
  type Store,
  type StoreEvent,
} from "../../control/store/store.js";
import { EtcdServer, withoutEtcd } from "../helpers/etcd.js";

t.setTimeout(120_000);

interface Doc {
  n: number;
  rev?: number;
}

const codec: Codec<Doc> = {
  encode: (doc) => JSON.stringify(doc),
  decode: (text) => JSON.parse(text) as Doc,
  stamp: (doc, rev) => Object.freeze({ ...doc, rev }),
};

/** Opens a store on what the last one of this test has left. */
type Open = () => Promise<Store<Doc>>;

function tempDir(test: Test): string {
  const dir = mkdtempSync(join(tmpdir(), "kubeplumb-store-"));
  test.teardown(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

async function caught(promise: Promise<unknown>): Promise<unknown> {
  return await promise.then(
    () => t.fail("the promise did not reject"),
    (error: unknown) => error,
  );
}

const LMDB = async (test: Test): Promise<Open> => {
  const path = join(tempDir(test), "store");
  return () => LmdbStore.open<Doc>({ path, codec });
};

const ETCD = async (test: Test): Promise<Open> => {
  const server = await EtcdServer.start(tempDir(test));
  test.teardown(() => server.stop());
  return () => EtcdStore.open<Doc>({ endpoints: [server.url], codec });
};

const IGNORE = { event: () => {}, end: () => {} };

t.test("the text that names a store", async (t) => {
  t.same(parseStoreSpec("lmdb:/var/lib/x"), { type: "lmdb", path: "/var/lib/x" });
  t.same(parseStoreSpec("etcd:https://a:2379,http://[::1]:2379/"), {
    type: "etcd",
    endpoints: ["https://a:2379", "http://[::1]:2379"],
  });
  for (const wrong of ["", "etcd:", "lmdb:", "x:y", "etcd:a:2379", "etcd:ftp://a:1", "etcd:http://a:1/b"])
    t.throws(() => parseStoreSpec(wrong), /is not a(n endpoint of etcd| store)/, wrong);
});

for (const [name, prepare, skip] of [
  ["LMDB", LMDB, false],
  ["etcd", ETCD, withoutEtcd],
] as const) {
  t.test(`${name}: revisions, expectations, ranges and deletes`, { skip }, async (t) => {
    const store = await (await prepare(t))();
    t.teardown(() => store.close());
    t.equal(await store.revision(), 1, "of an empty store");
    const a = await store.put("/registry/r/a", { n: 1 }, 0);
    t.same(a, {
      key: "/registry/r/a",
      value: { n: 1, rev: a.revision },
      revision: a.revision,
      createRevision: a.revision,
    });
    t.same(await store.get("/registry/r/a"), a);
    await t.rejects(store.put("/registry/r/a", { n: 2 }, 0), RevisionMismatch, "0 means: must not exist");
    t.match(await caught(store.put("/registry/r/a", { n: 2 }, a.revision + 7)), {
      expected: a.revision + 7,
      actual: a.revision,
    });
    const a2 = await store.put("/registry/r/a", { n: 2 }, a.revision);
    t.ok(a2.revision > a.revision);
    t.equal(a2.createRevision, a.revision);
    const a3 = await store.put("/registry/r/a", { n: 3 });
    t.equal(a3.createRevision, a.revision, "also without an expectation");
    for (const key of ["r/c", "r/b", "s/x", "r/d"]) await store.put(`/registry/${key}`, { n: 0 });
    const first = await store.range("/registry/r/", { limit: 2 });
    t.same(
      first.entries.map((e) => e.key),
      ["/registry/r/a", "/registry/r/b"],
      "in key order",
    );
    t.equal(first.remaining, 2);
    const second = await store.range("/registry/r/", { after: "/registry/r/b" });
    t.same(
      second.entries.map((e) => e.key),
      ["/registry/r/c", "/registry/r/d"],
    );
    t.equal(second.remaining, 0);
    t.equal(second.revision, await store.revision());
    await t.rejects(store.delete("/registry/r/b", a.revision), RevisionMismatch);
    const b = await store.get("/registry/r/b");
    const gone = await store.delete("/registry/r/b", b?.revision);
    t.equal(gone.value.rev, gone.revision, "a deleted value carries the revision of the delete");
    t.equal(gone.createRevision, b?.createRevision);
    await t.rejects(store.delete("/registry/r/b"), RevisionMismatch);
    await t.rejects(store.delete("/registry/r/b", 5), RevisionMismatch);
    t.equal(await store.get("/registry/r/b"), undefined);
    const again = await store.put("/registry/r/b", { n: 4 }, 0);
    t.equal(again.createRevision, again.revision, "made anew");
    t.equal(store.failure(), undefined);
  });

  t.test(`${name}: the state of the past, and history from a revision`, { skip }, async (t) => {
    const store = await (await prepare(t))();
    await store.put("/registry/r/a", { n: 1 });
    await store.put("/registry/r/b", { n: 1 });
    const { revision } = await store.put("/registry/r/c", { n: 1 });
    await store.put("/registry/r/a", { n: 2 });
    await store.put("/registry/r/a", { n: 3 });
    await store.delete("/registry/r/b");
    await store.put("/registry/r/aa", { n: 1 });
    await store.put("/registry/q/z", { n: 1 });
    const past = await store.range("/registry/r/", { revision, limit: 2 });
    t.same(
      past.entries.map((e) => [e.key, e.value.n]),
      [
        ["/registry/r/a", 1],
        ["/registry/r/b", 1],
      ],
    );
    t.equal(past.remaining, 1);
    t.equal(past.revision, revision);
    const rest = await store.range("/registry/r/", { revision, after: "/registry/r/b" });
    t.same(
      rest.entries.map((e) => e.key),
      ["/registry/r/c"],
    );

    const seen: StoreEvent<Doc>[] = [];
    const ended: (Error | undefined)[] = [];
    const watch = await store.watch("/registry/r/", revision, {
      event: (e) => void seen.push(e),
      end: (e) => void ended.push(e),
    });
    t.equal(seen.length, 4, "what has been comes before watch returns");
    await store.put("/registry/r/live", { n: 9 });
    t.same(
      seen.map((e) => [e.type, e.key, e.value.n, e.previous?.n]),
      [
        ["put", "/registry/r/a", 2, 1],
        ["put", "/registry/r/a", 3, 2],
        ["delete", "/registry/r/b", 1, 1],
        ["put", "/registry/r/aa", 1, undefined],
        ["put", "/registry/r/live", 9, undefined],
      ],
    );
    for (const event of seen) t.equal(event.value.rev, event.revision, `${event.type} ${event.key}`);
    await store.put("/registry/q/z", { n: 2 });
    t.equal(watch.progress, await store.revision(), "other keys' events count as progress");
    watch.close();
    await store.put("/registry/r/live", { n: 10 });
    t.equal(seen.length, 5, "a closed watch is silent");

    const current = await store.revision();
    await t.rejects(store.range("/registry/r/", { revision: current + 99 }), FutureRevisionError);
    await t.rejects(store.watch("/registry/r/", current + 99, IGNORE), FutureRevisionError);
    await t.rejects(store.compact(current + 99), FutureRevisionError);
    await store.compact(current);
    await store.compact(current);
    const error = await caught(store.range("/registry/r/", { revision }));
    t.ok(error instanceof CompactedError);
    t.match(error, { revision, compacted: current });
    await t.rejects(store.watch("/registry/r/", revision, IGNORE), CompactedError);
    await t.rejects(store.watch("/registry/r/", current - 1, IGNORE), CompactedError);
    t.equal((await store.range("/registry/r/")).entries.length, 4, "compaction keeps the present");
    await store.watch("/registry/r/", current, { event: () => {}, end: (e) => void ended.push(e) });
    await store.close();
    t.same(ended, [undefined], "closing ends open watches");
    await t.rejects(store.put("/registry/r/a", { n: 1 }), /closed/);
    await t.rejects(store.range("/registry/r/"), /closed/);
  });

  t.test(`${name}: a new process finds revision, values and history`, { skip }, async (t) => {
    const open = await prepare(t);
    let store = await open();
    const { revision: born } = await store.put("/registry/r/a", { n: 1 });
    const { revision } = await store.put("/registry/r/b", { n: 1 });
    await store.put("/registry/r/a", { n: 2 });
    await store.delete("/registry/r/b");
    const last = await store.revision();
    await store.close();
    store = await open();
    t.ok((await store.revision()) >= last);
    t.same((await store.range("/registry/r/")).entries, [
      {
        key: "/registry/r/a",
        value: { n: 2, rev: revision + 1 },
        revision: revision + 1,
        createRevision: born,
      },
    ]);
    t.equal((await store.range("/registry/r/", { revision })).entries.length, 2, "the past is still known");
    const seen: StoreEvent<Doc>[] = [];
    const watch = await store.watch("/registry/r/", revision, { ...IGNORE, event: (e) => void seen.push(e) });
    t.same(
      seen.map((e) => [e.type, e.key, e.revision, e.createRevision, e.value, e.previous]),
      [
        ["put", "/registry/r/a", revision + 1, born, { n: 2, rev: revision + 1 }, { n: 1, rev: born }],
        [
          "delete",
          "/registry/r/b",
          revision + 2,
          revision,
          { n: 1, rev: revision + 2 },
          { n: 1, rev: revision },
        ],
      ],
      "and what has happened since",
    );
    await store.put("/registry/r/c", { n: 3 });
    t.equal(seen.length, 3);
    watch.close();
    const now = await store.revision();
    await store.compact(now);
    await store.close();
    store = await open();
    t.teardown(() => store.close());
    t.ok((await store.revision()) >= now);
    await t.rejects(store.range("/registry/r/", { revision }), CompactedError);
    await t.rejects(store.watch("/registry/r/", revision, IGNORE), CompactedError);
  });

  t.test(`${name}: what compaction keeps`, { skip }, async (t) => {
    const store = await (await prepare(t))();
    t.teardown(() => store.close());
    const { revision } = await store.put("/registry/r/a", { n: 0 });
    for (let n = 1; n <= 50; n++) await store.put("/registry/r/a", { n });
    await store.compact((await store.revision()) - 10);
    t.match(await caught(store.range("/registry/r/", { revision })), { compacted: revision + 40 });
    const old = await store.range("/registry/r/", { revision: revision + 45 });
    t.equal(old.entries[0]?.value.n, 45);
    const seen: number[] = [];
    const event = ({ value }: StoreEvent<Doc>) => void seen.push(value.n);
    await store.watch("/registry/r/", revision + 40, { ...IGNORE, event });
    t.same(seen, [41, 42, 43, 44, 45, 46, 47, 48, 49, 50]);
    await t.rejects(store.watch("/registry/r/", revision + 39, IGNORE), CompactedError);
  });

  t.test(`${name}: many writers of one key, one of them wins each time`, { skip }, async (t) => {
    const store = await (await prepare(t))();
    t.teardown(() => store.close());
    const seen: number[] = [];
    await store.watch("/registry/r/", await store.revision(), {
      ...IGNORE,
      event: ({ value }) => void seen.push(value.n),
    });
    let conflicts = 0;
    const add = async (): Promise<void> => {
      for (let done = 0; done < 25; ) {
        const old = await store.get("/registry/r/counter");
        try {
          await store.put("/registry/r/counter", { n: (old?.value.n ?? 0) + 1 }, old?.revision ?? 0);
          done++;
        } catch (error) {
          if (!(error instanceof RevisionMismatch)) throw error;
          conflicts++;
        }
      }
    };
    await Promise.all(Array.from({ length: 4 }, add));
    t.equal((await store.get("/registry/r/counter"))?.value.n, 100);
    t.ok(conflicts > 0, `${conflicts} conflicts`);
    t.same(
      seen,
      Array.from({ length: 100 }, (_, n) => n + 1),
      "every one was seen, in order",
    );
  });

  t.test(`${name}: 10,000 objects`, { skip }, async (t) => {
    const open = await prepare(t);
    let store = await open();
    let next = 0;
    const write = async (): Promise<void> => {
      for (let n = next++; n < 10_000; n = next++)
        await store.put(`/registry/r/${String(n).padStart(5, "0")}`, { n }, 0);
    };
    await Promise.all(Array.from({ length: 32 }, write));
    const all = await store.range("/registry/r/");
    t.equal(all.entries.length, 10_000);
    t.ok(all.entries.every(({ value }, n) => value.n === n));
    await store.put("/registry/r/00001", { n: -1 });
    let after: string | undefined;
    const paged: number[] = [];
    for (let remaining = 1; remaining > 0; ) {
      const page = await store.range("/registry/r/", {
        revision: all.revision,
        limit: 999,
        ...(after ? { after } : {}),
      });
      paged.push(...page.entries.map(({ value }) => value.n));
      remaining = page.remaining;
      after = page.entries.at(-1)?.key;
    }
    t.same(
      paged,
      all.entries.map(({ value }) => value.n),
      "in pages, as they were",
    );
    await store.close();
    store = await open();
    t.teardown(() => store.close());
    t.equal((await store.range("/registry/r/")).entries.length, 10_000, "also in a new process");
  });
}
