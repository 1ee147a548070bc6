// EndpointSlices by family, and those that mirror the Endpoints that a person keeps: what is planned, and the loop.

import t from "tap";
import { ENDPOINT_SLICES, ENDPOINTS, EVENTS, SERVICES } from "../../common/client.js";
import type {
  EndpointHints,
  EndpointSlice,
  EndpointSubset,
  Endpoints,
  Pod,
  Service,
  Stored,
} from "../../common/k8s.js";
import { planSlices, type SliceChanges } from "../../control/controllers/endpointslice-plan.js";
import { isMirrored, planMirror } from "../../control/controllers/endpointslicemirroring-plan.js";
import type { CpuRatios } from "../../control/controllers/topology-hints.js";
import { startAll } from "./helpers/all-controllers.js";
import { eventually, openLocalApi } from "./helpers/local-cluster.js";
import { AUTO, even, service } from "./helpers/slice-objects.js";

const MIRROR = "endpointslicemirroring-controller.k8s.io";

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

t.test("Endpoints that a person keeps become slices", async (t) => {
  const api = await openLocalApi("silent");
  const { client } = api;
  await startAll(t, api, { nodeMonitorGracePeriodSeconds: 3600 });
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
