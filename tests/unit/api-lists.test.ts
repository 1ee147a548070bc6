// Lists, tables and watches of the API, over a unix socket and in-process.

import t from "tap";
import { CONFIG_MAPS, DEPLOYMENTS, isReason, PODS, StatusError } from "../../common/client.js";
import type { ConfigMap, Deployment, KubeObject, Pod, Stored } from "../../common/k8s.js";
import { caught } from "../helpers/caught.js";
import { until } from "../helpers/until.js";
import {
  type Answer,
  CM,
  configMap,
  deployment,
  type LineWatch,
  pod,
  shown,
  startHarness,
  watch,
} from "./helpers/api-server.js";

t.test("list: selectors, pages that stay consistent, versions", async (t) => {
  const { call, store } = await startHarness(t);
  for (let i = 0; i < 7; i++)
    await call("POST", CM, { body: configMap(`c${i}`, {}, { odd: String(i % 2) }) });
  const names = (a: Answer) => a.body.items.map((o: Stored) => o.metadata.name).join();
  t.equal(names(await call("GET", `${CM}?labelSelector=odd%3D1`)), "c1,c3,c5");
  t.equal(names(await call("GET", `${CM}?fieldSelector=metadata.name%3Dc4`)), "c4");
  t.equal(names(await call("GET", "/api/v1/configmaps?fieldSelector=metadata.namespace!%3Ddefault")), "");
  t.match((await call("GET", `${CM}?fieldSelector=data.x%3D1`)).body, {
    code: 400,
    message: /^"data.x" is not a known field selector/,
  });
  t.match((await call("GET", `${CM}?labelSelector=a%20b`)).body, {
    code: 400,
    message: /unable to parse requirement/,
  });
  const first = await call("GET", `${CM}?limit=3`);
  t.equal(first.body.metadata.remainingItemCount, 4);
  await call("DELETE", `${CM}/c4`);
  await call("POST", CM, { body: configMap("c31") });
  await call("PUT", `${CM}/c5`, { body: configMap("c5", { new: "yes" }) });
  const next = (a: Answer) =>
    call("GET", `${CM}?limit=3&continue=${encodeURIComponent(a.body.metadata.continue)}`);
  const second = await next(first);
  t.equal(names(second), "c3,c4,c5", "the deleted one is still there, the new one is not");
  t.equal(second.body.items[2].data, undefined, "in its old state");
  t.equal(second.body.metadata.resourceVersion, first.body.metadata.resourceVersion);
  const third = await next(second);
  t.equal(names(third), "c6");
  t.equal(third.body.metadata.continue, undefined);
  t.equal(names(await call("GET", `${CM}?labelSelector=odd%3D0&limit=2`)), "c0,c2");
  const rv = first.body.metadata.resourceVersion;
  t.equal(
    names(await call("GET", `${CM}?resourceVersion=${rv}&resourceVersionMatch=Exact`)),
    "c0,c1,c2,c3,c4,c5,c6",
  );
  t.equal(
    names(await call("GET", `${CM}?resourceVersion=${rv}&resourceVersionMatch=NotOlderThan`)),
    "c0,c1,c2,c3,c31,c5,c6",
  );
  t.equal(names(await call("GET", `${CM}?resourceVersion=0`)), "c0,c1,c2,c3,c31,c5,c6");
  t.match((await call("GET", `${CM}?resourceVersion=999999`)).body, {
    code: 504,
    reason: "Timeout",
    message: /Too large resource version: 999999/,
  });
  t.equal((await call("GET", `${CM}?resourceVersion=abc`)).code, 400);
  const unless =
    "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided";
  const unsupported =
    'resourceVersionMatch: Unsupported value: "Newest": supported values: "Exact", "NotOlderThan", ""';
  for (const [query, what] of [
    ["resourceVersionMatch=Exact", unless],
    ["resourceVersionMatch=Newest", `[${unless}, ${unsupported}]`],
    ["resourceVersion=1&resourceVersionMatch=Newest", unsupported],
    [
      "resourceVersion=0&resourceVersionMatch=Exact",
      'resourceVersionMatch: Forbidden: resourceVersionMatch "exact" is forbidden for resourceVersion "0"',
    ],
    [
      "resourceVersion=1&resourceVersionMatch=Exact&continue=x",
      "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided",
    ],
  ]) {
    const message = `ListOptions.meta.k8s.io "" is invalid: ${what}`;
    t.match(await call("GET", `${CM}?${query}`), { code: 422, body: { message } });
  }
  const now = await store.revision();
  t.match(await call("GET", `${CM}/c1?resourceVersion=${now + 1}`), {
    code: 504,
    body: { reason: "Timeout", message: `Timeout: Too large resource version: ${now + 1}, current: ${now}` },
  });
  t.equal((await call("GET", `${CM}/c1?resourceVersion=${now}`)).code, 200);
  t.equal((await call("GET", `${CM}/c1?resourceVersion=abc`)).code, 400);
  t.equal((await call("GET", `${CM}?continue=rubbish`)).code, 400);
  await store.compact(await store.revision());
  const late = await next(second);
  t.match(late.body, {
    code: 410,
    reason: "Expired",
    message: /^The provided continue parameter is too old/,
  });
  const resumed = await call(
    "GET",
    `${CM}?limit=5&continue=${encodeURIComponent(late.body.metadata.continue)}`,
  );
  t.equal(names(resumed), "c6", "the token of the error goes on, inconsistently");
  t.equal((await call("GET", `${CM}?resourceVersion=${rv}&resourceVersionMatch=Exact`)).code, 410);
});

