// ResourceQuotas: what is refused and in which words, what is counted, and that no crowd gets past them.

import t, { type Test } from "tap";
import {
  CONFIG_MAPS,
  DEPLOYMENTS,
  type KubeClient,
  PERSISTENT_VOLUME_CLAIMS,
  PODS,
  RESOURCE_QUOTAS,
  SERVICE_ACCOUNTS,
  SERVICES,
} from "../../common/client.js";
import type { Pod, ResourceQuota } from "../../common/k8s.js";
import { ADMISSION } from "../../control/api/admission.js";
import { ensureNamespaces } from "../../control/controllers/bootstrap.js";
import { caught } from "../helpers/caught.js";
import { startAll, webDeployment } from "./helpers/all-controllers.js";
import { eventually, openLocalApi } from "./helpers/local-cluster.js";

const DEFAULT = { namespace: "default" };
type Spec = NonNullable<ResourceQuota["spec"]>;
type Resources = NonNullable<Pod["spec"]>["containers"][number]["resources"];

async function start(t: Test) {
  const api = await openLocalApi("error", undefined, ADMISSION);
  const { client } = api;
  await ensureNamespaces(client);
  await startAll(t, api);
  await eventually("an account", async () => {
    const { items } = await client.list(SERVICE_ACCOUNTS, DEFAULT);
    return items.length > 0;
  });
  const used = async () => (await client.get(RESOURCE_QUOTAS, "quota", "default")).status?.used;
  const settled = (wanted: Record<string, string>) =>
    eventually(`used: ${JSON.stringify(wanted)}`, async () => {
      const now = (await used()) ?? {};
      return Object.entries(wanted).every(([name, amount]) => now[name] === amount);
    });
  return { client, used, settled };
}

const limit = (client: KubeClient, spec: Spec) =>
  client.create(RESOURCE_QUOTAS, { metadata: { name: "quota", ...DEFAULT }, spec });

function pod(name: string, resources: Resources = {}, more: object = {}): Pod {
  return {
    metadata: { name, ...DEFAULT },
    spec: { containers: [{ name: "c", image: "nginx", resources }], ...more },
  };
}

const refusal = async (promise: Promise<unknown>) => ((await caught(promise)) as Error).message;

t.test("the compute quota of the task page", async (t) => {
  const { client, settled } = await start(t);
  const hard = { "requests.cpu": "1", "requests.memory": "1Gi", "limits.cpu": "2", "limits.memory": "2Gi" };
  await limit(client, { hard });
  const amounts = (memory: string) => ({
    limits: { memory: "800Mi", cpu: "800m" },
    requests: { memory, cpu: "400m" },
  });
  await client.create(PODS, pod("one", amounts("600Mi")));
  await settled({ "requests.cpu": "400m", "requests.memory": "600Mi", "limits.cpu": "800m" });
  t.equal(
    await refusal(client.create(PODS, pod("two", amounts("700Mi")))),
    'pods "two" is forbidden: exceeded quota: quota, requested: requests.memory=700Mi, used: requests.memory=600Mi, limited: requests.memory=1Gi',
  );
  t.equal(
    await refusal(client.create(PODS, pod("three", { requests: { cpu: "100m" } }))),
    'pods "three" is forbidden: failed quota: quota: must specify limits.cpu for: c; limits.memory for: c; requests.memory for: c',
  );
  const init = [
    {
      name: "i",
      image: "nginx",
      resources: { requests: { cpu: "600m", memory: "1Mi" }, limits: { cpu: "1", memory: "1Gi" } },
    },
  ];
  await client.create(PODS, pod("four", amounts("400Mi"), { initContainers: init }));
  await settled({
    "requests.cpu": "1",
    "requests.memory": "1000Mi",
    "limits.cpu": "1800m",
    "limits.memory": "1824Mi",
  });
  t.pass("an init container counts as far as it takes more");
  await client.patch(
    PODS,
    "one",
    "merge",
    { status: { phase: "Succeeded" } },
    { ...DEFAULT, subresource: "status" },
  );
  await settled({ "requests.cpu": "600m" });
  await client.delete(PODS, "four", DEFAULT);
  await settled({ "requests.cpu": "0", "requests.memory": "0" });
});

