// EndpointSlices by family and their hints: what is planned (pure), and the controllers on the real API of a
// dual-stack cluster.

import t from "tap";
import { ENDPOINT_SLICES, ENDPOINTS, EVENTS, NODES, PODS, SERVICES } from "../../common/client.js";
import type {
  Endpoint,
  EndpointHints,
  EndpointSlice,
  EndpointSubset,
  Endpoints,
  Node,
  Pod,
  Service,
  Stored,
} from "../../common/k8s.js";
import { hintSlices, hintsEvents } from "../../control/controllers/endpointslice-hints.js";
import { planSlices, type SliceChanges } from "../../control/controllers/endpointslice-plan.js";
import { isMirrored, planMirror } from "../../control/controllers/endpointslicemirroring-plan.js";
import { startControllers } from "../../control/controllers/index.js";
import {
  addZoneHints,
  type CpuRatios,
  cpuRatios,
  type SliceDraft,
} from "../../control/controllers/topology-hints.js";
import { eventually, openLocalApi, readyNode } from "./helpers/local-cluster.js";

const ZONE = "topology.kubernetes.io/zone";
const MIRROR = "endpointslicemirroring-controller.k8s.io";
const AUTO = { "service.kubernetes.io/topology-mode": "Auto" };

function node(name: string, zone: string | undefined, cpu: string, ready = "True"): Stored<Node> {
  const labels: Record<string, string> = zone ? { [ZONE]: zone } : {};
  return {
    apiVersion: "v1",
    kind: "Node",
    metadata: { name, uid: name, resourceVersion: "1", creationTimestamp: "", labels },
    status: { allocatable: { cpu }, conditions: [{ type: "Ready", status: ready }] },
  };
}

t.test("CPU of the zones", async (t) => {
  const ratios = cpuRatios([node("1", "a", "2"), node("2", "a", "1500m"), node("3", "b", "500m")]);
  t.same(ratios, new Map(Object.entries({ a: 3.5 / 4, b: 0.5 / 4 })));
  const control = node("c", undefined, "8");
  control.metadata.labels = { "node-role.kubernetes.io/control-plane": "" };
  const broken = node("4", "c", "8", "Unknown");
  t.same(
    cpuRatios([node("1", "a", "1"), node("2", "b", "1"), control, broken]),
    new Map(Object.entries({ a: 0.5, b: 0.5 })),
    "neither the control plane nor a node that is not Ready counts",
  );
  for (const [name, nodes] of Object.entries({
    "one zone": [node("1", "a", "1"), node("2", "a", "1")],
    "a node without a zone": [node("1", "a", "1"), node("2", "b", "1"), node("3", undefined, "1")],
    "a node without CPU": [node("1", "a", "1"), node("2", "b", "0")],
    none: [],
  }))
    t.equal(cpuRatios(nodes), undefined, name);
});

/** "aab": three ready endpoints in these zones; "-" has none, upper case is not ready. */
function draft(zones: string, changed = true): SliceDraft {
  const endpoints = [...zones].map((zone, i): Endpoint => {
    const ready = zone === zone.toLowerCase();
    return {
      addresses: [`10.1.0.${i}`],
      conditions: { ready },
      nodeName: `node-${zone}`,
      ...(zone === "-" ? {} : { zone: zone.toLowerCase() }),
    };
  });
  return { endpoints, changed };
}

const hintsOf = ({ endpoints }: SliceDraft) =>
  endpoints.map(({ hints }) => hints?.forZones?.map(({ name }) => name).join("+") ?? ".").join("");

const even = (...zones: string[]): CpuRatios => new Map(zones.map((zone) => [zone, 1 / zones.length]));

