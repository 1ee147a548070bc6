// The ranges of ClusterIPs: ServiceCIDRs that come, overlap and go, as declared, and after a restart.

import t from "tap";
import { NAMESPACES, SERVICE_CIDRS, SERVICES } from "../../common/client.js";
import type { IPAddress, Service, ServiceCIDR, Stored } from "../../common/k8s.js";
import { canGo } from "../../control/controllers/service-cidr.js";
import { causes, cells, created, kind, kinds, problems, updated } from "./helpers/kinds.js";
import { eventually, openLocalApi } from "./helpers/local-cluster.js";
import { balanced, create, start, WHERE } from "./helpers/service-loops.js";

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
