// Services of type LoadBalancer: who gets which address, over the life of Services and a restart; which host is elected;
// the pool of a configuration. And the ranges of ClusterIPs: ServiceCIDRs that come, overlap and go.

import t from "tap";
import { nodePortOf, parseServicePublish } from "../../cli/ports.js";
import { EVENTS, type KubeClient, NAMESPACES, SERVICE_CIDRS, SERVICES } from "../../common/client.js";
import { ConfigError } from "../../common/fields.js";
import type { EndpointSlice, IPAddress, Node, Service, ServiceCIDR, Stored } from "../../common/k8s.js";
import type { ControllerContext } from "../../control/controllers/context.js";
import { EventBroadcaster } from "../../control/controllers/events.js";
import { LoadBalancerController } from "../../control/controllers/load-balancer.js";
import {
  AddressPool,
  assign,
  LOAD_BALANCER_FINALIZER,
} from "../../control/controllers/load-balancer-plan.js";
import { queueController } from "../../control/controllers/reconcile.js";
import { canGo, ServiceCidrController } from "../../control/controllers/service-cidr.js";
import { parseConfig, resolveConfig } from "../../lab/config.js";
import { candidates, elect, isEligible, nodesWithEndpoints } from "../../lab/load-balancer-plan.js";
import { causes, cells, created, kind, kinds, problems, updated } from "./helpers/kinds.js";
import { eventually, type LocalApi, openLocalApi } from "./helpers/local-cluster.js";

const POOL = "192.168.56.200-192.168.56.202";

function balanced(spec: Service["spec"] = {}, ips: string[] = []): Stored<Service> {
  return {
    apiVersion: "v1",
    kind: "Service",
    metadata: { name: "a", namespace: "default", uid: "u", resourceVersion: "1", creationTimestamp: "" },
    spec: { type: "LoadBalancer", ipFamilies: ["IPv4"], ...spec },
    status: { loadBalancer: { ingress: ips.map((ip) => ({ ip })) } },
  };
}

t.test("an address for each family: kept, asked for, or the lowest free one", async (t) => {
  const pool = new AddressPool(`${POOL},fd00::c8-fd00::c9`);
  const both = { ipFamilies: ["IPv4", "IPv6"] };
  const taken = (...ips: string[]) => new Map(ips.map((ip) => [ip, "default/other"]));
  const table: [string, Stored<Service>, Map<string, string>, object][] = [
    ["the first", balanced(), taken(), { ips: ["192.168.56.200"] }],
    ["the first free", balanced(), taken("192.168.56.200"), { ips: ["192.168.56.201"] }],
    ["what it has", balanced({}, ["192.168.56.202"]), taken(), { ips: ["192.168.56.202"] }],
    [
      "what it was just given",
      balanced(),
      new Map([["192.168.56.201", "default/a"]]),
      { ips: ["192.168.56.201"] },
    ],
    [
      "another has it",
      balanced({}, ["192.168.56.200"]),
      taken("192.168.56.200"),
      { ips: ["192.168.56.201"] },
    ],
    ["both families", balanced(both), taken("fd00::c8"), { ips: ["192.168.56.200", "fd00::c9"] }],
    [
      "what it asks for",
      balanced({ loadBalancerIP: "192.168.56.202" }),
      taken(),
      { ips: ["192.168.56.202"] },
    ],
    [
      "one family asked for",
      balanced({ ...both, loadBalancerIP: "fd00::c9" }),
      taken(),
      { ips: ["192.168.56.200", "fd00::c9"] },
    ],
    [
      "somebody else's",
      balanced({ loadBalancerIP: "192.168.56.202" }),
      taken("192.168.56.202"),
      { problem: "192.168.56.202 is already used by Service default/other" },
    ],
    [
      "not of the pool",
      balanced({ loadBalancerIP: "10.0.0.1" }),
      taken(),
      { problem: `10.0.0.1 is not in the pool ${POOL},fd00::c8-fd00::c9` },
    ],
    [
      "all or nothing",
      balanced(both),
      taken("fd00::c8", "fd00::c9"),
      { problem: `the pool ${POOL},fd00::c8-fd00::c9 has no free IPv6 address` },
    ],
  ];
  for (const [name, service, owners, wanted] of table)
    t.same(assign(service, pool, owners, "default/a"), wanted, name);
  for (const text of ["", "10.0.0.1", "10.0.0.2-10.0.0.1", "10.0.0.1-fd00::1", "1.1.1.1-1.1.1.2-1.1.1.3"])
    t.throws(() => new AddressPool(text), RangeError, text);
});