t.test("hints in proportion to CPU", async (t) => {
  const table: [string, CpuRatios, string, string][] = [
    ["own zones where they fit", even("a", "b"), "aabb", "aabb"],
    ["one moves", even("a", "b"), "aaab", "baab"],
    ["who is not ready neither counts nor is hinted", even("a", "b"), "aaAbb", "aa.bb"],
    ["two of three zones have none", even("a", "b", "c"), "aaaaaa", "bcbcaa"],
    [
      "more CPU, more endpoints",
      new Map([
        ["a", 0.75],
        ["b", 0.25],
      ]),
      "bbbb",
      "aaab",
    ],
    [
      "less than one on both sides is left",
      new Map([
        ["a", 0.57],
        ["b", 0.43],
      ]),
      "aaaaabbbbb",
      "aaaaabbbbb",
    ],
    [
      "nobody gives half an endpoint or less",
      new Map(["a", "b", "c", "d"].map((zone) => [zone, zone === "a" ? 0.31 : 0.23])),
      "aaaaabbbbbcccccddddd",
      "aaaaabbbbbcccccddddd",
    ],
    ["a little out of proportion is left", even("a", "b", "c"), "aaaabbbccc", "aaaabbbccc"],
  ];
  for (const [name, ratios, zones, wanted] of table) {
    const slice = draft(zones);
    t.equal(addZoneHints([slice], ratios), undefined, name);
    t.equal(hintsOf(slice), wanted, name);
  }
  const refusals: [CpuRatios, string, string][] = [
    [
      undefined,
      "ab",
      "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes",
    ],
    [even("a", "b", "c"), "ab", "Insufficient number of endpoints (2 endpoints, 3 zones)"],
    [
      even("a", "b"),
      "aab",
      "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold (3 endpoints, 2 zones)",
    ],
    [even("a", "b"), "aab-", "One or more endpoints do not have a zone specified"],
  ];
  for (const [ratios, zones, text] of refusals) {
    const slice = draft(zones);
    t.equal(addZoneHints([slice], ratios), text);
    t.equal(hintsOf(slice), ".".repeat(zones.length));
  }
});

t.test("hints in proportion to CPU: an unchanged slice is written only when it must be", async (t) => {
  const settled = () => {
    const slice = draft("aabb");
    addZoneHints([slice], even("a", "b"));
    return { ...slice, changed: false };
  };
  const kept = settled();
  const more = draft("aaaa");
  t.equal(addZoneHints([more, kept], even("a", "b")), undefined);
  t.equal(kept.changed, false);
  t.equal(hintsOf(more), "bbaa", "what is free makes up for it");

  const gone = { ...draft("aaab"), changed: true };
  addZoneHints([gone], even("a", "b"));
  t.equal(hintsOf(gone), "baab");
  gone.changed = false;
  addZoneHints([gone], even("a", "c"));
  t.ok(gone.changed, "hints for a zone that has no share any more");
  t.equal(hintsOf(gone), "caab");
  const missing = { ...draft("aabb"), changed: false };
  addZoneHints([missing], even("a", "b"));
  t.equal(missing.changed, true, "no hints yet");
  const heavy = settled();
  addZoneHints(
    [heavy],
    new Map([
      ["a", 0.75],
      ["b", 0.25],
    ]),
  );
  t.equal(heavy.changed, true, "more than the zone may have");
  t.equal(hintsOf(heavy), "aaab");
});

