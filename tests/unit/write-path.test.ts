// What makes a write cheap: parts that are copied, shared or worked out once, and records that reach LMDB in groups. That
// each of them gives what the plain way would.

import { statSync } from "node:fs";
import { connect } from "node:net";
import { open } from "lmdb";
import t from "tap";
import { PODS } from "../../common/client.js";
import type { Pod, Stored } from "../../common/k8s.js";
import { textOf } from "../../control/api/codec.js";
import { Decoders } from "../../control/api/decode.js";
import { duplicateKeys, parseJson } from "../../control/api/json.js";
import { Schema } from "../../control/api/schema.js";
import { copyJson, shareEqual } from "../../control/patch/copy.js";
import { sharedSet } from "../../control/patch/field-set.js";
import { canonicalQuantity, parseQuantity } from "../../control/resources/validation/quantity.js";
import { Journal, readJournal } from "../../control/store/journal.js";
import { SortedMap } from "../../control/store/sorted-map.js";
import { RecordWriter } from "../../control/store/writer.js";
import { tempDir } from "../helpers/temp-dir.js";
import { startHarness } from "./helpers/api-server.js";

/** Numbers that are the same in every run. */
function pseudoRandom(): (below: number) => number {
  let seed = 11;
  return (below) => {
    seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31;
    return Math.floor((seed / 2 ** 31) * below);
  };
}

t.test("a copy shares nothing and keeps every key", async (t) => {
  const text = '{"a":[{"b":null},2],"__proto__":{"c":{"d":true}},"e":"x"}';
  const value = JSON.parse(text);
  const copy = copyJson(value);
  t.equal(JSON.stringify(copy), text);
  t.equal(Object.getPrototypeOf(copy), Object.prototype);
  t.not(copy.a[0], value.a[0]);
  copy.a[0].b = 1;
  t.equal(JSON.stringify(value), text);
});

t.test("what is equal is shared with the stored value, and nothing else", async (t) => {
  const live = Object.freeze({
    labels: Object.freeze({ a: "1", b: "2" }),
    list: Object.freeze([Object.freeze({ n: 1 }), Object.freeze({ n: 2 })]),
    gone: "x",
  });
  const next = { labels: { b: "2", a: "1" }, list: [{ n: 1 }, { n: 3 }], absent: undefined };
  const shared = shareEqual(next, live) as typeof next;
  t.equal(shared, next);
  t.equal(shared.labels, live.labels, "the order of keys does not count");
  t.equal(shared.list[0], live.list[0]);
  t.same(shared.list, [{ n: 1 }, { n: 3 }]);
  t.equal(shareEqual({ ...copyJson(live), more: undefined }, live), live, "nothing differs");
  t.not(shareEqual({ a: [] }, { a: {} }), live);
  t.same(shareEqual({ a: [] }, { a: {} }), { a: [] }, "a list is no object");
  const { gone: _, ...less } = copyJson(live);
  t.equal(shareEqual(less, live), less, "a key less is a difference");
  const fixed = Object.freeze({ one: { x: 1 }, two: 2 });
  t.equal(shareEqual(fixed, { one: { x: 1 }, two: 3 }), fixed, "what is frozen is left as it is");
});

t.test("keys that stand twice are found whatever the strings say", async (t) => {
  const texts = [
    '{"a":{"b":1,"c":"x:{}\\",:"},"d":["e:",{"b":1}]}',
    '{"a":"\\\\","b":":\\\\\\":"}',
    '{"a":{"b":1,"b":2}}',
    '{"a":[{"k":1},{"k":1,"k":":"}],"a":1}',
    '{"__proto__":1,"x":{"__proto__":{},"y":2}}',
    '{"a\\u0062":1,"ab":2}',
    '[[],{}," : "]',
    '"a:b"',
  ];
  for (const text of texts) t.same(parseJson(text, true).duplicates, duplicateKeys(text), text);
  t.same(parseJson('{"a":{"b":1,"b":2}}', true).duplicates, ["a.b"]);
  t.same(parseJson('{"a":1,"a":2}', false).duplicates, []);
});

t.test("quantities are the same when they come again", async (t) => {
  for (const round of [1, 2]) {
    t.equal(canonicalQuantity("1000m"), "1", `round ${round}`);
    t.equal(canonicalQuantity(1000), "1k", "a number is not the text");
    t.equal(parseQuantity("1Gi")?.nanos, 2n ** 30n * 10n ** 9n);
    t.equal(parseQuantity("nonsense"), undefined);
    t.equal(canonicalQuantity("nonsense"), "nonsense");
    for (let n = 1; n < 1500; n++) parseQuantity(`${n}m`);
  }
});