interface Running {
  api: LocalApi;
  stop(): Promise<void>;
}

async function start(api: LocalApi, serviceCIDRs = ["10.96.0.0/16"]): Promise<Running> {
  const { client, log } = api;
  const informers = api.newInformers();
  const events = new EventBroadcaster({ client, log });
  const context: ControllerContext = { client, informers, events, log, now: Date.now };
  const loops = [
    queueController(context, "lb", 1, (queue) => new LoadBalancerController(context, queue, { pool: POOL })),
    queueController(
      context,
      "cidr",
      1,
      (queue) => new ServiceCidrController(context, queue, { serviceCIDRs }),
    ),
  ];
  events.start();
  informers.start();
  await informers.synced();
  for (const loop of loops) loop.start();
  return {
    api,
    async stop() {
      for (const loop of loops) await loop.stop();
      await events.stop();
      informers.stop();
    },
  };
}

const WHERE = { namespace: "default" };

async function create(client: KubeClient, name: string, spec: Service["spec"] = {}): Promise<void> {
  const service: Service = { metadata: { name }, spec: { ports: [{ port: 80 }], ...spec } };
  await client.create(SERVICES, service, WHERE);
}

async function addressOf(client: KubeClient, name: string): Promise<string | undefined> {
  const { status } = await client.get(SERVICES, name, "default");
  return status?.loadBalancer?.ingress?.[0]?.ip;
}

t.test("over the life of Services, and a restart", async (t) => {
  const api = await openLocalApi();
  t.teardown(() => api.close());
  const { client } = api;
  await client.create(NAMESPACES, { metadata: { name: "default" } });
  let running = await start(api);
  for (const name of ["a", "b", "c"]) {
    await create(client, name, { type: "LoadBalancer" });
    await eventually(`${name} has an address`, () => addressOf(client, name));
  }
  t.same(await Promise.all(["a", "b", "c"].map((name) => addressOf(client, name))), [
    "192.168.56.200",
    "192.168.56.201",
    "192.168.56.202",
  ]);
  const a = await client.get(SERVICES, "a", "default");
  t.same(a.metadata.finalizers, [LOAD_BALANCER_FINALIZER]);
  t.same(a.status?.loadBalancer?.ingress, [{ ip: "192.168.56.200", ipMode: "VIP" }]);

  await create(client, "late", { type: "LoadBalancer" });
  await create(client, "foreign", { type: "LoadBalancer", loadBalancerClass: "example.com/other" });
  const reasons = async (name: string) =>
    (await client.list(EVENTS, WHERE)).items.flatMap(({ involvedObject, reason, message }) =>
      involvedObject.name === name ? [`${reason}: ${message}`] : [],
    );
  const full = `SyncLoadBalancerFailed: Error syncing load balancer: failed to ensure load balancer: the pool ${POOL} has no free IPv4 address`;
  await eventually("the pool is full", async () => (await reasons("late")).includes(full));
  t.equal(await addressOf(client, "late"), undefined);

  await client.delete(SERVICES, "b", WHERE);
  await eventually("who waits gets what another gave back", () => addressOf(client, "late"));
  t.equal(await addressOf(client, "late"), "192.168.56.201");
  t.equal(await addressOf(client, "foreign"), undefined, "another class is left alone");
  t.same((await client.get(SERVICES, "foreign", "default")).metadata.finalizers, undefined);

  await running.stop();
  await create(client, "first-in-line", { type: "LoadBalancer" });
  running = await start(api);
  const change = { spec: { type: "ClusterIP" } };
  await client.patch(SERVICES, "a", "merge", change, WHERE);
  await eventually("the address of a changed type is given on", () => addressOf(client, "first-in-line"));
  t.same(await Promise.all(["late", "c", "first-in-line"].map((name) => addressOf(client, name))), [
    "192.168.56.201",
    "192.168.56.202",
    "192.168.56.200",
  ]);
  const changed = await eventually("the finalizer goes", async () => {
    const now = await client.get(SERVICES, "a", "default");
    return now.metadata.finalizers ? undefined : now;
  });
  t.same(changed.status?.loadBalancer, {});
  const told = await eventually("all is told", async () => {
    const list = await reasons("a");
    return list.length >= 5 ? list : undefined;
  });
  t.same(
    told.sort(),
    [
      "DeletedLoadBalancer: Deleted load balancer",
      "DeletingLoadBalancer: Deleting load balancer",
      "EnsuredLoadBalancer: Ensured load balancer",
      "EnsuringLoadBalancer: Ensuring load balancer",
      "Type: LoadBalancer -> ClusterIP",
    ].sort(),
  );
  await running.stop();
});

