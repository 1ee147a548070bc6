// StatefulSets, DaemonSets, ReplicationControllers and PodDisruptionBudgets as a user meets them: kubectl against three
// hosts of a lab or VMs, with real pods that answer.

import t from "tap";
import { clusterUnderTest } from "../helpers/cluster-under-test.js";
import { kubectlOf } from "../helpers/kubectl.js";

const { cluster, patience } = await clusterUnderTest(t);
const kubectl = kubectlOf(cluster);

async function applied(...objects: object[]): Promise<void> {
  const { exitCode, stderr } = await cluster.kubectl(["apply", "-f", "-"], {
    input: JSON.stringify({ apiVersion: "v1", kind: "List", items: objects }),
  });
  if (exitCode !== 0) throw new Error(stderr);
}

const IMAGE = "nginx";
const template = (app: string) => ({
  metadata: { labels: { app } },
  spec: {
    terminationGracePeriodSeconds: 1,
    containers: [{ name: "main", image: IMAGE, ports: [{ containerPort: 80 }] }],
  },
});
const workload = (kind: string, app: string, spec: object) => ({
  apiVersion: "apps/v1",
  kind,
  metadata: { name: app },
  spec: { selector: { matchLabels: { app } }, template: template(app), ...spec },
});

async function lines(...args: string[]): Promise<string[]> {
  return (await kubectl(...args)).split("\n").filter(Boolean);
}
const namesOf = (app: string) =>
  lines("get", "pods", "-l", `app=${app}`, "--sort-by=.metadata.name", "-o", "name");
const nodesOf = async (app: string) =>
  (
    await lines(
      "get",
      "pods",
      "-l",
      `app=${app}`,
      "-o",
      'jsonpath={range .items[*]}{.spec.nodeName}{"\\n"}{end}',
    )
  ).sort();

