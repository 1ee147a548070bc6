// EndpointSlices and Endpoints: what is planned, as pure functions, and the loops on the real in-process API.

import t from "tap";
import { DEPLOYMENTS, ENDPOINT_SLICES, ENDPOINTS, NODES, PODS, SERVICES } from "../../common/client.js";
import type { EndpointSlice, Pod, Service, Stored } from "../../common/k8s.js";
import { desiredSubsets, EndpointsController } from "../../control/controllers/endpoints.js";
import { EndpointSliceController } from "../../control/controllers/endpointslice.js";
import { planSlices, type SliceChanges } from "../../control/controllers/endpointslice-plan.js";
import { timestamp } from "../../control/controllers/time.js";
import { random } from "../helpers/random.js";
import { running, webDeployment } from "./helpers/all-controllers.js";
import { DEFAULT, makePod, NOW, stored } from "./helpers/controller-objects.js";
import { addNodes, eventually, playKubelets } from "./helpers/local-cluster.js";
import { alone, HOLD, refusal } from "./helpers/one-controller.js";
import { CONTAINERS, LABELS } from "./helpers/workload-objects.js";

const READY = {
  phase: "Running",
  conditions: [{ type: "Ready", status: "True", lastTransitionTime: timestamp(NOW) }],
};

function backend(n: number, fields: { spec?: object; status?: object; metadata?: object } = {}): Stored<Pod> {
  return makePod(`pod-${n}`, {
    spec: {
      nodeName: "n1",
      containers: [{ name: "c", ports: [{ name: "http", containerPort: 8080 }] }],
      ...fields.spec,
    },
    status: { ...READY, podIP: `10.1.${n >> 8}.${n & 255}`, ...fields.status },
    ...(fields.metadata ? { metadata: fields.metadata } : {}),
  });
}

function makeService(spec: object = {}): Stored<Service> {
  return stored("Service", {
    metadata: { name: "web", labels: { team: "a" } },
    spec: {
      clusterIP: "10.96.0.9",
      ipFamilies: ["IPv4"],
      selector: { app: "web" },
      ports: [{ name: "web", port: 80, targetPort: "http", protocol: "TCP" }],
      ...spec,
    },
  }) as unknown as Stored<Service>;
}

let slices = 0;
/** What the API would hold after these changes. */
function applied(existing: Stored<EndpointSlice>[], changes: SliceChanges): Stored<EndpointSlice>[] {
  const updates = new Map(changes.update.map((slice) => [slice.metadata.uid, slice]));
  const gone = new Set(changes.delete.map((slice) => slice.metadata.uid));
  const kept = existing.filter(({ metadata }) => !gone.has(metadata.uid));
  const made = changes.create.map((slice) => {
    slices += 1;
    const metadata = { ...slice.metadata, name: `web-${slices}` };
    return stored("EndpointSlice", { ...slice, metadata }) as unknown as Stored<EndpointSlice>;
  });
  return [...kept.map((slice) => updates.get(slice.metadata.uid) ?? slice), ...made];
}

function plan(service: Stored<Service>, pods: Stored<Pod>[], existing: Stored<EndpointSlice>[]) {
  const cpuRatios = () => undefined;
  return planSlices({ service, pods, existing, zoneOf: () => "z1", triggerTime: NOW, cpuRatios });
}

const writes = (changes: SliceChanges) => [
  changes.create.length,
  changes.update.length,
  changes.delete.length,
];

t.test("endpointslice: the fewest writes", async (t) => {
  const service = makeService();
  const pods = Array.from({ length: 250 }, (_, n) => backend(n));
  const first = plan(service, pods, []);
  t.same(
    first.create.map(({ endpoints }) => endpoints.length),
    [100, 100, 50],
  );
  let existing = applied([], first);
  t.same(writes(plan(service, pods, existing)), [0, 0, 0], "nothing to do is nothing done");

  const notReady = backend(7, { status: { conditions: [{ type: "Ready", status: "False" }] } });
  const changed = pods.map((pod, n) =>
    n === 7 ? ({ ...notReady, metadata: pod.metadata } as Stored<Pod>) : pod,
  );
  const second = plan(service, changed, existing);
  t.same(writes(second), [0, 1, 0], "one endpoint, one slice");
  const touched = second.update[0]?.endpoints.find(({ targetRef }) => targetRef?.name === "pod-7");
  t.same(touched?.conditions, { ready: false, serving: false, terminating: false });

  t.same(writes(plan(service, pods.slice(1), existing)), [0, 1, 0], "one fewer");
  const oneMore = plan(service, [...pods, backend(250)], existing);
  t.same(writes(oneMore), [0, 1, 0], "one more goes where there is room");
  t.equal(oneMore.update[0]?.endpoints.length, 51);
  const manyMore = plan(
    service,
    [...pods, ...Array.from({ length: 60 }, (_, n) => backend(300 + n))],
    existing,
  );
  t.same(writes(manyMore), [1, 0, 0], "what does not fit whole into an old one gets a new one");
  const swapped = plan(service, [...pods.slice(1), backend(251)], existing);
  t.same(writes(swapped), [0, 1, 0], "a new one takes the place of one that left");

  const none = plan(service, [], existing);
  t.same(writes(none), [0, 1, 2], "the placeholder is one of the old ones");
  existing = applied(existing, none);
  t.same(
    existing.map(({ endpoints, ports }) => [endpoints.length, (ports ?? []).length]),
    [[0, 0]],
  );
  t.same(writes(plan(service, [], existing)), [0, 0, 0]);
  t.same(writes(plan(service, pods.slice(0, 3), existing)), [0, 1, 0], "and becomes a slice again");
  t.same(writes(plan(service, [], [])), [1, 0, 0], "a Service without endpoints has one empty slice");
});