const node = (name: string, ready: boolean, labels = {}): Stored<Node> => ({
  apiVersion: "v1",
  kind: "Node",
  metadata: { name, uid: name, resourceVersion: "1", creationTimestamp: "", labels },
  status: { conditions: [{ type: "Ready", status: ready ? "True" : "False" }] },
});

t.test("the elected host", async (t) => {
  const names = ["node-1", "node-2", "node-3", "node-4"];
  const addresses = Array.from({ length: 40 }, (_, i) => `192.168.56.${200 + i}`);
  const before = new Map(addresses.map((ip) => [ip, elect(ip, names)]));
  t.equal(new Set(before.values()).size, 4, "addresses spread over the hosts");
  const left = names.filter((name) => name !== "node-2");
  for (const [ip, host] of before) {
    const now = elect(ip, left);
    if (host === "node-2") t.not(now, "node-2");
    else t.equal(now, host, "only the addresses of the host that went move");
    t.equal(elect(ip, [...names].reverse()), host, "the order of the nodes says nothing");
  }
  t.equal(elect("192.168.56.200", []), undefined);
  t.ok(isEligible(node("a", true)));
  t.notOk(isEligible(node("a", false)));
  t.notOk(isEligible(node("a", true, { "node.kubernetes.io/exclude-from-external-load-balancers": "" })));
  const slice = (addressType: string, ...endpoints: [nodeName: string, ready?: boolean][]) =>
    ({
      addressType,
      endpoints: endpoints.map(([nodeName, ready]) => ({ addresses: [], nodeName, conditions: { ready } })),
    }) as unknown as Stored<EndpointSlice>;
  const slices = [slice("IPv4", ["node-1", false], ["node-3", true], ["node-4"]), slice("IPv6", ["node-2"])];
  t.same([...nodesWithEndpoints(slices, 4)], ["node-3", "node-4"], "an endpoint of unknown state is ready");
  const local = balanced({ externalTrafficPolicy: "Local" });
  t.same(candidates(local, "192.168.56.200", names, slices), ["node-3", "node-4"]);
  t.same(candidates(local, "fd00::c8", names, slices), ["node-2"]);
  t.same(candidates(balanced(), "192.168.56.200", names, slices), names);
});

t.test("networking.loadBalancerPool", async (t) => {
  const pool = (networking: object, nodes: number) =>
    resolveConfig({ networking, nodes }).networking.loadBalancerPool;
  t.equal(pool({}, 3), "192.168.56.200-192.168.56.250");
  t.equal(pool({}, 189), "192.168.56.200-192.168.56.250", "the last host has place 199");
  t.equal(pool({}, 1000), "192.168.59.243-192.168.60.37", "behind the last of many hosts");
  t.equal(pool({ nodeSubnet: "10.0.0.0/27" }, 3), "10.0.0.14-10.0.0.30", "what a small network has left");
  t.equal(pool({ nodeSubnet: "10.0.0.0/27" }, 20), "", "nothing is left");
  t.equal(
    pool({ ipFamily: "dual" }, 2),
    "192.168.56.200-192.168.56.250,fd00:192:168:56::c8-fd00:192:168:56::fa",
  );
  const problemsOf = (text: string) => {
    try {
      parseConfig(text);
      return [];
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
      return error.problems.map(({ message }) => message);
    }
  };
  const configured = (value: string) => problemsOf(`networking: { loadBalancerPool: "${value}" }`);
  t.same(configured("192.168.56.100-192.168.56.110"), []);
  t.same(configured(""), [], "none");
  t.match(configured("192.168.56.10-192.168.56.12"), [
    /192\.168\.56\.10-192\.168\.56\.12 contains 192\.168\.56\.11, the address of node-1/,
    /contains 192\.168\.56\.12, the address of node-2/,
  ]);
  t.match(configured("10.0.0.1-10.0.0.2"), [/is not in networking\.nodeSubnet 192\.168\.56\.0\/21/]);
  t.match(configured("192.168.63.250-192.168.63.255"), [/is not in networking\.nodeSubnet/], "broadcast");
  t.match(configured("192.168.56.9"), [/first-last/]);
});

