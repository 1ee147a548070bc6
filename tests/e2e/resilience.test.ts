// What must not be lost: requests during a rolling update, rules after a flush, state after kill -9 of either
// process, addresses after a host comes and goes.

import t from "tap";
import { type Cluster, createCluster, DEPLOYMENTS, NODES, PODS } from "../../index.js";
import { kubectlOf } from "../helpers/kubectl.js";
import { BOOTCAMP, deployment, service } from "../helpers/manifests.js";

t.setTimeout(540_000);
const cluster: Cluster = await createCluster({ nodes: 3 });
t.teardown(() => cluster.stop());
const kubectl = kubectlOf(cluster);

const REPLICAS = 4;
const WEB = [
  deployment(
    "web",
    {
      containers: [
        {
          name: "web",
          image: `${BOOTCAMP}:v1`,
          readinessProbe: { httpGet: { path: "/", port: 8080 }, periodSeconds: 1 },
        },
      ],
    },
    { replicas: REPLICAS },
  ),
  service("web", { selector: { app: "web" }, ports: [{ port: 80, targetPort: 8080 }] }),
];

let vip = "";

t.test("a rolling update under load loses no request", async (t) => {
  await cluster.apply(WEB);
  await kubectl("rollout", "status", "deployment/web", "--timeout=60s");
  await cluster.waitForSync();
  vip = await kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}");

  // A new connection a request, as fast as one client can, until it is told to stop.
  const load = `curl -sS --max-time 60 -H 'Connection: close' 'http://${vip}/?[1-1000000]' >/run/answers & echo $! >/run/load; wait`;
  const running = cluster.exec("node-1", ["sh", "-c", load]);
  const answers = async () =>
    (await cluster.exec("node-1", ["sh", "-c", "cat /run/answers || true"])).stdout.match(/^.*\n/gm) ?? [];
  const count = async () => (await answers()).length;
  await cluster.waitUntil(async () => (await count()) > 100, { what: "requests before" });
  await kubectl("set", "image", "deployment/web", "web=gcr.io/google-samples/kubernetes-bootcamp:v2");
  await kubectl("rollout", "status", "deployment/web", "--timeout=120s");
  await cluster.waitForSync();
  const during = await count();
  await cluster.waitUntil(async () => (await count()) > during + 100, { what: "requests after" });
  await cluster.exec("node-1", ["sh", "-c", "kill $(cat /run/load)"]);
  const { stderr } = await running;
  const all = await answers();

  t.equal(stderr, "", "no request failed");
  t.match(all[0], /v=1/, "the old version answered before");
  t.match(
    all.slice(during + 60),
    all.slice(during + 60).map(() => /v=2/),
    "the new version answers after",
  );
});

t.test("rules that somebody flushed come back", async (t) => {
  const flush = "for t in nat filter mangle; do iptables -t $t -F; iptables -t $t -X; done";
  // The proxy's own check may come between the flush and the look: then once more.
  await cluster.waitUntil(async () => {
    await cluster.exec("node-2", ["sh", "-c", flush]);
    return !/KUBE-SVC/.test(await cluster.rules("node-2"));
  });
  await cluster.waitUntil(async () => /KUBE-SVC/.test(await cluster.rules("node-2")), { timeoutMs: 60_000 });
  const reply = await cluster.exec("node-2", ["curl", "-s", "--max-time", "60", `http://${vip}/`]);
  t.match(reply.stdout, /v=2/);
});

t.test("kill -9 of control: traffic flows on, up brings it back with its state", async (t) => {
  // The old version's pods serve out their grace period of 30 s, and would be gone at some moment of what follows.
  await cluster.waitUntil(
    async () => (await cluster.client.list(PODS, { namespace: "default" })).items.length === REPLICAS,
    { timeoutMs: 60_000, what: "the end of the old pods" },
  );
  const before = await kubectl("get", "pods", "-o", "name");
  await cluster.kill("control");
  const reply = await cluster.exec("node-3", ["curl", "-s", "--max-time", "60", `http://${vip}/`]);
  t.match(reply.stdout, /v=2/, "the data plane needs no control plane");
  await cluster.restart();
  t.equal(await kubectl("get", "pods", "-o", "name"), before, "the same pods");
  await kubectl("scale", "deployment/web", "--replicas=5");
  await kubectl("rollout", "status", "deployment/web", "--timeout=60s");
});

t.test("kill -9 of the lab: up brings hosts and pods back", async (t) => {
  await cluster.kill("lab");
  await cluster.restart();
  await kubectl("wait", "--for=condition=Ready", "nodes", "--all", "--timeout=60s");
  await kubectl("rollout", "status", "deployment/web", "--timeout=60s");
  await cluster.waitUntil(
    async () => {
      const reply = await cluster.exec("node-1", ["curl", "-s", "--max-time", "2", `http://${vip}/`]);
      return /v=2/.test(reply.stdout);
    },
    { timeoutMs: 60_000 },
  );
  const pods = await cluster.client.list(PODS, { namespace: "default" });
  t.ok(
    pods.items.every((p) => (p.status?.containerStatuses?.[0]?.restartCount ?? 0) > 0),
    "the pods say that they were restarted",
  );
});

t.test("cordon keeps new pods away", async (t) => {
  await kubectl("cordon", "node-3");
  t.match(await kubectl("get", "nodes"), /node-3 +Ready,SchedulingDisabled/);
  await kubectl("create", "deployment", "away", "--image=nginx", "--replicas=6");
  await kubectl("rollout", "status", "deployment/away", "--timeout=60s");
  const pods = await cluster.client.list(PODS, { namespace: "default", labelSelector: "app=away" });
  t.notOk(pods.items.some((p) => p.spec?.nodeName === "node-3"));
  await kubectl("uncordon", "node-3");
});

t.test("deleting a namespace or a Deployment takes everything with it", async (t) => {
  await kubectl("create", "namespace", "gone");
  await kubectl("-n", "gone", "create", "deployment", "x", "--image=nginx", "--replicas=2");
  await kubectl("-n", "gone", "rollout", "status", "deployment/x", "--timeout=60s");
  await kubectl("delete", "namespace", "gone", "--timeout=60s");
  const all = await cluster.client.list(PODS, {});
  t.notOk(all.items.some((p) => p.metadata.namespace === "gone"));
  await kubectl("delete", "deployment", "web", "away");
  await cluster.waitUntil(
    async () => (await cluster.client.list(PODS, { namespace: "default" })).items.length === 0,
    {
      timeoutMs: 60_000,
    },
  );
  t.equal((await cluster.client.list(DEPLOYMENTS, { namespace: "default" })).items.length, 0);
  t.equal((await cluster.client.list(NODES)).items.length, 3);
});