t.test("a set of fields that comes again is the same one", async (t) => {
  const set = (name: string) => ({ "f:metadata": { "f:labels": { ".": {}, [`f:${name}`]: {} } } });
  t.equal(sharedSet(set("a")), sharedSet(set("a")));
  t.same(sharedSet(set("b")), set("b"));
  const stored = Object.freeze(set("a"));
  t.equal(sharedSet(stored), stored, "what is stored stays");
});

t.test("the sorted map is a map with its keys in order, however many", async (t) => {
  const random = pseudoRandom();
  const map = new SortedMap<number>();
  const plain = new Map<string, number>();
  let wrong = 0;
  for (let n = 0; n < 6000; n++) {
    const key = `/r/${"abc"[random(3)]}/${random(3000)}`;
    if (random(4) > 0) {
      map.set(key, n);
      plain.set(key, n);
    } else if (map.delete(key) !== plain.delete(key)) wrong++;
  }
  t.equal(wrong, 0);
  t.ok(plain.size > 1500, "more than a block");
  t.equal(map.size, plain.size);
  const sorted = [...plain.keys()].sort();
  for (const prefix of ["", "/r/", "/r/b/", "/r/c/12", "/r/d", "/a"])
    for (const after of [undefined, "", "/r/b/", sorted[700], "/r/b/5555", "/z"]) {
      const expected = sorted.filter((key) => key.startsWith(prefix) && (after === undefined || key > after));
      t.same(map.keys(prefix, after), expected, `${prefix} after ${after}`);
    }
  for (const key of sorted) map.delete(key);
  t.same(map.keys(""), []);
  map.set("again", 1);
  t.same(map.keys(""), ["again"]);
});

t.test("the journal gives back what it was given, of any length and in any letters", async (t) => {
  const dir = tempDir(t);
  const journal = Journal.create(dir);
  const texts = ["", "plain", "grün – 東京 🚢", "ü".repeat(100_000), "after the long one"];
  for (const [i, text] of texts.entries()) journal.append(i + 2, text);
  journal.close();
  const [path] = Journal.paths(dir);
  t.same(
    readJournal(path),
    texts.map((text, i) => ({ revision: i + 2, text })),
  );
});

t.test("a journal that keeps its length gives back its newest records only", async (t) => {
  const dir = tempDir(t);
  const journal = Journal.create(dir, { reserve: true });
  const paths = Journal.paths(dir);
  const lengths = () => paths.map((path) => statSync(path).size);
  const revisions = (path: string) => readJournal(path).map(({ revision }) => revision);
  const length = lengths()[0] ?? 0;
  t.same(lengths(), [length, length]);
  t.ok(length > 1 << 20);
  const long = "x".repeat(1 << 20);
  let revision = 100;
  /** Until the other file is the one that is written. @returns what went into this one. */
  const fill = async (): Promise<number[]> => {
    const into: number[] = [];
    let rotated: Promise<unknown> | undefined;
    while (!rotated) {
      journal.append(++revision, long);
      into.push(revision);
      journal.rotate(() => (rotated = Promise.resolve()));
    }
    await new Promise(setImmediate);
    return into;
  };
  const [first, second] = [await fill(), await fill()];
  t.same(paths.map(revisions), [[], []], "what is safe elsewhere is not read again");
  t.same(lengths(), [length, length]);
  t.equal(first.length, second.length);
  // As long as those before, so that the next one of them would fit on.
  journal.append(++revision, long);
  t.same(revisions(paths[0]), [revision], "and not what still stands behind a new record");
  journal.close();
});

t.test("records go to LMDB in groups, in their order, and are read meanwhile", async (t) => {
  const path = tempDir(t);
  const options = { path, encoding: "string", noSubdir: false, maxDbs: 4 } as const;
  const root = open<string, string>({ ...options, separateFlushed: true, eventTurnBatching: false });
  const writer = new RecordWriter(path, root);
  const stored = root.openDB<string, number>({ name: "records", encoding: "string" });
  for (const revision of [2, 3, 4]) writer.put(revision, `record ${revision}`);
  writer.remove(3);
  t.equal(stored.get(2), undefined, "not yet in LMDB");
  t.equal(writer.get(2), "record 2");
  t.equal(writer.get(3), undefined);
  await writer.committed();
  t.same([...stored.getKeys({})], [2, 4]);
  // More than a group at once, without anybody who waits for it.
  const long = "x".repeat(100_000);
  for (let revision = 5; revision < 10; revision++) writer.put(revision, long);
  writer.set("revision", "9");
  writer.remove(5);
  await writer.close();
  const again = open<string, string>(options);
  const kept = again.openDB<string, number>({ name: "records", encoding: "string" });
  t.same([...kept.getKeys({})], [2, 4, 6, 7, 8, 9], "closing waits for all");
  t.equal(kept.get(9), long);
  t.equal(again.get("revision"), "9");
  await again.close();
});

