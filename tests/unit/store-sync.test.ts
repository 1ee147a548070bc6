// A store whose writes survive a power cut: each waits for the disk, many for the same wait, and nobody hears of one
// before it is there.

import { createHook } from "node:async_hooks";
import { cpSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { LmdbStore } from "../../control/store/lmdb.js";
import { openStore } from "../../control/store/open.js";
import { codec, type Doc } from "../helpers/store-docs.js";
import { tempDir } from "../helpers/temp-dir.js";

/** Requests to the file system that do not block: of a store in use, those that wait for the disk. */
let requests = 0;
const hook = createHook({
  init(_id, type) {
    if (type === "FSREQCALLBACK") requests++;
  },
});

async function waitsFor(work: () => Promise<unknown>): Promise<number> {
  const before = requests;
  hook.enable();
  await work();
  hook.disable();
  return requests - before;
}

const doc = (pad: string): Doc => ({ n: 1, pad });

t.test("a write waits for the disk, and many writes for one wait", async (t) => {
  const store = await LmdbStore.open<Doc>({ path: tempDir(t), codec, sync: true });
  t.teardown(() => store.close());
  for (const i of [1, 2, 3]) t.equal(await waitsFor(() => store.put(`/one/${i}`, doc("one"))), 1);
  const many = Array.from({ length: 200 }, (_, i) => () => store.put(`/many/${i}`, doc("many")));
  const waits = await waitsFor(() => Promise.all(many.map((put) => put())));
  t.ok(waits >= 1 && waits < 50, `${waits} waits for 200 writes`);
  t.equal(await waitsFor(() => store.delete("/one/1")), 1);
  t.equal(await waitsFor(() => store.get("/one/2")), 0);
  const quick = await LmdbStore.open<Doc>({ path: tempDir(t), codec });
  t.teardown(() => quick.close());
  t.equal(
    await waitsFor(() => quick.put("/one", doc("one"))),
    0,
    "a store that is not asked for it does not",
  );
});

t.test("what was written is there again, whatever stood in the journal before", async (t) => {
  const path = tempDir(t);
  const expected = new Map<string, string>();
  const pad = "x".repeat(100_000);
  for (let round = 0; round < 3; round++) {
    const store = await LmdbStore.open<Doc>({ path, codec, sync: true });
    for (let i = 0; i < 100; i++) {
      const key = `/r/${(round * 37 + i) % 120}`;
      await store.put(key, { n: round, pad: `${i} ${pad}` });
      expected.set(key, `${round} ${i}`);
    }
    const copy = tempDir(t);
    // As a power cut leaves it: nothing is closed.
    cpSync(path, copy, { recursive: true });
    const after = await LmdbStore.open<Doc>({ path: copy, codec, sync: true });
    const { entries } = await after.range("/r/");
    t.same(
      new Map(entries.map(({ key, value }) => [key, `${value.n} ${value.pad?.split(" ")[0]}`])),
      expected,
    );
    t.equal(await after.revision(), await store.revision());
    await after.close();
    await store.close();
  }
});

t.test("watchers hear of a write when it is on disk, in order, and once", async (t) => {
  const store = await LmdbStore.open<Doc>({ path: tempDir(t), codec, sync: true });
  t.teardown(() => store.close());
  const heard = { early: [] as number[], late: [] as number[] };
  const follow = (list: number[]) => ({
    event: ({ revision }: { revision: number }) => void list.push(revision),
    end() {},
  });
  await store.watch("/", 1, follow(heard.early) as never);
  const writes = Array.from({ length: 20 }, (_, i) => store.put(`/w/${i}`, doc("w")));
  await Promise.resolve();
  t.strictSame(heard.early, [], "nobody has heard of what the disk has not got");
  // Begins while the disk is waited for: what is written is history to it.
  await store.watch("/", 1, follow(heard.late) as never);
  await Promise.all(writes);
  const all = Array.from({ length: 20 }, (_, i) => i + 2);
  t.strictSame(heard.early, all);
  t.strictSame(heard.late, all);
});

t.test("a disk that fails ends all writing", async (t) => {
  const path = tempDir(t);
  // A file that takes what is written and cannot be waited for.
  for (const name of ["journal-a", "journal-b"]) symlinkSync("/dev/null", join(path, name));
  const store = await LmdbStore.open<Doc>({ path, codec, sync: true });
  t.teardown(() => store.close());
  const heard: unknown[] = [];
  await store.watch("/", 1, { event: (event) => void heard.push(event), end() {} });
  await t.rejects(store.put("/a", doc("a")), { name: "StoreWriteError" });
  t.match(store.failure(), { code: "EINVAL" });
  await t.rejects(store.put("/b", doc("b")), { name: "StoreWriteError" }, "nobody knows what is on it");
  t.strictSame(heard, []);
});

t.test("who names the store by its directory gets such a one", async (t) => {
  const store = await openStore<Doc>(`lmdb:${tempDir(t)}`, { codec });
  t.teardown(() => store.close());
  t.equal(await waitsFor(() => store.put("/one", doc("one"))), 1);
});
