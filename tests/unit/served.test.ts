// What kube-proxy and any other client-go informer asks of an API server, over HTTP on the control plane's socket:
// lists, watches, content negotiation, Events. The requests are those that client-go sends.

import { type IncomingMessage, request } from "node:http";
import { join } from "node:path";
import t, { type Test } from "tap";
import { EVENTS, NODES, PODS, REPLICA_SETS, SERVICE_ACCOUNTS } from "../../common/client.js";
import type { Stored } from "../../common/k8s.js";
import { silentLogger } from "../../common/log.js";
import { type Control, startControl } from "../../control/server.js";
import { tempDir } from "../helpers/temp-dir.js";
import { eventually } from "./helpers/local-cluster.js";

/** client-go, when protobuf is preferred: kube-proxy's default. */
const PROTOBUF_FIRST = "application/vnd.kubernetes.protobuf, */*";
const PROTOBUF_OR_JSON = "application/vnd.kubernetes.protobuf,application/json";
const PROTOBUF = "application/vnd.kubernetes.protobuf";
/** kube-proxy's: Services that somebody else serves, and headless ones, are none of its. */
const NOT_MINE = encodeURIComponent(
  "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name",
);
const WATCH_LIST =
  "watch=true&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=300";
const SLICES = "/apis/discovery.k8s.io/v1/endpointslices";
const EVENTS_V1 = "/apis/events.k8s.io/v1/namespaces/default/events";

type Json = ReturnType<typeof JSON.parse>;

interface Answer {
  code: number;
  type: string;
  body: Json;
}

interface Asked {
  method?: string;
  accept?: string;
  type?: string;
  body?: object | Buffer;
}

class Door {
  readonly #socketPath: string;

  constructor(socketPath: string) {
    this.#socketPath = socketPath;
  }

