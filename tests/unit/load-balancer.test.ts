// Services of type LoadBalancer: who gets which address, over the life of Services and a restart; which host is
// elected; the pool of a configuration; and a Service that is published by its name.

import t from "tap";
import { nodePortOf, parseServicePublish } from "../../cli/ports.js";
import { EVENTS, type KubeClient, NAMESPACES, SERVICES } from "../../common/client.js";
import { ConfigError } from "../../common/fields.js";
import type { EndpointSlice, Node, Service, Stored } from "../../common/k8s.js";
import {
  AddressPool,
  assign,
  LOAD_BALANCER_FINALIZER,
} from "../../control/controllers/load-balancer-plan.js";
import { parseConfig, resolveConfig } from "../../lab/config.js";
import { candidates, elect, isEligible, nodesWithEndpoints } from "../../lab/load-balancer-plan.js";
import { eventually, openLocalApi } from "./helpers/local-cluster.js";
import { balanced, create, POOL, start, WHERE } from "./helpers/service-loops.js";

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
