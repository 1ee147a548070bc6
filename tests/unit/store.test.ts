// What every store promises, held against each there is: LMDB, and a real etcd where one is installed. What only LMDB
// has: a journal that may be torn, kills, restarts.

import { spawn } from "node:child_process";
import { appendFileSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t, { type Test } from "tap";
import { EtcdStore } from "../../control/store/etcd.js";
import { readJournal } from "../../control/store/journal.js";
import { LmdbStore } from "../../control/store/lmdb.js";
import { parseStoreSpec } from "../../control/store/open.js";
import {
  CompactedError,
  FutureRevisionError,
  RevisionMismatch,
  type Store,
  type StoreEvent,
} from "../../control/store/store.js";
import { caught } from "../helpers/caught.js";
import { EtcdServer, withoutEtcd } from "../helpers/etcd.js";
import { codec, type Doc } from "../helpers/store-docs.js";
import { tempDir } from "../helpers/temp-dir.js";

t.setTimeout(240_000);

/** Opens a store on what the last one of this test has left. */
type Open = () => Promise<Store<Doc>>;

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

const openDocs = (path: string, more = {}) => LmdbStore.open<Doc>({ path, codec, ...more });

t.test("store: a restart keeps revision, values and history", async (t) => {
  const path = join(tempDir(t), "store");
  let store = await openDocs(path);
  await t.rejects(openDocs(path), /is in use by another process/);
  await store.put("/r/a", { n: 1 });
  const { revision } = await store.put("/r/b", { n: 1 });
  await store.put("/r/a", { n: 2 });
  await store.delete("/r/b");
  const last = await store.revision();
  await store.close();
  store = await openDocs(path);
  t.equal(await store.revision(), last);
  t.same(
    (await store.range("/r/")).entries.map((e) => [e.key, e.value]),
    [["/r/a", { n: 2, rev: last - 1 }]],
  );
  t.equal((await store.range("/r/", { revision })).entries.length, 2, "the past is still known");
  await store.compact(last);
  await store.close();
  store = await openDocs(path);
  t.equal(await store.revision(), last, "also when the newest record was a delete that is compacted away");
  await t.rejects(store.range("/r/", { revision }), CompactedError);
  await store.close();
  await t.rejects(store.put("/r/a", { n: 1 }), /closed/);
});

t.test("store: what was acknowledged survives kill -9", async (t) => {
  const path = join(tempDir(t), "store");
  const module = new URL("../../control/store/lmdb.js", import.meta.url).href;
  const script = `
    const { LmdbStore } = await import(${JSON.stringify(module)});
    const codec = { encode: JSON.stringify, decode: JSON.parse, stamp: (v, rev) => ({ ...v, rev }) };
    const store = await LmdbStore.open({ path: ${JSON.stringify(path)}, codec });
    for (let n = 0; ; n++) {
      await store.put("/r/" + String(n % 50).padStart(3, "0"), { n, pad: "x".repeat(2000) });
      process.stdout.write(n + "\\n");
    }`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let output = "";
  child.stdout.on("data", (data) => {
    output += String(data);
    if (output.split("\n").length > 1500) child.kill("SIGKILL");
  });
  await new Promise((resolve) => child.on("close", resolve));
  const acknowledged = Number(output.slice(0, output.lastIndexOf("\n")).split("\n").at(-1));
  const store = await openDocs(path);
  t.teardown(() => store.close());
  const { entries } = await store.range("/r/");
  t.equal(entries.length, 50);
  t.ok(Math.max(...entries.map((e) => e.value.n)) >= acknowledged, `write ${acknowledged} is there`);
  t.equal(await store.revision(), Math.max(...entries.map((e) => e.revision)));
  const next = await store.put("/r/000", { n: -1 });
  t.equal(next.revision, await store.revision());
});

t.test("store: a torn journal is read up to the damage", async (t) => {
  const dir = tempDir(t);
  const path = join(dir, "store");
  const store = await openDocs(path);
  for (let n = 0; n < 5; n++) await store.put(`/r/${n}`, { n });
  const journal = join(path, "journal-a");
  t.equal(readJournal(journal).length, 5);
  const copy = join(dir, "copy");
  writeFileSync(copy, readFileSync(journal));
  truncateSync(copy, statSync(copy).size - 3);
  t.equal(readJournal(copy).length, 4, "the torn record is left out");
  appendFileSync(copy, "rubbish\n");
  t.equal(readJournal(copy).length, 4);
  const bytes = readFileSync(journal);
  bytes[bytes.length - 5] = 0;
  writeFileSync(copy, bytes);
  t.equal(readJournal(copy).length, 4, "a damaged one too");
  t.same(readJournal(join(dir, "absent")), []);
  await store.close();
});