t.test("ServiceCIDRs: further ranges, overlapping ones, and none that is in use goes", async (t) => {
  const small = ["10.96.0.0/28"];
  const api = await openLocalApi("error", small);
  t.teardown(() => api.close());
  const { client } = api;
  await client.create(NAMESPACES, { metadata: { name: "default" } });
  const running = await start(api, small);
  t.teardown(() => running.stop());
  const ready = async (name: string) => {
    const { metadata, status } = await client.get(SERVICE_CIDRS, name);
    return metadata.finalizers?.length && status?.conditions?.[0]?.status === "True";
  };
  await eventually("the default one is there", async () =>
    (await client.list(SERVICE_CIDRS)).items.some(({ metadata }) => metadata.name === "kubernetes"),
  );
  await eventually("and ready", () => ready("kubernetes"));
  // Fourteen addresses, the first of them for default/kubernetes.
  for (let i = 0; i < 13; i++) await create(client, `s${i}`);
  await t.rejects(create(client, "full"), { message: /range is full/ });
  const more: ServiceCIDR = { metadata: { name: "more" }, spec: { cidrs: ["10.96.0.0/24"] } };
  await client.create(SERVICE_CIDRS, more);
  await eventually("ready", () => ready("more"));
  const seen = new Set<string>();
  for (let i = 13; i < 40; i++) await create(client, `s${i}`);
  for (const { spec } of (await client.list(SERVICES, WHERE)).items) {
    t.notOk(seen.has(spec?.clusterIP ?? ""), `${spec?.clusterIP} once`);
    seen.add(spec?.clusterIP ?? "");
  }
  t.equal(seen.size, 40);
  for (let i = 40; i < 253; i++) await create(client, `s${i}`);
  await t.rejects(
    create(client, "full"),
    { message: /range is full/ },
    "every address of both was given out",
  );
  await t.rejects(create(client, "twice", { clusterIP: [...seen][0] }), { message: /already allocated/ });

  await client.delete(SERVICE_CIDRS, "more");
  const waiting = await eventually("it waits", async () => {
    const now = await client.get(SERVICE_CIDRS, "more");
    return now.status?.conditions?.[0]?.reason === "Terminating" ? now : undefined;
  });
  t.match(
    waiting.status?.conditions?.[0]?.message,
    /There are still IPAddresses referencing the ServiceCIDR/,
  );
  await t.rejects(create(client, "none"), { message: /range is full/ }, "nobody gets an address of it now");
  for (const { metadata, spec } of (await client.list(SERVICES, WHERE)).items)
    if (Number(spec?.clusterIP?.split(".")[3]) > 14) await client.delete(SERVICES, metadata.name, WHERE);
  await eventually("it goes with the last address", async () =>
    (await client.list(SERVICE_CIDRS)).items.every(({ metadata }) => metadata.name !== "more"),
  );
});

t.test("a ServiceCIDR as declared", async (t) => {
  const cidr = (...cidrs: string[]) => problems("ServiceCIDR", { spec: { cidrs } });
  t.same(cidr("10.1.0.0/24", "fd00::/112"), []);
  t.same(cidr(), ["spec.cidrs: Required value: at least one CIDR required"]);
  t.match(cidr("10.1.0.0/24", "10.2.0.0/24"), [/may specify no more than one IP for each IP family/]);
  t.match(cidr("x"), [/spec\.cidrs\[0\]: Invalid value: "x": must be a valid CIDR value/]);
  t.match(cidr("10.0.0.0/8"), [/must be IPv4 with a prefix of \/12 to \/30/]);
  const one = created("ServiceCIDR", { spec: { cidrs: ["10.1.0.0/24"] } } as ServiceCIDR);
  const change = (draft: ServiceCIDR) => {
    draft.spec = { cidrs: ["10.2.0.0/24"] };
  };
  t.match(updated("ServiceCIDR", one, change).problems, [/spec\.cidrs: Invalid value: .*field is immutable/]);
  t.match(cells("ServiceCIDR", one), { Name: "x", CIDRs: "10.1.0.0/24" });
  const [going, other] = [one, created("ServiceCIDR", { spec: { cidrs: ["10.1.0.0/25"] } } as ServiceCIDR)];
  const having = (ip: string) => [balanced({ clusterIPs: [ip] })];
  t.ok(canGo(going, [going], having("10.2.0.1")));
  t.notOk(canGo(going, [going], having("10.1.0.1")));
  t.ok(canGo(going, [going, other], having("10.1.0.1")), "another has the address too");
  t.notOk(canGo(going, [going, other], having("10.1.0.200")));
  t.ok(canGo(going, [going], having("None")));
});

