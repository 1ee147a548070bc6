// Informers and what they hear of a server that ends watches, expires versions and fails.

import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { pino } from "pino";
import t from "tap";
import { ApiClient } from "../../client/api-client.js";
import { CONFIG_MAPS, PODS } from "../../common/client.js";
import { Informer, InformerFactory, type InformerHandler } from "../../common/informer.js";
import { type ConfigMap, keyOf, type Stored } from "../../common/k8s.js";
import { silentLogger } from "../../common/log.js";
import { FakeApi } from "../helpers/config-map-server.js";
import { directory, failure, reply } from "../helpers/unix-server.js";
import { until } from "../helpers/until.js";

/** What a subscriber hears, as text: "+a@101", "~a@102", "-a@103", "synced". */
function listener(): { heard: string[]; handler: InformerHandler<ConfigMap> } {
  const heard: string[] = [];
  const version = ({ metadata }: Stored<ConfigMap>) => `${metadata.name}@${metadata.resourceVersion}`;
  return {
    heard,
    handler: {
      add: (object) => heard.push(`+${version(object)}`),
      update: (old, now) => heard.push(`~${version(old)}:${now.metadata.resourceVersion}`),
      delete: (object) => heard.push(`-${version(object)}`),
      synced: () => heard.push("synced"),
    },
  };
}

async function informed(
  test: { teardown(fn: () => unknown): unknown },
  log = silentLogger,
): Promise<{ api: FakeApi; client: ApiClient; informer: Informer<ConfigMap> }> {
  const api = new FakeApi();
  await api.start();
  const client = new ApiClient({ socketPath: api.socketPath });
  const informer = new Informer(client, CONFIG_MAPS, {
    namespace: "default",
    log,
    backoff: { baseMs: 5, maxMs: 20 },
  });
  test.teardown(async () => {
    informer.stop();
    await client.close();
    await api.stop();
  });
  return { api, client, informer };
}

t.test("an informer follows the server, subscribers early and late", async (t) => {
  const { api, informer } = await informed(t);
  api.set("a");
  api.set("b");
  const early = listener();
  informer.subscribe(early.handler);
  t.equal(informer.hasSynced, false);
  informer.start();
  informer.start();
  await informer.synced;
  t.equal(informer.hasSynced, true);
  t.strictSame(early.heard, ["+a@101", "+b@102", "synced"]);
  await until(() => api.watching === 1);
  api.set("a", { k: "1" });
  api.set("c");
  api.remove("b");
  await until(() => early.heard.length === 6);
  t.strictSame(early.heard.slice(3), ["~a@101:103", "+c@104", "-b@105"]);
  const late = listener();
  const end = informer.subscribe(late.handler);
  t.strictSame(late.heard, ["+a@103", "+c@104", "synced"], "a late one gets all that is there, at once");
  end();
  api.set("d");
  await until(() => early.heard.length === 7);
  t.equal(late.heard.length, 3, "and nothing after its end");
  t.equal(informer.get("default/a")?.data?.k, "1");
  t.equal(informer.get("default/b"), undefined);
  t.strictSame(
    informer.list().map((o) => o.metadata.name),
    ["a", "c", "d"],
  );
  t.strictSame(informer.list("default").length, 3);
  t.strictSame(informer.list("other"), []);
  t.equal(api.lists, 1);
  informer.stop();
  await until(() => api.watching === 0);
  t.throws(() => informer.start(), /was stopped/);
});

t.test("subscribing from inside a handler: each event exactly once", async (t) => {
  const { api, informer } = await informed(t);
  const inner = listener();
  let subscribed = false;
  informer.subscribe({
    add: () => {
      if (!subscribed) informer.subscribe(inner.handler);
      subscribed = true;
    },
  });
  api.set("a");
  api.set("b");
  informer.start();
  await informer.synced;
  t.strictSame(inner.heard, ["+a@101", "+b@102", "synced"]);
});

t.test("pages, and a snapshot that expires between two of them", async (t) => {
  const { api, informer } = await informed(t);
  for (let i = 0; i < 1200; i++) api.set(`cm-${i}`);
  informer.start();
  await informer.synced;
  t.equal(informer.list().length, 1200);
  t.equal(api.lists, 3);

  const second = await informed(t);
  for (let i = 0; i < 600; i++) second.api.set(`cm-${i}`);
  second.api.onList = (res, url) => {
    if (url.searchParams.has("continue")) {
      reply(res, 410, failure(410, "Expired", "the continue token is too old"));
      return true;
    }
    if (url.searchParams.has("limit")) return false;
    reply(res, 200, { metadata: { resourceVersion: "700" }, items: [...second.api.objects.values()] });
    return true;
  };
  second.informer.start();
  await second.informer.synced;
  t.equal(second.informer.list().length, 600);
});