t.test("Table and PartialObjectMetadata", async (t) => {
  const { call } = await startHarness(t);
  await call("POST", CM, { body: configMap("a", { x: "1", y: "2" }) });
  const TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
  const table = (await call("GET", CM, { accept: TABLE })).body;
  t.equal(table.kind, "Table");
  t.match(table.columnDefinitions[0], { name: "Name", type: "string", format: "name", priority: 0 });
  t.same(
    table.columnDefinitions.map((c: { name: string }) => c.name),
    ["Name", "Data", "Age"],
  );
  t.same(table.rows[0].cells.slice(0, 2), ["a", 2]);
  t.match(table.rows[0].object, {
    kind: "PartialObjectMetadata",
    apiVersion: "meta.k8s.io/v1",
    metadata: { name: "a" },
  });
  t.equal((await call("GET", `${CM}?includeObject=None`, { accept: TABLE })).body.rows[0].object, undefined);
  t.equal(
    (await call("GET", `${CM}/a?includeObject=Object`, { accept: TABLE })).body.rows[0].object.data.x,
    "1",
  );
  t.equal((await call("GET", `${CM}?includeObject=All`, { accept: TABLE })).code, 400);
  const list = (
    await call("GET", CM, { accept: "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1" })
  ).body;
  t.match(list, {
    kind: "PartialObjectMetadataList",
    items: [{ kind: "PartialObjectMetadata", metadata: { name: "a" } }],
  });
  t.notOk("data" in list.items[0]);
});