/** Asks again until it is so. @throws Error when patience is at its end. */
async function until(what: string, test: () => Promise<boolean>): Promise<void> {
  const end = Date.now() + 1000 * Number.parseInt(patience, 10);
  while (!(await test())) {
    if (Date.now() > end) throw new Error(`it never came to this: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

t.test("a StatefulSet: names, order, history", async (t) => {
  const service = {
    apiVersion: "v1",
    kind: "Service",
    metadata: { name: "db" },
    spec: { clusterIP: "None", selector: { app: "db" }, ports: [{ port: 80 }] },
  };
  await applied(service, workload("StatefulSet", "db", { serviceName: "db", replicas: 2 }));
  await kubectl("rollout", "status", "sts/db", `--timeout=${patience}`);
  t.match(await kubectl("get", "sts"), /^NAME +READY +AGE\ndb +2\/2 /);
  t.same(await namesOf("db"), ["pod/db-0", "pod/db-1"]);
  t.equal(await kubectl("exec", "db-1", "--", "hostname"), "db-1");
  t.match(
    await kubectl("get", "endpointslices", "-l", "kubernetes.io/service-name=db", "-o", "yaml"),
    /hostname: db-0/,
  );

  t.equal(await kubectl("set", "image", "sts/db", `main=${IMAGE}:1.25`), "statefulset.apps/db image updated");
  await kubectl("rollout", "status", "sts/db", `--timeout=${patience}`);
  t.match(await kubectl("rollout", "history", "sts/db"), /REVISION +CHANGE-CAUSE\n1 +<none>\n2 +<none>/);
  t.equal(await kubectl("rollout", "undo", "sts/db"), "statefulset.apps/db rolled back");
  await kubectl("rollout", "status", "sts/db", `--timeout=${patience}`);
  const image = "jsonpath={.items[*].spec.containers[0].image}";
  t.equal(await kubectl("get", "pods", "-l", "app=db", "-o", image), `${IMAGE} ${IMAGE}`);

  await kubectl("scale", "sts/db", "--replicas=3");
  await kubectl("rollout", "status", "sts/db", `--timeout=${patience}`);
  await kubectl("scale", "sts/db", "--replicas=1");
  await until("only the first is left", async () => (await namesOf("db")).join() === "pod/db-0");
  t.match(
    await kubectl("describe", "sts", "db"),
    /SuccessfulDelete .* delete Pod db-2 in StatefulSet db successful/,
  );
});

t.test("a DaemonSet: every node, also a cordoned one, none that a taint forbids", async (t) => {
  await applied(workload("DaemonSet", "agent", {}));
  await kubectl("rollout", "status", "ds/agent", `--timeout=${patience}`);
  t.match(await kubectl("get", "ds"), /agent +3 +3 +3 +3 +3 +<none> /);
  t.same(await nodesOf("agent"), ["node-1", "node-2", "node-3"]);
  await kubectl("taint", "node", "node-2", "dedicated=db:NoExecute");
  await until("node-2 is left alone", async () => (await nodesOf("agent")).join() === "node-1,node-3");
  await kubectl("taint", "node", "node-2", "dedicated-");
  await kubectl("cordon", "node-3");
  await kubectl("rollout", "restart", "ds/agent");
  await kubectl("rollout", "status", "ds/agent", `--timeout=${patience}`);
  const everywhere = "node-1,node-2,node-3";
  await until("every node has one", async () => (await nodesOf("agent")).join() === everywhere);
  await kubectl("uncordon", "node-3");
  t.match(await kubectl("rollout", "history", "ds/agent"), /\n1 +<none>\n2 +<none>/);
});

t.test("a ReplicationController: expose, scale, let go and take back", async (t) => {
  const rc = { apiVersion: "v1", kind: "ReplicationController", metadata: { name: "old" } };
  await applied({ ...rc, spec: { replicas: 2, template: template("old") } });
  await until("both are ready", async () => /old +2 +2 +2 /.test(await kubectl("get", "rc")));
  t.equal(await kubectl("expose", "rc", "old", "--port=80"), "service/old exposed");
  const address = await kubectl("get", "svc", "old", "-o", "jsonpath={.spec.clusterIP}");
  await cluster.waitForSync();
  const { stdout } = await cluster.exec("node-1", [
    "curl",
    "-s",
    "-o",
    "/dev/null",
    "-w",
    "%{http_code}",
    `${address}:80`,
  ]);
  t.equal(stdout, "200");
  t.match(await kubectl("get", "all"), /replicationcontroller\/old +2 +2 +2 /);

  const before = await namesOf("old");
  await kubectl("delete", "rc", "old", "--cascade=orphan");
  t.same(await namesOf("old"), before, "the pods stay");
  await applied({ ...rc, spec: { replicas: 2, template: template("old") } });
  await until("they are taken back", async () => /old +2 +2 +2 /.test(await kubectl("get", "rc")));
  t.same(await namesOf("old"), before);
  await kubectl("delete", "rc", "old", "--cascade=foreground");
  t.same(await namesOf("old"), [], "the pods go first");
});

t.test("a drain waits for a PodDisruptionBudget", async (t) => {
  await applied(workload("Deployment", "guarded", { replicas: 2 }));
  await kubectl("rollout", "status", "deployment/guarded", `--timeout=${patience}`);
  t.equal(
    await kubectl("create", "pdb", "guarded", "--selector=app=guarded", "--min-available=2"),
    "poddisruptionbudget.policy/guarded created",
  );
  await until("it is calculated", async () => /guarded +2 +N\/A +0 /.test(await kubectl("get", "pdb")));
  const [node = ""] = await nodesOf("guarded");
  const drain = ["drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force"];
  const refused = await cluster.kubectl([...drain, "--timeout=10s"]);
  t.match(refused.stderr, /Cannot evict pod as it would violate the pod's disruption budget\./);
  t.not(refused.exitCode, 0);
  await kubectl("scale", "deployment/guarded", "--replicas=3");
  await until("one may go", async () => /guarded +2 +N\/A +1 /.test(await kubectl("get", "pdb")));
  t.match(await kubectl(...drain, `--timeout=${patience}`), new RegExp(`node/${node} drained$`));
  t.notOk((await nodesOf("guarded")).includes(node));
  t.ok((await nodesOf("agent")).includes(node), "daemons stay");
  await kubectl("uncordon", node);
});