t.test("a watch that the server ends goes on at once, without a list", async (t) => {
  const { api, informer } = await informed(t);
  api.set("a");
  const { heard, handler } = listener();
  informer.subscribe(handler);
  informer.start();
  for (let i = 0; i < 5; i++) {
    await until(() => api.watching === 1);
    api.set("a", { i: String(i) });
    await until(() => heard.length === 3 + i);
    api.endWatches();
    // Nobody watches: this change must be seen by the next watch.
  }
  api.set("b");
  await until(() => heard.at(-1)?.startsWith("+b") === true);
  t.equal(api.lists, 1);
  t.equal(heard.length, 8, "nothing twice");
  await until(() => api.watching === 1);
  api.bookmark();
  api.compact();
  await sleep(20);
  api.endWatches();
  await until(() => api.watching === 1);
  t.equal(api.lists, 1, "a bookmark lets a quiet watch go on after a compaction");
});

t.test("an expired version: a new list, delivered as differences", async (t) => {
  const { api, informer } = await informed(t);
  for (const name of ["same", "changed", "gone", "replaced"]) api.set(name);
  const { heard, handler } = listener();
  informer.subscribe(handler);
  informer.addIndex("data", (object) => Object.keys(object.data ?? {}));
  informer.start();
  await informer.synced;
  await until(() => api.watching === 1);
  heard.length = 0;
  await api.stop();
  api.set("changed", { k: "2" });
  api.remove("gone");
  api.remove("replaced");
  api.set("replaced");
  api.set("new", { k: "1" });
  api.compact();
  t.ok(informer.get("default/gone"), "the cache stays while the server is away");
  await api.start();
  await until(() => heard.length === 5);
  t.strictSame(
    [...heard].sort(),
    ["+new@109", "+replaced@108", "-gone@103", "-replaced@104", "~changed@102:105"],
    "what is the same is not told; a new object of the same name is another object",
  );
  t.ok(heard.indexOf("-replaced@104") < heard.indexOf("+replaced@108"));
  t.strictSame(
    informer
      .byIndex("data", "k")
      .map((o) => o.metadata.name)
      .sort(),
    ["changed", "new"],
  );
  t.equal(api.lists, 2);
  // The same said by an event of a running watch.
  await until(() => api.watching === 1);
  api.endWatches((res) =>
    res.end(`${JSON.stringify({ type: "ERROR", object: failure(410, "Expired", "too old") })}\n`),
  );
  await until(() => api.lists === 3);
  await until(() => api.watching === 1);
  t.equal(heard.length, 5);
});

t.test("a server that refuses every version is asked with patience", async (t) => {
  const { api, informer } = await informed(t);
  api.onWatch = (res) => {
    reply(res, 410, failure(410, "Expired", "too old"));
    return true;
  };
  informer.start();
  await informer.synced;
  // No pause is shorter than 10 ms, but for the first few.
  const allowed = (since: number) => 8 + (performance.now() - since) / 10;
  const start = performance.now();
  await sleep(200);
  t.ok(api.lists <= allowed(start), `${api.lists} lists in 200 ms`);
  api.onWatch = (res) => {
    res.writeHead(200).end();
    return true;
  };
  const before = api.requests.length;
  const then = performance.now();
  await sleep(200);
  t.ok(api.requests.length - before <= allowed(then), "nor does a watch that ends at once make a storm");
  api.onWatch = undefined;
  api.set("a");
  await until(() => informer.get("default/a") !== undefined);
});

t.test("a version from the future of a restored store is given up", async (t) => {
  const { api, informer } = await informed(t);
  api.set("a");
  informer.start();
  await informer.synced;
  await until(() => api.watching === 1);
  let refused = 0;
  api.onWatch = (res) => {
    if (refused++ > 0) return false;
    const status = failure(504, "Timeout", "Too large resource version");
    reply(res, 504, { ...status, details: { causes: [{ reason: "ResourceVersionTooLarge" }] } });
    return true;
  };
  api.endWatches();
  api.set("b");
  await until(() => informer.get("default/b") !== undefined);
  t.equal(api.lists, 2);
});

t.test("handlers that fail are logged and disturb nobody", async (t) => {
  const lines: string[] = [];
  const { api, informer } = await informed(
    t,
    pino({ level: "error" }, { write: (line: string) => lines.push(line) }),
  );
  informer.subscribe({
    add: () => {
      throw new Error("broken handler");
    },
    update: (async () => {
      throw new Error("broken promise");
    }) as () => void,
  });
  const { heard, handler } = listener();
  informer.subscribe(handler);
  informer.addIndex("bad", () => {
    throw new Error("broken index");
  });
  api.set("a");
  informer.start();
  await informer.synced;
  await until(() => api.watching === 1);
  api.set("a", { k: "1" });
  await until(() => heard.length === 3);
  await sleep(1);
  t.strictSame(heard, ["+a@101", "synced", "~a@101:102"]);
  for (const said of ["broken handler", "broken promise", "broken index"]) {
    t.ok(
      lines.some((line) => line.includes(said)),
      said,
    );
  }
});