t.test("watch: state first, resume, selectors, bookmarks, 410", async (t) => {
  const h = await startHarness(t);
  const { call, store } = h;
  await call("POST", CM, { body: configMap("a", {}, { app: "x" }) });
  const from0 = await watch(h, `${CM}?watch=1`);
  await until(() => from0.events.length === 1);
  t.same(shown(from0), ["ADDED a"], "without a version: the present state, then changes");
  const { resourceVersion } = (await call("GET", CM)).body.metadata;
  const selected = await watch(
    h,
    `${CM}?watch=true&resourceVersion=${resourceVersion}&labelSelector=app%3Dx`,
  );
  await call("PUT", `${CM}/a`, { body: configMap("a", { k: "1" }, { app: "x" }) });
  await call("PUT", `${CM}/a`, { body: configMap("a", { k: "2" }, { app: "other" }) });
  await call("PUT", `${CM}/a`, { body: configMap("a", { k: "3" }, { app: "x" }) });
  await call("DELETE", `${CM}/a`);
  await until(() => selected.events.length === 4 && from0.events.length === 5);
  t.same(shown(selected), ["MODIFIED a", "DELETED a", "ADDED a", "DELETED a"]);
  t.equal(selected.events[1]?.object.data?.k, "1", "leaving the selection shows the last state inside it");
  const versions = selected.events.map((e) => Number(e.object.metadata.resourceVersion));
  t.same(
    versions,
    versions.toSorted((a, b) => a - b),
  );
  t.same(shown(from0), ["ADDED a", "MODIFIED a", "MODIFIED a", "MODIFIED a", "DELETED a"]);
  const resumed = await watch(h, `${CM}?watch=1&resourceVersion=${versions[0]}`);
  await until(() => resumed.events.length === 3);
  t.same(
    resumed.events.map((e) => e.object.metadata.resourceVersion),
    versions.slice(1).map(String),
    "events of the past come from history",
  );
  const one = await watch(h, `${CM}/b?watch=1`);
  await call("POST", CM, { body: configMap("b") });
  await call("POST", CM, { body: configMap("c") });
  await until(() => one.events.length === 1);
  t.same(shown(one), ["ADDED b"]);

  const timed = await watch(
    h,
    `${CM}?watch=1&allowWatchBookmarks=true&timeoutSeconds=1&resourceVersion=${await store.revision()}`,
  );
  await timed.ended;
  t.match(timed.events, [
    {
      type: "BOOKMARK",
      object: {
        kind: "ConfigMap",
        apiVersion: "v1",
        metadata: { resourceVersion: String(await store.revision()) },
      },
    },
  ]);

  const initial = await watch(
    h,
    `${CM}?watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&resourceVersion=`,
  );
  await until(() => initial.events.length === 3);
  t.same(shown(initial).slice(0, 2), ["ADDED b", "ADDED c"]);
  t.match(initial.events[2], {
    type: "BOOKMARK",
    object: { metadata: { annotations: { "k8s.io/initial-events-end": "true" } } },
  });
  t.equal((await watch(h, `${CM}?watch=1&sendInitialEvents=true`)).code, 422);

  await store.compact(await store.revision());
  const expired = await watch(h, `${CM}?watch=1&resourceVersion=${versions[0]}`);
  await expired.ended;
  t.match(expired, { code: 200, events: { length: 1 } });
  t.match(expired.events[0], {
    type: "ERROR",
    object: {
      kind: "Status",
      code: 410,
      reason: "Expired",
      message: /^too old resource version: \d+ \(\d+\)$/,
    },
  });
  const other = await watch(h, `${CM}?watch=1&resourceVersion=99999`);
  await other.ended;
  t.match(other.events, [{ type: "ERROR", object: { code: 410 } }], "a version of another store, too");

  const table = await watch(h, `${CM}?watch=1`, "application/json;as=Table;v=v1;g=meta.k8s.io");
  await until(() => table.events.length === 2);
  type TableEvent = { object: { kind: string; columnDefinitions: unknown[]; rows: { cells: unknown[] }[] } };
  const [head, tail] = table.events as unknown as [TableEvent, TableEvent];
  t.equal(head.object.kind, "Table");
  t.equal(head.object.columnDefinitions.length, 3);
  t.equal(tail.object.columnDefinitions.length, 0, "columns are told once");
  t.equal(tail.object.rows[0]?.cells[0], "c");
  h.api.close();
  await Promise.all([from0, selected, one, initial, table].map((w) => w.ended));
  t.pass("closing the server ends the watches");
});

t.test("concurrent writers and watchers: no event lost, doubled or out of order", async (t) => {
  const h = await startHarness(t);
  const OBJECTS = 40;
  const ROUNDS = 25;
  const start = await h.store.revision();
  const watchers = await Promise.all([0, 1, 2].map(() => watch(h, `${CM}?watch=1&resourceVersion=${start}`)));
  const local: string[] = [];
  const abort = new AbortController();
  const localDone = (async () => {
    for await (const { type, object } of h.client.watch(CONFIG_MAPS, {
      resourceVersion: String(start),
      signal: abort.signal,
    }))
      local.push(`${type} ${object.metadata.resourceVersion}`);
  })();
  const late: LineWatch[] = [];
  const writers = Array.from({ length: OBJECTS }, async (_, i) => {
    const name = `o${i}`;
    await h.client.create(CONFIG_MAPS, configMap(name) as ConfigMap, { namespace: "default" });
    for (let n = 0; n < ROUNDS; n++) {
      if (n % 5 === 4)
        await h.call("PATCH", `${CM}/${name}`, {
          body: { data: { n: String(n) } },
          type: "application/merge-patch+json",
        });
      else
        await h.client.patch(
          CONFIG_MAPS,
          name,
          "merge",
          { data: { n: String(n) } },
          { namespace: "default" },
        );
      if (i === 0 && n % 8 === 0) late.push(await watch(h, `${CM}?watch=1&resourceVersion=${start}`));
    }
    await h.client.delete(CONFIG_MAPS, name, { namespace: "default" });
  });
  await Promise.all(writers);
  const total = OBJECTS * (ROUNDS + 2);
  const end = await h.store.revision();
  t.equal(end - start, total, "each write is one revision");
  await until(() => [...watchers, ...late].every((w) => w.events.length >= total) && local.length >= total);
  const expected = Array.from({ length: total }, (_, i) => start + 1 + i);
  for (const w of [...watchers, ...late])
    t.same(
      w.events.map((e) => Number(e.object.metadata.resourceVersion)),
      expected,
    );
  const types = new Map<string, string[]>();
  for (const { type, object } of watchers[0]?.events ?? [])
    types.set(object.metadata.name, [...(types.get(object.metadata.name) ?? []), type]);
  for (const sequence of types.values())
    t.same(sequence, ["ADDED", ...Array.from({ length: ROUNDS }, () => "MODIFIED"), "DELETED"]);
  t.same(
    local,
    watchers[0]?.events.map((e) => `${e.type} ${e.object.metadata.resourceVersion}`),
  );
  abort.abort();
  await localDone;
});