t.test("hints in proportion to CPU: whatever comes, shares are kept, and it comes to rest", async (t) => {
  let state = 20261121;
  const random = (below: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  let hinted = 0;
  for (let round = 0; round < 2000; round++) {
    const zones = ["a", "b", "c", "d"].slice(0, 2 + random(3));
    const cpus = zones.map(() => 1 + random(8));
    const total = cpus.reduce((x, y) => x + y);
    const ratios = new Map(zones.map((zone, i) => [zone, (cpus[i] ?? 0) / total]));
    const text = () => Array.from({ length: random(30) }, () => zones[random(zones.length)]).join("");
    const drafts = [draft(text()), draft(text())];
    const count = drafts.flatMap(({ endpoints }) => endpoints).length;
    if (addZoneHints(drafts, ratios)) continue;
    hinted++;
    const given = drafts.map(hintsOf).join("");
    for (const [zone, ratio] of ratios) {
      const n = [...given].filter((z) => z === zone).length;
      const minimum = Math.ceil((ratio * count) / 1.2);
      if (n < minimum - 1) return t.fail(`${zone} has ${n} of ${count}, not ${minimum}`, { ratios, given });
    }
    let changing = true;
    for (let look = 0; changing && look < 5; look++) {
      for (const slice of drafts) slice.changed = false;
      addZoneHints(drafts, ratios);
      changing = drafts.some(({ changed }) => changed);
    }
    if (changing) return t.fail("hints go to and fro", { ratios, given, now: drafts.map(hintsOf) });
  }
  t.ok(hinted > 500, `${hinted} allocations`);
});

function service(spec: object = {}, annotations: Record<string, string> = {}): Stored<Service> {
  return {
    apiVersion: "v1",
    kind: "Service",
    metadata: {
      name: "web",
      namespace: "default",
      uid: "s",
      resourceVersion: "1",
      creationTimestamp: "",
      annotations,
    },
    spec: {
      clusterIP: "10.96.0.9",
      ipFamilies: ["IPv4"],
      selector: { app: "web" },
      ports: [{ port: 80, targetPort: 8080 }],
      ...spec,
    },
  };
}

t.test("hints of spec.trafficDistribution, and of both", async (t) => {
  const hints = (
    s: Stored<Service>,
    zones: string,
    ratios: CpuRatios = undefined,
  ): (EndpointHints | undefined)[] => {
    const slice = draft(zones);
    hintSlices(s, [slice], () => ratios);
    return slice.endpoints.map((e) => e.hints);
  };
  const byZone = { forZones: [{ name: "a" }] };
  for (const trafficDistribution of ["PreferClose", "PreferSameZone"])
    t.strictSame(
      hints(service({ trafficDistribution }), "aA-"),
      [byZone, undefined, undefined],
      trafficDistribution,
    );
  t.strictSame(hints(service({ trafficDistribution: "PreferSameNode" }), "aA-"), [
    { ...byZone, forNodes: [{ name: "node-a" }] },
    undefined,
    { forNodes: [{ name: "node--" }] },
  ]);
  t.strictSame(hints(service(), "a"), [undefined]);
  const both = service({ trafficDistribution: "PreferSameNode" }, AUTO);
  t.strictSame(
    hints(both, "ab", even("a", "b")),
    [byZone, { forZones: [{ name: "b" }] }],
    "the annotation wins",
  );
  t.strictSame(hints(both, "ab"), [undefined, undefined], "even when it cannot be done");
  const older = { ...AUTO, "service.kubernetes.io/topology-aware-hints": "Disabled" };
  t.strictSame(
    hints(service({}, older), "ab", even("a", "b")),
    [undefined, undefined],
    "the older name counts more",
  );

  const texts = (s: Stored<Service>, had: boolean, problems: Record<string, string | undefined>) =>
    hintsEvents(s, had, new Map(Object.entries(problems))).map(
      ({ type, reason, message }) => `${type} ${reason} ${message}`,
    );
  const auto = service({}, AUTO);
  t.strictSame(texts(auto, false, { IPv4: undefined, IPv6: undefined }), [
    "Normal TopologyAwareHintsEnabled Topology Aware Hints has been enabled, addressType: IPv4",
  ]);
  t.strictSame(texts(auto, true, { IPv4: undefined }), []);
  t.strictSame(texts(auto, true, { IPv4: "Why" }), [
    "Warning TopologyAwareHintsDisabled Why, addressType: IPv4",
  ]);
  t.strictSame(texts(service(), true, { IPv6: undefined }), [
    "Warning TopologyAwareHintsDisabled Topology Aware Hints configuration was disabled, addressType: IPv6",
  ]);
  t.strictSame(texts(service(), false, { IPv4: undefined }), []);
});

function pod(n: number, podIPs: string[], nodeName: string): Stored<Pod> {
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: {
      name: `p${n}`,
      namespace: "default",
      uid: `p${n}`,
      resourceVersion: "1",
      creationTimestamp: "",
      labels: { app: "web" },
    },
    spec: { nodeName, containers: [{ name: "c" }] },
    status: {
      phase: "Running",
      podIP: podIPs[0],
      podIPs: podIPs.map((ip) => ({ ip })),
      conditions: [{ type: "Ready", status: "True" }],
    },
  };
}

