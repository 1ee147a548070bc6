// What kube-proxy and any other client-go informer asks of an API server, over HTTP on the control plane's socket:
// lists, watches, content negotiation. The requests are those that client-go sends.

import t from "tap";
import { EVENTS, NODES, PODS, REPLICA_SETS, SERVICE_ACCOUNTS } from "../../common/client.js";
import type { Stored } from "../../common/k8s.js";
import { tempDir } from "../helpers/temp-dir.js";
import { eventually } from "./helpers/local-cluster.js";
import { type Json, open, PROTOBUF, PROTOBUF_FIRST, PROTOBUF_OR_JSON } from "./helpers/served-door.js";

/** kube-proxy's: Services that somebody else serves, and headless ones, are none of its. */
const NOT_MINE = encodeURIComponent(
  "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name",
);
const WATCH_LIST =
  "watch=true&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=300";
const SLICES = "/apis/discovery.k8s.io/v1/endpointslices";

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

t.test("a dual-stack control plane, and its state after a restart", async (t) => {
  const options = { serviceCIDRs: ["fd00:10:96::/112", "10.96.0.0/16"], dir: tempDir(t) };
  let { control, door } = await open(t, options);
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
  ({ control, door } = await open(t, options));
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