t.test("endpointslice: the same set of endpoints after any series of changes", async (t) => {
  const pick = random(7);
  const service = makeService();
  let existing: Stored<EndpointSlice>[] = [];
  let pods: Stored<Pod>[] = [];
  for (let step = 0; step < 60; step++) {
    const removed = pick(60);
    pods = pods.filter(() => pick(100) > removed);
    for (let add = pick(120); add > 0; add--) pods.push(backend(1000 + step * 200 + add));
    existing = applied(existing, plan(service, pods, existing));
    const names = existing.flatMap(({ endpoints }) => endpoints.map(({ targetRef }) => targetRef?.name));
    t.same(names.sort(), pods.map((pod) => pod.metadata.name).sort());
    t.ok(existing.every(({ endpoints }) => endpoints.length <= 100));
  }
});

t.test("endpointslice: contents", async (t) => {
  const [slice] = plan(makeService(), [backend(1)], []).create;
  t.match(slice, {
    metadata: {
      generateName: "web-",
      labels: {
        team: "a",
        "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
      },
      annotations: { "endpoints.kubernetes.io/last-change-trigger-time": "2026-03-01T12:00:00Z" },
      ownerReferences: [{ kind: "Service", name: "web", controller: true, blockOwnerDeletion: true }],
    },
    addressType: "IPv4",
    ports: [{ name: "web", port: 8080, protocol: "TCP" }],
    endpoints: [
      {
        addresses: ["10.1.0.1"],
        conditions: { ready: true, serving: true, terminating: false },
        nodeName: "n1",
        zone: "z1",
        targetRef: { kind: "Pod", namespace: "default", name: "pod-1" },
      },
    ],
  });
  t.notOk(slice?.endpoints[0]?.hints);
  const hinted = plan(makeService({ trafficDistribution: "PreferClose" }), [backend(1)], []).create[0];
  t.same(hinted?.endpoints[0]?.hints, { forZones: [{ name: "z1" }] });

  const going = backend(2, { metadata: { deletionTimestamp: timestamp(NOW) } });
  const starting = backend(3, { status: { conditions: [] } });
  const done = backend(4, { status: { phase: "Succeeded" } });
  const addressless = backend(5, { status: { podIP: undefined } });
  const conditions = (service: Stored<Service>) =>
    Object.fromEntries(
      plan(service, [going, starting, done, addressless], []).create.flatMap(({ endpoints }) =>
        endpoints.map(({ targetRef, conditions }) => [targetRef?.name, conditions]),
      ),
    );
  t.same(conditions(makeService()), {
    "pod-2": { ready: false, serving: true, terminating: true },
    "pod-3": { ready: false, serving: false, terminating: false },
  });
  t.same(conditions(makeService({ publishNotReadyAddresses: true })), {
    "pod-2": { ready: true, serving: true, terminating: true },
    "pod-3": { ready: true, serving: false, terminating: false },
  });

  const other = backend(6, {
    spec: { containers: [{ name: "c", ports: [{ name: "http", containerPort: 9090 }] }] },
  });
  const named = plan(makeService(), [backend(1), other], []).create;
  t.same(
    named.map(({ ports }) => ports?.[0]?.port).sort(),
    [8080, 9090],
    "port sets have slices of their own",
  );

  const headless = plan(makeService({ clusterIP: "None" }), [backend(1)], []).create[0];
  t.equal(headless?.metadata?.labels?.["service.kubernetes.io/headless"], "");
  const named1 = backend(8, { spec: { hostname: "db-0", subdomain: "web" } });
  t.equal(plan(makeService(), [named1], []).create[0]?.endpoints[0]?.hostname, "db-0");
  const unknown = planSlices({
    service: makeService(),
    pods: [backend(1)],
    existing: [],
    zoneOf: () => undefined,
    triggerTime: undefined,
    cpuRatios: () => undefined,
  });
  t.same(unknown.create[0]?.endpoints, [], "a pod on a node that is gone is no endpoint");
});