t.test("indexes change with what they are made of", async (t) => {
  const { api, informer } = await informed(t);
  let asked = 0;
  const byTeam = (object: Stored<ConfigMap>) => {
    asked += 1;
    return (object.data?.team ?? "").split(",").filter(Boolean);
  };
  informer.addIndex("team", byTeam);
  api.set("a", { team: "red,blue,red" });
  api.set("b", { team: "red" });
  informer.start();
  await informer.synced;
  const names = (value: string) => informer.byIndex("team", value).map((o) => o.metadata.name);
  t.strictSame([names("red"), names("blue"), names("none")], [["a", "b"], ["a"], []]);
  await until(() => api.watching === 1);
  api.set("a", { team: "red" });
  await until(() => informer.get("default/a")?.metadata.resourceVersion === "103");
  t.strictSame([names("red"), names("blue")], [["a", "b"], []]);
  api.remove("b");
  await until(() => informer.get("default/b") === undefined);
  t.strictSame(names("red"), ["a"]);
  t.equal(asked, 3, "each state of an object is looked at once");
  informer.addIndex("late", (object) => [object.metadata.name]);
  t.equal(informer.byIndex("late", "a").length, 1);
  t.throws(() => informer.byIndex("typo", "x"), /no index "typo"; there are: team, late/);
});

t.test(
  "whatever happens to the connection, the copy is the truth and each change is told once",
  async (t) => {
    const { api, informer } = await informed(t);
    const copy = new Map<string, string>();
    const wrong: string[] = [];
    informer.subscribe({
      add: (o) => {
        if (copy.has(keyOf(o))) wrong.push(`add of ${keyOf(o)}, which is there`);
        copy.set(keyOf(o), `${o.metadata.uid}@${o.metadata.resourceVersion}`);
      },
      update: (old, now) => {
        const known = copy.get(keyOf(old));
        if (known !== `${old.metadata.uid}@${old.metadata.resourceVersion}`) wrong.push(`update of ${known}`);
        if (old.metadata.resourceVersion === now.metadata.resourceVersion) wrong.push(`twice ${keyOf(now)}`);
        copy.set(keyOf(now), `${now.metadata.uid}@${now.metadata.resourceVersion}`);
      },
      delete: (o) => {
        if (!copy.get(keyOf(o))?.startsWith(`${o.metadata.uid}@`)) wrong.push(`delete of ${keyOf(o)}`);
        copy.delete(keyOf(o));
      },
    });
    informer.start();
    // A seeded generator: a failure can be repeated.
    let state = 42;
    const random = (n: number) => {
      state = (state * 1103515245 + 12345) % 2147483648;
      return Math.floor((state / 2147483648) * n);
    };
    for (let round = 0; round < 400; round++) {
      const name = `cm-${random(10)}`;
      const dice = random(40);
      if (dice < 24) api.set(name, { round: String(round) });
      else if (dice < 34) api.remove(name);
      else if (dice === 34) api.endWatches();
      else if (dice === 35) api.endWatches((res) => res.destroy());
      else if (dice === 36) api.compact();
      else if (dice === 37) api.bookmark();
      else if (dice === 38) {
        await api.stop();
        await api.start();
      } else await sleep(random(5));
      if (random(2) === 0) await sleep(0);
    }
    t.ok(api.lists > 3 && api.requests.length > api.lists + 10, "there was enough of everything");
    const truth = () =>
      [...api.objects.values()]
        .map((o) => `${keyOf(o)} ${o.metadata.uid}@${o.metadata.resourceVersion}`)
        .sort();
    const told = () => [...copy].map(([key, value]) => `${key} ${value}`).sort();
    await until(() => JSON.stringify(truth()) === JSON.stringify(told()));
    t.strictSame(informer.list().map(keyOf).sort(), [...copy.keys()].sort());
    t.strictSame(wrong, []);
  },
);

t.test("stopped before it had synced", async (t) => {
  const client = new ApiClient({ socketPath: join(directory, "nobody") });
  t.teardown(() => client.close());
  const informer = new Informer(client, PODS);
  informer.start();
  await sleep(5);
  informer.stop();
  await t.rejects(informer.synced, /informer of pods was stopped before it had synced/);
});

t.test("a factory shares informers by what they select", async (t) => {
  const { api, client } = await informed(t);
  const factory = new InformerFactory(client, { log: silentLogger });
  const one = factory.get(CONFIG_MAPS, { namespace: "default" });
  t.equal(factory.get(CONFIG_MAPS, { namespace: "default" }), one);
  t.not(factory.get(CONFIG_MAPS, { namespace: "default", labelSelector: "a=b" }), one);
  t.not(factory.get(PODS), one);
  factory.start();
  await factory.synced();
  const late = factory.get(CONFIG_MAPS);
  await late.synced;
  t.equal(api.lists, 4);
  factory.stop();
  await until(() => api.watching === 0);
});
