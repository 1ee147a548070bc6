// The control plane's engine: store, patches, decoding, and the API over a unix socket, over TLS and in-process.

import { spawn } from "node:child_process";
import {
  appendFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { createServer, type IncomingMessage, request, type Server } from "node:http";
import { request as tlsRequest } from "node:https";
import { createServer as createNetServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t, { type Test } from "tap";
import {
  CONFIG_MAPS,
  DEPLOYMENTS,
  isReason,
  NAMESPACES,
  NODES,
  PODS,
  SERVICE_ACCOUNTS,
  StatusError,
} from "../../common/client.js";
import type { ConfigMap, Deployment, KubeObject, Pod, Status, Stored } from "../../common/k8s.js";
import { silentLogger } from "../../common/log.js";
import {
  formatLabelSelector,
  matchFields,
  matchLabels,
  parseFieldSelector,
  parseLabelSelector,
  selectorOf,
} from "../../common/selector.js";
import { ADMISSION, type Admission } from "../../control/api/admission.js";
import { objectCodec } from "../../control/api/codec.js";
import { DecodeError, Decoders } from "../../control/api/decode.js";
import type { KubeletConnector } from "../../control/api/http/kubelet.js";
import { acceptsAggregated, negotiate } from "../../control/api/http/negotiate.js";
import { ApiServer } from "../../control/api/http/server.js";
import { duplicateKeys, parseYaml } from "../../control/api/json.js";
import { LocalClient } from "../../control/api/local.js";
import { ProtobufReader } from "../../control/api/protobuf.js";
import { Registry } from "../../control/api/registry.js";
import { Schema } from "../../control/api/schema.js";
import { closeServer, listenSocket, listenTls } from "../../control/listeners.js";
import { applyJsonPatch } from "../../control/patch/json-patch.js";
import { applyMergePatch } from "../../control/patch/merge-patch.js";
import { applyStrategicPatch } from "../../control/patch/strategic.js";
import { loadPki } from "../../control/pki.js";
import { createResources } from "../../control/resources/index.js";
import { startControl } from "../../control/server.js";
import { readJournal } from "../../control/store/journal.js";
import { LmdbStore } from "../../control/store/lmdb.js";
import { type Codec, CompactedError } from "../../control/store/store.js";

const schema = Schema.load();

function tempDir(test: Test): string {
  const dir = mkdtempSync(join(tmpdir(), "kubeplumb-api-"));
  test.teardown(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

/** The error of a promise that must fail. */
async function caught(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("the promise did not reject");
}

/** Gives other turns of the event loop until `done` holds. */
async function until(done: () => boolean): Promise<void> {
  while (!done()) await new Promise((resolve) => setTimeout(resolve, 2));
}

// ---------------------------------------------------------------------------------------------------- store

interface Doc {
  n: number;
  rev?: number;
}

const docCodec: Codec<Doc> = {
  encode: (doc) => JSON.stringify(doc),
  decode: (text) => JSON.parse(text) as Doc,
  stamp: (doc, rev) => Object.freeze({ ...doc, rev }),
};

const openDocs = (path: string, more = {}) => LmdbStore.open<Doc>({ path, codec: docCodec, ...more });

t.test("store: a restart keeps revision, values and history", async (t) => {
  const path = join(tempDir(t), "store");
  let store = await openDocs(path);
  await t.rejects(openDocs(path), /is in use by another process/);
  await store.put("/r/a", { n: 1 });
  const { revision } = await store.put("/r/b", { n: 1 });
  await store.put("/r/a", { n: 2 });
  await store.delete("/r/b");
  const last = await store.revision();
  await store.close();
  store = await openDocs(path);
  t.equal(await store.revision(), last);
  t.same(
    (await store.range("/r/")).entries.map((e) => [e.key, e.value]),
    [["/r/a", { n: 2, rev: last - 1 }]],
  );
  t.equal((await store.range("/r/", { revision })).entries.length, 2, "the past is still known");
  await store.compact(last);
  await store.close();
  store = await openDocs(path);
  t.equal(await store.revision(), last, "also when the newest record was a delete that is compacted away");
  await t.rejects(store.range("/r/", { revision }), CompactedError);
  await store.close();
  await t.rejects(store.put("/r/a", { n: 1 }), /closed/);
});

t.test("store: what was acknowledged survives kill -9", async (t) => {
  const path = join(tempDir(t), "store");
  const module = new URL("../../control/store/lmdb.js", import.meta.url).href;
  const script = `
    const { LmdbStore } = await import(${JSON.stringify(module)});
    const codec = { encode: JSON.stringify, decode: JSON.parse, stamp: (v, rev) => ({ ...v, rev }) };
    const store = await LmdbStore.open({ path: ${JSON.stringify(path)}, codec });
    for (let n = 0; ; n++) {
      await store.put("/r/" + String(n % 50).padStart(3, "0"), { n, pad: "x".repeat(2000) });
      process.stdout.write(n + "\\n");
    }`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let output = "";
  child.stdout.on("data", (data) => {
    output += String(data);
    if (output.split("\n").length > 1500) child.kill("SIGKILL");
  });
  await new Promise((resolve) => child.on("close", resolve));
  const acknowledged = Number(output.slice(0, output.lastIndexOf("\n")).split("\n").at(-1));
  const store = await openDocs(path);
  t.teardown(() => store.close());
  const { entries } = await store.range("/r/");
  t.equal(entries.length, 50);
  t.ok(Math.max(...entries.map((e) => e.value.n)) >= acknowledged, `write ${acknowledged} is there`);
  t.equal(await store.revision(), Math.max(...entries.map((e) => e.revision)));
  const next = await store.put("/r/000", { n: -1 });
  t.equal(next.revision, await store.revision());
});

t.test("store: a torn journal is read up to the damage", async (t) => {
  const dir = tempDir(t);
  const path = join(dir, "store");
  const store = await openDocs(path);
  for (let n = 0; n < 5; n++) await store.put(`/r/${n}`, { n });
  const journal = join(path, "journal-a");
  t.equal(readJournal(journal).length, 5);
  const copy = join(dir, "copy");
  writeFileSync(copy, readFileSync(journal));
  truncateSync(copy, statSync(copy).size - 3);
  t.equal(readJournal(copy).length, 4, "the torn record is left out");
  appendFileSync(copy, "rubbish\n");
  t.equal(readJournal(copy).length, 4);
  const bytes = readFileSync(journal);
  bytes[bytes.length - 5] = 0;
  writeFileSync(copy, bytes);
  t.equal(readJournal(copy).length, 4, "a damaged one too");
  t.same(readJournal(join(dir, "absent")), []);
  await store.close();
});

// ---------------------------------------------------------------------------------------------- selectors

t.test("label and field selectors", async (t) => {
  const match = (text: string, labels: Record<string, string>) =>
    matchLabels(parseLabelSelector(text), labels);
  t.ok(match("", { a: "b" }));
  t.ok(match("a=b,c!=d", { a: "b" }));
  t.notOk(match("a=b,c!=d", { a: "b", c: "d" }));
  t.ok(match("a in (x, y),b notin (z),c,!d", { a: "y", c: "" }));
  t.notOk(match("a in (x, y)", {}));
  t.ok(match("a==b", { a: "b" }));
  t.ok(match("n>3,n<5", { n: "4" }));
  t.notOk(match("n>3", { n: "x" }));
  t.ok(match("a=", { a: "" }));
  t.throws(() => parseLabelSelector("a b"), /found 'b', expected: in, notin, =, ==, !=, gt, lt/);
  t.throws(() => parseLabelSelector("a in x"), /found 'x', expected: '\('/);
  t.throws(() => parseLabelSelector("a,"), /expected: identifier after ','/);
  t.throws(() => parseLabelSelector("-a=b"), /Invalid value: "-a": name part must consist of/);
  t.throws(() => parseLabelSelector("a=b?c"), /a valid label must be an empty string or consist of/);
  t.equal(selectorOf(undefined), null);
  t.notOk(matchLabels(selectorOf(undefined), {}), "an absent selector matches nothing");
  t.ok(matchLabels(selectorOf({}), { a: "b" }), "an empty one everything");
  const selector = {
    matchLabels: { b: "2", a: "1" },
    matchExpressions: [
      { key: "c", operator: "In", values: ["y", "x"] },
      { key: "d", operator: "DoesNotExist" },
    ],
  };
  t.ok(matchLabels(selectorOf(selector), { a: "1", b: "2", c: "x" }));
  t.equal(formatLabelSelector(selector), "a=1,b=2,c in (x,y),!d");
  t.equal(formatLabelSelector(undefined), "<none>");
  t.throws(
    () => selectorOf({ matchExpressions: [{ key: "a", operator: "Is" }] }),
    /not a valid label selector operator/,
  );
  const fields = parseFieldSelector("metadata.name=a\\,b,spec.nodeName!=n1");
  t.ok(matchFields(fields, { "metadata.name": "a,b", "spec.nodeName": "n2" }));
  t.notOk(matchFields(fields, { "metadata.name": "a,b", "spec.nodeName": "n1" }));
  t.throws(() => parseFieldSelector("metadata.name"), /invalid selector: 'metadata.name'/);
});

// ------------------------------------------------------------------------------------------------ patches

t.test("JSON patch (RFC 6902)", async (t) => {
  const doc = Object.freeze({ a: { b: [1, 2, 3] }, "x/y": 1, "m~n": 2 });
  const apply = (...ops: object[]) => applyJsonPatch(doc, ops);
  t.same(apply({ op: "add", path: "/a/b/1", value: 9 }), { ...doc, a: { b: [1, 9, 2, 3] } });
  t.same(apply({ op: "add", path: "/a/b/-", value: 9 }), { ...doc, a: { b: [1, 2, 3, 9] } });
  t.same(apply({ op: "remove", path: "/x~1y" }, { op: "replace", path: "/m~0n", value: 3 }), {
    a: doc.a,
    "m~n": 3,
  });
  t.same(apply({ op: "move", from: "/a/b/0", path: "/z" }), { ...doc, a: { b: [2, 3] }, z: 1 });
  t.same(apply({ op: "copy", from: "/a", path: "/c" }), { ...doc, c: doc.a });
  t.same(apply({ op: "test", path: "/a", value: { b: [1, 2, 3] } }), doc);
  t.throws(() => apply({ op: "test", path: "/a", value: 1 }), /testing value \/a failed/);
  t.throws(() => apply({ op: "remove", path: "/no" }), /unable to remove nonexistent key/);
  t.throws(() => apply({ op: "replace", path: "/no/x", value: 1 }), /missing path/);
  t.throws(() => apply({ op: "add", path: "/a/b/9", value: 1 }), /no index "9"/);
  t.throws(() => apply({ op: "frob", path: "/a" }), /unexpected kind of operation/);
  t.throws(() => apply({ op: "add", path: "/q" }), /needs a value/);
  t.throws(() => apply({ op: "move", from: "/a", path: "/a/b" }), /into itself/);
  t.throws(() => applyJsonPatch(doc, {}), /must be a list/);
  t.same(doc, { a: { b: [1, 2, 3] }, "x/y": 1, "m~n": 2 }, "the document is untouched");
});

t.test("merge patch (RFC 7386)", async (t) => {
  t.same(applyMergePatch({ a: 1, b: { c: 2, d: 3 } }, { b: { c: null, e: [1] }, a: { z: null, y: 1 } }), {
    a: { y: 1 },
    b: { d: 3, e: [1] },
  });
});

t.test("strategic merge patch", async (t) => {
  const POD = "io.k8s.api.core.v1.Pod";
  const pod = (spec: object) => ({ metadata: { name: "p" }, spec });
  const apply = (spec: object, patch: object, name = POD) =>
    (applyStrategicPatch(pod(spec), { spec: patch }, schema, name) as { spec: object }).spec;
  const two = {
    containers: [
      { name: "a", image: "1", env: [{ name: "X", value: "1" }] },
      { name: "b", image: "2" },
    ],
  };

  t.same(
    apply(two, { containers: [{ name: "b", image: "3" }, { name: "c" }] }),
    {
      containers: [two.containers[0], { name: "b", image: "3" }, { name: "c" }],
    },
    "lists of objects merge by their key",
  );
  t.same(
    apply(two, { containers: [{ name: "a", env: [{ name: "Y", value: "2" }] }] }),
    {
      containers: [
        {
          name: "a",
          image: "1",
          env: [
            { name: "Y", value: "2" },
            { name: "X", value: "1" },
          ],
        },
        two.containers[1],
      ],
    },
    "also lists within them; what the patch adds comes first",
  );
  t.same(apply(two, { containers: [{ $patch: "delete", name: "a" }] }), { containers: [two.containers[1]] });
  t.same(apply(two, { containers: [{ $patch: "replace" }, { name: "z" }] }), { containers: [{ name: "z" }] });
  t.same(
    apply(two, {
      "$setElementOrder/containers": [{ name: "c" }, { name: "b" }, { name: "a" }],
      containers: [{ name: "c" }],
    }),
    { containers: [{ name: "c" }, two.containers[1], two.containers[0]] },
    "the order asked for",
  );
  t.same(
    apply(
      { containers: [{ name: "a" }, { name: "server" }, { name: "b" }] },
      { "$setElementOrder/containers": [{ name: "b" }, { name: "a" }] },
    ),
    { containers: [{ name: "server" }, { name: "b" }, { name: "a" }] },
    "an element that the order does not name stays before those it stood before",
  );
  t.same(
    apply(
      { tolerations: [{ key: "a" }], nodeSelector: { a: "1" } },
      { tolerations: [{ key: "b" }], nodeSelector: { b: "2" } },
    ),
    {
      tolerations: [{ key: "b" }],
      nodeSelector: { a: "1", b: "2" },
    },
    "atomic lists are replaced, maps merge",
  );
  t.same(apply({ nodeSelector: { a: "1" } }, { nodeSelector: { $patch: "replace", b: "2" } }), {
    nodeSelector: { b: "2" },
  });
  t.same(apply({ hostname: "x", nodeName: "n" }, { hostname: null }), { nodeName: "n" });
  t.same(
    apply(
      { volumes: [{ name: "v", hostPath: { path: "/a" } }] },
      { volumes: [{ name: "v", $retainKeys: ["name", "emptyDir"], emptyDir: {} }] },
    ),
    { volumes: [{ name: "v", emptyDir: {} }] },
  );
  t.same(apply({}, { containers: [{ $patch: "delete", name: "no" }, { name: "a" }] }), {
    containers: [{ name: "a" }],
  });
  const finalizers = (patch: object) =>
    (
      applyStrategicPatch(
        { metadata: { finalizers: ["a/a", "b/b"] } },
        { metadata: patch },
        schema,
        POD,
      ) as KubeObject
    ).metadata?.finalizers;
  t.same(finalizers({ finalizers: ["c/c", "a/a"] }), ["c/c", "a/a", "b/b"], "primitive lists are united");
  t.same(finalizers({ "$deleteFromPrimitiveList/finalizers": ["a/a"] }), ["b/b"]);
  t.same(finalizers({ "$setElementOrder/finalizers": ["b/b", "a/a"] }), ["b/b", "a/a"]);
  t.throws(() => apply(two, { containers: [{ image: "x" }] }), /does not contain declared merge key: name/);
  t.throws(() => apply({}, { nodeSelector: { $patch: "smash" } }), /unknown patch type/);
});

// ----------------------------------------------------------------------------------------------- decoding

t.test("decoding by the schema", async (t) => {
  const decoders = new Decoders(schema);
  const pod = (spec: object) =>
    decoders.decode("io.k8s.api.core.v1.Pod", { metadata: { creationTimestamp: null }, spec });
  const { object, unknownFields } = pod({
    containers: [
      {
        name: "a",
        foo: 1,
        resources: { requests: { cpu: 0.5, memory: "1.5Gi" } },
        ports: [],
        livenessProbe: { httpGet: { port: "web" } },
      },
      { name: "b", env: [{ name: "x", valeu: "1" }], volumeMounts: null },
    ],
    nodeSelector: {},
    volumes: [{ name: "v", emptyDir: {} }],
    bar: { baz: 1 },
  });
  t.same(unknownFields, ["spec.containers[0].foo", "spec.containers[1].env[0].valeu", "spec.bar"]);
  t.same(object, {
    metadata: {},
    spec: {
      containers: [
        {
          name: "a",
          resources: { requests: { cpu: "500m", memory: "1536Mi" } },
          livenessProbe: { httpGet: { port: "web" } },
        },
        { name: "b", env: [{ name: "x" }] },
      ],
      volumes: [{ name: "v", emptyDir: {} }],
    },
  });
  const fails = (spec: object, message: string | RegExp) =>
    t.throws(() => pod(spec), { name: "DecodeError", message });
  fails(
    { containers: {} },
    "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
  );
  fails(
    { containers: [{ name: 5 }] },
    "json: cannot unmarshal number into Go struct field Container.spec.containers.name of type string",
  );
  fails(
    { hostNetwork: "yes" },
    "json: cannot unmarshal string into Go struct field PodSpec.spec.hostNetwork of type bool",
  );
  fails(
    { priority: 1.5 },
    "json: cannot unmarshal number 1.5 into Go struct field PodSpec.spec.priority of type int32",
  );
  fails({ priority: 2 ** 31 }, /cannot unmarshal number 2147483648/);
  fails(
    { containers: [{ resources: { limits: { cpu: "much" } } }] },
    /quantities must match the regular expression/,
  );
  t.throws(() => decoders.decode("io.k8s.api.core.v1.Secret", { data: { a: "%%" } }), DecodeError);
  const lease = decoders.decode("io.k8s.api.coordination.v1.Lease", {
    spec: { renewTime: "2026-01-02T03:04:05.1234567+01:00" },
  });
  t.same(lease.object, { spec: { renewTime: "2026-01-02T02:04:05.123456Z" } });
  t.throws(
    () => decoders.decode("io.k8s.api.coordination.v1.Lease", { spec: { renewTime: "soon" } }),
    /cannot parse "soon"/,
  );
});

t.test("duplicate keys, YAML, content negotiation", async (t) => {
  t.same(duplicateKeys('{"a":{"b":1,"b":2},"c":[{"x":"}"},{"y":1,"y":2}],"a":1}'), ["a.b", "c[1].y", "a"]);
  t.same(duplicateKeys('{"a":"\\"a\\": {","b":["a","a"]}'), []);
  t.same(parseYaml("a: {b: 1}\nc: [x, 2]\nd: 2026-01-01\n", true), {
    value: { a: { b: 1 }, c: ["x", 2], d: "2026-01-01" },
    duplicates: [],
    yaml: true,
  });
  t.same(parseYaml("a: 1\nb: {c: 1, c: 2}\n", true).duplicates, ['line 2: key "c" already set in map']);
  t.throws(() => parseYaml("a: [1", true), /error converting YAML to JSON/);
  t.same(negotiate("application/vnd.kubernetes.protobuf,application/json").format, "json");
  t.equal(negotiate("application/json;as=Table;v=v1;g=meta.k8s.io,application/json").as, "Table");
  t.equal(negotiate("application/json;q=0.1,application/yaml").format, "yaml");
  t.equal(negotiate(undefined).format, "json");
  t.throws(() => negotiate("application/vnd.kubernetes.protobuf"), { code: 406 });
  t.equal(
    acceptsAggregated(
      "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json",
    ),
    "v2",
  );
  t.equal(acceptsAggregated("application/json"), undefined);
});

/** A protobuf field: a number, or bytes. */
function field(number: number, value: number | string | Buffer): Buffer {
  const varint = (n: number): number[] => (n < 128 ? [n] : [(n & 127) | 128, ...varint(n >>> 7)]);
  if (typeof value === "number") return Buffer.from([...varint(number << 3), ...varint(value)]);
  const bytes = Buffer.from(value);
  return Buffer.concat([Buffer.from([...varint((number << 3) | 2), ...varint(bytes.length)]), bytes]);
}

function envelope(apiVersion: string, kind: string, raw: Buffer): Buffer {
  const typeMeta = Buffer.concat([field(1, apiVersion), field(2, kind)]);
  return Buffer.concat([Buffer.from("k8s\0"), field(1, typeMeta), field(2, raw)]);
}

const messages = (...parts: Buffer[]): Buffer => Buffer.concat(parts);

t.test("protobuf request bodies", async (t) => {
  const reader = new ProtobufReader(schema);
  const probe = messages(
    field(1, messages(field(2, messages(field(2, messages(field(1, 1), field(3, "web"))))))),
    field(2, 0),
    field(4, 7),
  );
  const container = messages(field(1, "c"), field(2, "nginx"), field(5, ""), field(10, probe), field(16, 0));
  const template = field(2, messages(field(2, container), field(4, 0), field(11, 0)));
  const spec = messages(
    field(1, 0),
    field(2, field(1, messages(field(1, "app"), field(2, "x")))),
    field(3, template),
  );
  const meta = messages(
    field(1, "d"),
    field(2, ""),
    field(8, Buffer.alloc(0)),
    field(11, messages(field(1, "app"), field(2, "x"))),
  );
  const body = envelope(
    "apps/v1",
    "Deployment",
    messages(field(1, meta), field(2, spec), field(99, "newer")),
  );
  t.same(
    reader.read(body, "io.k8s.api.apps.v1.Deployment"),
    {
      apiVersion: "apps/v1",
      kind: "Deployment",
      metadata: { name: "d", labels: { app: "x" } },
      spec: {
        replicas: 0,
        selector: { matchLabels: { app: "x" } },
        template: {
          spec: {
            containers: [
              { name: "c", image: "nginx", livenessProbe: { httpGet: { port: "web" }, periodSeconds: 7 } },
            ],
            terminationGracePeriodSeconds: 0,
          },
        },
      },
    },
    "an explicit zero stays where it means something, and goes where it does not",
  );
  t.throws(() => reader.read(Buffer.from("{}"), "io.k8s.api.core.v1.Pod"), { name: "ProtobufError" });
  t.throws(
    () => reader.read(body.subarray(0, -9), "io.k8s.api.apps.v1.Deployment"),
    /unexpected end of data/,
  );
});

// ------------------------------------------------------------------------------------------------ the API

interface Answer {
  code: number;
  headers: IncomingMessage["headers"];
  text: string;
  // biome-ignore lint/suspicious/noExplicitAny: tests read documents of many shapes
  body: any;
}

interface CallOptions {
  body?: unknown;
  type?: string;
  accept?: string;
}

interface Harness {
  registry: Registry;
  store: LmdbStore<Stored>;
  client: LocalClient;
  socketPath: string;
  port: number;
  tls: { ca: string; cert: string; key: string };
  dir: string;
  api: ApiServer;
  call(method: string, path: string, options?: CallOptions): Promise<Answer>;
}

function answerOf(res: IncomingMessage): Promise<Answer> {
  return new Promise((resolve, reject) => {
    let text = "";
    res.setEncoding("utf8");
    res.on("data", (chunk) => {
      text += chunk;
    });
    res.on("error", reject);
    res.on("end", () => {
      const isJson = res.headers["content-type"]?.startsWith("application/json") ?? false;
      resolve({
        code: res.statusCode ?? 0,
        headers: res.headers,
        text,
        body: isJson ? JSON.parse(text) : undefined,
      });
    });
  });
}

async function startHarness(
  test: Test,
  kubelet: KubeletConnector = () => ({ socketPath: "/nowhere", pathPrefix: "" }),
  admission: readonly Admission[] = [],
): Promise<Harness> {
  const dir = tempDir(test);
  const store = await LmdbStore.open<Stored>({ path: join(dir, "store"), codec: objectCodec });
  const definitions = createResources({
    serviceCIDRs: ["10.96.0.0/16"],
    nodePortRange: [30000, 32767],
    defaultTolerationSeconds: 300,
  });
  const registry = await Registry.open({ store, schema, definitions, admission, log: silentLogger });
  const client = new LocalClient(registry);
  await client.create(NAMESPACES, { metadata: { name: "default" } });
  const api = new ApiServer({ registry, kubelet, address: () => "127.0.0.1:1", log: silentLogger });
  const pki = await loadPki({ dir: join(dir, "pki"), serverNames: ["127.0.0.1", "localhost"] });
  const { server, port } = await listenTls(
    api,
    pki,
    { host: "127.0.0.1", port: 0 },
    registry.tokens,
    silentLogger,
  );
  const socketPath = join(dir, "control.sock");
  const socketServer = await listenSocket(api, socketPath, silentLogger);
  test.teardown(async () => {
    api.close();
    await Promise.all([closeServer(server), closeServer(socketServer)]);
    await store.close();
  });
  const call = (method: string, path: string, { body, type, accept }: CallOptions = {}): Promise<Answer> =>
    new Promise((resolve, reject) => {
      const text =
        body === undefined || Buffer.isBuffer(body) || typeof body === "string" ? body : JSON.stringify(body);
      const payload = Buffer.from(text ?? "");
      const headers = {
        "content-type": type ?? "application/json",
        "content-length": payload.length,
        ...(accept ? { accept } : {}),
      };
      const req = request({ socketPath, method, path, headers }, (res) =>
        answerOf(res).then(resolve, reject),
      );
      req.on("error", reject);
      req.end(payload);
    });
  const tls = { ca: pki.ca.cert, cert: pki.admin.cert, key: pki.admin.key };
  return { registry, store, client, socketPath, port, tls, dir, api, call };
}

const CM = "/api/v1/namespaces/default/configmaps";
const configMap = (name: string, data: Record<string, string> = {}, labels: Record<string, string> = {}) => ({
  apiVersion: "v1",
  kind: "ConfigMap",
  metadata: { name, labels },
  data,
});
const deployment = (name: string, replicas = 1) => ({
  apiVersion: "apps/v1",
  kind: "Deployment",
  metadata: { name },
  spec: {
    replicas,
    selector: { matchLabels: { app: name } },
    template: { metadata: { labels: { app: name } }, spec: { containers: [{ name: "c", image: "nginx" }] } },
  },
});
const pod = (name: string, more: object = {}, meta: object = {}) => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name, ...meta },
  spec: { containers: [{ name: "c", image: "nginx" }], ...more },
});
const DEPLOYS = "/apis/apps/v1/namespaces/default/deployments";
const PODS_PATH = "/api/v1/namespaces/default/pods";

t.test("TLS: a client certificate of the CA, or 401", async (t) => {
  const h = await startHarness(t);
  const ask = (path: string, identity: object): Promise<Answer> =>
    new Promise((resolve, reject) => {
      const req = tlsRequest(
        { host: "127.0.0.1", port: h.port, path, ca: h.tls.ca, agent: false, ...identity },
        (res) => answerOf(res).then(resolve, reject),
      );
      req.on("error", reject);
      req.end();
    });
  const identity = { cert: h.tls.cert, key: h.tls.key };
  t.equal((await ask("/api/v1/namespaces/default", identity)).body.metadata.name, "default");
  for (const path of ["/", "/openapi/v2", "/api/v1/pods"]) {
    const refused = await ask(path, {});
    t.equal(refused.code, 401, `${path} without a certificate`);
    t.match(refused.body, {
      kind: "Status",
      status: "Failure",
      reason: "Unauthorized",
      message: "Unauthorized",
      code: 401,
    });
  }
  const other = await loadPki({ dir: join(h.dir, "other"), serverNames: [] });
  const stranger = await ask("/api/v1/pods", { cert: other.admin.cert, key: other.admin.key });
  t.equal(stranger.code, 401, "a certificate of another CA is none");
  t.equal(statSync(h.socketPath).mode & 0o777, 0o600);
  t.equal(statSync(join(h.dir, "pki/ca.key")).mode & 0o777, 0o600);
  t.equal(statSync(join(h.dir, "pki")).mode & 0o777, 0o700);
  const again = await loadPki({ dir: join(h.dir, "pki"), serverNames: ["127.0.0.1"] });
  t.equal(again.server.cert, readFileSync(join(h.dir, "pki/apiserver.crt"), "utf8"), "certificates are kept");
  t.equal(again.admin.cert, h.tls.cert);
  const wider = await loadPki({ dir: join(h.dir, "pki"), serverNames: ["127.0.0.1", "10.96.0.1"] });
  t.not(wider.server.cert, again.server.cert, "a new name needs a new server certificate");
  t.equal(wider.ca.cert, again.ca.cert, "of the same CA");
  await t.rejects(listenSocket(h.api, h.socketPath, silentLogger), /another process is listening/);
});

t.test("a stale socket file is replaced", async (t) => {
  const h = await startHarness(t);
  const path = join(h.dir, "stale.sock");
  // A killed process leaves its socket file behind; a closed server here would remove it.
  const child = spawn(process.execPath, [
    "-e",
    `require("net").createServer().listen(${JSON.stringify(path)},()=>process.kill(process.pid,"SIGKILL"))`,
  ]);
  await new Promise((resolve) => child.on("close", resolve));
  t.ok(existsSync(path));
  const server = await listenSocket(h.api, path, silentLogger);
  t.equal(statSync(path).mode & 0o777, 0o600);
  await closeServer(server);
});

t.test("discovery, version, health, OpenAPI", async (t) => {
  const { call } = await startHarness(t);
  t.match((await call("GET", "/version")).body, { major: "1", minor: "36", gitVersion: "v1.36.0+kubeplumb" });
  t.equal((await call("GET", "/healthz")).text, "ok");
  t.match((await call("GET", "/readyz?verbose")).text, /\[\+\]store ok\n[\s\S]*readyz check passed/);
  t.match((await call("GET", "/api")).body, { kind: "APIVersions", versions: ["v1"] });
  const groups = (await call("GET", "/apis")).body.groups.map((g: { name: string }) => g.name);
  t.same(groups, [
    "apps",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "networking.k8s.io",
    "policy",
  ]);
  t.match((await call("GET", "/apis/apps")).body, {
    kind: "APIGroup",
    name: "apps",
    preferredVersion: { groupVersion: "apps/v1" },
  });
  const core = (await call("GET", "/api/v1")).body.resources as {
    name: string;
    shortNames?: string[];
    verbs: string[];
  }[];
  t.match(
    core.find((r) => r.name === "pods"),
    { shortNames: ["po"], namespaced: true, singularName: "pod", kind: "Pod" },
  );
  for (const name of [
    "pods/log",
    "pods/exec",
    "pods/binding",
    "pods/status",
    "nodes/proxy",
    "namespaces/finalize",
  ])
    t.ok(
      core.some((r) => r.name === name),
      name,
    );
  const scale = (await call("GET", "/apis/apps/v1")).body.resources.find(
    (r: { name: string }) => r.name === "deployments/scale",
  );
  t.match(scale, { group: "autoscaling", version: "v1", kind: "Scale", verbs: ["get", "patch", "update"] });
  const accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
  const all = await call("GET", "/apis", { accept });
  t.equal(
    all.headers["content-type"],
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
  );
  t.match(all.body.items[0], {
    metadata: { name: "apps" },
    versions: [{ version: "v1", freshness: "Current" }],
  });
  const index = (await call("GET", "/openapi/v3")).body.paths;
  const document = (await call("GET", index["apis/apps/v1"].serverRelativeURL)).body;
  const { patch } = document.paths["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
  t.ok(
    patch.parameters.some((p: { name: string }) => p.name === "fieldValidation"),
    "kubectl looks for it before it sends it",
  );
  t.same(patch["x-kubernetes-group-version-kind"], { group: "apps", version: "v1", kind: "Deployment" });
  const podSpec = document.components.schemas["io.k8s.api.core.v1.PodSpec"].properties;
  t.match(podSpec.containers, {
    "x-kubernetes-patch-merge-key": "name",
    "x-kubernetes-patch-strategy": "merge",
    description: /containers/,
  });
  t.notOk("x-kubernetes-patch-strategy" in podSpec.tolerations);
  t.ok((await call("GET", "/openapi/v2")).body.definitions["io.k8s.api.core.v1.Pod"]);
  const protobuf = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
  for (const accept of [protobuf, protobuf.replace("v2.v1", "v2@v1")]) {
    const swagger = await call("GET", "/openapi/v2", { accept });
    t.equal(swagger.headers["content-type"], protobuf);
    t.ok(swagger.text.startsWith("\n\x032.0\x12"), "field 1 is swagger, field 2 is info");
  }
  for (const path of ["/apis/nope/v1/pods", "/nope"]) {
    const { code, text } = await call("GET", path);
    t.same([code, text], [404, "404 page not found\n"], path);
  }
});

t.test("create, get, update, delete: shapes and error texts", async (t) => {
  const { call } = await startHarness(t);
  const created = await call("POST", CM, { body: configMap("a", { k: "v" }) });
  t.equal(created.code, 201);
  const { metadata } = created.body;
  t.match(metadata, {
    name: "a",
    namespace: "default",
    uid: /^[0-9a-f-]{36}$/,
    creationTimestamp: /Z$/,
    resourceVersion: /^\d+$/,
  });
  t.notOk("labels" in metadata, "empty maps are not stored");
  const error = async (
    code: number,
    reason: string,
    message: string | RegExp,
    method: string,
    path: string,
    body?: unknown,
    type?: string,
  ) => {
    const answer = await call(method, path, { body, ...(type ? { type } : {}) });
    t.equal(answer.code, code, `${method} ${path}: ${code}`);
    t.match(
      answer.body,
      { kind: "Status", apiVersion: "v1", status: "Failure", reason, message, code },
      `${reason}`,
    );
    return answer.body as Status;
  };
  t.match(await error(409, "AlreadyExists", 'configmaps "a" already exists', "POST", CM, configMap("a")), {
    details: { name: "a", kind: "configmaps" },
  });
  t.match(await error(404, "NotFound", 'deployments.apps "x" not found', "GET", `${DEPLOYS}/x`), {
    details: { name: "x", group: "apps", kind: "deployments" },
  });
  await error(
    404,
    "NotFound",
    'namespaces "no" not found',
    "POST",
    "/api/v1/namespaces/no/configmaps",
    configMap("a"),
  );
  await error(
    400,
    "BadRequest",
    "the namespace of the provided object does not match the namespace sent on the request",
    "POST",
    CM,
    { ...configMap("b"), metadata: { name: "b", namespace: "other" } },
  );
  const invalid = await error(
    422,
    "Invalid",
    /^ConfigMap "B_" is invalid: metadata.name: Invalid value: "B_": a lowercase RFC 1123 subdomain/,
    "POST",
    CM,
    configMap("B_"),
  );
  t.match(invalid.details, {
    name: "B_",
    kind: "ConfigMap",
    causes: [{ reason: "FieldValueInvalid", field: "metadata.name", message: /^Invalid value: "B_"/ }],
  });
  await error(
    422,
    "Invalid",
    'ConfigMap "" is invalid: metadata.name: Required value: name or generateName is required',
    "POST",
    CM,
    { metadata: {} },
  );
  await error(
    422,
    "Invalid",
    /metadata.labels: Invalid value: "-x"/,
    "POST",
    CM,
    configMap("b", {}, { a: "-x" }),
  );
  await error(400, "BadRequest", /does not match the expected API version \(v1\)/, "POST", CM, {
    ...configMap("b"),
    apiVersion: "v2",
  });
  await error(400, "BadRequest", /cannot be handled as a ConfigMap/, "POST", CM, {
    ...configMap("b"),
    kind: "Secret",
  });
  await error(400, "BadRequest", /json parse error/, "POST", CM, "{");
  await error(415, "UnsupportedMediaType", /accepted media types include/, "POST", CM, "x", "text/plain");
  await error(
    413,
    "RequestEntityTooLarge",
    /limit is 3145728/,
    "POST",
    CM,
    configMap("b", { x: "x".repeat(4 << 20) }),
  );
  await error(405, "MethodNotAllowed", /does not allow this method/, "PUT", CM, {});
  await error(
    405,
    "MethodNotAllowed",
    /does not allow this method/,
    "POST",
    "/api/v1/configmaps",
    configMap("b"),
  );
  await error(400, "BadRequest", "resourceVersion should not be set on objects to be created", "POST", CM, {
    metadata: { name: "b", resourceVersion: "1" },
  });

  const draft = { ...created.body, data: { k: "w" } };
  const updated = await call("PUT", `${CM}/a`, { body: draft });
  t.equal(updated.code, 200);
  t.equal(updated.body.data.k, "w");
  t.equal(updated.body.metadata.uid, metadata.uid);
  await error(
    409,
    "Conflict",
    'Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes to the latest version and try again',
    "PUT",
    `${CM}/a`,
    draft,
  );
  const same = await call("PUT", `${CM}/a`, { body: updated.body });
  t.equal(
    same.body.metadata.resourceVersion,
    updated.body.metadata.resourceVersion,
    "an update that changes nothing writes nothing",
  );
  const forced = await call("PUT", `${CM}/a`, { body: configMap("a", { k: "z" }) });
  t.equal(
    forced.body.metadata.creationTimestamp,
    metadata.creationTimestamp,
    "without a resourceVersion the last writer wins",
  );
  await error(
    400,
    "BadRequest",
    "the name of the object (b) does not match the name on the URL (a)",
    "PUT",
    `${CM}/a`,
    configMap("b"),
  );
  await error(409, "Conflict", /UID in precondition: other/, "PUT", `${CM}/a`, {
    metadata: { name: "a", uid: "other" },
  });
  await error(404, "NotFound", 'configmaps "zz" not found', "PUT", `${CM}/zz`, configMap("zz"));

  await error(
    409,
    "Conflict",
    /the UID in the precondition \(nope\) does not match the UID in record/,
    "DELETE",
    `${CM}/a`,
    { preconditions: { uid: "nope" } },
  );
  const invalidDelete = 'DeleteOptions.meta.k8s.io "" is invalid: ';
  const maybe = await error(
    422,
    "Invalid",
    `${invalidDelete}propagationPolicy: Unsupported value: "Maybe": supported values: "Foreground", "Background", "Orphan", "nil"`,
    "DELETE",
    `${CM}/a?propagationPolicy=Maybe`,
  );
  t.match(maybe.details?.causes, [{ reason: "FieldValueNotSupported", field: "propagationPolicy" }]);
  for (const [query, body] of [
    ["", { propagationPolicy: "Orphan", orphanDependents: true }],
    ["?propagationPolicy=Orphan&orphanDependents=false", undefined],
  ] as const)
    await error(
      422,
      "Invalid",
      `${invalidDelete}propagationPolicy: Invalid value: "Orphan": orphanDependents and deletionPropagation cannot be both set`,
      "DELETE",
      `${CM}/a${query}`,
      body,
    );
  for (const body of [undefined, { dryRun: ["Some"] }])
    await error(
      422,
      "Invalid",
      `${invalidDelete}dryRun: Unsupported value: ["Some"]: supported values: "All"`,
      "DELETE",
      body ? `${CM}/a` : `${CM}/a?dryRun=Some`,
      body,
    );
  await error(
    422,
    "Invalid",
    'ConfigMap "big" is invalid: []: Too long: may not be more than 1048576 bytes',
    "POST",
    CM,
    configMap("big", { key: "x".repeat(1024 * 1024 + 1) }),
  );
  const deleted = await call("DELETE", `${CM}/a`);
  t.match(deleted.body, {
    kind: "Status",
    status: "Success",
    details: { name: "a", kind: "configmaps", uid: metadata.uid },
  });
  await error(404, "NotFound", 'configmaps "a" not found', "DELETE", `${CM}/a`);
  await error(
    403,
    "Forbidden",
    'namespaces "default" is forbidden: this namespace may not be deleted',
    "DELETE",
    "/api/v1/namespaces/default",
  );
});

t.test("fieldValidation, dryRun, YAML, generateName", async (t) => {
  const { call } = await startHarness(t);
  const bad = { ...configMap("a"), dota: { k: "v" } };
  const strict = await call("POST", `${CM}?fieldValidation=Strict`, { body: bad });
  t.equal(strict.code, 400);
  t.equal(
    strict.body.message,
    'ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: unknown field "dota"',
  );
  const twice = await call("POST", `${CM}?fieldValidation=Strict`, {
    body: '{"metadata":{"name":"a","name":"b"}}',
  });
  t.match(twice.body.message, /strict decoding error: duplicate field "metadata.name"/);
  const warned = await call("POST", `${CM}?dryRun=All`, { body: bad });
  t.equal(warned.code, 201);
  t.equal(warned.headers.warning, '299 - "unknown field \\"dota\\""');
  t.notOk("dota" in warned.body);
  t.equal((await call("GET", `${CM}/a`)).code, 404, "a dry run keeps nothing");
  t.equal((await call("POST", `${CM}?fieldValidation=Ignore`, { body: bad })).headers.warning, undefined);
  const dry = 'dryRun: Unsupported value: ["Some"]: supported values: "All"';
  const sure = 'fieldValidation: Unsupported value: "Sure": supported values: "", "Ignore", "Strict", "Warn"';
  for (const [method, query, options, what] of [
    ["POST", "?dryRun=Some", "CreateOptions", dry],
    ["POST", "?fieldValidation=Sure", "CreateOptions", sure],
    ["PUT", "/a?dryRun=Some&fieldValidation=Sure", "UpdateOptions", `[${dry}, ${sure}]`],
    ["PATCH", "/a?dryRun=Some", "PatchOptions", dry],
  ] as const) {
    const message = `${options}.meta.k8s.io "" is invalid: ${what}`;
    t.match(await call(method, `${CM}${query}`, { body: bad }), {
      code: 422,
      body: { reason: "Invalid", message },
    });
  }
  const wrong = await call("POST", DEPLOYS, {
    body: { ...deployment("d"), spec: { ...deployment("d").spec, replicas: "3" } },
  });
  t.equal(
    wrong.body.message,
    'Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32',
  );
  const yaml = await call("POST", CM, {
    body: "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: y\ndata: {a: 'b'}\n",
    type: "application/yaml",
  });
  t.equal(yaml.body.data.a, "b");
  const asYaml = await call("GET", `${CM}/y`, { accept: "application/yaml" });
  t.match(asYaml.text, /^apiVersion: v1\nkind: ConfigMap\n/);
  const generated = await call("POST", CM, { body: { metadata: { generateName: "gen-" } } });
  t.match(generated.body.metadata.name, /^gen-[a-z0-9]{5}$/);
  const typeMeta = messages(
    field(1, messages(field(1, "proto"), field(3, ""))),
    field(2, messages(field(1, "k"), field(2, "v"))),
  );
  const body = envelope("v1", "ConfigMap", typeMeta);
  const proto = await call("POST", CM, {
    body,
    type: "application/vnd.kubernetes.protobuf",
    accept: "application/vnd.kubernetes.protobuf,application/json",
  });
  t.equal(proto.code, 201);
  t.equal(proto.body.data.k, "v");
  t.equal((await call("GET", CM, { accept: "application/vnd.kubernetes.protobuf" })).code, 406);
  t.match(
    (await call("POST", CM, { body: "k8s", type: "application/vnd.kubernetes.protobuf" })).body.message,
    /protobuf/,
  );
});

t.test("warnings: a deprecated kind with every answer, a deprecated field with every write", async (t) => {
  const { call } = await startHarness(t);
  const path = "/api/v1/namespaces/default/endpoints";
  const deprecated = '299 - "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"';
  const body = (ip: string) => ({
    metadata: { name: "e" },
    subsets: [{ addresses: [{ ip }], notaField: 1, ports: [{ port: 80 }] }],
  });
  const made = await call("POST", path, { body: body("FD00::1") });
  t.equal(
    made.headers.warning,
    [
      deprecated,
      '299 - "unknown field \\"subsets[0].notaField\\""',
      '299 - "subsets[0].addresses[0].ip: IPv6 address \\"FD00::1\\" should be in RFC 5952 canonical format (\\"fd00::1\\")"',
    ].join(", "),
  );
  for (const [method, where, body, code] of [
    ["GET", path, undefined, 200],
    ["GET", `${path}/e`, undefined, 200],
    ["GET", `${path}/none`, undefined, 404],
    ["GET", `${path}?watch=true&timeoutSeconds=1`, undefined, 200],
    ["DELETE", `${path}/e`, undefined, 200],
    ["DELETE", path, undefined, 200],
  ] as const) {
    const answer = await call(method, where, { body });
    t.match(answer, { code, headers: { warning: deprecated } }, `${method} ${where}`);
  }
  const services = "/api/v1/namespaces/default/services";
  const warning = '299 - "spec.externalIPs is deprecated and may no longer be implemented in some clusters"';
  const spec = { ports: [{ port: 80 }], externalIPs: ["192.0.2.1"] };
  const service = await call("POST", services, { body: { metadata: { name: "s" }, spec } });
  t.match(service, { code: 201, headers: { warning } });
  const merge = "application/merge-patch+json";
  t.match(await call("PATCH", `${services}/s`, { type: merge, body: {} }), {
    code: 200,
    headers: { warning },
  });
  t.equal(
    (await call("PATCH", `${services}/s/status`, { type: merge, body: {} })).headers.warning,
    undefined,
  );
  t.equal((await call("GET", `${services}/s`)).headers.warning, undefined);
});

t.test("patch: three kinds, conflicts retried, errors", async (t) => {
  const { call } = await startHarness(t);
  await call("POST", DEPLOYS, { body: deployment("d") });
  const patch = (kind: string, body: unknown, query = "") =>
    call("PATCH", `${DEPLOYS}/d${query}`, { body: body as object, type: `application/${kind}+json` });
  t.equal((await patch("merge-patch", { spec: { replicas: 5 } })).body.spec.replicas, 5);
  t.equal(
    (await patch("json-patch", [{ op: "replace", path: "/spec/replicas", value: 6 }])).body.spec.replicas,
    6,
  );
  const smp = await patch("strategic-merge-patch", {
    spec: { template: { spec: { containers: [{ name: "c", image: "nginx:2" }] } } },
  });
  t.equal(smp.body.spec.template.spec.containers[0].image, "nginx:2");
  t.equal(
    smp.body.spec.template.spec.containers[0].imagePullPolicy,
    "Always",
    "the rest of the container is kept",
  );
  const { metadata } = smp.body;
  const conflict = await patch("merge-patch", { metadata: { resourceVersion: "1" }, spec: { replicas: 1 } });
  t.match(conflict.body, {
    reason: "Conflict",
    message: /^Operation cannot be fulfilled on deployments.apps "d": the object has been modified/,
  });
  const many = await Promise.all(
    Array.from({ length: 20 }, (_, i) =>
      patch("merge-patch", { metadata: { annotations: { [`k${i}`]: "v" } } }),
    ),
  );
  t.ok(
    many.every((a) => a.code === 200),
    "patches without a version never conflict",
  );
  t.equal(Object.keys((await call("GET", `${DEPLOYS}/d`)).body.metadata.annotations).length, 20);
  const strict = await patch("merge-patch", { spec: { foo: 1 } }, "?fieldValidation=Strict");
  t.equal(strict.code, 422);
  t.match(strict.body.message, /patch: Invalid value: .*: strict decoding error: unknown field "spec.foo"/);
  t.equal((await patch("json-patch", [{ op: "remove", path: "/spec/nope" }])).code, 422);
  t.equal((await patch("json-patch", { op: "x" })).code, 400);
  t.equal((await patch("merge-patch", [])).code, 400);
  for (const [body, type] of [
    [[], "array"],
    ['"x"', "string"],
    ["3", "number"],
  ]) {
    const message = `json: cannot unmarshal ${type} into Go value of type map[string]interface {}`;
    t.match((await patch("strategic-merge-patch", body)).body, { code: 400, reason: "BadRequest", message });
  }
  t.equal((await patch("strategic-merge-patch", "null")).code, 200, "nothing to change");
  const unknown = await call("PATCH", `${DEPLOYS}/d`, { body: "a: b", type: "application/x-patch" });
  t.equal(unknown.code, 415);
  t.match(unknown.body.message, /application\/strategic-merge-patch\+json/);
  t.match((await patch("merge-patch", { spec: { replicas: -1 } })).body, {
    code: 422,
    reason: "Invalid",
    message: /spec.replicas: Invalid value: -1: must be greater than or equal to 0/,
  });
  t.not(metadata.resourceVersion, "");
});

t.test("status and scale subresources", async (t) => {
  const { call } = await startHarness(t);
  const { body: created } = await call("POST", DEPLOYS, {
    body: { ...deployment("d"), status: { replicas: 9 } },
  });
  t.notOk(created.status.replicas, "status is not the creator's");
  const plain = await call("PATCH", `${DEPLOYS}/d`, {
    body: { status: { replicas: 4 } },
    type: "application/merge-patch+json",
  });
  t.notOk(plain.body.status.replicas, "nor the updater's");
  const status = await call("PATCH", `${DEPLOYS}/d/status`, {
    body: {
      spec: { replicas: 7 },
      metadata: { labels: { x: "y" } },
      status: { replicas: 4, observedGeneration: 1 },
    },
    type: "application/merge-patch+json",
  });
  t.equal(status.body.status.replicas, 4);
  t.equal(status.body.spec.replicas, 1, "an update of status changes only status");
  t.equal(status.body.metadata.labels, undefined);
  t.equal(status.body.metadata.generation, 1);
  t.equal((await call("GET", `${DEPLOYS}/d/status`)).body.status.replicas, 4);
  const scale = (await call("GET", `${DEPLOYS}/d/scale`)).body;
  t.match(scale, {
    kind: "Scale",
    apiVersion: "autoscaling/v1",
    spec: { replicas: 1 },
    status: { replicas: 4, selector: "app=d" },
  });
  const accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
  const printed = (await call("GET", `${DEPLOYS}/d/scale`, { accept })).body;
  t.same(
    printed.columnDefinitions.map((c: { name: string }) => c.name),
    ["Name", "Desired", "Available", "Age"],
  );
  t.same(printed.rows[0].cells.slice(0, 2), ["d", scale.spec.replicas]);
  const scaled = await call("PATCH", `${DEPLOYS}/d/scale`, {
    body: { spec: { replicas: 3 } },
    type: "application/merge-patch+json",
  });
  t.equal(scaled.body.spec.replicas, 3);
  t.match((await call("GET", `${DEPLOYS}/d`)).body, { spec: { replicas: 3 }, metadata: { generation: 2 } });
  const stale = await call("PUT", `${DEPLOYS}/d/scale`, { body: { ...scale, spec: { replicas: 8 } } });
  t.equal(stale.code, 409);
  const zero = await call("PUT", `${DEPLOYS}/d/scale`, { body: { metadata: { name: "d" }, spec: {} } });
  t.equal(zero.body.spec.replicas, 0);
  t.match(
    (
      await call("PATCH", `${DEPLOYS}/d/scale`, {
        body: { spec: { replicas: -1 } },
        type: "application/merge-patch+json",
      })
    ).body.message,
    /must be greater than or equal to 0/,
  );
  t.equal((await call("GET", `${CM}/x/scale`)).code, 404);
});

t.test("deletion: grace, finalizers, propagation, collections, namespaces", async (t) => {
  const { call } = await startHarness(t);
  await call("POST", PODS_PATH, { body: pod("free") });
  t.equal(
    (await call("DELETE", `${PODS_PATH}/free`)).body.status,
    "Success",
    "a pod without a node goes at once",
  );
  const { body: bound } = await call("POST", PODS_PATH, { body: pod("bound", { nodeName: "n1" }) });
  const marked = (await call("DELETE", `${PODS_PATH}/bound`)).body;
  t.equal(marked.metadata.deletionGracePeriodSeconds, 30);
  t.ok(
    Date.parse(marked.metadata.deletionTimestamp) >= Date.parse(bound.metadata.creationTimestamp) + 29_000,
  );
  t.same(
    (await call("DELETE", `${PODS_PATH}/bound`)).body.metadata,
    marked.metadata,
    "a second delete changes nothing",
  );
  const shorter = (await call("DELETE", `${PODS_PATH}/bound?gracePeriodSeconds=5`)).body.metadata;
  t.equal(shorter.deletionGracePeriodSeconds, 5);
  t.ok(shorter.deletionTimestamp < marked.metadata.deletionTimestamp, "but may shorten the time");
  t.equal(
    (await call("DELETE", `${PODS_PATH}/bound`, { body: { gracePeriodSeconds: 60 } })).body.metadata
      .deletionGracePeriodSeconds,
    5,
  );
  t.equal(
    (
      await call("DELETE", `${PODS_PATH}/bound`, {
        body: { kind: "DeleteOptions", apiVersion: "v1", gracePeriodSeconds: 0 },
      })
    ).body.status,
    "Success",
  );

  await call("POST", CM, { body: { metadata: { name: "held", finalizers: ["example.com/hold"] } } });
  const held = (await call("DELETE", `${CM}/held`)).body;
  t.match(held.metadata, { deletionTimestamp: /Z$/, deletionGracePeriodSeconds: 0 });
  const more = await call("PATCH", `${CM}/held`, {
    body: { metadata: { finalizers: ["example.com/hold", "example.com/two"] } },
    type: "application/merge-patch+json",
  });
  t.match(more.body, { code: 422, message: /no new finalizers can be added if the object is being deleted/ });
  const released = await call("PATCH", `${CM}/held`, {
    body: { metadata: { finalizers: null } },
    type: "application/merge-patch+json",
  });
  t.equal(released.code, 200);
  t.equal((await call("GET", `${CM}/held`)).code, 404, "the last finalizer's removal deletes");

  await call("POST", DEPLOYS, { body: deployment("d") });
  const foreground = (await call("DELETE", `${DEPLOYS}/d`, { body: { propagationPolicy: "Foreground" } }))
    .body;
  t.same(foreground.metadata.finalizers, ["foregroundDeletion"]);
  t.equal((await call("DELETE", `${DEPLOYS}/d?propagationPolicy=Background`)).body.status, "Success");
  await call("POST", DEPLOYS, { body: deployment("o") });
  t.same((await call("DELETE", `${DEPLOYS}/o?orphanDependents=true`)).body.metadata.finalizers, ["orphan"]);

  for (const name of ["x", "y", "z"])
    await call("POST", CM, { body: configMap(name, {}, { keep: name === "z" ? "yes" : "no" }) });
  const gone = (await call("DELETE", `${CM}?labelSelector=keep%3Dno`)).body;
  t.same(
    gone.items.map((o: Stored) => o.metadata.name),
    ["x", "y"],
  );
  t.same(
    (await call("GET", CM)).body.items.map((o: Stored) => o.metadata.name),
    ["z"],
  );

  await call("POST", "/api/v1/namespaces", { body: { metadata: { name: "team" } } });
  const ending = (await call("DELETE", "/api/v1/namespaces/team")).body;
  t.match(ending, {
    status: { phase: "Terminating" },
    metadata: { deletionTimestamp: /Z$/ },
    spec: { finalizers: ["kubernetes"] },
  });
  const late = await call("POST", "/api/v1/namespaces/team/configmaps", { body: configMap("late") });
  t.match(late.body, {
    code: 403,
    message:
      'configmaps "late" is forbidden: unable to create new content in namespace team because it is being terminated',
    details: { causes: [{ reason: "NamespaceTerminating" }] },
  });
  await call("PUT", "/api/v1/namespaces/team/finalize", { body: { ...ending, spec: {} } });
  t.equal((await call("GET", "/api/v1/namespaces/team")).code, 404, "finalized namespaces are gone");
});

t.test("pods: binding and eviction", async (t) => {
  const { call } = await startHarness(t);
  await call("POST", PODS_PATH, { body: pod("p") });
  const bind = (node: string) =>
    call("POST", `${PODS_PATH}/p/binding`, {
      body: { metadata: { name: "p" }, target: { apiVersion: "v1", kind: "Node", name: node } },
    });
  t.match((await bind("n1")).body, { kind: "Status", status: "Success", code: 201 });
  const { body } = await call("GET", `${PODS_PATH}/p`);
  t.equal(body.spec.nodeName, "n1");
  t.match(body.status.conditions, [{ type: "PodScheduled", status: "True" }]);
  t.equal(
    (await bind("n2")).body.message,
    'Operation cannot be fulfilled on pods/binding "p": pod p is already assigned to node "n1"',
  );
  const evicted = await call("POST", `${PODS_PATH}/p/eviction`, {
    body: {
      apiVersion: "policy/v1",
      kind: "Eviction",
      metadata: { name: "p" },
      deleteOptions: { gracePeriodSeconds: 3 },
    },
  });
  t.equal(evicted.code, 201);
  t.equal((await call("GET", `${PODS_PATH}/p`)).body.metadata.deletionGracePeriodSeconds, 3);
});

t.test("admission waits for the service account of a new namespace, not for long", async (t) => {
  const { call, client } = await startHarness(t, undefined, ADMISSION);
  const PODS_PATH = "/api/v1/namespaces/default/pods";
  t.match(await call("POST", PODS_PATH, { body: pod("p") }), {
    code: 403,
    body: {
      message:
        'pods "p" is forbidden: error looking up service account default/default: serviceaccount "default" not found',
    },
  });
  const waiting = call("POST", PODS_PATH, { body: pod("p") });
  await new Promise((resolve) => setTimeout(resolve, 250));
  await client.create(SERVICE_ACCOUNTS, { metadata: { name: "default", namespace: "default" } });
  t.equal((await waiting).code, 201);
});

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

/** A watch as a client sees it: lines, and how the answer ended. */
interface LineWatch {
  events: { type: string; object: Stored<ConfigMap> & Status }[];
  ended: Promise<void>;
  isEnded(): boolean;
  stop(): void;
}

function watch(
  h: Harness,
  path: string,
  accept = "application/json",
): Promise<LineWatch & { code: number; status?: Status }> {
  return new Promise((resolve, reject) => {
    const req = request({ socketPath: h.socketPath, path, headers: { accept } }, (res) => {
      if (res.statusCode !== 200) {
        answerOf(res).then(
          ({ code, body }) =>
            resolve({
              code,
              status: body,
              events: [],
              ended: Promise.resolve(),
              isEnded: () => true,
              stop: () => {},
            }),
          reject,
        );
        return;
      }
      const events: LineWatch["events"] = [];
      let rest = "";
      let over = false;
      res.setEncoding("utf8");
      res.on("data", (chunk) => {
        const lines = (rest + chunk).split("\n");
        rest = lines.pop() ?? "";
        events.push(...lines.map((line) => JSON.parse(line)));
      });
      const ended = new Promise<void>((done) => {
        res.on("close", () => {
          over = true;
          done();
        });
      });
      res.on("error", () => {});
      resolve({ code: 200, events, ended, isEnded: () => over, stop: () => req.destroy() });
    });
    req.on("error", (error) => {
      if ((error as NodeJS.ErrnoException).code !== "ECONNRESET") reject(error);
    });
    req.end();
  });
}

const shown = (w: LineWatch) => w.events.map((e) => `${e.type} ${e.object.metadata?.name ?? ""}`);

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

// --------------------------------------------------------------------------------------- kubelet streams

/** A kubelet that logs lines and echoes an upgraded connection in capitals. */
async function fakeKubelet(
  test: Test,
  dir: string,
): Promise<{ socketPath: string; urls: string[]; server: Server }> {
  const socketPath = join(dir, "kubelet.sock");
  const urls: string[] = [];
  const server = createServer((req, res) => {
    urls.push(`${req.method} ${req.url}`);
    if (req.url?.includes("previous")) res.writeHead(400).end('previous terminated container "c" not found');
    else if (req.url?.includes("follow")) {
      res.writeHead(200, { "content-type": "text/plain" });
      res.write("one\n");
      res.once("close", () => urls.push("closed"));
    } else res.writeHead(200, { "content-type": "text/plain" }).end("line\n");
  });
  server.on("upgrade", (req: IncomingMessage, socket, head: Buffer) => {
    urls.push(`${req.method} ${req.url} ${req.headers["sec-websocket-protocol"] ?? ""}`);
    if (req.url?.includes("refuse")) {
      socket.end("HTTP/1.1 404 Not Found\r\nContent-Length: 17\r\n\r\nno such container");
      return;
    }
    socket.write(
      "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-Test: yes\r\n\r\n",
    );
    socket.write(String(head).toUpperCase());
    socket.on("data", (data: Buffer) => socket.write(String(data).toUpperCase()));
    socket.on("end", () => socket.end("BYE"));
  });
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  test.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return { socketPath, urls, server };
}

t.test("logs and streams go through to the kubelet", async (t) => {
  const dir = tempDir(t);
  const kubelet = await fakeKubelet(t, dir);
  const h = await startHarness(t, (node) => {
    if (node.metadata.name === "dead") return { host: "127.0.0.1", port: 1, pathPrefix: "" };
    return { socketPath: kubelet.socketPath, pathPrefix: `/nodes/${node.metadata.name}` };
  });
  for (const name of ["n1", "dead"]) await h.client.create(NODES, { metadata: { name } });
  const two = [
    { name: "c", image: "x" },
    { name: "d", image: "x" },
  ];
  await h.call("POST", PODS_PATH, { body: pod("p", { nodeName: "n1" }) });
  await h.call("POST", PODS_PATH, {
    body: pod("two", { nodeName: "n1", containers: two, initContainers: [{ name: "i", image: "x" }] }),
  });
  await h.call("POST", PODS_PATH, {
    body: pod(
      "chosen",
      { nodeName: "n1", containers: two },
      { annotations: { "kubectl.kubernetes.io/default-container": "d" } },
    ),
  });
  await h.call("POST", PODS_PATH, { body: pod("waiting") });
  await h.call("POST", PODS_PATH, { body: pod("lost", { nodeName: "dead" }) });

  t.equal((await h.call("GET", `${PODS_PATH}/p/log?tailLines=5&container=c`)).text, "line\n");
  t.equal(kubelet.urls.at(-1), "GET /nodes/n1/containerLogs/default/p/c?tailLines=5");
  await h.call("GET", `${PODS_PATH}/chosen/log`);
  t.match(kubelet.urls.at(-1), "/containerLogs/default/chosen/d");
  t.match((await h.call("GET", `${PODS_PATH}/two/log`)).body, {
    code: 400,
    message:
      "a container name must be specified for pod two, choose one of: [c d] or one of the init containers: [i]",
  });
  t.match(
    (await h.call("GET", `${PODS_PATH}/p/log?container=zz`)).body.message,
    "container zz is not valid for pod p",
  );
  t.match((await h.call("GET", `${PODS_PATH}/no/log`)).body, { code: 404, message: 'pods "no" not found' });
  t.match((await h.call("GET", `${PODS_PATH}/p/log?previous=true`)).body, {
    code: 400,
    reason: "BadRequest",
    message: 'previous terminated container "c" not found',
  });
  t.same(await h.call("GET", `${PODS_PATH}/waiting/log`).then((a) => [a.code, a.text]), [200, ""]);
  t.match((await h.call("GET", `${PODS_PATH}/lost/log`)).body, {
    code: 500,
    reason: "InternalError",
    message: /error dialing backend: connect ECONNREFUSED/,
  });
  t.equal((await h.call("GET", "/api/v1/nodes/n1/proxy/pods")).text, "line\n");
  t.equal(kubelet.urls.at(-1), "GET /nodes/n1/pods");
  t.match((await h.call("POST", `${PODS_PATH}/p/exec?command=ls`)).body, {
    code: 400,
    message: "Upgrade request required",
  });

  await new Promise<void>((resolve, reject) => {
    const req = request({ socketPath: h.socketPath, path: `${PODS_PATH}/p/log?follow=true` }, (res) => {
      res.once("data", (data) => {
        t.equal(String(data), "one\n", "a followed log streams");
        req.destroy();
        resolve();
      });
    });
    req.on("error", reject);
    req.end();
  });
  await until(() => kubelet.urls.includes("closed"));
  t.pass("a client that leaves ends the stream at the kubelet");

  const upgrade = (path: string): Promise<{ head: IncomingMessage; text: string }> =>
    new Promise((resolve, reject) => {
      const headers = {
        connection: "Upgrade",
        upgrade: "websocket",
        "sec-websocket-protocol": "v5.channel.k8s.io",
      };
      const req = request({ socketPath: h.socketPath, path, headers });
      req.on("upgrade", (head, socket) => {
        let text = "";
        socket.on("data", (data: Buffer) => {
          text += data;
          if (text === "HELLO") socket.end();
        });
        socket.on("error", reject);
        socket.on("close", () => resolve({ head, text }));
        socket.write("hello");
      });
      req.on("response", (res) => answerOf(res).then(({ text }) => resolve({ head: res, text }), reject));
      req.on("error", reject);
      req.end();
    });
  const { head, text } = await upgrade(`${PODS_PATH}/p/exec?command=sh&command=-c&stdin=true`);
  t.equal(head.headers["x-test"], "yes", "the kubelet's own answer");
  t.equal(text, "HELLOBYE", "bytes both ways, to the end");
  t.equal(
    kubelet.urls.at(-1),
    "GET /nodes/n1/exec/default/p/c?command=sh&command=-c&stdin=true v5.channel.k8s.io",
  );
  await upgrade(`${PODS_PATH}/p/portforward?ports=80`);
  t.match(kubelet.urls.at(-1), "/nodes/n1/portForward/default/p?ports=80");
  const refused = await upgrade(`${PODS_PATH}/p/exec?command=refuse`);
  t.equal(refused.head.statusCode, 404);
  t.match(JSON.parse(refused.text), { kind: "Status", message: "no such container" });
  t.match(JSON.parse((await upgrade(`${PODS_PATH}/waiting/exec?command=ls`)).text), {
    message: "pod waiting does not have a host assigned",
  });
  t.match(JSON.parse((await upgrade(`${PODS_PATH}/lost/exec?command=ls`)).text), {
    message: /error dialing backend/,
  });
  t.match(JSON.parse((await upgrade(`${PODS_PATH}/none/exec?command=ls`)).text), { code: 404 });
});

// -------------------------------------------------------------------------------------------- startControl

t.test("startControl: bootstrap, kubeconfig, restart on the same data", async (t) => {
  const dir = tempDir(t);
  const options = {
    dataDir: join(dir, "data"),
    listen: { host: "127.0.0.1", port: 0 },
    socketPath: join(dir, "control.sock"),
    clusterName: "test",
    kubelet: () => ({ socketPath: "/nowhere", pathPrefix: "" }),
    log: silentLogger,
  };
  let control = await startControl(options);
  const names = (await control.client.list(NAMESPACES)).items.map((n) => n.metadata.name);
  t.same(names, ["default", "kube-node-lease", "kube-public", "kube-system"]);
  const config = control.adminKubeconfig("kubeplumb-test");
  t.match(config, /current-context: kubeplumb-test\n/);
  t.match(config, `server: https://127.0.0.1:${control.port}\n`);
  const { caCert } = control;
  await control.client.create(CONFIG_MAPS, { metadata: { name: "kept" } }, { namespace: "default" });
  const { resourceVersion } = await control.client.list(CONFIG_MAPS);
  await control.close();
  t.notOk(existsSync(options.socketPath));
  control = await startControl(options);
  t.equal(control.caCert, caCert);
  t.equal((await control.client.get(CONFIG_MAPS, "kept", "default")).metadata.name, "kept");
  t.ok(Number((await control.client.list(CONFIG_MAPS)).resourceVersion) >= Number(resourceVersion));
  await control.close();
  const busy = createNetServer();
  await new Promise<void>((resolve) => busy.listen(0, "127.0.0.1", resolve));
  const { port } = busy.address() as { port: number };
  t.match(await caught(startControl({ ...options, listen: { host: "127.0.0.1", port } })), {
    code: "EADDRINUSE",
  });
  busy.close();
  control = await startControl(options);
  await control.close();
  t.pass("a start that failed has left nothing locked");
});