t.test("endpoints: subsets and capacity", async (t) => {
  const starting = backend(2, { status: { conditions: [] } });
  const { subsets, truncated } = desiredSubsets(makeService(), [backend(1), starting]);
  t.equal(truncated, false);
  t.match(subsets, [
    {
      addresses: [{ ip: "10.1.0.1", nodeName: "n1", targetRef: { kind: "Pod", name: "pod-1" } }],
      notReadyAddresses: [{ ip: "10.1.0.2" }],
      ports: [{ name: "web", port: 8080, protocol: "TCP" }],
    },
  ]);
  t.same(desiredSubsets(makeService(), []).subsets, []);
  const without = backend(3, { spec: { containers: [{ name: "c" }] } });
  t.same(desiredSubsets(makeService(), [without]).subsets, [], "none of the ports is a port of the pod");
  const portless = desiredSubsets(makeService({ clusterIP: "None", ports: [] }), [without]).subsets;
  t.match(portless, [{ addresses: [{ ip: "10.1.0.3" }] }], "a headless Service needs no ports");
  const many = Array.from({ length: 1001 }, (_, n) =>
    backend(n, n === 0 ? { status: { conditions: [] } } : {}),
  );
  const full = desiredSubsets(makeService(), many);
  t.equal(full.truncated, true);
  t.equal(full.subsets[0]?.addresses?.length, 1000);
  t.notOk(full.subsets[0]?.notReadyAddresses, "those that do not work are the ones left out");
});

t.test("endpoints follow pods: only touched slices are written", async (t) => {
  const { client, informers } = await running(t);
  const became = new Map<string, () => Promise<void>>();
  t.teardown(playKubelets(client, informers, (pod, ready) => void became.set(pod.metadata.name, ready)));
  await client.create(SERVICES, {
    metadata: { name: "web", namespace: "default" },
    spec: { selector: { app: "web" }, ports: [{ port: 80 }] },
  });
  await client.create(DEPLOYMENTS, webDeployment({ replicas: 120 }));
  const list = async () =>
    (await client.list(ENDPOINT_SLICES, { labelSelector: "kubernetes.io/service-name=web" })).items;
  await eventually(
    "120 endpoints",
    async () => (await list()).flatMap(({ endpoints }) => endpoints).length === 120,
  );
  const before = new Map((await list()).map(({ metadata }) => [metadata.name, metadata.resourceVersion]));
  t.equal(before.size, 2, "two slices");
  const [name, ready] = [...became][0] ?? [];
  await ready?.();
  const after = await eventually("one endpoint is ready", async () => {
    const items = await list();
    return items.some(({ endpoints }) => endpoints.some(({ conditions }) => conditions?.ready)) && items;
  });
  const touched = after.filter(({ metadata }) => before.get(metadata.name) !== metadata.resourceVersion);
  t.equal(touched.length, 1);
  t.ok(
    touched[0]?.endpoints.some(({ targetRef, conditions }) => targetRef?.name === name && conditions?.ready),
  );
  t.ok(touched[0]?.metadata.annotations?.["endpoints.kubernetes.io/last-change-trigger-time"]);
});

const SERVICE = {
  metadata: { name: "web", ...DEFAULT },
  spec: { selector: LABELS, ports: [{ port: 80 }] },
};

