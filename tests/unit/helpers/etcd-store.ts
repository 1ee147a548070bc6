// What the tests of the etcd store do to it: real servers, a line to one that can be cut, writers and watchers that keep
// account of what they were told.

import { connect, createServer, type Server, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import type { Test } from "tap";
import { EtcdStore, type EtcdStoreOptions } from "../../../control/store/etcd.js";
import {
  RevisionMismatch,
  type Store,
  type StoreEvent,
  StoreWriteError,
} from "../../../control/store/store.js";
import { EtcdServer } from "../../helpers/etcd.js";
import { codec, type Doc } from "../../helpers/store-docs.js";
import { tempDir } from "../../helpers/temp-dir.js";

const TIMEOUT_MS = 1500;

export async function startEtcd(test: Test): Promise<EtcdServer> {
  const server = await EtcdServer.start(tempDir(test));
  test.teardown(() => server.stop());
  return server;
}

export async function open(test: Test, endpoints: string[], more: Partial<EtcdStoreOptions<Doc>> = {}) {
  const store = await EtcdStore.open<Doc>({ endpoints, codec, timeoutMs: TIMEOUT_MS, ...more });
  test.teardown(() => store.close());
  return store;
}

export async function until(
  what: string,
  done: () => boolean | Promise<boolean>,
  ms = 60_000,
): Promise<void> {
  for (const end = Date.now() + ms; !(await done()); await sleep(10))
    if (Date.now() > end) throw new Error(`in vain: ${what}`);
}

/** A watcher that also keeps the state it is told, and checks that each event fits it. */
export class Follower {
  readonly state = new Map<string, Doc>();
  readonly revisions: number[] = [];
  ended: Error | undefined;

  static async start(store: Store<Doc>, from?: number): Promise<Follower> {
    const follower = new Follower();
    if (from === undefined) {
      const { entries, revision } = await store.range("/registry/r/");
      for (const { key, value } of entries) follower.state.set(key, value);
      from = revision;
    }
    await store.watch("/registry/r/", from, {
      event: (event) => follower.#take(event),
      end: (error) => {
        follower.ended = error;
      },
    });
    return follower;
  }

  #take({ type, key, value, revision, previous }: StoreEvent<Doc>): void {
    const before = this.state.get(key);
    if (JSON.stringify(before) !== JSON.stringify(previous))
      throw new Error(`${key}: not what was told before`);
    if (revision <= (this.revisions.at(-1) ?? 0)) throw new Error(`${key}: out of order`);
    this.revisions.push(revision);
    if (type === "put") this.state.set(key, value);
    else this.state.delete(key);
  }
}

export const stateOf = async (store: Store<Doc>) =>
  Object.fromEntries((await store.range("/registry/r/")).entries.map(({ key, value }) => [key, value]));
export const sorted = (state: Map<string, Doc>) => Object.fromEntries([...state].sort());

/** Writes in a loop: what was acknowledged, and how often it was refused. */
export class Writer {
  readonly acknowledged = new Map<string, number>();
  refused = 0;
  done = 0;
  #on = true;
  readonly #running: Promise<void>;

  constructor(store: Store<Doc>, name: string) {
    this.#running = this.#run(store, name);
  }

  async #run(store: Store<Doc>, name: string): Promise<void> {
    for (let n = 1; this.#on; n++) {
      const key = `/registry/r/${name}-${n % 20}`;
      try {
        const old = await store.get(key);
        await store.put(key, { n }, old?.revision ?? 0);
        this.acknowledged.set(key, n);
        this.done++;
      } catch (error) {
        // A refused write may have been done all the same, which the next one on the same key then runs into.
        if (!(error instanceof StoreWriteError || error instanceof RevisionMismatch)) throw error;
        this.refused++;
        await sleep(10);
      }
    }
  }

  async stop(): Promise<void> {
    this.#on = false;
    await this.#running;
  }
}

/** A way to an etcd that can be cut, and held still with everything on it. */
export class Line {
  readonly #server: Server;
  readonly #open = new Set<Socket>();
  #held = false;
  /** Every answer breaks the connection that it would come on. */
  deaf = false;
  url = "";

  constructor(port: number) {
    this.#server = createServer({ pauseOnConnect: true }, (near) => {
      const far = connect(port, "127.0.0.1");
      for (const [from, to] of [
        [near, far],
        [far, near],
      ] as const) {
        this.#open.add(from);
        from.on("data", (chunk: Buffer) => (this.deaf && from === far ? far.destroy() : to.write(chunk)));
        from.on("error", () => to.destroy());
        from.on("close", () => {
          this.#open.delete(from);
          to.destroy();
        });
        if (this.#held) from.pause();
        else from.resume();
      }
    });
  }

  static async open(test: Test, etcd: EtcdServer): Promise<Line> {
    const line = new Line(Number(new URL(etcd.url).port));
    await new Promise<void>((resolve) => line.#server.listen(0, "127.0.0.1", resolve));
    line.url = `http://127.0.0.1:${(line.#server.address() as { port: number }).port}`;
    test.teardown(() => {
      line.#server.close();
      line.cut();
    });
    return line;
  }

  hold(held: boolean): void {
    this.#held = held;
    for (const socket of this.#open) held ? socket.pause() : socket.resume();
  }

  cut(): void {
    for (const socket of this.#open) socket.destroy();
  }
}