  #open(path: string, { method = "GET", accept, type, body }: Asked): Promise<IncomingMessage> {
    const payload = Buffer.isBuffer(body) ? body : Buffer.from(body ? JSON.stringify(body) : "");
    const headers = {
      ...(accept ? { accept } : {}),
      ...(body ? { "content-type": type ?? "application/json", "content-length": payload.length } : {}),
    };
    return new Promise((resolve, reject) => {
      // A connection of its own: a kept one may belong to a server that has been closed meanwhile.
      const req = request({ socketPath: this.#socketPath, method, path, headers, agent: false }, resolve);
      req.on("error", reject);
      req.end(payload);
    });
  }

  async ask(path: string, asked: Asked = {}): Promise<Answer> {
    const res = await this.#open(path, asked);
    let text = "";
    for await (const chunk of res.setEncoding("utf8")) text += chunk;
    const type = res.headers["content-type"] ?? "";
    return { code: res.statusCode ?? 0, type, body: type === "application/json" ? JSON.parse(text) : text };
  }

  /** Reads a watch until `enough` holds of its events; the server's end of it counts as well. */
  async watch(path: string, enough: (events: Json[]) => boolean, accept = PROTOBUF_FIRST): Promise<Json[]> {
    const res = await this.#open(path, { accept });
    const events: Json[] = [];
    let rest = "";
    for await (const chunk of res.setEncoding("utf8")) {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop() ?? "";
      events.push(...lines.map((line) => JSON.parse(line)));
      if (enough(events)) break;
    }
    res.destroy();
    return events;
  }
}

async function open(
  test: Test,
  serviceCIDRs = ["10.96.0.0/16"],
  dir = tempDir(test),
): Promise<{ control: Control; door: Door }> {
  const socketPath = join(dir, "control.sock");
  const control = await startControl({
    dataDir: join(dir, "data"),
    listen: { host: "127.0.0.1", port: 0 },
    socketPath,
    clusterName: "served",
    serviceCIDRs,
    kubelet: () => ({ socketPath: "/nowhere", pathPrefix: "" }),
    log: silentLogger,
  });
  test.teardown(() => control.close());
  return { control, door: new Door(socketPath) };
}

const ended = (events: Json[]) => events.some((e) => e.type === "BOOKMARK");
const isEndOfList = (event: Json) =>
  event.object.metadata.annotations?.["k8s.io/initial-events-end"] === "true";
const namesOf = (events: Json[]) =>
  events.filter((e) => e.type === "ADDED").map((e) => e.object.metadata.name);

t.test("list and watch, as kube-proxy's informers do", async (t) => {
  const { control, door } = await open(t);
  const slice = (name: string, labels: Record<string, string> = {}) => ({
    metadata: { name, labels: { "kubernetes.io/service-name": "web", ...labels } },
    addressType: "IPv4",
    endpoints: [
      { addresses: ["10.244.1.2"], hints: { forZones: [{ name: "a" }], forNodes: [{ name: "node-1" }] } },
    ],
    ports: [{ name: "", port: 80 }],
  });
  const namespaced = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
  for (const body of [
    slice("web-1"),
    slice("headless", { "service.kubernetes.io/headless": "" }),
    slice("other", { "service.kubernetes.io/service-proxy-name": "mesh" }),
  ])
    t.equal((await door.ask(namespaced, { method: "POST", body })).code, 201, body.metadata.name);
  for (const name of ["node-1", "node-2"]) await control.client.create(NODES, { metadata: { name } });

  const list = await door.ask(`${SLICES}?labelSelector=${NOT_MINE}&limit=500&resourceVersion=0`, {
    accept: PROTOBUF_OR_JSON,
  });
  t.match(list, { code: 200, type: "application/json" });
  t.match(list.body, { kind: "EndpointSliceList", apiVersion: "discovery.k8s.io/v1" });
  const names = list.body.items.map((s: Stored) => s.metadata.name);
  t.ok(names.includes("web-1") && !names.includes("headless") && !names.includes("other"), names.join());
  const web = list.body.items.find((s: Stored) => s.metadata.name === "web-1");
  t.strictSame(web.endpoints[0].hints, { forZones: [{ name: "a" }], forNodes: [{ name: "node-1" }] });

  const nodes = await door.ask(
    "/api/v1/nodes?fieldSelector=metadata.name%3Dnode-2&limit=500&resourceVersion=0",
  );
  t.strictSame(
    nodes.body.items.map((n: Stored) => n.metadata.name),
    ["node-2"],
  );
  const one = await door.watch(`/api/v1/nodes?fieldSelector=metadata.name%3Dnode-2&${WATCH_LIST}`, ended);
  t.strictSame(namesOf(one), ["node-2"]);
  t.ok(isEndOfList(one.at(-1)));
  t.match(one.at(-1).object, { kind: "Node", apiVersion: "v1" });

  const streamed = await door.watch(
    `${SLICES}?labelSelector=${NOT_MINE}&${WATCH_LIST}`,
    ended,
    PROTOBUF_OR_JSON,
  );
  t.strictSame(namesOf(streamed), names, "a streamed list is the list");
  const last = streamed.at(-1);
  t.ok(isEndOfList(last) && Number(last.object.metadata.resourceVersion) > 0);
  t.equal(streamed.length, names.length + 1);

  const from = last.object.metadata.resourceVersion;
  const path = `${SLICES}?labelSelector=${NOT_MINE}&watch=true&allowWatchBookmarks=true&resourceVersion=${from}`;
  const changes = door.watch(`${path}&timeoutSeconds=300`, (events) => events.length === 3);
  await door.ask(`${namespaced}/web-1`, {
    method: "PATCH",
    type: "application/merge-patch+json",
    body: { metadata: { labels: { "service.kubernetes.io/service-proxy-name": "mesh" } } },
  });
  await door.ask(`${namespaced}/headless`, {
    method: "PATCH",
    type: "application/merge-patch+json",
    body: { metadata: { labels: { "service.kubernetes.io/headless": null } } },
  });
  await door.ask(`${namespaced}/headless`, { method: "DELETE" });
  t.strictSame(
    (await changes).map((e) => `${e.type} ${e.object.metadata.name}`),
    ["DELETED web-1", "ADDED headless", "DELETED headless"],
  );

  const short = await door.watch(
    `/api/v1/services?watch=true&allowWatchBookmarks=true&timeoutSeconds=1&resourceVersion=${from}`,
    () => false,
  );
  t.equal(short.at(-1)?.type, "BOOKMARK", "ended by the server after timeoutSeconds, with a bookmark");
  t.notOk(short.some(isEndOfList));

  const quiet = await door.watch(
    "/api/v1/nodes?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=1",
    () => false,
  );
  t.strictSame(namesOf(quiet), ["node-1", "node-2"], "without allowWatchBookmarks no bookmark ends the list");
  t.notOk(ended(quiet));
});

t.test("watch parameters that do not go together", async (t) => {
  const { door } = await open(t);
  const table: [string, string][] = [
    [
      "sendInitialEvents=true",
      "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
    ],
    [
      "resourceVersionMatch=NotOlderThan&resourceVersion=1",
      "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
    ],
    [
      "sendInitialEvents=true&resourceVersionMatch=Exact",
      '[resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan, resourceVersionMatch: Unsupported value: "Exact": supported values: "NotOlderThan"]',
    ],
  ];
  for (const [query, text] of table) {
    const { code, body } = await door.ask(`/api/v1/services?watch=true&${query}`);
    t.equal(code, 422, query);
    t.match(body, { reason: "Invalid", message: `ListOptions.meta.k8s.io "" is invalid: ${text}` });
  }
});

t.test("content negotiation: JSON for those who take it, 406 for those who do not", async (t) => {
  const { door } = await open(t);
  for (const path of ["/api/v1/services", `${SLICES}?watch=true`, "/api/v1/namespaces/default"]) {
    const refused = await door.ask(path, { accept: PROTOBUF });
    t.match(refused, { code: 406, type: "application/json" }, path);
    t.match(refused.body, {
      kind: "Status",
      reason: "NotAcceptable",
      message: /only the following media types/,
    });
  }
  const missing = await door.ask("/api/v1/namespaces/default/services/none", { accept: PROTOBUF_FIRST });
  t.match(missing, { code: 404, type: "application/json", body: { kind: "Status", reason: "NotFound" } });

  const as = (kind: string) =>
    `application/vnd.kubernetes.protobuf;as=${kind};g=meta.k8s.io;v=v1,application/json;as=${kind};g=meta.k8s.io;v=v1,application/json`;
  const list = await door.ask("/api/v1/namespaces?limit=500&resourceVersion=0", {
    accept: as("PartialObjectMetadataList"),
  });
  t.match(list.body, { kind: "PartialObjectMetadataList", apiVersion: "meta.k8s.io/v1" });
  t.ok(Number(list.body.metadata.resourceVersion) > 0);
  t.ok(list.body.items.every((i: Json) => i.kind === "PartialObjectMetadata" && !i.spec && i.metadata.uid));
  const got = await door.ask("/api/v1/namespaces/default", { accept: as("PartialObjectMetadata") });
  t.match(got.body, { kind: "PartialObjectMetadata", metadata: { name: "default" } });
  t.notOk(got.body.spec);
  const events = await door.watch(`/api/v1/namespaces?${WATCH_LIST}`, ended, as("PartialObjectMetadata"));
  t.ok(events.every((e) => e.object.kind === "PartialObjectMetadata" && !e.object.spec));
  t.ok(namesOf(events).includes("default"));
  t.ok(isEndOfList(events.at(-1)), "the bookmark keeps its annotation");
});

/** Just enough of the wire format to write what a protobuf client writes: strings, varints, nested messages. */
function message(fields: Record<number, string | number | Buffer>): Buffer {
  const varint = (n: number): number[] => (n < 128 ? [n] : [(n % 128) | 128, ...varint(Math.floor(n / 128))]);
  const parts = Object.entries(fields).map(([number, value]) => {
    const tag = Number(number) * 8;
    if (typeof value === "number") return Buffer.from([...varint(tag), ...varint(value)]);
    const bytes = Buffer.from(value);
    return Buffer.concat([Buffer.from([...varint(tag + 2), ...varint(bytes.length)]), bytes]);
  });
  return Buffer.concat(parts);
}

t.test("Events of events.k8s.io/v1", async (t) => {
  const { door } = await open(t);
  const seconds = Math.floor(Date.now() / 1000);
  // kube-proxy's "Starting", in protobuf as kube-proxy sends it.
  const starting = message({
    1: message({ 1: "node-1.17a", 3: "default" }),
    2: message({ 1: seconds, 2: 5000 }),
    4: "kube-proxy",
    5: "kube-proxy-node-1",
    6: "StartKubeProxy",
    7: "Starting",
    8: message({ 1: "Node", 3: "node-1", 4: "node-1" }),
    10: "",
    11: "Normal",
  });
  const envelope = message({ 1: message({ 1: "events.k8s.io/v1", 2: "Event" }), 2: starting });
  const body = Buffer.concat([Buffer.from("k8s\0"), envelope]);
  const made = await door.ask(EVENTS_V1, { method: "POST", type: PROTOBUF, accept: PROTOBUF_FIRST, body });
  t.equal(made.code, 201, JSON.stringify(made.body));
  t.match(made.body, {
    kind: "Event",
    apiVersion: "events.k8s.io/v1",
    metadata: { name: "node-1.17a", namespace: "default", uid: String },
    regarding: { kind: "Node", name: "node-1" },
    reportingController: "kube-proxy",
    reason: "Starting",
    type: "Normal",
  });
  t.equal(Date.parse(made.body.eventTime), seconds * 1000);

  const core = await door.ask("/api/v1/namespaces/default/events/node-1.17a");
  t.match(core.body, {
    apiVersion: "v1",
    involvedObject: { kind: "Node", name: "node-1" },
    reportingComponent: "kube-proxy",
  });
  t.equal(core.body.metadata.resourceVersion, made.body.metadata.resourceVersion, "one object, two versions");
  t.notOk("regarding" in core.body);

  const series = { series: { count: 2, lastObservedTime: new Date().toISOString().replace("Z", "000Z") } };
  const patched = await door.ask(`${EVENTS_V1}/node-1.17a`, {
    method: "PATCH",
    type: "application/strategic-merge-patch+json",
    accept: PROTOBUF_FIRST,
    body: series,
  });
  t.match(patched, { code: 200, body: { apiVersion: "events.k8s.io/v1", ...series } });
  const changed = await door.ask(`${EVENTS_V1}/node-1.17a`, {
    method: "PATCH",
    type: "application/merge-patch+json",
    body: { note: "no, otherwise" },
  });
  t.match(changed, {
    code: 422,
    body: { message: /message: Invalid value: "no, otherwise": field is immutable/ },
  });

  const bad = await door.ask(EVENTS_V1, {
    method: "POST",
    body: {
      metadata: { name: "bad" },
      series: { count: 1 },
      type: "Odd",
      regarding: { kind: "Node", name: "x" },
    },
  });
  t.equal(bad.code, 422);
  t.strictSame(
    bad.body.details.causes.map((c: Json) => `${c.field}: ${c.message}`),
    [
      "eventTime: Required value",
      "series.count: Invalid value: 1: should be at least 2",
      "series.lastObservedTime: Required value",
      "reportingController: Required value",
      "reportingInstance: Required value",
      "action: Required value",
      "reason: Required value",
      'type: Invalid value: "": has invalid value: Odd',
    ],
  );

  // Written through the old version, seen through the new one: list, selector, watch, table.
  const old = {
    metadata: { name: "old.1" },
    involvedObject: { kind: "Pod", name: "web", namespace: "default" },
    message: "Started",
    source: { component: "kubelet", host: "node-1" },
    count: 3,
    type: "Normal",
  };
  await door.ask("/api/v1/namespaces/default/events", { method: "POST", body: old });
  const pods = await door.ask(`${EVENTS_V1}?fieldSelector=regarding.kind%3DPod`);
  t.match(pods.body, { kind: "EventList", apiVersion: "events.k8s.io/v1", items: { length: 1 } });
  t.match(pods.body.items[0], { regarding: { name: "web" }, note: "Started", deprecatedCount: 3 });
  t.equal((await door.ask(`${EVENTS_V1}?fieldSelector=involvedObject.kind%3DPod`)).code, 400);
  const seen = await door.watch(`${EVENTS_V1}?watch=true&resourceVersion=0`, (events) => events.length === 2);
  t.strictSame(
    seen.map((e) => [e.object.apiVersion, e.object.regarding.name]),
    [
      ["events.k8s.io/v1", "node-1"],
      ["events.k8s.io/v1", "web"],
    ],
  );
  const from = seen.at(-1).object.metadata.resourceVersion;
  const gone = door.watch(
    `${EVENTS_V1}?watch=true&fieldSelector=regarding.kind%3DPod&resourceVersion=${from}`,
    (events) => events.length === 1,
  );
  t.equal((await door.ask(`${EVENTS_V1}/old.1`, { method: "DELETE" })).code, 200);
  t.match(await gone, [{ type: "DELETED", object: { apiVersion: "events.k8s.io/v1", note: "Started" } }]);
  t.equal((await door.ask("/api/v1/namespaces/default/events/old.1")).code, 404);
  const table = await door.ask(EVENTS_V1, { accept: "application/json;as=Table;v=v1;g=meta.k8s.io" });
  t.strictSame(table.body.rows[0].cells.slice(1, 4), ["Normal", "Starting", "node/node-1"]);
});

t.test("a dual-stack control plane, and its state after a restart", async (t) => {
  const dir = tempDir(t);
  const ranges = ["fd00:10:96::/112", "10.96.0.0/16"];
  let { control, door } = await open(t, ranges, dir);
  const own = await door.watch(
    `/api/v1/namespaces/default/services?fieldSelector=metadata.name%3Dkubernetes&watch=true`,
    (events) => events.length > 0,
  );
  t.match(own[0].object.spec, {
    clusterIP: "fd00:10:96::1",
    clusterIPs: { length: 1 },
    ipFamilies: ["IPv6"],
    ipFamilyPolicy: "SingleStack",
  });
  const post = (name: string, spec: object) =>
    door.ask("/api/v1/namespaces/default/services", {
      method: "POST",
      body: { metadata: { name }, spec: { ports: [{ port: 80 }], ...spec } },
    });
  const web = await post("web", { ipFamilyPolicy: "PreferDualStack", type: "LoadBalancer" });
  t.strictSame(web.body.spec.ipFamilies, ["IPv6", "IPv4"]);
  const path = "/api/v1/namespaces/default/services/web";
  const ingress = [{ ip: "192.0.2.1" }, { ip: "192.0.2.2", ipMode: "Proxy" }];
  const reported = await door.ask(`${path}/status`, {
    method: "PATCH",
    type: "application/merge-patch+json",
    body: { status: { loadBalancer: { ingress } } },
  });
  t.strictSame(
    reported.body.status.loadBalancer.ingress.map((i: Json) => i.ipMode),
    ["VIP", "Proxy"],
  );
  t.strictSame(reported.body.spec, web.body.spec, "a report changes nothing else");
  const refused = await post("single", { ipFamilies: ["IPv4", "IPv6"], ipFamilyPolicy: "SingleStack" });
  t.match(refused, {
    code: 422,
    body: {
      message:
        "Service \"single\" is invalid: spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified",
    },
  });
  const dry = await door.ask("/api/v1/namespaces/default/services?dryRun=All", {
    method: "POST",
    body: { metadata: { name: "dry" }, spec: { ports: [{ port: 80 }], clusterIP: "10.96.0.9" } },
  });
  t.strictSame(dry.body.spec.ipFamilies, ["IPv4"]);
  t.equal((await post("taken", { clusterIP: "10.96.0.9" })).code, 201, "a dry run takes nothing");

  await control.close();
  ({ control, door } = await open(t, ranges, dir));
  const ips: string[] = web.body.spec.clusterIPs;
  for (const clusterIP of [...ips, "10.96.0.9", "fd00:10:96::1"]) {
    const { code, body } = await post("thief", { clusterIP });
    t.match([code, body.message], [422, /provided IP is already allocated$/], clusterIP);
  }
  const { nodePort } = web.body.spec.ports[0];
  t.equal((await post("thief", { type: "NodePort", ports: [{ port: 80, nodePort }] })).code, 422);
  await door.ask(path, { method: "DELETE" });
  const heir = { ipFamilyPolicy: "RequireDualStack", clusterIP: ips[0], clusterIPs: ips };
  t.equal((await post("heir", heir)).code, 201, "given back by the delete");
});

t.test("admission: service accounts and priorities of new pods", async (t) => {
  const { control, door } = await open(t);
  const containers = [{ name: "c", image: "i" }];
  const make = (namespace: string, metadata: object, spec: object = {}) =>
    door.ask(`/api/v1/namespaces/${namespace}/pods`, {
      method: "POST",
      body: { metadata, spec: { containers, ...spec } },
    });
  const space = { name: "fresh" };
  await door.ask("/api/v1/namespaces", { method: "POST", body: { metadata: space } });
  const first = await make("fresh", { name: "first" });
  t.match(first, { code: 201, body: { spec: { serviceAccountName: "default", priority: 0 } } }, "at once");

  const refusals: [object, object, string, string][] = [
    [
      { name: "p" },
      { serviceAccountName: "nosuch" },
      "p",
      'error looking up service account default/nosuch: serviceaccount "nosuch" not found',
    ],
    [
      { generateName: "p-" },
      { serviceAccount: "nosuch" },
      "p-",
      'error looking up service account default/nosuch: serviceaccount "nosuch" not found',
    ],
    [{ name: "p" }, { priorityClassName: "foo" }, "p", "no PriorityClass with name foo was found"],
    [
      { name: "p" },
      { priorityClassName: "system-cluster-critical", priority: 7 },
      "p",
      "the integer value of priority (7) must not be provided in pod spec; priority admission controller computed 2000000000 from the given PriorityClass name",
    ],
  ];
  for (const [metadata, spec, name, why] of refusals) {
    const message = `pods "${name}" is forbidden: ${why}`;
    t.match(await make("default", metadata, spec), { code: 403, body: { reason: "Forbidden", message } });
  }
  const critical = await make("default", { name: "c" }, { priorityClassName: "system-node-critical" });
  t.match(critical, { code: 201, body: { spec: { priority: 2_000_001_000 } } });

  const template = { metadata: { labels: { app: "web" } }, spec: { containers, serviceAccountName: "web" } };
  const spec = { replicas: 1, selector: { matchLabels: { app: "web" } }, template };
  await control.client.create(REPLICA_SETS, { metadata: { name: "web", namespace: "default" }, spec });
  const message =
    'Error creating: pods "web-" is forbidden: error looking up service account default/web: serviceaccount "web" not found';
  await eventually("FailedCreate", async () =>
    (await control.client.list(EVENTS)).items.some(
      (e) => e.reason === "FailedCreate" && e.message === message,
    ),
  );
  await control.client.create(SERVICE_ACCOUNTS, { metadata: { name: "web", namespace: "default" } });
  await eventually("the pod", async () =>
    (await control.client.list(PODS)).items.some(({ metadata }) => metadata.name.startsWith("web-")),
  );
});
