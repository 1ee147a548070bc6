// Addresses and ports of Services: pools, who gets which over the life of a Service, and what happens when all are taken.
// No I/O.

import type { ServiceSpec } from "kubernetes-types/core/v1.js";
import t from "tap";
import { StatusError } from "../../common/client.js";
import type { Service, Stored } from "../../common/k8s.js";
import { Pool, staticBand } from "../../control/resources/allocator.js";
import { ServiceAllocator } from "../../control/resources/service-allocation.js";
import { errorText } from "../../control/resources/validation/field.js";
import { CONTEXT, created, kind, kinds, make } from "./helpers/kinds.js";
import { DUAL, service, thrown } from "./helpers/services.js";

t.test("pools", async (t) => {
  t.equal(staticBand(65536, { min: 16, max: 256, step: 16 }), 256);
  t.equal(staticBand(2768, { min: 16, max: 128, step: 32 }), 86);
  t.equal(staticBand(64, { min: 16, max: 256, step: 16 }), 16);
  t.equal(staticBand(8, { min: 16, max: 256, step: 16 }), 0);
  const pool = new Pool(100, 20);
  const seen = new Set<number>();
  for (let i = 0; i < 80; i++) seen.add(pool.takeAny("a") ?? -1);
  t.ok(seen.size === 80 && Math.min(...seen) >= 20, "the upper band first");
  for (let i = 0; i < 20; i++) seen.add(pool.takeAny("a") ?? -1);
  t.equal(seen.size, 100);
  t.equal(pool.takeAny("a"), undefined, "exhausted");
  pool.release(50, "b");
  t.equal(pool.free, 0, "another's is not given back");
  pool.release(50, "a");
  t.equal(pool.takeAny("b"), 50);
  t.equal(pool.ownerOf(50), "b");
  t.throws(() => pool.take(100, "a"), RangeError);
  const first = new Set(Array.from({ length: 20 }, () => new Pool(10_000, 0).takeAny("a")));
  t.ok(first.size > 10, "random, not sequential");
});