t.test(
  "after a restart the ranges are there before the Services; IPAddresses are what Services have",
  async (t) => {
    const all = kinds("10.96.0.0/28");
    const names = [...all.keys()];
    t.ok(names.indexOf("ServiceCIDR") < names.indexOf("Service"), "the engine restores in this order");
    const more = created("ServiceCIDR", { spec: { cidrs: ["10.97.0.0/24"] } } as ServiceCIDR, all);
    const going = {
      ...more,
      metadata: { ...more.metadata, name: "going", deletionTimestamp: "2026-01-01T12:00:00Z" },
    };
    kind("ServiceCIDR", all).restore?.([more, { ...going, spec: { cidrs: ["10.98.0.0/24"] } } as Stored]);
    const service = (name: string, ip: string): Stored<Service> => ({
      apiVersion: "v1",
      kind: "Service",
      metadata: {
        name,
        namespace: "default",
        uid: `uid-${name}`,
        resourceVersion: "1",
        creationTimestamp: "2026-01-01T11:00:00Z",
      },
      spec: {
        type: "ClusterIP",
        clusterIP: ip,
        clusterIPs: [ip],
        ipFamilies: ["IPv4"],
        ports: [{ port: 80 }],
      },
    });
    const { restore, allocate, released } = kind("Service", all);
    const stored = [service("kubernetes", "10.96.0.1"), service("a", "10.97.0.7"), service("b", "10.98.0.7")];
    restore?.(stored);
    const take = (ip: string) =>
      causes(() => {
        allocate?.(service("c", ip), undefined).rollback();
        return [];
      });
    t.same(take("10.97.0.8"), []);
    t.match(take("10.97.0.7"), [/failed to allocate IP 10\.97\.0\.7: provided IP is already allocated/]);
    t.match(take("10.98.0.8"), [/not in the valid range/], "one that is going gives none");

    const answers = kind("IPAddress", all).answers;
    const asked = { user: { name: "x", groups: [] }, namespace: undefined };
    const list = ((await answers?.list?.(asked)) ?? []) as Stored<IPAddress>[];
    t.same(
      list.map(({ metadata, spec }) => [metadata.name, spec?.parentRef.namespace, spec?.parentRef.name]),
      [
        ["10.96.0.1", "default", "kubernetes"],
        ["10.97.0.7", "default", "a"],
        ["10.98.0.7", "default", "b"],
      ],
    );
    const [one] = list;
    t.match(cells("IPAddress", one ?? {}, all), {
      Name: "10.96.0.1",
      ParentRef: "services/default/kubernetes",
    });
    t.same(await answers?.get?.("10.97.0.7", asked), list[1], "the same each time");
    t.throws(() => answers?.get?.("10.97.0.8", asked), {
      message: 'ipaddresses.networking.k8s.io "10.97.0.8" not found',
    });
    released?.(stored[1] as Stored);
    t.throws(() => answers?.get?.("10.97.0.7", asked), /not found/);
  },
);

t.test("a Service published by its name", async (t) => {
  const table: [string, object | undefined][] = [
    ["8080:web", { hostPort: 8080, namespace: "default", service: "web" }],
    ["8080:shop/web:http", { hostPort: 8080, namespace: "shop", service: "web", port: "http" }],
    [
      "127.0.0.2:8080:web:80",
      { hostPort: 8080, namespace: "default", service: "web", port: "80", address: "127.0.0.2" },
    ],
    ["[::1]:8080:a/web", { hostPort: 8080, namespace: "a", service: "web", address: "::1" }],
    ["8080:30080", undefined],
    ["127.0.0.2:8080:30080", undefined],
    ["8080:a/b/c", undefined],
  ];
  for (const [text, wanted] of table) t.same(parseServicePublish(text), wanted, text);
  t.throws(() => parseServicePublish("80800:web"), /host port/);
  const [http, https] = [
    { name: "http", port: 80, nodePort: 30080 },
    { name: "https", port: 443, nodePort: 30443 },
  ];
  const of = (wanted: string | undefined, ...ports: { port: number; name?: string; nodePort?: number }[]) =>
    nodePortOf(balanced({ ports }), wanted);
  t.equal(of(undefined, http), 30080);
  t.equal(of("https", http, https), 30443);
  t.equal(of("443", http, https), 30443);
  t.throws(() => of(undefined, http, https), {
    message: /one of its ports must be named: http \(80\), https \(443\)/,
  });
  t.throws(() => of("x", http), /must be named/);
  t.throws(() => of(undefined, { port: 80 }), {
    message: /default\/a is of type LoadBalancer and has no NodePort/,
  });
});