t.test("slices by family", async (t) => {
  const plan = (
    s: Stored<Service>,
    pods: Stored<Pod>[],
    existing: Stored<EndpointSlice>[] = [],
    ratios?: CpuRatios,
  ) =>
    planSlices({
      service: s,
      pods,
      existing,
      zoneOf: (name) => name.slice(-1),
      triggerTime: undefined,
      cpuRatios: () => ratios,
    });
  let made = 0;
  const held = (existing: Stored<EndpointSlice>[], { create, update, delete: gone }: SliceChanges) => [
    ...existing
      .filter((s) => !gone.includes(s))
      .map((s) => update.find((u) => u.metadata.uid === s.metadata.uid) ?? s),
    ...create.map((s) => {
      const id = `web-${++made}`;
      return { ...s, metadata: { ...s.metadata, name: id, uid: id } } as unknown as Stored<EndpointSlice>;
    }),
  ];
  const shown = (slices: readonly EndpointSlice[] | readonly Stored<EndpointSlice>[]) =>
    slices.map((s) => `${s.addressType} ${(s.endpoints ?? []).flatMap((e) => e.addresses).join()}`).sort();
  const pods = [
    pod(1, ["10.1.0.1", "fd00::1"], "n-a"),
    pod(2, ["fd00::2", "10.1.0.2"], "n-b"),
    pod(3, ["10.1.0.3"], "n-a"),
  ];
  const dual = service({ ipFamilies: ["IPv6", "IPv4"] });
  let existing = held([], plan(dual, pods));
  t.strictSame(shown(existing), ["IPv4 10.1.0.1,10.1.0.2,10.1.0.3", "IPv6 fd00::1,fd00::2"]);
  const single = plan(service(), pods, existing);
  t.strictSame(
    [single.create.length, single.update.length, shown(single.delete)],
    [0, 0, ["IPv6 fd00::1,fd00::2"]],
  );
  const moved = plan(dual, [pod(1, ["10.1.0.1", "fd00::9"], "n-a"), ...pods.slice(1)], existing);
  t.strictSame(shown(moved.update), ["IPv6 fd00::2,fd00::9"], "the other family is not written");
  const none = plan(dual, [pod(3, ["10.1.0.3"], "n-a")]);
  t.strictSame(
    shown(none.create),
    ["IPv4 10.1.0.3", "IPv6 "],
    "a family without endpoints has its empty slice",
  );

  const counts = (c: SliceChanges) => [c.create.length, c.update.length, c.delete.length];
  const near = service({ ipFamilies: ["IPv6", "IPv4"], trafficDistribution: "PreferSameNode" });
  const change = plan(near, pods, existing);
  t.strictSame(counts(change), [0, 2, 0]);
  existing = held(existing, change);
  t.strictSame(existing[0]?.endpoints[0]?.hints, {
    forZones: [{ name: "a" }],
    forNodes: [{ name: "n-a" }],
  } as EndpointHints);
  t.strictSame(counts(plan(near, pods, existing)), [0, 0, 0], "nothing to do is nothing done");
  const auto = service({ ipFamilies: ["IPv6", "IPv4"] }, AUTO);
  const proportional = plan(auto, pods, existing, even("a", "b"));
  t.strictSame(
    [...proportional.hintProblems],
    [
      ["IPv6", undefined],
      [
        "IPv4",
        "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold (3 endpoints, 2 zones)",
      ],
    ],
  );
  const after = held(existing, proportional);
  t.strictSame(
    after.map(({ addressType, endpoints }) => [
      addressType,
      endpoints.map((e) => e.hints?.forZones?.[0]?.name),
    ]),
    [
      ["IPv6", ["a", "b"]],
      ["IPv4", [undefined, undefined, undefined]],
    ],
  );
  t.strictSame(counts(plan(auto, pods, after, even("a", "b"))), [0, 0, 0]);
  const back = plan(dual, pods, after);
  t.strictSame(counts(back), [0, 1, 0], "hints go when nothing asks for them");
  t.ok(back.update[0]?.endpoints.every((e) => !("hints" in e)));
});

