// What the cluster handle says of objects: manifests as it reads them, when EndpointSlices and caches have caught up,
// and conditions to wait for.

import t from "tap";
import type { EndpointSlice, Pod, Service, Stored } from "../../common/k8s.js";
import { readManifest } from "../../lab/manifests.js";
import { behind, staleService } from "../../lab/sync.js";
import { fulfils } from "../../lab/wait.js";

t.test("manifests", async (t) => {
  const items = readManifest(
    "kind: List\nitems:\n  - { apiVersion: v1, kind: Pod, metadata: { name: a } }\n---\n---\napiVersion: v1\nkind: Namespace\nmetadata: { name: n }\n",
  );
  t.same(
    items.map(({ name, namespace, resource }) => [resource.plural, namespace, name]),
    [
      ["pods", "default", "a"],
      ["namespaces", undefined, "n"],
    ],
  );
  const [pod] = readManifest({ apiVersion: "v1", kind: "Pod", metadata: { name: "b", namespace: "x" } }, "y");
  t.equal(pod?.namespace, "x", "what the object says wins");
  t.throws(
    () => readManifest("apiVersion: v1\nkind: Job\nmetadata: { name: a }"),
    /object 1: v1 Job is not served; known are v1 Namespace/,
  );
  t.throws(() => readManifest("apiVersion: v1\nkind: Pod"), /object 1 \(Pod\): metadata.name is required/);
  t.throws(() => readManifest("a: [b"), /malformed YAML: .*line 1/);
});

const meta = (name: string, version = 1, more = {}) => ({
  name,
  namespace: "default",
  uid: name,
  resourceVersion: String(version),
  creationTimestamp: "2026-01-01T00:00:00Z",
  ...more,
});

t.test("when EndpointSlices and caches have caught up", async (t) => {
  const service = {
    apiVersion: "v1",
    kind: "Service",
    metadata: meta("web"),
    spec: { selector: { app: "web" } },
  } as Stored<Service>;
  const pod = (name: string, ip: string, ready: boolean, more = {}) =>
    ({
      apiVersion: "v1",
      kind: "Pod",
      metadata: meta(name, 1, { labels: { app: "web" }, ...more }),
      status: { podIP: ip, conditions: [{ type: "Ready", status: ready ? "True" : "False" }] },
    }) as Stored<Pod>;
  const slice = (...addresses: string[]) =>
    ({
      apiVersion: "discovery.k8s.io/v1",
      kind: "EndpointSlice",
      metadata: meta("web-1", 1, { labels: { "kubernetes.io/service-name": "web" } }),
      addressType: "IPv4",
      endpoints: addresses.map((ip) => ({ addresses: [ip], conditions: { ready: true } })),
    }) as Stored<EndpointSlice>;
  const pods = [
    pod("a", "10.0.0.1", true),
    pod("b", "10.0.0.2", false),
    pod("c", "10.0.0.3", true, { deletionTimestamp: "x" }),
  ];
  t.equal(staleService([service], [slice("10.0.0.1")], pods), undefined);
  t.match(staleService([service], [], pods), /Service default\/web/);
  t.match(staleService([service], [slice("10.0.0.1", "10.0.0.3")], pods), /default\/web/);
  t.match(staleService([service], [slice("10.0.0.2")], pods), /default\/web/);
  const both = { ...service, spec: { ...service.spec, ipFamilies: ["IPv4", "IPv6"] } };
  const ips = { podIP: "10.0.0.1", podIPs: [{ ip: "10.0.0.1" }, { ip: "fd00::1" }] };
  const dual = pods.map((one) => ({ ...one, status: { ...one.status, ...ips } }));
  t.equal(staleService([both], [slice("10.0.0.1"), slice("fd00::1")], dual), undefined);
  t.match(staleService([both], [slice("10.0.0.1")], dual), /default\/web/, "one family is not all");
  const four = { ...both, spec: { ...both.spec, ipFamilies: ["IPv4"] } };
  t.equal(staleService([four], [slice("10.0.0.1")], dual), undefined);
  t.equal(
    staleService([{ ...service, spec: {} }], [], pods),
    undefined,
    "without selector nothing is expected",
  );

  const object = (name: string, version: number) =>
    ({ apiVersion: "v1", kind: "X", metadata: meta(name, version) }) as Stored;
  t.equal(behind([object("a", 3)], [object("a", 3)], "x"), undefined);
  t.equal(
    behind([object("a", 3)], [object("a", 4), object("new", 5)], "x"),
    undefined,
    "a cache may be ahead",
  );
  t.match(behind([object("a", 3)], [object("a", 2)], "x"), /x default\/a/);
  t.match(behind([object("a", 3)], [], "x"), /x default\/a/);
  t.match(behind([object("a", 3)], [object("a", 3), object("b", 2)], "x"), /deleted x default\/b/);
});

t.test("conditions to wait for", async (t) => {
  const object = {
    apiVersion: "v1",
    kind: "Pod",
    metadata: meta("a"),
    status: {
      conditions: [
        { type: "Ready", status: "True" },
        { type: "Gone", status: "False" },
      ],
    },
  } as Stored;
  t.ok(fulfils(object, "Ready"));
  t.notOk(fulfils(object, "Gone"));
  t.notOk(fulfils(undefined, "Ready"));
  t.ok(fulfils(undefined, "deleted"));
  t.notOk(fulfils(object, "deleted"));
  t.ok(fulfils(object, (o) => o?.metadata.name === "a"));
});