t.test("allocation of a Service", async (t) => {
  const make = (random?: (below: number) => number) =>
    new ServiceAllocator({ serviceCIDRs: ["10.96.0.0/16"], nodePortRange: [30000, 32767], random });
  const named = (name: string, spec: ServiceSpec, namespace = "ns") => {
    const draft = created("Service", { ...service(spec), metadata: { name, namespace } });
    return draft as Stored<Service> & Service;
  };
  const a = make();
  const all = a.freeIPs;
  t.equal(all, 65536 - 3, "without network, broadcast and the first address");

  const one = named("one", { type: "NodePort" });
  a.allocate(one, undefined).commit();
  t.match(one.spec?.clusterIP, /^10\.96\.\d+\.\d+$/);
  t.strictSame(one.spec?.clusterIPs, [one.spec?.clusterIP]);
  const port = one.spec?.ports?.[0]?.nodePort ?? 0;
  t.ok(port >= 30086 && port <= 32767, `from the upper band: ${port}`);
  const octets = (one.spec?.clusterIP ?? "").split(".").map(Number);
  t.ok((octets[2] ?? 0) * 256 + (octets[3] ?? 0) > 256, "from the upper band");

  t.equal(
    thrown(() => a.allocate(named("two", { clusterIP: one.spec?.clusterIP }), undefined)),
    `422 Service "two" is invalid: spec.clusterIPs: Invalid value: ["${one.spec?.clusterIP}"]: failed to allocate IP ${one.spec?.clusterIP}: provided IP is already allocated`,
  );
  for (const ip of ["10.0.0.1", "10.96.0.0", "10.96.255.255"]) {
    t.equal(
      thrown(() => a.allocate(named("two", { clusterIP: ip }), undefined)),
      `422 Service "two" is invalid: spec.clusterIPs: Invalid value: ["${ip}"]: failed to allocate IP ${ip}: the provided IP (${ip}) is not in the valid range. The range of valid IPs is 10.96.0.0/16`,
    );
  }
  t.match(
    thrown(() => a.allocate(named("two", { clusterIP: "10.96.0.1" }), undefined)),
    /already allocated/,
  );
  const wants = (nodePort: number) => named("two", { type: "NodePort", ports: [{ port: 80, nodePort }] });
  t.equal(
    thrown(() => a.allocate(wants(port), undefined)),
    `422 Service "two" is invalid: spec.ports[0].nodePort: Invalid value: ${port}: provided port is already allocated`,
  );
  t.equal(
    thrown(() => a.allocate(wants(29999), undefined)),
    '422 Service "two" is invalid: spec.ports[0].nodePort: Invalid value: 29999: provided port is not in the valid range. The range of valid ports is 30000-32767',
  );
  t.equal(a.freeIPs, all - 1, "what was refused holds nothing");
  t.equal(a.freePorts, 2767);

  const api = named("kubernetes", {}, "default");
  a.allocate(api, undefined).commit();
  t.equal(api.spec?.clusterIP, "10.96.0.1");
  a.released(api);
  t.match(
    thrown(() => a.allocate(named("two", { clusterIP: "10.96.0.1" }), undefined)),
    /already allocated/,
  );
  const again = named("kubernetes", { clusterIP: "10.96.0.1" }, "default");
  a.allocate(again, undefined).commit();

  const twins = named("dns", {
    type: "NodePort",
    ports: [
      { port: 53, name: "t" },
      { port: 53, name: "u", protocol: "UDP" },
      { port: 9153, name: "m" },
    ],
  });
  a.allocate(twins, undefined).commit();
  const [tcp, udp, metrics] = twins.spec?.ports ?? [];
  t.equal(tcp?.nodePort, udp?.nodePort, "TCP and UDP of one port share the node port");
  t.not(tcp?.nodePort, metrics?.nodePort);

  const first = named("same", {});
  first.metadata.uid = "1";
  const second = named("same", {});
  second.metadata.uid = "2";
  a.allocate(first, undefined).commit();
  a.allocate(second, undefined).commit();
  const between = a.freeIPs;
  a.released(structuredClone({ ...second, metadata: first.metadata }));
  t.equal(a.freeIPs, between, "a namesake's address is another's");
  a.released(first);
  a.released(second);

  const dry = named("dry", { type: "LoadBalancer", externalTrafficPolicy: "Local" });
  const [ips, ports] = [a.freeIPs, a.freePorts];
  const reservation = a.allocate(dry, undefined);
  t.ok((dry.spec?.healthCheckNodePort ?? 0) >= 30000);
  t.strictSame([a.freeIPs, a.freePorts], [ips - 1, ports - 2]);
  reservation.rollback();
  t.strictSame([a.freeIPs, a.freePorts], [ips, ports]);
  reservation.rollback();
  t.strictSame([a.freeIPs, a.freePorts], [ips, ports], "rolling back twice is harmless");

  for (const spec of [{ clusterIP: "None" }, { type: "ExternalName", externalName: "a.b", ports: [] }]) {
    a.allocate(named("none", spec), undefined).commit();
  }
  const bare = named("bare", { type: "LoadBalancer", allocateLoadBalancerNodePorts: false });
  a.allocate(bare, undefined).commit();
  t.notOk(bare.spec?.ports?.[0]?.nodePort);
  t.strictSame([a.freeIPs, a.freePorts], [ips - 1, ports]);
});

t.test("allocation over the life of a Service, as the engine drives it", async (t) => {
  const d = kind("Service", kinds("10.96.0.0/24"));
  let stored = make("Service", service({ type: "NodePort" })) as unknown as Stored & Service;
  const write = (change: (s: Service) => void, create = false) => {
    const draft = structuredClone(stored);
    change(draft);
    d.setDefaults?.(draft);
    if (create) d.prepareForCreate?.(draft, CONTEXT);
    else d.prepareForUpdate?.(draft, stored, CONTEXT);
    const errors = d.validate(draft, create ? undefined : stored).map(errorText);
    if (errors.length > 0) return errors;
    d.allocate?.(draft, create ? undefined : stored).commit();
    stored = draft;
    return [];
  };
  const spec = () => stored.spec ?? {};
  t.strictSame(
    write(() => undefined, true),
    [],
  );
  const { clusterIP } = spec();
  const nodePort = spec().ports?.[0]?.nodePort;
  t.ok(clusterIP && nodePort);

  write((s) => {
    s.spec = { type: "NodePort", ports: [{ port: 80 }], selector: { a: "b" } };
  });
  t.equal(spec().clusterIP, clusterIP, "left out, so kept");
  t.equal(spec().ports?.[0]?.nodePort, nodePort);
  t.strictSame(
    write((s) => {
      if (s.spec) s.spec.clusterIP = "10.96.0.77";
    }),
    ['spec.clusterIPs[0]: Invalid value: ["10.96.0.77"]: may not change once set'],
  );

  write((s) => {
    if (s.spec) s.spec.type = "ClusterIP";
  });
  t.notOk(spec().ports?.[0]?.nodePort, "ClusterIP has no node port");
  t.notOk(spec().externalTrafficPolicy);
  const taken = make("Service", service({ type: "NodePort", ports: [{ port: 80, nodePort }] }));
  taken.metadata = { name: "y", namespace: "ns" };
  d.setDefaults?.(taken);
  d.prepareForCreate?.(taken, CONTEXT);
  d.allocate?.(taken, undefined).commit();
  t.pass("the node port was given back");

  write((s) => {
    if (s.spec) s.spec = { ...s.spec, type: "ExternalName", externalName: "example.com" };
  });
  t.match(spec(), { type: "ExternalName" });
  t.notOk(spec().clusterIP || spec().clusterIPs || spec().ipFamilies);
  const heir = make("Service", service({ clusterIP, clusterIPs: [clusterIP ?? ""] }));
  heir.metadata = { name: "z", namespace: "ns" };
  d.setDefaults?.(heir);
  d.prepareForCreate?.(heir, CONTEXT);
  d.allocate?.(heir, undefined).commit();
  t.pass("the ClusterIP was given back");

  write((s) => {
    if (s.spec) s.spec.type = "LoadBalancer";
    if (s.spec) s.spec.externalTrafficPolicy = "Local";
  });
  t.ok(spec().clusterIP && spec().clusterIP !== clusterIP);
  t.ok(spec().healthCheckNodePort && spec().ports?.[0]?.nodePort);
  write((s) => {
    if (s.spec) s.spec.externalTrafficPolicy = "Cluster";
  });
  t.notOk(spec().healthCheckNodePort);
});