function handmade(subsets: EndpointSubset[], more: Partial<Stored["metadata"]> = {}): Stored<Endpoints> {
  const metadata = { name: "web", namespace: "default", uid: "e1", resourceVersion: "1", ...more };
  return { apiVersion: "v1", kind: "Endpoints", metadata: { creationTimestamp: "", ...metadata }, subsets };
}

const storedAs = (slice: EndpointSlice, name: string) =>
  ({ ...slice, metadata: { ...slice.metadata, name, uid: name } }) as Stored<EndpointSlice>;

t.test("mirrored Endpoints: what is planned", async (t) => {
  const targetRef = { kind: "Pod", name: "p", uid: "p1" };
  const plan = planMirror(
    handmade(
      [
        {
          addresses: [
            { ip: "192.0.2.2", nodeName: "node-1", targetRef },
            { ip: "fd00::1" },
            { ip: "192.0.2.1" },
          ],
          notReadyAddresses: [{ ip: "192.0.2.3", hostname: "three" }],
          ports: [{ name: "http", port: 80, protocol: "TCP", appProtocol: "http" }],
        },
        { addresses: [{ ip: "192.0.2.1" }], ports: [{ name: "dns", port: 53, protocol: "UDP" }] },
        // Both ready and not on the same port: not.
        {
          notReadyAddresses: [{ ip: "192.0.2.2", targetRef }],
          ports: [{ name: "http", port: 80, appProtocol: "http" }],
        },
        { addresses: [{ ip: "nonsense" }] },
      ],
      {
        labels: { team: "a", "endpointslice.kubernetes.io/managed-by": "me" },
        annotations: {
          note: "n",
          "endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z",
          "kubectl.kubernetes.io/last-applied-configuration": "{}",
        },
      },
    ),
    [],
  );
  t.match(plan, { update: [], delete: [], invalid: 1, skipped: 0 });
  t.strictSame(plan.create[0]?.metadata, {
    generateName: "web-",
    namespace: "default",
    labels: {
      team: "a",
      "kubernetes.io/service-name": "web",
      "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io",
    },
    annotations: { note: "n" },
    ownerReferences: [
      {
        apiVersion: "v1",
        kind: "Endpoints",
        name: "web",
        uid: "e1",
        controller: true,
        blockOwnerDeletion: true,
      },
    ],
  });
  const http = { name: "http", port: 80, protocol: "TCP", appProtocol: "http" };
  const dns = { name: "dns", port: 53, protocol: "UDP" };
  t.strictSame(
    plan.create.map(({ addressType, ports, endpoints }) => ({ addressType, ports, endpoints })),
    [
      {
        addressType: "IPv6",
        ports: [http],
        endpoints: [{ addresses: ["fd00::1"], conditions: { ready: true } }],
      },
      {
        addressType: "IPv4",
        ports: [http],
        endpoints: [
          { addresses: ["192.0.2.2"], conditions: { ready: false }, nodeName: "node-1", targetRef },
          { addresses: ["192.0.2.3"], conditions: { ready: false }, hostname: "three" },
        ],
      },
      {
        addressType: "IPv4",
        ports: [http, dns],
        endpoints: [{ addresses: ["192.0.2.1"], conditions: { ready: true } }],
      },
    ],
  );

  const one = (ip: string, port = 80): EndpointSubset[] => [{ addresses: [{ ip }], ports: [{ port }] }];
  const [made] = planMirror(handmade(one("192.0.2.1")), []).create;
  const slice = storedAs(made as EndpointSlice, "web-a");
  const nothing = { create: [], update: [], delete: [] };
  t.match(planMirror(handmade(one("192.0.2.1")), [slice]), nothing, "what is right stays");
  const again = planMirror(handmade(one("192.0.2.1"), { uid: "e2" }), [slice]);
  t.match(again.update, [{ metadata: { name: "web-a", ownerReferences: [{ uid: "e2" }] } }], "made anew");
  const twin = storedAs(made as EndpointSlice, "web-b");
  t.match(planMirror(handmade(one("192.0.2.1")), [slice, twin]).delete, [{ metadata: { name: "web-b" } }]);
  const moved = planMirror(handmade(one("192.0.2.1", 81)), [slice]);
  t.match(
    moved,
    { ...nothing, update: [{ metadata: { name: "web-a" }, ports: [{ port: 81 }] }] },
    "used again",
  );
  const other = planMirror(handmade(one("fd00::1")), [slice]);
  t.match(other, { create: [{ addressType: "IPv6" }], update: [], delete: [{ addressType: "IPv4" }] });
  const going = handmade(one("fd00::1"), { deletionTimestamp: "2026-01-01T00:00:00Z" });
  t.match(planMirror(going, [slice]), { create: [], update: [], delete: [{}] });

  const many = Array.from({ length: 1002 }, (_, n) => ({ ip: `10.1.${n >> 8}.${n & 255}` }));
  const limited = planMirror(
    handmade([{ addresses: many.slice(2), notReadyAddresses: many.slice(0, 2) }]),
    [],
  );
  t.equal(limited.create[0]?.endpoints.length, 1000);
  t.ok(
    limited.create[0]?.endpoints.every(({ conditions }) => conditions?.ready),
    "ready ones first",
  );
  t.equal(limited.skipped, 2);

  t.ok(isMirrored(handmade([], { labels: { "endpointslice.kubernetes.io/skip-mirror": "false" } })));
  t.notOk(isMirrored(handmade([], { labels: { "endpointslice.kubernetes.io/skip-mirror": "true" } })));
  t.notOk(isMirrored(handmade([], { annotations: { "control-plane.alpha.kubernetes.io/leader": "{}" } })));
});

