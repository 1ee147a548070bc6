// A disk without space: no process ends of it, reads go on, nothing that was acknowledged is lost, writes come back
// with the space, `down` works and `up` says what is wrong. On small file systems that it mounts itself.

import {
  appendFileSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { open } from "lmdb";
import t from "tap";
import { ApiClient } from "../../client/api-client.js";
import { CONFIG_MAPS } from "../../common/client.js";
import { createLogger } from "../../common/log.js";
import { LmdbStore } from "../../control/store/lmdb.js";
import { type Codec, StoreWriteError } from "../../control/store/store.js";
import { RecordWriter } from "../../control/store/writer.js";
import { mount, umount } from "../../dataplane/kernel/libc.js";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { RtNetlink } from "../../dataplane/kernel/rtnetlink.js";
import { hasCode } from "../../lab/errors.js";
import { down, status, up } from "../../lab/lifecycle.js";

// A new network namespace, as the runner makes one for this file, has its loopback down.
{
  const netlink = RtNetlink.open(NetNs.current());
  await netlink.setLink("lo", { up: true });
  netlink.close();
}

const base = mkdtempSync(join(tmpdir(), "kpd-"));
t.teardown(() => rmSync(base, { recursive: true, force: true }));

/** A file system of so many KiB, until the test's end. */
function smallDisk(t: { teardown(fn: () => void): void }, name: string, kib: number): string {
  const dir = join(base, name);
  mkdirSync(dir);
  mount("tmpfs", dir, "tmpfs", 0, `size=${kib}k`);
  t.teardown(() => umount(dir, 2));
  return dir;
}

/** Leaves so many bytes, or fewer when others write at the same time. */
function fill(dir: string, left: number): void {
  const { bavail, bsize } = statfsSync(dir);
  try {
    appendFileSync(join(dir, "fill"), Buffer.alloc(Math.max(0, bavail * bsize - left)));
  } catch (error) {
    if (!hasCode(error, "ENOSPC")) throw error;
  }
}

/** mount(2). */
const MS_REMOUNT = 32;

interface Doc {
  n: number;
  pad?: string;
}
const codec: Codec<Doc> = {
  encode: JSON.stringify,
  decode: (text) => JSON.parse(text) as Doc,
  stamp: (doc) => Object.freeze({ ...doc }),
};

async function until(check: () => boolean | Promise<boolean>, ms = 60_000): Promise<boolean> {
  const deadline = Date.now() + ms;
  while (!(await check())) {
    if (Date.now() > deadline) return false;
    await sleep(20);
  }
  return true;
}

t.test("the store refuses writes, keeps what it has, and takes writes again", async (t) => {
  const disk = smallDisk(t, "store", 16 << 10);
  const path = join(disk, "store");
  const store = await LmdbStore.open<Doc>({ path, codec });
  t.teardown(() => store.close());
  const events: string[] = [];
  let ended = false;
  const end = () => {
    ended = true;
  };
  await store.watch("/r/", await store.revision(), { event: ({ key }) => events.push(key), end });
  fill(disk, 5 << 20);
  const kept: string[] = [];
  const pad = "x".repeat(20_000);
  const refused = await until(async () => {
    const key = `/r/${String(kept.length).padStart(4, "0")}`;
    try {
      await store.put(key, { n: kept.length, pad });
      kept.push(key);
      return false;
    } catch (error) {
      t.ok(error instanceof StoreWriteError, String(error));
      return true;
    }
  });
  t.ok(refused, "the disk is full");
  // Too little for any write, and enough for what is on its way to LMDB, for which compact() waits.
  fill(disk, 3 << 20);
  await sleep(20);
  await t.rejects(store.compact(await store.revision()), /no space left/);
  fill(disk, 0);
  await t.rejects(store.put("/r/refused", { n: 1 }), {
    name: "StoreWriteError",
    message: /^the store cannot be written to: no space left on device.+; is its disk full\?$/,
  });
  const keys = async (of: LmdbStore<Doc>) => (await of.range("/r/")).entries.map(({ key }) => key);
  t.same(await keys(store), kept, "reads go on");
  t.same(events, kept, "and so does the watch");
  t.notOk(ended);
  t.equal(store.failure(), undefined, "LMDB was spared");
  await t.rejects(LmdbStore.open({ path: join(disk, "other"), codec }), /no space left on device/);

  rmSync(join(disk, "fill"));
  rmSync(join(disk, "other"), { recursive: true });
  mount("tmpfs", disk, "tmpfs", MS_REMOUNT, "size=32m");
  await sleep(20);
  await store.put("/r/after", { n: 1 });
  kept.push("/r/after");
  t.same(events, kept, "there is space again");
  await store.close();
  const again = await LmdbStore.open<Doc>({ path, codec });
  t.same(await keys(again), kept, "nothing is lost");
  await again.close();
});

t.test("what LMDB could not take it is given again", async (t) => {
  const disk = smallDisk(t, "writer", 8 << 10);
  const options = { path: join(disk, "db"), encoding: "string", noSubdir: false, maxDbs: 4 } as const;
  const root = open<string, string>({ ...options, separateFlushed: true, eventTurnBatching: false });
  const writer = new RecordWriter(disk, root);
  writer.put(2, "small");
  await writer.flushed();
  fill(disk, 300_000);
  // So large that write(2) writes a part of it, which LMDB takes for an input/output error.
  const large = "x".repeat(1_000_000);
  writer.put(3, large);
  await t.rejects(writer.committed(), /Commit failed|Input\/output error/);
  t.ok(writer.failure);
  t.equal(writer.get(3), large, "readers have it");
  t.equal(writer.get(2), "small");
  rmSync(join(disk, "fill"));
  t.ok(await until(() => writer.failure === undefined), "it finds the space by itself");
  await writer.close();
  const again = open<string, string>(options);
  t.equal(again.openDB<string, number>({ name: "records", encoding: "string" }).get(3), large);
  await again.close();
});

t.test("a record that LMDB has not is taken from the journal wherever it is missing", async (t) => {
  const path = join(base, "holes");
  const store = await LmdbStore.open<Doc>({ path, codec });
  for (const n of [1, 2, 3, 4]) await store.put(`/r/${n}`, { n });
  // Returns when LMDB has them all, so that the copy is of one moment.
  await store.compact(2);
  const copy = join(base, "holes-copy");
  cpSync(path, copy, { recursive: true });
  await store.close();
  const root = open<string, string>({ path: copy, encoding: "string", noSubdir: false, maxDbs: 4 });
  root.openDB<string, number>({ name: "records", encoding: "string" }).removeSync(3);
  await root.flushed;
  await root.close();
  const healed = await LmdbStore.open<Doc>({ path: copy, codec });
  t.same(
    (await healed.range("/r/")).entries.map(({ key }) => key),
    ["/r/1", "/r/2", "/r/3", "/r/4"],
  );
  await healed.close();
});

t.test("a log line that cannot be written ends nothing, and is written later", async (t) => {
  const disk = smallDisk(t, "log", 4096);
  const file = join(disk, "log");
  const log = createLogger("test", { level: "info", file });
  log.info("first");
  fill(disk, 10_000);
  for (let n = 0; n < 200; n++) log.info({ n, pad: "x".repeat(1000) }, "full");
  rmSync(join(disk, "fill"));
  log.info("after");
  const lines = readFileSync(file, "utf8").trim().split("\n");
  const messages = lines.map((line) => (JSON.parse(line) as { msg: string }).msg);
  t.equal(messages[0], "first");
  t.equal(messages.at(-1), "after", "lines are whole, and written again when there is space");
});

t.test("a cluster on a full disk goes on, and goes away", async (t) => {
  const disk = smallDisk(t, "cluster", 24 << 10);
  const home = join(disk, "home");
  const { controlSocket } = await up({ name: "full", nodes: 1, home });
  t.teardown(() => down("full", { home }));
  const client = new ApiClient({ socketPath: controlSocket, userAgent: "test" });
  const create = (name: string) =>
    client.create(
      CONFIG_MAPS,
      { metadata: { name }, data: { x: "x".repeat(4000) } },
      { namespace: "default" },
    );
  await create("before");
  // In two steps, so that what is being written meanwhile finds its space.
  fill(disk, 1 << 20);
  await sleep(1000);
  fill(disk, 0);
  await t.rejects(create("refused"), { reason: "ServiceUnavailable", code: 503 });
  t.equal((await client.get(CONFIG_MAPS, "before", "default")).metadata.name, "before");
  t.equal((await status("full", home)).state, "running", "both processes");
  rmSync(join(disk, "fill"));
  t.ok(
    await until(() =>
      create("after").then(
        () => true,
        () => false,
      ),
    ),
    "writes work again",
  );
  fill(disk, 1 << 20);
  await sleep(1000);
  fill(disk, 0);
  t.same(await down("full", { home }), { existed: true });
  t.same(readdirSync(disk), ["fill"]);
  fill(disk, 0);
  writeFileSync(join(disk, "small"), Buffer.alloc(0));
  await t.rejects(up({ name: "full", nodes: 1, home }), {
    code: "START_FAILED",
    message: new RegExp(`^there is no space left on the disk of ${home}: `),
  });
  t.same(readdirSync(disk), ["fill", "small"], "and leaves nothing");
});
