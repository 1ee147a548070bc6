// A soak of the API server and of informers: 10,000 random changes by several writers, 20 watchers whose connections are
// cut at random; in the end all have the server's exact state, and what their subscribers heard adds up to it.

import { mkdtempSync, rmSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t, { type Test } from "tap";
import { ApiClient } from "../../client/api-client.js";
import { CONFIG_MAPS, isConflict, isNotFound, NAMESPACES } from "../../common/client.js";
import { Informer } from "../../common/informer.js";
import { type ConfigMap, keyOf, type Stored } from "../../common/k8s.js";
import { silentLogger } from "../../common/log.js";
import { objectCodec } from "../../control/api/codec.js";
import { startControl } from "../../control/server.js";
import { openStore } from "../../control/store/open.js";
import { EtcdServer, withoutEtcd } from "../helpers/etcd.js";

const CHANGES = 10_000;
const WATCHERS = 20;
const WRITERS = 8;
const NAMES = 120;
const SPACES = ["soak-a", "soak-b", "soak-c"];
const SETTLE_MS = 30_000;

t.setTimeout(240_000);

/** Passes connections on to `target`, and cuts them when told. */
class Cuttable {
  readonly path: string;
  readonly #server: Server;
  readonly #open = new Set<Socket>();
  cuts = 0;

  constructor(path: string, target: string) {
    this.path = path;
    this.#server = createServer((near) => {
      const far = connect(target);
      for (const [from, to] of [
        [near, far],
        [far, near],
      ] as const) {
        this.#open.add(from);
        from.on("error", () => to.destroy());
        from.on("close", () => {
          this.#open.delete(from);
          to.destroy();
        });
        from.pipe(to);
      }
    });
  }

  listen(): Promise<void> {
    return new Promise((resolve) => this.#server.listen(this.path, resolve));
  }

  cut(): void {
    this.cuts += this.#open.size > 0 ? 1 : 0;
    for (const socket of this.#open) socket.destroy();
  }

  close(): void {
    this.#server.close();
    this.cut();
  }
}

/** What a subscriber can know: built from what it hears, beside the informer's own cache. */
function listen(informer: Informer<ConfigMap>): Map<string, Stored<ConfigMap>> {
  const heard = new Map<string, Stored<ConfigMap>>();
  informer.subscribe({
    add(object) {
      if (heard.has(keyOf(object))) throw new Error(`${keyOf(object)} was added twice`);
      heard.set(keyOf(object), object);
    },
    update(old, now) {
      if (heard.get(keyOf(old)) !== old) throw new Error(`${keyOf(old)}: not the state that was told before`);
      heard.set(keyOf(now), now);
    },
    delete(object) {
      if (!heard.delete(keyOf(object))) throw new Error(`${keyOf(object)} was never there`);
    },
  });
  return heard;
}

const random = (n: number): number => Math.floor(Math.random() * n);

/** One random change; a conflict or a missing object is part of the game. */
async function change(client: ApiClient, i: number): Promise<void> {
  const namespace = SPACES[random(SPACES.length)] ?? "";
  const name = `c-${random(NAMES)}`;
  const labels = { tier: i % 3 === 0 ? "odd" : "even" };
  try {
    switch (random(5)) {
      case 0:
        await client.delete(CONFIG_MAPS, name, { namespace });
        return;
      case 1: {
        const { metadata } = await client.get(CONFIG_MAPS, name, namespace);
        const object = { metadata: { ...metadata, labels }, data: { put: String(i) } } as ConfigMap;
        await client.update(CONFIG_MAPS, object, { namespace });
        return;
      }
      case 2:
        await client.patch(
          CONFIG_MAPS,
          name,
          "merge",
          { metadata: { labels }, data: { i: String(i) } },
          { namespace },
        );
        return;
      case 3:
        await client.deleteCollection(CONFIG_MAPS, { namespace, fieldSelector: `metadata.name=${name}` });
        return;
      default:
        await client.create(CONFIG_MAPS, { metadata: { name, namespace, labels }, data: { i: String(i) } });
    }
  } catch (error) {
    const expected = isNotFound(error) || isConflict(error) || (error as { code?: number }).code === 409;
    if (!expected) throw error;
  }
}

async function startServer(test: Test, directory: string, etcd: EtcdServer | undefined) {
  const socketPath = join(directory, "control.sock");
  const control = await startControl({
    dataDir: join(directory, "data"),
    ...(etcd ? { store: () => openStore(`etcd:${etcd.url}`, { codec: objectCodec }) } : {}),
    listen: { host: "127.0.0.1", port: 0 },
    socketPath,
    clusterName: "soak",
    kubelet: () => ({ socketPath: "/nowhere", pathPrefix: "" }),
    log: silentLogger,
  });
  test.teardown(() => control.close());
  return socketPath;
}

async function soak(t: Test, onEtcd: boolean): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), "kubeplumb-soak-"));
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  const etcd = onEtcd ? await EtcdServer.start(directory) : undefined;
  t.teardown(() => etcd?.stop());
  const socketPath = await startServer(t, directory, etcd);
  const writer = new ApiClient({ socketPath });
  t.teardown(() => writer.close());
  for (const name of SPACES) await writer.create(NAMESPACES, { metadata: { name } });

  const watchers = await Promise.all(
    Array.from({ length: WATCHERS }, async (_, n) => {
      const line = new Cuttable(join(directory, `watch-${n}.sock`), socketPath);
      await line.listen();
      const client = new ApiClient({ socketPath: line.path });
      const selected = n % 4 === 3;
      const informer = new Informer(client, CONFIG_MAPS, {
        ...(n % 5 === 4 ? { namespace: SPACES[0] } : {}),
        ...(selected ? { labelSelector: "tier=odd" } : {}),
        backoff: { baseMs: 5, maxMs: 50 },
        watchTimeoutSeconds: 2 + n,
      });
      const heard = listen(informer);
      informer.start();
      t.teardown(async () => {
        informer.stop();
        line.close();
        await client.close();
      });
      return { line, informer, heard, namespace: n % 5 === 4 ? SPACES[0] : undefined, selected };
    }),
  );
  await Promise.all(watchers.map(({ informer }) => informer.synced));

  let next = 0;
  const write = async (): Promise<void> => {
    for (let i = next++; i < CHANGES; i = next++) {
      await change(writer, i);
      if (i % 40 === 0) watchers[random(WATCHERS)]?.line.cut();
    }
  };
  await Promise.all(Array.from({ length: WRITERS }, write));

  const { items } = await writer.list(CONFIG_MAPS);
  const mine = items.filter(({ metadata }) => SPACES.includes(metadata.namespace ?? ""));
  t.ok(mine.length > 50, `${mine.length} objects are left`);
  const states = (objects: Iterable<Stored<ConfigMap>>) =>
    [...objects]
      .filter(({ metadata }) => SPACES.includes(metadata.namespace ?? ""))
      .map((object) => JSON.stringify([keyOf(object), object.metadata, object.data]))
      .sort();
  for (const [n, { informer, heard, line, namespace, selected }] of watchers.entries()) {
    const wanted = states(
      mine.filter(
        ({ metadata }) =>
          (!namespace || metadata.namespace === namespace) && (!selected || metadata.labels?.tier === "odd"),
      ),
    );
    const deadline = Date.now() + SETTLE_MS;
    while (String(states(informer.list())) !== String(wanted) && Date.now() < deadline)
      await new Promise((resolve) => setTimeout(resolve, 20));
    t.strictSame(states(informer.list()), wanted, `watcher ${n}, cut ${line.cuts} times`);
    t.strictSame(states(heard.values()), wanted, `what watcher ${n} was told`);
  }
  t.ok(watchers.reduce((sum, { line }) => sum + line.cuts, 0) > 100, "connections were cut");
}

t.test("10,000 random changes, 20 watchers that lose their connections", (t) => soak(t, false));

t.test("the same on etcd", { skip: withoutEtcd }, (t) => soak(t, true));
