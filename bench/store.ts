// The stores beside each other: writes a second, all of 10,000 objects, the delay of a watch. LMDB, and a real etcd where
// one is installed. BENCH_DIR chooses the disk; on a tmpfs (/dev/shm) nobody waits for one.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Stored } from "../common/k8s.js";
import { objectCodec } from "../control/api/codec.js";
import { openStore } from "../control/store/open.js";
import type { Store } from "../control/store/store.js";
import { EtcdServer, hasEtcd } from "../tests/helpers/etcd.js";
import { machine, median, percentile, printTable, timed } from "./report.js";

const OBJECTS = Number(process.argv[2] ?? 10_000);
const WRITERS = 32;
/** Writes of one writer that waits for each. */
const ALONE = 300;
const READS = 1000;
const RANGES = 5;
const PACED = 200;
const PACE_MS = 5;

const key = (n: number): string => `/registry/pods/default/web-${String(n).padStart(6, "0")}`;

function pod(n: number): Stored {
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: {
      name: `web-${n}`,
      namespace: "default",
      uid: `00000000-0000-4000-8000-${String(n).padStart(12, "0")}`,
      resourceVersion: "",
      creationTimestamp: "2026-01-01T00:00:00Z",
      labels: { app: `app-${n % 100}`, "pod-template-hash": "5d4f8c7b9", tier: "web" },
    },
    spec: { nodeName: `node-${n % 5}`, containers: [{ name: "web", image: "nginx:1.29" }] },
  } as Stored;
}

async function measure(name: string, open: () => Promise<Store<Stored>>): Promise<(string | number)[]> {
  let store = await open();
  let next = 0;
  const write = async (): Promise<void> => {
    for (let n = next++; n < OBJECTS; n = next++) await store.put(key(n), pod(n), 0);
  };
  const puts = await timed(() => Promise.all(Array.from({ length: WRITERS }, write)));
  const alone = await timed(async () => {
    for (let n = 0; n < ALONE; n++) await store.put(key(n), pod(n));
  });
  const reads = await timed(async () => {
    for (let n = 0; n < READS; n++) await store.get(key(n % OBJECTS));
  });
  const ranges: number[] = [];
  for (let n = 0; n < RANGES; n++) ranges.push((await timed(() => store.range("/registry/pods/"))).ms);
  const { revision } = await store.range("/registry/pods/", { limit: 1 });
  await store.put(key(0), pod(0));
  const past: number[] = [];
  for (let n = 0; n < RANGES; n++)
    past.push((await timed(() => store.range("/registry/pods/", { revision }))).ms);

  const sent = new Map<number, number>();
  const delays: number[] = [];
  const watch = await store.watch("/registry/pods/", await store.revision(), {
    event: ({ revision }) => sent.set(revision, performance.now()),
    end: () => {},
  });
  for (let n = 0; n < PACED; n++) {
    const began = performance.now();
    const written = await store.put(key(n), pod(n));
    delays.push((sent.get(written.revision) ?? Number.NaN) - began);
    await sleep(PACE_MS);
  }
  watch.close();
  await store.close();
  const opened = await timed(open);
  store = opened.result;
  await store.close();
  return [
    name,
    (OBJECTS / puts.ms) * 1000,
    (ALONE / alone.ms) * 1000,
    (READS / reads.ms) * 1000,
    median(ranges),
    median(past),
    median(delays),
    percentile(delays, 99),
    opened.ms,
  ];
}

const folder = mkdtempSync(join(process.env.BENCH_DIR ?? tmpdir(), "kubeplumb-bench-store-"));
const etcd = hasEtcd ? await EtcdServer.start(folder) : undefined;
try {
  console.log(`${OBJECTS} objects, ${WRITERS} writers. ${machine()}\n`);
  const rows = [
    await measure("LMDB", () => openStore(`lmdb:${join(folder, "lmdb")}`, { codec: objectCodec })),
  ];
  if (etcd) rows.push(await measure("etcd", () => openStore(`etcd:${etcd.url}`, { codec: objectCodec })));
  else console.log("etcd is not installed (Debian: etcd-server)\n");
  const head = [
    "store",
    "puts/s",
    "puts/s, one writer",
    "gets/s, one reader",
    "range ms",
    "range of the past ms",
    "put to event p50 ms",
    "p99 ms",
    "open ms",
  ];
  printTable(head, rows);
} finally {
  await etcd?.stop();
  rmSync(folder, { recursive: true, force: true });
}