t.test("the in-process client has the same semantics", async (t) => {
  const { client, registry } = await startHarness(t);
  const ns = { namespace: "default" };
  const made = await client.create(CONFIG_MAPS, { metadata: { name: "a" }, data: { x: "1" } }, ns);
  t.throws(
    () => Object.assign(made.metadata, { name: "b" }),
    TypeError,
    "stored objects cannot be changed by mistake",
  );
  t.match(await caught(client.create(CONFIG_MAPS, { metadata: { name: "a" } }, ns)), {
    reason: "AlreadyExists",
  });
  const newer = await client.update(CONFIG_MAPS, { ...made, data: { x: "2" } } as ConfigMap, ns);
  t.match(await caught(client.update(CONFIG_MAPS, { ...made, data: { x: "3" } } as ConfigMap, ns)), {
    reason: "Conflict",
    code: 409,
  });
  t.equal(await client.get(CONFIG_MAPS, "a", "default"), newer, "reads share one object");
  t.ok(isReason(await caught(client.get(CONFIG_MAPS, "no", "default")), "NotFound"));
  const merged = await client.patch(CONFIG_MAPS, "a", "merge", { data: { y: "1" } }, ns);
  t.same(merged.data, { x: "2", y: "1" });
  t.match(await caught(client.create(PODS, { metadata: { name: "Bad" }, spec: { containers: [] } }, ns)), {
    reason: "Invalid",
  });
  const created = await client.create(DEPLOYMENTS, deployment("d") as Deployment, ns);
  await client.update(DEPLOYMENTS, { ...created, status: { replicas: 2 } } as Deployment, {
    ...ns,
    subresource: "status",
  });
  t.equal((await client.get(DEPLOYMENTS, "d", "default")).status?.replicas, 2);
  await client.patch(DEPLOYMENTS, "d", "merge", { spec: { replicas: 5 } }, { ...ns, subresource: "scale" });
  t.equal((await client.get(DEPLOYMENTS, "d", "default")).spec?.replicas, 5);
  await client.create(PODS, pod("p") as Pod, ns);
  await client.create(PODS, { metadata: { name: "p" }, target: { kind: "Node", name: "n1" } } as KubeObject, {
    ...ns,
    subresource: "binding",
  });
  t.equal((await client.get(PODS, "p", "default")).spec?.nodeName, "n1");
  const { items, resourceVersion } = await client.list(CONFIG_MAPS, { limit: 1 });
  t.equal(items.length, 1);
  const seen: string[] = [];
  const watching = (async () => {
    for await (const event of client.watch(CONFIG_MAPS, { ...ns, resourceVersion })) {
      seen.push(event.type);
      if (event.type === "DELETED") break;
    }
  })();
  await client.delete(CONFIG_MAPS, "a", { ...ns, preconditions: { uid: made.metadata.uid } });
  await watching;
  t.same(seen, ["DELETED"]);
  await client.create(CONFIG_MAPS, { metadata: { name: "x", labels: { a: "b" } } }, ns);
  await client.deleteCollection(CONFIG_MAPS, { ...ns, labelSelector: "a=b" });
  t.equal((await client.list(CONFIG_MAPS)).items.length, 0);
  await registry.engine.store.compact(Number(resourceVersion) + 1);
  const expired = client.watch(CONFIG_MAPS, { resourceVersion })[Symbol.asyncIterator]();
  t.match(await caught(expired.next()), { code: 410, reason: "Expired" });
  await t.rejects(client.list(CONFIG_MAPS, { labelSelector: "((" }), StatusError);
});
