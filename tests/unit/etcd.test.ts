// The etcd store where its etcd fails: killed, held still, cut off, full, a member of three lost, compacted under a watch,
// shared by two. Every etcd is a real one.

import { rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { request } from "undici";
import type { EtcdStore } from "../../control/store/etcd.js";
import { RevisionMismatch, type Store, type StoreEvent, StoreWriteError } from "../../control/store/store.js";
import { WatchCache } from "../../control/store/watch-cache.js";
import { EtcdServer, withoutEtcd } from "../helpers/etcd.js";
import { codec, type Doc } from "../helpers/store-docs.js";
import { tempDir } from "../helpers/temp-dir.js";
import { Follower, Line, open, sorted, startEtcd, stateOf, until, Writer } from "./helpers/etcd-store.js";

t.setTimeout(240_000);
const skip = withoutEtcd;

t.test("the cache: what comes twice, and what it keeps for watches", async (t) => {
  const cache = new WatchCache<Doc>([], 1);
  const heard: number[] = [];
  const sink = { event: ({ revision }: StoreEvent<Doc>) => void heard.push(revision), end: () => {} };
  cache.watch("/registry/r/", 1, [], sink);
  const put = (revision: number) => {
    cache.put({ key: "/registry/r/a", revision, createRevision: 2, value: { n: revision } });
    cache.reach(revision);
  };
  put(2);
  put(2);
  cache.delete("/registry/r/a", 3, codec.stamp);
  cache.reach(3);
  put(2);
  t.same(heard, [2, 3]);
  t.equal(cache.entries.get("/registry/r/a"), undefined);
  for (let revision = 4; revision < 30_000; revision++) put(revision);
  t.ok(cache.windowFrom > 1, "it does not grow for ever");
  heard.length = 0;
  cache.watch("/registry/r/", cache.windowFrom, [], sink);
  t.equal(heard[0], cache.windowFrom + 1);
  t.equal(heard.length, 29_999 - cache.windowFrom);
  cache.forget(29_990);
  t.equal(cache.windowFrom, 29_990);
  t.equal(await cache.reached(30_000, 10), false);
});

t.test("etcd is killed and started again under writers and watchers", { skip }, async (t) => {
  const etcd = await startEtcd(t);
  const store = await open(t, [etcd.url]);
  const followers = await Promise.all([Follower.start(store), Follower.start(store)]);
  const writers = ["a", "b", "c", "d"].map((name) => new Writer(store, name));
  for (let kills = 0; kills < 3; kills++) {
    const before = writers.reduce((sum, { done }) => sum + done, 0);
    await until("writes", () => writers.reduce((sum, { done }) => sum + done, 0) > before + 100);
    await etcd.stop("SIGKILL");
    await sleep(300);
    etcd.start();
  }
  const before = writers.reduce((sum, { done }) => sum + done, 0);
  await until("writes again", () => writers.reduce((sum, { done }) => sum + done, 0) > before + 100);
  await Promise.all(writers.map((writer) => writer.stop()));
  const state = await stateOf(store);
  for (const { acknowledged } of writers)
    for (const [key, n] of acknowledged)
      if ((state[key]?.n ?? 0) < n) t.fail(`${key}: ${n} was acknowledged, ${state[key]?.n} is there`);
  t.equal(Object.keys(state).length, 80);
  for (const follower of followers) {
    t.equal(follower.ended, undefined, "the watch went on");
    t.same(sorted(follower.state), state, "and missed nothing");
  }
  const [one, other] = followers as [Follower, Follower];
  t.same(one.revisions, other.revisions);
  await until("health", () => store.failure() === undefined);
});

t.test("a write that was done, whose answer was lost", { skip }, async (t) => {
  const etcd = await startEtcd(t);
  const line = await Line.open(t, etcd);
  const [near, far] = [await open(t, [etcd.url]), await open(t, [line.url])];
  line.deaf = true;
  const created = far.put("/registry/r/a", { n: 1 }, 0);
  await until("the write", async () => (await near.get("/registry/r/a")) !== undefined);
  line.deaf = false;
  const entry = await created;
  t.same(await near.get("/registry/r/a"), entry, "its writer is told that it was done, once");
  line.deaf = true;
  const lost = far.put("/registry/r/a", { n: 2 }, entry.revision);
  await until("the write", async () => (await near.get("/registry/r/a"))?.value.n === 2);
  await near.put("/registry/r/a", { n: 3 });
  line.deaf = false;
  await t.rejects(lost, RevisionMismatch, "what has been written over is not claimed");
});

t.test("two stores on one etcd", { skip }, async (t) => {
  const etcd = await startEtcd(t);
  const [a, b] = [await open(t, [etcd.url]), await open(t, [etcd.url])];
  const heard = await Follower.start(b);
  for (let n = 0; n < 100; n++) {
    const written = await a.put("/registry/r/x", { n });
    const read = await b.get("/registry/r/x");
    if (read?.revision !== written.revision) t.fail(`write ${n} is not seen`);
  }
  t.equal(heard.revisions.length, 100);
  const { revision } = await a.put("/registry/r/y", { n: 1 }, 0);
  await t.rejects(b.put("/registry/r/y", { n: 2 }, 0), RevisionMismatch);
  await b.put("/registry/r/y", { n: 2 }, revision);
  await t.rejects(a.put("/registry/r/y", { n: 3 }, revision), RevisionMismatch);
  await t.rejects(a.delete("/registry/r/y", revision), RevisionMismatch);
  await b.delete("/registry/r/y");
  t.equal(await a.get("/registry/r/y"), undefined);
  t.equal(await b.revision(), await a.revision());

  const [one, two] = [await Follower.start(a), await Follower.start(b)];
  let conflicts = 0;
  const add = async (store: Store<Doc>): Promise<void> => {
    for (let done = 0; done < 50; ) {
      const old = await store.get("/registry/r/count");
      try {
        await store.put("/registry/r/count", { n: (old?.value.n ?? 0) + 1 }, old?.revision ?? 0);
        done++;
      } catch (error) {
        if (!(error instanceof RevisionMismatch)) throw error;
        conflicts++;
      }
    }
  };
  await Promise.all([add(a), add(b), add(a), add(b)]);
  t.equal((await a.get("/registry/r/count"))?.value.n, 200, "no write was lost");
  t.ok(conflicts > 0, `${conflicts} conflicts`);
  await b.revision();
  t.same(one.revisions, two.revisions, "both saw the same");
});

t.test("others' keys in the same etcd move the revision", { skip }, async (t) => {
  const etcd = await startEtcd(t);
  const [mine, theirs] = [
    await open(t, [etcd.url], { prefix: "/mine" }),
    await open(t, [etcd.url], { prefix: "/theirs" }),
  ];
  await mine.put("/registry/r/a", { n: 1 });
  for (let n = 0; n < 5; n++) {
    const { revision } = await theirs.put("/registry/r/a", { n: 100 + n });
    t.ok((await mine.revision()) >= revision, "a read waits until the watch has come there");
  }
  t.same(await stateOf(mine), { "/registry/r/a": { n: 1, rev: 2 } });
  t.equal((await mine.get("/registry/r/a"))?.value.n, 1);
});

t.test("compaction while a watch is cut off", { skip }, async (t) => {
  const etcd = await startEtcd(t);
  const line = await Line.open(t, etcd);
  const near = await open(t, [etcd.url]);
  const far = await open(t, [line.url]);
  await near.put("/registry/r/gone", { n: 1 });
  const slow = await Follower.start(far);
  line.hold(true);
  for (let n = 0; n < 50; n++) await near.put(`/registry/r/${n % 5}`, { n });
  await near.delete("/registry/r/gone");
  await near.compact(await near.revision());
  await near.put("/registry/r/new", { n: 1 });
  line.cut();
  line.hold(false);
  await until("the end of the watch", () => slow.ended !== undefined);
  t.match(
    slow.ended,
    { name: "CompactedError" },
    "events that nobody has any more are not passed over in silence",
  );
  t.same(await stateOf(far), await stateOf(near));
  t.equal(await far.get("/registry/r/gone"), undefined);
  const anew = await Follower.start(far);
  await near.put("/registry/r/new", { n: 2 });
  await far.revision();
  t.same(sorted(anew.state), await stateOf(near));
});

t.test("of several servers one compacts at a time", { skip }, async (t) => {
  const etcd = await startEtcd(t);
  const stores = await Promise.all([0, 1, 2].map(() => open(t, [etcd.url], { compactIntervalMs: 400 })));
  const [store] = stores as [EtcdStore<Doc>];
  const { revision } = await store.put("/registry/r/a", { n: 0 });
  const started = Date.now();
  let n = 0;
  await until("compaction", async () => {
    await store.put("/registry/r/a", { n: ++n });
    return await store.range("/registry/r/", { revision }).then(
      () => false,
      (error: Error) => error.name === "CompactedError",
    );
  });
  t.ok(Date.now() - started >= 400, "what is younger than the interval is kept");
  const turns = async (): Promise<number> => {
    const body = JSON.stringify({ key: Buffer.from("/registry/.compaction").toString("base64") });
    const answer = await request(`${etcd.url}/v3/kv/range`, { method: "POST", body });
    const { kvs } = (await answer.body.json()) as { kvs: { version: string }[] };
    return Number(kvs[0]?.version ?? 0);
  };
  const [from, at] = [await turns(), Date.now()];
  await until("turns", async () => (await turns()) - from >= 4);
  const [took, possible] = [(await turns()) - from, (Date.now() - at) / 400];
  t.ok(took <= possible + 1, `${took} turns of ${possible} by three servers`);
});

t.test(
  "an etcd that does not answer: refused in time, reads and watches go on, it heals",
  { skip },
  async (t) => {
    const etcd = await startEtcd(t);
    const store = await open(t, [etcd.url]);
    const { revision } = await store.put("/registry/r/a", { n: 1 });
    const follower = await Follower.start(store);
    await etcd.freeze();
    const [write, read] = await Promise.allSettled([
      store.put("/registry/r/a", { n: 2 }, revision),
      store.get("/registry/r/a"),
    ]);
    t.equal(write.status, "rejected");
    const { reason } = write as PromiseRejectedResult;
    t.ok(reason instanceof StoreWriteError);
    t.match(reason.message, /no answer within 1.5s; whether this write was kept is not known/);
    t.match(read, { status: "fulfilled", value: { value: { n: 1 } } });
    t.ok(store.failure());
    await t.rejects(store.put("/registry/r/b", { n: 1 }), /cannot be written to: .*; it was not tried/);
    t.equal((await store.range("/registry/r/")).entries.length, 1);
    etcd.thaw();
    await until("health", () => store.failure() === undefined);
    await store.put("/registry/r/c", { n: 3 });
    t.equal(follower.ended, undefined);
    t.same(sorted(follower.state), await stateOf(store));
  },
);

t.test("a connection that carries nothing any more", { skip }, async (t) => {
  const etcd = await startEtcd(t);
  const line = await Line.open(t, etcd);
  const [near, far] = [await open(t, [etcd.url]), await open(t, [line.url])];
  const follower = await Follower.start(far);
  line.hold(true);
  await near.put("/registry/r/a", { n: 1 });
  await t.rejects(far.put("/registry/r/b", { n: 1 }), StoreWriteError);
  await until("failure", () => far.failure() !== undefined);
  line.hold(false);
  await until("health", () => far.failure() === undefined);
  await far.put("/registry/r/c", { n: 1 });
  t.same(sorted(follower.state), await stateOf(near), "the watch went on where it was");
  t.equal(follower.ended, undefined);
});

t.test("a cut watch goes on with what was written meanwhile", { skip }, async (t) => {
  const etcd = await startEtcd(t);
  const line = await Line.open(t, etcd);
  const [near, far] = [await open(t, [etcd.url]), await open(t, [line.url])];
  const follower = await Follower.start(far);
  for (let cuts = 1; cuts <= 5; cuts++) {
    line.hold(true);
    for (let n = 0; n < 10; n++) await near.put(`/registry/r/${n % 3}`, { n: cuts * 10 + n });
    await near.delete("/registry/r/0");
    await near.put("/registry/r/1", { n: cuts });
    line.cut();
    line.hold(false);
    t.equal(await far.revision(), await near.revision());
    t.equal(follower.revisions.length, cuts * 12);
  }
  t.same(sorted(follower.state), await stateOf(near));
  t.equal(follower.ended, undefined);
});

t.test("three members: one is lost, then held still, then two are lost", { skip }, async (t) => {
  const dir = tempDir(t);
  const members = await EtcdServer.cluster(dir, 3);
  for (const member of members) {
    member.start();
    t.teardown(() => member.stop());
  }
  await Promise.all(members.map((member) => member.ready()));
  const store = await open(
    t,
    members.map(({ url }) => url),
    { timeoutMs: 3000 },
  );
  const follower = await Follower.start(store);
  const writer = new Writer(store, "a");
  const [first, second, third] = members as [EtcdServer, EtcdServer, EtcdServer];
  const more = (what: string) => {
    const before = writer.done;
    return until(what, () => writer.done > before + 30, 30_000);
  };
  await more("writes");
  await first.stop("SIGKILL");
  await more("writes without the first");
  first.start();
  await first.ready();
  await second.freeze();
  await more("writes while the second is still");
  second.thaw();
  await more("writes");
  await Promise.all([second.stop("SIGKILL"), third.stop("SIGKILL")]);
  await until("refusal", () => store.failure() !== undefined, 30_000);
  second.start();
  await more("writes by two of three");
  await writer.stop();
  t.same(sorted(follower.state), await stateOf(store));
  t.equal(follower.ended, undefined);
  for (const [key, n] of writer.acknowledged) t.ok((follower.state.get(key)?.n ?? 0) >= n, key);
});

t.test("an etcd without space", { skip }, async (t) => {
  const [etcd] = (await EtcdServer.cluster(tempDir(t), 1)) as [EtcdServer];
  etcd.start([`--quota-backend-bytes=${2 << 20}`]);
  t.teardown(() => etcd.stop());
  await etcd.ready();
  const store = await open(t, [etcd.url]);
  const pad = "x".repeat(100_000);
  const fill = async (): Promise<void> => {
    for (let n = 0; n < 100; n++) await store.put("/registry/r/a", { n, pad });
  };
  await t.rejects(fill(), /cannot be written to: .*database space exceeded; compact and defragment it/);
  t.match(store.failure(), { message: /space/ });
  t.equal((await store.get("/registry/r/a"))?.value.pad, pad, "reads go on");
  await sleep(1000);
  t.ok(store.failure(), "it does not pass by itself");
  const post = (path: string, body: object) =>
    request(etcd.url + path, { method: "POST", body: JSON.stringify(body) }).then((answer) =>
      answer.body.text(),
    );
  await store.compact(await store.revision());
  await post("/v3/maintenance/defragment", {});
  const { memberID } = JSON.parse(await post("/v3/maintenance/alarm", { action: "GET" })).alarms[0];
  await post("/v3/maintenance/alarm", { action: "DEACTIVATE", memberID, alarm: "NOSPACE" });
  await until("health", () => store.failure() === undefined);
  await store.put("/registry/r/a", { n: 1 });
});

t.test("an etcd that lost its data, and one that is not ours", { skip }, async (t) => {
  const dir = tempDir(t);
  const etcd = await EtcdServer.start(dir);
  t.teardown(() => etcd.stop());
  const store = await open(t, [etcd.url]);
  for (let n = 0; n < 10; n++) await store.put("/registry/r/a", { n });
  const follower = await Follower.start(store);
  await etcd.stop("SIGKILL");
  rmSync(join(dir, "m0"), { recursive: true });
  etcd.start();
  await until("the end of the watch", () => follower.ended !== undefined);
  t.match(follower.ended?.message, /gone back to an earlier state/);
  await until("health", () => store.failure() === undefined);
  t.same(await stateOf(store), {});
  await store.put("/registry/r/b", { n: 1 }, 0);

  const key = Buffer.from("/registry/pods/default/x").toString("base64");
  const value = Buffer.from("k8s\0protobuf").toString("base64");
  await request(`${etcd.url}/v3/kv/put`, { method: "POST", body: JSON.stringify({ key, value }) });
  await t.rejects(open(t, [etcd.url]), /pods\/default\/x holds no value of ours/);
  await t.rejects(open(t, ["http://127.0.0.1:1"]), /etcd at http:\/\/127.0.0.1:1: .*ECONNREFUSED/);
});
