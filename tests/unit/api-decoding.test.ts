// What comes before the API can act: selectors, patches, decoding by the schema, YAML, protobuf. No I/O.

import t from "tap";
import type { KubeObject } from "../../common/k8s.js";
import {
  formatLabelSelector,
  matchFields,
  matchLabels,
  parseFieldSelector,
  parseLabelSelector,
  selectorOf,
} from "../../common/selector.js";
import { DecodeError, Decoders } from "../../control/api/decode.js";
import { acceptsAggregated, negotiate } from "../../control/api/http/negotiate.js";
import { duplicateKeys, parseYaml } from "../../control/api/json.js";
import { ProtobufReader } from "../../control/api/protobuf.js";
import { Schema } from "../../control/api/schema.js";
import { applyJsonPatch } from "../../control/patch/json-patch.js";
import { applyMergePatch } from "../../control/patch/merge-patch.js";
import { applyStrategicPatch } from "../../control/patch/strategic.js";

const schema = Schema.load();

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