t.test("exhaustion and restore", async (t) => {
  const small = { serviceCIDRs: ["10.0.0.0/29"], nodePortRange: [30000, 30002] as [number, number] };
  const a = new ServiceAllocator(small);
  const objects: Stored<Service>[] = [];
  const add = (name: string, spec: ServiceSpec) => {
    const draft = created("Service", { ...service(spec), metadata: { name, namespace: "ns" } });
    a.allocate(draft, undefined).commit();
    objects.push(draft);
  };
  for (let i = 0; i < 5; i++) add(`s${i}`, i < 3 ? { type: "NodePort" } : {});
  t.equal(new Set(objects.map((o) => o.spec?.clusterIP)).size, 5);
  t.throws(() => add("more", {}), {
    code: 500,
    message: "Internal error occurred: failed to allocate a serviceIP: range is full",
  });
  const gone = objects.pop() as Stored<Service>;
  a.released(gone);
  t.throws(() => add("np", { type: "NodePort" }), {
    code: 500,
    message: /failed to allocate a nodePort: range is full/,
  });
  t.equal(a.freeIPs, 1, "the address taken before the port failed was given back");

  const b = new ServiceAllocator(small);
  b.restore(objects);
  t.equal(b.freeIPs, 1);
  t.equal(b.freePorts, 0);
  b.restore([]);
  t.equal(b.freeIPs, 5);
  const stale = [
    created("Service", {
      spec: { type: "ClusterIP", clusterIP: "192.168.0.1", clusterIPs: ["192.168.0.1"] },
    }),
  ];
  b.restore(stale as Stored<Service>[]);
  t.equal(b.freeIPs, 5, "an address of another range holds nothing");
  for (const text of [
    "10.0.0.0/8",
    "10.0.0.0/31",
    "fd00::/64",
    "fd00::/127",
    "nonsense",
    "10.0.0.0/24,10.1.0.0/24",
  ]) {
    const serviceCIDRs = text.split(",");
    t.throws(() => new ServiceAllocator({ ...small, serviceCIDRs }), RangeError, text);
  }
  t.throws(() => new ServiceAllocator({ ...small, nodePortRange: [10, 5] }), RangeError);

  const tiny = { ...small, serviceCIDRs: ["10.0.0.0/28", "fd00::/126"] };
  const c = new ServiceAllocator(tiny);
  t.strictSame(c.families, ["IPv4", "IPv6"]);
  t.equal(c.freeIPs, 13 + 3, "IPv6 has no broadcast address, and its first one is anybody's");
  const both = ["a", "b", "c"].map((name) => {
    const spec = { ipFamilyPolicy: "RequireDualStack" };
    const draft = created("Service", { ...service(spec), metadata: { name, namespace: "ns" } }, DUAL);
    c.allocate(draft, undefined).commit();
    return draft;
  });
  t.same(new Set(both.map((o) => o.spec?.clusterIPs?.[1])), new Set(["fd00::1", "fd00::2", "fd00::3"]));
  const fourth = created("Service", service({ ipFamilyPolicy: "RequireDualStack" }), DUAL);
  t.throws(() => c.allocate(fourth, undefined), { code: 500, message: /failed to allocate a serviceIP/ });
  t.equal(c.freeIPs, 13 - 3, "the IPv4 address that came first was given back");
  const d = new ServiceAllocator(tiny);
  d.restore(both);
  t.equal(d.freeIPs, 10, "after a restart");
  t.throws(() => d.allocate(created("Service", service({ ipFamilies: ["IPv6"] }), DUAL), undefined), {
    code: 500,
  });
});

