// Two whole control planes on one etcd: one API by two servers (with kubectl where it is installed), addresses that are
// given once, controllers that run in one of them and are taken over by the other.

import { execFile, spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import t, { type Test } from "tap";
import { ApiClient } from "../../client/api-client.js";
import { CONFIG_MAPS, DEPLOYMENTS, isAlreadyExists, LEASES, PODS, SERVICES } from "../../common/client.js";
import type { Deployment, Service } from "../../common/k8s.js";
import { silentLogger } from "../../common/log.js";
import { objectCodec } from "../../control/api/codec.js";
import { claim, LEASE_SECONDS, observe } from "../../control/controllers/leader-plan.js";
import { type Control, startControl } from "../../control/server.js";
import { openStore } from "../../control/store/open.js";
import { EtcdServer, withoutEtcd } from "../helpers/etcd.js";

t.setTimeout(240_000);

const namespace = "default";
const noKubectl =
  spawnSync("kubectl", ["version", "--client"], { stdio: "ignore" }).status === 0
    ? false
    : "kubectl is not installed";

async function start(dir: string, name: string, etcd: EtcdServer): Promise<Control> {
  return await startControl({
    dataDir: join(dir, name),
    store: () => openStore(`etcd:${etcd.url}`, { codec: objectCodec }),
    listen: { host: "127.0.0.1", port: 0 },
    clusterName: "shared",
    serviceCIDRs: ["10.96.0.0/24"],
    kubelet: () => ({ socketPath: "/nowhere", pathPrefix: "" }),
    log: silentLogger,
  });
}

/** Two with the same certificates, as machines of one control plane have. */
async function startTwo(test: Test) {
  const dir = mkdtempSync(join(tmpdir(), "kubeplumb-shared-"));
  test.teardown(() => rmSync(dir, { recursive: true, force: true }));
  const etcd = await EtcdServer.start(dir);
  test.teardown(() => etcd.stop());
  const a = await start(dir, "a", etcd);
  test.teardown(() => a.close());
  cpSync(join(dir, "a", "pki"), join(dir, "b", "pki"), { recursive: true });
  const b = await start(dir, "b", etcd);
  test.teardown(() => b.close());
  const clients = [a, b].map((control) => ApiClient.fromKubeconfig(control.adminKubeconfig("shared")));
  test.teardown(() => Promise.all(clients.map((client) => client.close())));
  const [first, second] = clients as [ApiClient, ApiClient];
  return { dir, etcd, a, b, first, second };
}

async function until(what: string, done: () => Promise<boolean>, ms = 60_000): Promise<void> {
  for (const end = Date.now() + ms; !(await done()); await sleep(50))
    if (Date.now() > end) throw new Error(`in vain: ${what}`);
}

const deployment = (name: string, replicas: number): Deployment => ({
  apiVersion: "apps/v1",
  kind: "Deployment",
  metadata: { name, namespace },
  spec: {
    replicas,
    selector: { matchLabels: { app: name } },
    template: {
      metadata: { labels: { app: name } },
      spec: { containers: [{ name: "c", image: "nginx" }] },
    },
  },
});

const service = (name: string, spec: Service["spec"] = {}): Service => ({
  apiVersion: "v1",
  kind: "Service",
  metadata: { name, namespace },
  spec: { ports: [{ port: 80 }], ...spec },
});

t.test("who may lead", async (t) => {
  const lease = (spec: object) =>
    ({ apiVersion: "v1", kind: "Lease", metadata: { name: "l" }, spec }) as never;
  const old = lease({
    holderIdentity: "a",
    leaseDurationSeconds: 15,
    leaseTransitions: 3,
    acquireTime: "T0",
  });
  const seen = observe(old, undefined, 1000);
  t.equal(observe(old, seen, 5000), seen, "the time of the last change counts");
  t.equal(observe(lease({ holderIdentity: "a", renewTime: "T1" }), seen, 5000).at, 5000);
  t.equal(claim(old, "b", seen, 15_999, "T"), undefined);
  t.match(claim(old, "b", seen, 16_000, "T"), {
    holderIdentity: "b",
    leaseDurationSeconds: LEASE_SECONDS,
    leaseTransitions: 4,
    acquireTime: "T",
  });
  t.match(claim(old, "a", seen, 2000, "T"), { leaseTransitions: 3, acquireTime: "T0", renewTime: "T" });
  t.ok(claim(lease({}), "b", seen, 1000, "T"), "nobody's");
});

t.test("two control planes on one etcd", { skip: withoutEtcd }, async (t) => {
  const { dir, etcd, a, b, first, second } = await startTwo(t);
  const config = { apiVersion: "v1" as const, kind: "ConfigMap" as const, data: {} };

  await t.test("what one writes, the other has", async (t) => {
    for (let n = 0; n < 30; n++) {
      const [writer, reader] = n % 2 ? [first, second] : [second, first];
      const metadata = { name: `c-${n}`, namespace };
      const { metadata: made } = await writer.create(CONFIG_MAPS, { ...config, metadata });
      const read = await reader.get(CONFIG_MAPS, metadata.name, namespace);
      if (read.metadata.resourceVersion !== made.resourceVersion) t.fail(metadata.name);
    }
    const metadata = { name: "once", namespace };
    const both = await Promise.allSettled(
      [first, second].map((c) => c.create(CONFIG_MAPS, { ...config, metadata })),
    );
    t.equal(both.filter(({ status }) => status === "fulfilled").length, 1);
    const failed = both.find(({ status }) => status === "rejected") as PromiseRejectedResult;
    t.ok(isAlreadyExists(failed.reason));
  });

  await t.test("kubectl against each", { skip: noKubectl }, async (t) => {
    const run = promisify(execFile);
    const kubectl = (control: Control) => {
      const path = join(dir, `${control.port}.kubeconfig`);
      writeFileSync(path, control.adminKubeconfig("shared"));
      return async (...args: string[]) =>
        (await run("kubectl", ["--kubeconfig", path, ...args])).stdout.trim();
    };
    const [one, other] = [kubectl(a), kubectl(b)];
    t.match(await one("create", "deployment", "web", "--image=nginx", "--replicas=3"), "created");
    t.match(await other("scale", "deployment/web", "--replicas=2"), "scaled");
    t.equal(await one("get", "deployment", "web", "-o", "jsonpath={.spec.replicas}"), "2");
    await until(
      "pods",
      async () => (await other("get", "pods", "-l", "app=web", "-o", "name")).split("\n").length === 2,
    );
    const waiting = one("wait", "--for=delete", "deployment/web", "--timeout=20s");
    t.match(await other("delete", "deployment", "web"), "deleted");
    await waiting;
    t.match(await one("get", "--raw", "/readyz"), "ok");
  });

  await t.test("addresses and node ports are given once", async (t) => {
    const names = Array.from({ length: 60 }, (_, n) => `s-${n}`);
    const made = await Promise.all(
      names.map((name, n) =>
        (n % 2 ? first : second).create(SERVICES, service(name, { type: "NodePort" }), { namespace }),
      ),
    );
    const ips = made.map(({ spec }) => spec?.clusterIP);
    t.equal(new Set(ips).size, names.length, "each its own ClusterIP");
    t.equal(new Set(made.map(({ spec }) => spec?.ports?.[0]?.nodePort)).size, names.length);
    for (let n = 0; n < 10; n++) {
      const clusterIP = `10.96.0.${n + 2}`;
      if (ips.includes(clusterIP)) continue;
      const both = await Promise.allSettled(
        [first, second].map((c, i) =>
          c.create(SERVICES, service(`w-${n}-${i}`, { clusterIP }), { namespace }),
        ),
      );
      const failed = both.filter((result) => result.status === "rejected") as PromiseRejectedResult[];
      t.equal(failed.length, 1, clusterIP);
      t.match(failed[0]?.reason.message, /provided IP is already allocated/);
    }
    const free = made[0] as Service;
    await first.delete(SERVICES, "s-0", { namespace });
    const again = service("again", { clusterIP: free.spec?.clusterIP ?? "" });
    const { spec } = await second.create(SERVICES, again, { namespace });
    t.equal(spec?.clusterIP, free.spec?.clusterIP, "and what one gives back, the other has");
  });

  await t.test("controllers run in one, and go over to the other", async (t) => {
    const holder = async () =>
      (await second.get(LEASES, "kube-controller-manager", "kube-system")).spec?.holderIdentity;
    const podsOf = async (name: string) =>
      (await second.list(PODS, { namespace, labelSelector: `app=${name}` })).items.length;
    await first.create(DEPLOYMENTS, deployment("one", 20), { namespace });
    await until("pods", async () => (await podsOf("one")) >= 20);
    await sleep(500);
    t.equal(await podsOf("one"), 20, "no more than were asked for");
    const before = await holder();
    t.ok(before);
    await a.close();
    await until("a new leader", async () => ![before, undefined, ""].includes(await holder()));
    await second.create(DEPLOYMENTS, deployment("two", 5), { namespace });
    await until("pods", async () => (await podsOf("two")) === 5);
  });

  await t.test("without its etcd a server says 503, and is well again with it", async (t) => {
    await etcd.freeze();
    const metadata = { name: "late", namespace };
    const error = await second.create(CONFIG_MAPS, { ...config, metadata }).then(
      () => undefined,
      (reason) => reason,
    );
    t.match(error, { code: 503 });
    t.match(error?.message, /the store cannot be written to/);
    t.equal(
      (await second.get(CONFIG_MAPS, "once", namespace)).metadata.name,
      "once",
      "what is there can be read",
    );
    etcd.thaw();
    await until("writes", async () =>
      second.create(CONFIG_MAPS, { ...config, metadata }).then(
        () => true,
        (reason) => isAlreadyExists(reason),
      ),
    );
  });
});