t.test("a dual-stack cluster: podCIDRs, slices, Endpoints and hints", async (t) => {
  const api = await openLocalApi("error", ["10.96.0.0/16", "fd00:10:96::/112"]);
  const { client, informers, log } = api;
  const controllers = startControllers({
    client,
    informers,
    log,
    clusterCIDRs: ["10.244.0.0/16", "fd00:10:244::/56"],
    nodeCIDRMaskSize: 24,
    nodeMonitorGracePeriodSeconds: 3600,
    serverAddresses: { ip: "192.168.56.1", port: 6443 },
    serviceCIDRs: ["10.96.0.0/16", "fd00:10:96::/112"],
    caCert: "the CA",
    tokens: { issue: async () => ({ token: "a token" }) },
  });
  t.teardown(async () => {
    await controllers.stop();
    await api.close();
  });
  await controllers.ready;
  for (const [name, zone] of [
    ["node-1", "a"],
    ["node-2", "b"],
  ] as const)
    await client.create(NODES, readyNode(name, { labels: { [ZONE]: zone } }));
  const cidrs = await eventually("podCIDRs", async () => {
    const { items } = await client.list(NODES);
    return items.every(({ spec }) => spec?.podCIDRs?.length === 2) && items.map(({ spec }) => spec);
  });
  for (const spec of cidrs || []) {
    t.match(spec?.podCIDRs, [/^10\.244\.\d+\.0\/24$/, /^fd00:10:244:[0-9a-f:]*\/64$/]);
    t.equal(spec?.podCIDR, spec?.podCIDRs?.[0]);
  }
  t.equal(new Set(cidrs.flatMap((spec) => spec?.podCIDRs)).size, 4);

  const web = { metadata: { name: "web", namespace: "default" } };
  await client.create(SERVICES, {
    ...web,
    spec: {
      selector: { app: "web" },
      ipFamilyPolicy: "RequireDualStack",
      trafficDistribution: "PreferSameNode",
      ports: [{ port: 80, targetPort: 8080 }],
    },
  });
  for (const n of [1, 2]) {
    const metadata = { name: `p${n}`, namespace: "default", labels: { app: "web" } };
    const made = await client.create(PODS, {
      metadata,
      spec: { nodeName: `node-${n}`, containers: [{ name: "c", image: "i" }] },
    });
    const status = {
      ...made.status,
      phase: "Running",
      podIP: `10.244.${n}.2`,
      podIPs: [{ ip: `10.244.${n}.2` }, { ip: `fd00:10:244:${n}::2` }],
      conditions: [{ type: "Ready", status: "True" }],
    };
    await client.update(PODS, { ...made, status } as Pod, { namespace: "default", subresource: "status" });
  }
  const endpoints = async () => {
    const { items } = await client.list(ENDPOINT_SLICES, {
      namespace: "default",
      labelSelector: "kubernetes.io/service-name=web",
    });
    return items
      .flatMap((s) => s.endpoints.map((e) => ({ family: s.addressType, ...e })))
      .sort((a, b) => (`${a.addresses}` < `${b.addresses}` ? -1 : 1));
  };
  const settled = (name: string, ok: (e: Awaited<ReturnType<typeof endpoints>>) => boolean) =>
    eventually(name, async () => {
      const found = await endpoints();
      return found.length === 4 && ok(found) && found;
    });
  const near = await settled("node hints", (all) => all.every((e) => (e.hints as EndpointHints)?.forNodes));
  t.match(near, [
    {
      family: "IPv4",
      addresses: ["10.244.1.2"],
      hints: { forZones: [{ name: "a" }], forNodes: [{ name: "node-1" }] },
    },
    { family: "IPv4", addresses: ["10.244.2.2"], hints: { forNodes: [{ name: "node-2" }] } },
    { family: "IPv6", addresses: ["fd00:10:244:1::2"], hints: { forNodes: [{ name: "node-1" }] } },
    { family: "IPv6", addresses: ["fd00:10:244:2::2"], hints: { forZones: [{ name: "b" }] } },
  ]);
  const old = await eventually("Endpoints", async () => {
    const { subsets } = await client.get(ENDPOINTS, "web", "default");
    return (subsets?.[0]?.addresses ?? []).length === 2 && subsets;
  });
  t.strictSame(
    old.flatMap(({ addresses = [] }) => addresses.map(({ ip }) => ip)),
    ["10.244.1.2", "10.244.2.2"],
    "Endpoints have the first family only",
  );
  const annotate = (annotations: object, spec: object) =>
    client.patch(SERVICES, "web", "merge", { metadata: { annotations }, spec }, { namespace: "default" });
  await annotate(AUTO, { trafficDistribution: null });
  await settled("zone hints alone", (all) => all.every((e) => e.hints?.forZones && !("forNodes" in e.hints)));
  // A zone without a node to tell its CPU: nothing is known of the shares any more.
  await client.create(NODES, readyNode("node-3"));
  await settled("no hints", (all) => all.every((e) => !e.hints));
  await client.delete(NODES, "node-3");
  await settled("hints again", (all) => all.every((e) => e.hints));
  await annotate({ "service.kubernetes.io/topology-mode": null }, { ipFamilyPolicy: "SingleStack" });
  await eventually("one family", async () => {
    const found = await endpoints();
    return found.length === 2 && found.every((e) => e.family === "IPv4" && !e.hints);
  });
  const told = await eventually("events", async () => {
    const { items } = await client.list(EVENTS, { namespace: "default" });
    const messages = new Set(items.map(({ reason, message }) => `${reason}: ${message}`));
    return [...messages].some((m) => m.includes("configuration was disabled")) && messages;
  });
  for (const text of [
    "TopologyAwareHintsEnabled: Topology Aware Hints has been enabled, addressType: IPv4",
    "TopologyAwareHintsDisabled: Insufficient Node information: allocatable CPU or zone not specified on one or more nodes, addressType: IPv4",
  ])
    t.ok(told.has(text), text);
  const own = await client.get(SERVICES, "kubernetes", "default");
  t.match(own.spec, { clusterIP: "10.96.0.1", ipFamilies: ["IPv4"], ipFamilyPolicy: "SingleStack" });
});

