// The work queue: each key once at a time, failures later and later, and the end.

import { setTimeout as sleep } from "node:timers/promises";
import { pino } from "pino";
import t from "tap";
import { StatusError } from "../../common/client.js";
import { silentLogger } from "../../common/log.js";
import { WorkQueue } from "../../common/workqueue.js";
import { failure } from "../helpers/unix-server.js";
import { until } from "../helpers/until.js";

t.test("a work queue: once, never twice at a time, again when asked meanwhile", async (t) => {
  const runs: string[] = [];
  const running = new Set<string>();
  const twice: string[] = [];
  let peak = 0;
  let release: () => void = () => {};
  const queue = new WorkQueue({
    name: "test",
    concurrency: 2,
    log: silentLogger,
    worker: async (key) => {
      if (running.has(key)) twice.push(key);
      running.add(key);
      peak = Math.max(peak, running.size);
      runs.push(key);
      if (key === "slow")
        await new Promise<void>((resolve) => {
          release = resolve;
        });
      else await sleep(1);
      running.delete(key);
    },
  });
  for (const key of ["a", "b", "a", "slow", "c", "b"]) queue.add(key);
  t.strictSame(runs, [], "nothing before start");
  queue.start();
  await until(() => running.size === 1 && runs.length === 4);
  t.strictSame(runs, ["a", "b", "slow", "c"], "each once, in order");
  queue.add("slow");
  queue.add("slow");
  release();
  await until(() => runs.length === 5);
  release();
  await queue.idle();
  t.strictSame(runs.slice(4), ["slow"], "once more for all that was asked meanwhile");
  t.strictSame(twice, [], "never twice at a time");
  t.equal(peak, 2);
  await queue.idle();
  await queue.stop();
});

t.test("a work queue: failures come again, later and later", async (t) => {
  const lines: { level: number; failures: number; retryInMs: number }[] = [];
  const log = pino({ level: "debug" }, { write: (line: string) => lines.push(JSON.parse(line)) });
  let attempts = 0;
  const queue = new WorkQueue({
    name: "test",
    baseDelayMs: 2,
    maxDelayMs: 10,
    log,
    worker: async () => {
      attempts += 1;
      if (attempts === 2) throw new StatusError(failure(409, "Conflict", "changed"));
      if (attempts < 6) throw new Error("not yet");
    },
  });
  queue.start();
  queue.add("k");
  await queue.idle();
  t.equal(attempts, 6);
  t.strictSame(
    lines.map(({ retryInMs }) => retryInMs),
    [2, 4, 8, 10, 10],
  );
  t.strictSame(
    lines.map(({ level }) => level),
    [40, 20, 40, 40, 40],
    "a conflict is ordinary",
  );
  attempts = 4;
  queue.add("k");
  await queue.idle();
  t.match(lines.at(-1), { failures: 1, retryInMs: 2 }, "a success forgets the failures before it");
  await queue.stop();
});

t.test("a work queue: later, and the end", async (t) => {
  const runs: string[] = [];
  let release: () => void = () => {};
  const queue = new WorkQueue({
    name: "test",
    log: silentLogger,
    worker: async (key) => {
      runs.push(key);
      if (key === "last")
        await new Promise<void>((resolve) => {
          release = resolve;
        });
    },
  });
  queue.start();
  queue.addAfter("far", 60_000);
  queue.addAfter("far", 100);
  queue.addAfter("near", 1);
  queue.addAfter("near", 60_000);
  queue.addAfter("now", 0);
  queue.addAfter("never", 1e12);
  await until(() => runs.length === 3);
  t.strictSame(runs, ["now", "near", "far"], "the earliest wish holds");
  queue.add("last");
  queue.add("not begun");
  await until(() => runs.includes("last"));
  let stopped = false;
  const stopping = queue.stop().then(() => {
    stopped = true;
  });
  await sleep(5);
  t.equal(stopped, false, "stop waits for what runs");
  release();
  await stopping;
  queue.add("after");
  queue.addAfter("after", 1);
  await sleep(10);
  t.strictSame(runs, ["now", "near", "far", "last"]);
  await queue.idle();
  t.throws(
    () => new WorkQueue({ name: "q", worker: async () => {}, concurrency: 0, log: silentLogger }),
    RangeError,
  );
});