t.test("a decoder looks only through what is new", async (t) => {
  const decoders = new Decoders(Schema.load());
  const decode = (value: object, known?: object) => decoders.decode("io.k8s.api.core.v1.Pod", value, known);
  const known = { metadata: { name: "a" }, spec: { containers: [{ name: "c", unknown: 1 }] } };
  const next = { ...known, spec: { ...known.spec, other: 2 } };
  const { object, unknownFields } = decode(next, known);
  t.same(unknownFields, ["spec.other"], "the containers are those that were decoded before");
  t.not((object.spec as typeof known.spec).containers[0], known.spec.containers[0], "and copied");
  t.same(decode(next).unknownFields, ["spec.containers[0].unknown", "spec.other"]);
  const elsewhere = {
    metadata: { name: "b" },
    spec: { containers: [], initContainers: known.spec.containers },
  };
  t.same(decode(elsewhere, known).unknownFields, ["spec.initContainers[0].unknown"], "the place counts");
});

const POD: Pod = { metadata: { name: "a" }, spec: { containers: [{ name: "c", image: "nginx:1.29" }] } };
const PATH = "/api/v1/namespaces/default/pods";

t.test(
  "one text of an object is stored, answered and watched; what does not change stays the same",
  async (t) => {
    const { call, client, store } = await startHarness(t);
    const texts: string[] = [];
    await store.watch("/registry/pods/", await store.revision(), {
      event: ({ value }) => texts.push(textOf(value)),
      end: () => undefined,
    });
    const created = await call("POST", PATH, { body: POD });
    t.equal(created.code, 201);
    t.equal(created.text, `${texts[0]}\n`);
    const before = await client.get(PODS, "a", "default");
    await call("POST", PATH, { body: { ...POD, metadata: { name: "b" } } });
    const other = await client.get(PODS, "b", "default");
    const fields = ({ metadata }: Stored<Pod>) => metadata.managedFields?.[0]?.fieldsV1;
    t.ok(fields(before));
    t.equal(fields(other), fields(before), "pods of one make share the set of their creator's fields");

    const type = "application/merge-patch+json";
    const running = { status: { phase: "Running", podIPs: [{ ip: "10.244.0.5" }] } };
    t.equal((await call("PATCH", `${PATH}/a/status`, { body: running, type })).code, 200);
    const after = await client.get(PODS, "a", "default");
    t.match(after.status, { phase: "Running", podIP: "10.244.0.5", qosClass: "BestEffort" });
    t.equal(after.spec, before.spec, "the spec is the one that was stored");
    t.equal(after.metadata.managedFields?.[0], before.metadata.managedFields?.[0]);
    t.ok(Object.isFrozen(after.status?.podIPs?.[0]));
    const twice = { status: { podIPs: [{ ip: "10.244.0.5" }, { ip: "10.244.0.6" }] } };
    const refused = await call("PATCH", `${PATH}/a/status`, { body: twice, type });
    t.equal(refused.code, 422, "a status is checked");
    t.equal((await call("PATCH", `${PATH}/a/status`, { body: running, type })).code, 200);
    t.equal(await client.get(PODS, "a", "default"), after, "a write that changes nothing is none");
    const spec = { spec: { restartPolicy: "Never" } };
    t.equal(
      (await call("PATCH", `${PATH}/a`, { body: spec, type })).code,
      422,
      "and a spec where it may be sent",
    );
  },
);

t.test("a body that is cut off harms nobody", async (t) => {
  const { call, socketPath } = await startHarness(t);
  const head = `POST ${PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{`;
  await new Promise<void>((resolve) => {
    const socket = connect(socketPath, () => socket.write(head, () => socket.destroy()));
    socket.on("close", () => resolve());
  });
  t.equal((await call("GET", PATH)).code, 200);
});

t.test("paths that need no taking apart are read as the others", async (t) => {
  const { call } = await startHarness(t);
  await call("POST", PATH, { body: { ...POD, metadata: { name: "a.b-c" } } });
  const name = async (path: string) => (await call("GET", path)).body?.metadata?.name;
  for (const path of [
    `${PATH}/a.b-c`,
    `${PATH}/a.b-c?pretty=false`,
    `${PATH}/a%2eb-c`,
    `${PATH}/../pods/a.b-c`,
    `/api/./v1/namespaces/default/pods/a.b-c`,
  ])
    t.equal(await name(path), "a.b-c", path);
  const selected = await call("GET", `${PATH}?fieldSelector=metadata.name%3Da.b-c&limit=1`);
  t.equal(selected.body.items.length, 1);
  t.equal((await call("GET", `${PATH}?labelSelector=x%3Dy`)).body.items.length, 0);
});