t.test("never two owners of one address or port, whatever happens", async (t) => {
  // A small linear congruential generator: the same run every time.
  let seed = 20260101;
  const random = (below: number) => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return Math.floor((seed / 2 ** 32) * below);
  };
  const a = new ServiceAllocator({
    serviceCIDRs: ["10.0.0.0/26", "fd00::/122"],
    nodePortRange: [30000, 30039],
    random,
  });
  const stored = new Map<string, Stored<Service>>();
  const POLICIES = ["SingleStack", "PreferDualStack", "RequireDualStack"];
  const types = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];
  let refusals = 0;
  for (let step = 0; step < 4000; step++) {
    const name = `s${random(50)}`;
    const old = stored.get(name);
    if (old && random(4) === 0) {
      stored.delete(name);
      a.released(old);
      continue;
    }
    const type = types[random(4)] ?? "ClusterIP";
    const spec: ServiceSpec = {
      type,
      externalName: "a.b",
      ports: Array.from({ length: 1 + random(3) }, (_, i) => ({
        name: `p${i}`,
        port: 80 + i,
        ...(type !== "ClusterIP" && type !== "ExternalName" && random(4) === 0
          ? { nodePort: 30000 + random(40) }
          : {}),
      })),
      ...(type === "LoadBalancer" && random(2) === 0 ? { externalTrafficPolicy: "Local" } : {}),
      ...(!old && type === "ClusterIP" && random(5) === 0
        ? { clusterIP: random(2) ? "None" : `10.0.0.${random(64)}` }
        : {}),
      ...(type === "ExternalName" ? {} : { ipFamilyPolicy: POLICIES[random(3)] }),
    };
    const d = kind("Service", DUAL);
    const draft = make("Service", {
      spec,
      metadata: { name, namespace: "ns" },
    }) as unknown as Stored<Service> & Service;
    d.setDefaults?.(draft);
    if (old) d.prepareForUpdate?.(draft, old, CONTEXT);
    else d.prepareForCreate?.(draft, CONTEXT);
    if (d.validate(draft, old).length > 0) continue;
    try {
      const reservation = a.allocate(draft, old);
      if (random(4) === 0) {
        reservation.rollback();
        continue;
      }
      reservation.commit();
    } catch (error) {
      if (!(error instanceof StatusError)) throw error;
      refusals++;
      continue;
    }
    stored.set(name, draft);
    if (step % 500 === 0) a.restore([...stored.values()]);
    const ips = [...stored.values()].flatMap((s) => s.spec?.clusterIPs ?? []).filter((ip) => ip !== "None");
    const ports = [...stored.values()].flatMap((s) => [
      ...new Set(
        [...(s.spec?.ports ?? []).map((p) => p.nodePort ?? 0), s.spec?.healthCheckNodePort ?? 0].filter(
          (n) => n,
        ),
      ),
    ]);
    const twice = ips.length !== new Set(ips).size || ports.length !== new Set(ports).size;
    const leaked = a.freeIPs !== 61 + 63 - ips.length || a.freePorts !== 40 - ports.length;
    if (twice || leaked) {
      t.fail(`step ${step}: ${twice ? "two owners" : "a leak"}`, {
        ips,
        ports,
        free: [a.freeIPs, a.freePorts],
      });
      return;
    }
  }
  t.ok(refusals > 20 && stored.size > 10, `${refusals} refusals, ${stored.size} Services left`);
});

t.test("a range that is mostly taken stays quick", async (t) => {
  const pool = new Pool(65_534, 256);
  for (let i = 0; i < 65_500; i++) pool.takeAny(`s${i}`);
  t.equal(pool.free, 34);
  for (let i = 0; i < 20_000; i++) {
    const offset = pool.takeAny("x");
    if (offset === undefined) return t.fail("no offset although 34 are free");
    pool.release(offset, "x");
  }
  t.equal(pool.free, 34);
});
