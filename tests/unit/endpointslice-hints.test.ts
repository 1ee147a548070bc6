// Hints of EndpointSlices: CPU of the zones, topology-mode Auto, spec.trafficDistribution; and a cluster of both families
// with all of it on the real in-process API.

import t from "tap";
import { ENDPOINT_SLICES, ENDPOINTS, EVENTS, NODES, PODS, SERVICES } from "../../common/client.js";
import type { Endpoint, EndpointHints, Node, Pod, Service, Stored } from "../../common/k8s.js";
import { hintSlices, hintsEvents } from "../../control/controllers/endpointslice-hints.js";
import {
  addZoneHints,
  type CpuRatios,
  cpuRatios,
  type SliceDraft,
} from "../../control/controllers/topology-hints.js";
import { startAll } from "./helpers/all-controllers.js";
import { eventually, openLocalApi, readyNode } from "./helpers/local-cluster.js";
import { AUTO, even, service } from "./helpers/slice-objects.js";

const ZONE = "topology.kubernetes.io/zone";

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

t.test("a dual-stack cluster: podCIDRs, slices, Endpoints and hints", async (t) => {
  const api = await openLocalApi("error", ["10.96.0.0/16", "fd00:10:96::/112"]);
  const { client } = api;
  await startAll(t, api, {
    clusterCIDRs: ["10.244.0.0/16", "fd00:10:244::/56"],
    nodeMonitorGracePeriodSeconds: 3600,
    serviceCIDRs: ["10.96.0.0/16", "fd00:10:96::/112"],
  });
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