t.test("numbers of objects", async (t) => {
  const { client, used, settled } = await start(t);
  const hard = {
    configmaps: "3",
    "count/deployments.apps": "1",
    persistentvolumeclaims: "1",
    "requests.storage": "5Gi",
    "gold.storageclass.storage.k8s.io/requests.storage": "1Gi",
    "services.nodeports": "2",
    "services.loadbalancers": "0",
  };
  await limit(client, { hard });
  await settled({ configmaps: "1", "count/deployments.apps": "0" });
  await client.create(DEPLOYMENTS, webDeployment({ replicas: 0 }));
  const second = { ...webDeployment({ replicas: 0 }), metadata: { name: "api", ...DEFAULT } };
  t.equal(
    await refusal(client.create(DEPLOYMENTS, second)),
    'deployments.apps "api" is forbidden: exceeded quota: quota, requested: count/deployments.apps=1, used: count/deployments.apps=1, limited: count/deployments.apps=1',
  );
  const service = (type: string, ports: number[]) =>
    client.create(SERVICES, {
      metadata: { name: `s${ports.length}`, ...DEFAULT },
      spec: { type, ports: ports.map((port) => ({ name: `p${port}`, port })), selector: { a: "b" } },
    });
  t.match(
    await refusal(service("NodePort", [1, 2, 3])),
    /requested: services\.nodeports=3, used: services\.nodeports=0, limited: services\.nodeports=2$/,
  );
  t.match(
    await refusal(service("LoadBalancer", [1])),
    /requested: services\.loadbalancers=1, used: services\.loadbalancers=0, limited: services\.loadbalancers=0$/,
  );
  await service("NodePort", [1, 2]);
  const claim = (storage: string, storageClassName = "") =>
    client.create(PERSISTENT_VOLUME_CLAIMS, {
      metadata: { name: "claim", ...DEFAULT },
      spec: { accessModes: ["ReadWriteOnce"], storageClassName, resources: { requests: { storage } } },
    });
  t.match(
    await refusal(claim("2Gi", "gold")),
    /requested: gold\.storageclass\.storage\.k8s\.io\/requests\.storage=2Gi,/,
  );
  t.match(
    await refusal(claim("6Gi")),
    /requested: requests\.storage=6Gi, used: requests\.storage=0, limited: requests\.storage=5Gi$/,
  );
  await claim("4Gi");
  t.match(await used(), {
    "requests.storage": "4Gi",
    persistentvolumeclaims: "1",
    "services.nodeports": "2",
  });

  const map = (name: string, options = {}) =>
    client.create(CONFIG_MAPS, { metadata: { name, ...DEFAULT } }, { ...DEFAULT, ...options });
  await map("dry", { dryRun: true });
  t.equal((await used())?.configmaps, "1", "a dry run takes nothing");
  await caught(map("Not-A-Name"));
  t.equal((await used())?.configmaps, "1", "nor does what is not valid");
  const crowd = await Promise.allSettled(Array.from({ length: 30 }, (_, i) => map(`map-${i}`)));
  t.equal(crowd.filter(({ status }) => status === "fulfilled").length, 2, "a crowd");
  await client.deleteCollection(CONFIG_MAPS, {
    ...DEFAULT,
    fieldSelector: "metadata.name!=kube-root-ca.crt",
  });
  await settled({ configmaps: "1" });
});

t.test("scopes", async (t) => {
  const { client, used, settled } = await start(t);
  t.match(
    await refusal(
      limit(client, { hard: { pods: "1", configmaps: "1" }, scopes: ["BestEffort", "NotBestEffort"] }),
    ),
    /spec\.scopes: Invalid value: .*: unsupported scope applied to resource, .*: conflicting scopes\]?$/,
  );
  t.match(
    await refusal(limit(client, { hard: { bananas: "1", pods: "1.5" } })),
    /spec\.hard\[bananas\]: Invalid value: "bananas": must be a standard resource for quotas, spec\.hard\[pods\]: Invalid value: "1500m": must be an integer/,
  );
  await limit(client, { hard: { pods: "1" }, scopes: ["BestEffort"] });
  const some = { requests: { cpu: "1m" } };
  await client.create(PODS, pod("a", some));
  await client.create(PODS, pod("b"));
  t.match(
    await refusal(client.create(PODS, pod("c"))),
    /exceeded quota: quota, requested: pods=1, used: pods=1, limited: pods=1$/,
  );
  await client.create(PODS, pod("d", some));
  t.same(await used(), { pods: "1" });
  await client.delete(RESOURCE_QUOTAS, "quota", DEFAULT);

  const critical = { scopeName: "PriorityClass", operator: "In", values: ["system-cluster-critical"] };
  await limit(client, { hard: { pods: "0" }, scopeSelector: { matchExpressions: [critical] } });
  await settled({ pods: "0" });
  await client.create(PODS, pod("e"));
  t.match(
    await refusal(client.create(PODS, pod("f", {}, { priorityClassName: "system-cluster-critical" }))),
    /exceeded quota: quota, requested: pods=1, used: pods=0, limited: pods=0$/,
  );
});