t.test("endpoints and slices: what others change, and what goes with the Service", async (t) => {
  const { client, context, informers, start, queued, cached, gone } = await alone(t);
  await start(
    queued((queue) => new EndpointsController(context, queue)),
    queued((queue) => new EndpointSliceController(context, queue)),
  );
  t.teardown(playKubelets(client, informers));
  await addNodes(client, 1);
  const spec = { nodeName: "node-1", containers: CONTAINERS };
  for (const name of ["a", "b"]) {
    await client.create(PODS, { metadata: { name, ...DEFAULT, labels: LABELS }, spec });
  }
  await client.create(SERVICES, SERVICE);
  const slices = async () =>
    (await client.list(ENDPOINT_SLICES, { labelSelector: "kubernetes.io/service-name=web" })).items;
  const pods = (count: number) =>
    eventually(`${count} in both`, async () => {
      const endpoints = await client.get(ENDPOINTS, "web", "default").catch(() => undefined);
      const ready = (await slices()).flatMap((slice) =>
        slice.endpoints.filter((one) => one.conditions?.ready),
      );
      return (endpoints?.subsets?.[0]?.addresses ?? []).length === count && ready.length === count;
    });
  await pods(2);
  const { metadata } = await client.get(ENDPOINTS, "web", "default");
  t.ok(metadata.annotations?.["endpoints.kubernetes.io/last-change-trigger-time"]);
  await client.patch(ENDPOINTS, "web", "merge", { subsets: [] }, DEFAULT);
  await pods(2);
  for (const slice of await slices()) await client.delete(ENDPOINT_SLICES, slice.metadata.name, DEFAULT);
  await pods(2);
  const [slice] = await slices();
  const held = slice?.metadata.name ?? "";
  await client.patch(ENDPOINT_SLICES, held, "merge", { metadata: { finalizers: [HOLD] } }, DEFAULT);
  await client.delete(ENDPOINT_SLICES, held, DEFAULT);
  await eventually("one in its place", async () => (await slices()).length === 2);
  await client.patch(ENDPOINT_SLICES, held, "merge", { metadata: { finalizers: null } }, DEFAULT);
  await pods(2);
  await client.patch(PODS, "b", "merge", { metadata: { labels: { app: "other" } } }, DEFAULT);
  await pods(1);
  const zone = { metadata: { labels: { "topology.kubernetes.io/zone": "z9" } } };
  await client.patch(NODES, "node-1", "merge", zone);
  await eventually("the zone", async () => (await slices())[0]?.endpoints[0]?.zone === "z9");
  await client.patch(SERVICES, "web", "merge", { metadata: { labels: { team: "a" } } }, DEFAULT);
  await eventually("the label", async () => {
    const endpoints = await client.get(ENDPOINTS, "web", "default");
    return endpoints.metadata.labels?.team === "a" && (await slices())[0]?.metadata.labels?.team === "a";
  });
  const leftover = {
    metadata: { name: "extra", ...DEFAULT, labels: (await slices())[0]?.metadata.labels ?? {} },
  };
  await client.create(ENDPOINT_SLICES, { ...leftover, addressType: "IPv6", endpoints: [] });
  await gone(ENDPOINT_SLICES, "extra", "default");

  const subsets = [{ addresses: [{ ip: "192.0.2.1" }], ports: [{ port: 80 }] }];
  await client.create(SERVICES, {
    metadata: { name: "manual", ...DEFAULT },
    spec: { ports: [{ port: 80 }] },
  });
  for (const name of ["manual", "lonely"]) {
    await cached(ENDPOINTS, await client.create(ENDPOINTS, { metadata: { name, ...DEFAULT }, subsets }));
  }
  for (const name of ["manual", "web"]) {
    await client.delete(SERVICES, name, DEFAULT);
    await gone(ENDPOINTS, name, "default");
  }
  t.ok(await client.get(ENDPOINTS, "lonely", "default"), "not ours, and never had a Service");
  await client.patch(
    ENDPOINTS,
    "lonely",
    "merge",
    {
      metadata: { labels: { "endpoints.kubernetes.io/managed-by": "endpoint-controller" } },
    },
    DEFAULT,
  );
  await gone(ENDPOINTS, "lonely", "default");
});

t.test("endpoints: more pods than one object holds", async (t) => {
  const { client, context, start, queued } = await alone(t);
  const options = { ...DEFAULT, subresource: "status" as const };
  for (let n = 0; n < 1001; n++) {
    const name = `pod-${n}`;
    await client.create(PODS, {
      metadata: { name, ...DEFAULT, labels: LABELS },
      spec: { containers: CONTAINERS },
    });
    const podIPs = [{ ip: `10.1.${n >> 8}.${n & 255}` }];
    await client.patch(PODS, name, "strategic", { status: { podIPs } }, options);
  }
  await client.create(SERVICES, SERVICE);
  await start(queued((queue) => new EndpointsController(context, queue)));
  const mark = async () =>
    (await client.get(ENDPOINTS, "web", "default").catch(() => undefined))?.metadata.annotations?.[
      "endpoints.kubernetes.io/over-capacity"
    ];
  await eventually("marked", async () => (await mark()) === "truncated");
  await client.delete(PODS, "pod-0", { ...DEFAULT, gracePeriodSeconds: 0 });
  await eventually("not any more", async () => (await mark()) === undefined);
});

t.test("endpoints and slices: refused ones are told", async (t) => {
  const { client, context, start, queued, told } = await alone(t, () => ({
    create: () => Promise.reject(refusal()),
  }));
  await start(
    queued((queue) => new EndpointsController(context, queue)),
    queued((queue) => new EndpointSliceController(context, queue)),
  );
  await client.create(SERVICES, SERVICE);
  await told(/^FailedToUpdateEndpoint: Failed to update endpoint default\/web: not today$/);
  const text = "Error updating Endpoint Slices for Service default/web: not today";
  await told(new RegExp(`^FailedToUpdateEndpointSlices: ${text}$`));
});