t.test("Endpoints that a person keeps become slices", async (t) => {
  const api = await openLocalApi("silent");
  const { client, informers, log } = api;
  const controllers = startControllers({
    client,
    informers,
    log,
    clusterCIDRs: ["10.244.0.0/16"],
    nodeCIDRMaskSize: 24,
    nodeMonitorGracePeriodSeconds: 3600,
    serverAddresses: { ip: "192.168.56.1", port: 6443 },
    serviceCIDRs: ["10.96.0.0/16"],
    caCert: "the CA",
    tokens: { issue: async () => ({ token: "a token" }) },
  });
  t.teardown(async () => {
    await controllers.stop();
    await api.close();
  });
  await controllers.ready;
  const own = { namespace: "default" };
  const MANAGED_BY = "endpointslice.kubernetes.io/managed-by";
  const metadata = { name: "web", ...own };
  const mirrors = async () => {
    const { items } = await client.list(ENDPOINT_SLICES, {
      ...own,
      labelSelector: `${MANAGED_BY}=${MIRROR}`,
    });
    return items.map(({ endpoints }) => endpoints.flatMap(({ addresses }) => addresses).join()).join(" ");
  };
  const become = (wanted: string) =>
    eventually(`mirrored: ${wanted}`, async () => (await mirrors()) === wanted);
  const subsets = [{ addresses: [{ ip: "192.0.2.1" }], ports: [{ port: 8080 }] }];
  const many = Array.from({ length: 1001 }, (_, n) => ({ ip: `10.1.${n >> 8}.${n & 255}` }));
  await client.create(ENDPOINTS, { metadata, subsets });
  await client.create(SERVICES, { metadata, spec: { ports: [{ port: 80 }] } });
  await become("192.0.2.1");
  const [slice] = (await client.list(ENDPOINT_SLICES, { labelSelector: "kubernetes.io/service-name=web" }))
    .items;
  t.match(slice?.metadata.name, /^web-[a-z0-9]{5}$/);
  await client.delete(ENDPOINT_SLICES, slice?.metadata.name ?? "", own);
  await eventually("one in its place", async () => {
    const { items } = await client.list(ENDPOINT_SLICES, { labelSelector: "kubernetes.io/service-name=web" });
    return items.length === 1 && items[0]?.metadata.uid !== slice?.metadata.uid;
  });
  await client.patch(ENDPOINTS, "web", "merge", { subsets: [{ addresses: [{ ip: "192.0.2.2" }] }] }, own);
  await become("192.0.2.2");
  const skip = (value: string | null) => ({
    metadata: { labels: { "endpointslice.kubernetes.io/skip-mirror": value } },
  });
  await client.patch(ENDPOINTS, "web", "merge", skip("true"), own);
  await become("");
  await client.patch(ENDPOINTS, "web", "merge", skip(null), own);
  await become("192.0.2.2");
  await client.patch(SERVICES, "web", "merge", { spec: { selector: { app: "none" } } }, own);
  await become("");
  await client.patch(SERVICES, "web", "merge", { spec: { selector: null } }, own);
  await client.patch(ENDPOINTS, "web", "merge", { subsets: [{ addresses: many }] }, own);
  await eventually("told", async () =>
    (await client.list(EVENTS, own)).items.some(
      ({ reason, message }) =>
        reason === "TooManyAddressesToMirror" &&
        message ===
          "A max of 1000 addresses can be mirrored to EndpointSlices per Endpoints subset. 1 addresses were skipped",
    ),
  );
  await client.patch(ENDPOINTS, "web", "merge", { subsets }, own);
  await become("192.0.2.1");
  await client.delete(ENDPOINTS, "web", own);
  await become("");
});
