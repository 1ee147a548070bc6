// Writing with kubectl as one who knows a real cluster does it: server-side apply with its conflicts and owners, the
// way there from client-side apply, diff, dry runs, prune, edit, replace, set, label, annotate and patch.

import type { ManagedFieldsEntry } from "kubernetes-types/meta/v1.js";
import t from "tap";
import { pathTexts } from "../../control/patch/field-set.js";
import { readManagers } from "../../control/patch/managers.js";
import { fileCluster, sedEditor } from "../helpers/file-cluster.js";

t.setTimeout(240_000);
const { cluster, directory } = await fileCluster(1);

interface Run {
  exitCode: number;
  stdout: string;
  stderr: string;
}

/** A kubectl command line, split at spaces, with a manifest on stdin when there is one. */
function run(line: string, input?: string): Promise<Run> {
  return cluster.kubectl(line.split(" "), input === undefined ? {} : { input });
}

async function kubectl(line: string, input?: string): Promise<string> {
  const { exitCode, stdout, stderr } = await run(line, input);
  if (exitCode !== 0) throw new Error(`kubectl ${line}: ${stderr}`);
  return stdout.trimEnd();
}

const manifest = (name: string, replicas: number | undefined, image = "nginx") => `apiVersion: apps/v1
kind: Deployment
metadata:
  name: ${name}
  labels: { app: ${name} }
spec:
${replicas === undefined ? "" : `  replicas: ${replicas}\n`}  selector: { matchLabels: { app: ${name} } }
  template:
    metadata: { labels: { app: ${name} } }
    spec:
      containers:
      - name: nginx
        image: ${image}
        ports: [{ containerPort: 80 }]
`;

/** "manager operation subresource" → the paths that it owns. */
async function owners(object: string): Promise<Record<string, string[]>> {
  const { metadata } = JSON.parse(await kubectl(`get ${object} -o json --show-managed-fields`)) as {
    metadata: { managedFields?: ManagedFieldsEntry[] };
  };
  return Object.fromEntries(
    readManagers(metadata.managedFields).map(({ manager, operation, subresource, fields }) => [
      `${manager} ${operation} ${subresource}`.trimEnd(),
      pathTexts(fields),
    ]),
  );
}

const replicas = (name: string): Promise<string> =>
  kubectl(`get deploy ${name} -o jsonpath={.spec.replicas}`);
const version = (object: string): Promise<string> =>
  kubectl(`get ${object} -o jsonpath={.metadata.resourceVersion}`);

t.test("server-side apply: creates, does nothing twice, refuses, forces, gives up", async (t) => {
  const text = "deployment.apps/web serverside-applied";
  t.equal(await kubectl("apply --server-side -f -", manifest("web", 2)), text);
  await kubectl("rollout status deploy/web --timeout=60s");
  const before = await owners("deploy/web");
  t.same(Object.keys(before).sort(), ["kube-controller-manager Update status", "kubectl Apply"]);
  const revision = ".metadata.annotations.deployment.kubernetes.io/revision";
  t.ok(before["kube-controller-manager Update status"]?.includes(revision));
  t.ok(before["kubectl Apply"]?.includes('.spec.template.spec.containers[name="nginx"].image'));
  t.ok(before["kube-controller-manager Update status"]?.includes('.status.conditions[type="Available"]'));
  const pods = await kubectl("get pods -l app=web -o jsonpath={.items[*].metadata.managedFields}");
  t.equal(pods, "", "pods of a ReplicaSet are not tracked");
  await kubectl("run one --image=nginx");
  await kubectl("wait pod/one --for=condition=Ready --timeout=60s");
  t.same(Object.keys(await owners("pod/one")).sort(), ["kubectl-run Update", "kubelet Update status"]);

  const unchanged = await version("deploy/web");
  t.equal(await kubectl("apply --server-side -f -", manifest("web", 2)), text);
  t.equal(await version("deploy/web"), unchanged);

  const refused = await run("apply --server-side --field-manager=other -f -", manifest("web", 3));
  t.equal(refused.exitCode, 1);
  t.match(
    refused.stderr,
    /^error: Apply failed with 1 conflict: conflict with "kubectl": \.spec\.replicas\n/,
  );
  t.match(refused.stderr, /re-run the apply\s+command with the `--force-conflicts` flag/);
  t.equal(await replicas("web"), "2");
  await kubectl("apply --server-side --field-manager=other --force-conflicts -f -", manifest("web", 3));
  t.equal(await replicas("web"), "3");
  t.notOk((await owners("deploy/web"))["kubectl Apply"]?.includes(".spec.replicas"));
  await kubectl("apply --server-side -f -", manifest("web", undefined));
  t.equal(await replicas("web"), "3", "other's");
  await kubectl("apply --server-side --field-manager=other -f -", manifest("web", undefined));
  t.equal(await replicas("web"), "1", "nobody's: the default");

  await kubectl("scale deploy/web --replicas=2");
  t.match(
    (await run("apply --server-side -f -", manifest("web", 1))).stderr,
    /conflict with "kubectl" with subresource "scale" using apps\/v1: \.spec\.replicas/,
  );
  const unknown = await run(
    "apply --server-side --validate=false -f -",
    manifest("web", 1).replace("replicas", "replicaz"),
  );
  t.equal(
    unknown.stderr.trimEnd(),
    "Error from server: failed to create typed patch object (default/web; apps/v1, Kind=Deployment): .spec.replicaz: field not declared in schema",
  );
});

t.test("dry runs and diff change nothing", async (t) => {
  const before = await version("deploy/web");
  const changed = manifest("web", 7);
  for (const how of ["", "--server-side --force-conflicts "]) {
    const dry = await kubectl(`apply ${how}--dry-run=server -o jsonpath={.spec.replicas} -f -`, changed);
    t.equal(dry, "7");
    const { exitCode, stdout } = await run(`diff ${how}-f -`, changed);
    t.equal(exitCode, 1, "there is a difference");
    t.match(stdout, /^- {2}replicas: 2\n\+ {2}replicas: 7$/m);
  }
  t.equal(await version("deploy/web"), before);
  const made = await kubectl("apply --server-side --dry-run=server -f -", manifest("none", 1));
  t.equal(made, "deployment.apps/none serverside-applied (server dry run)");
  t.match((await run("get deploy none")).stderr, /NotFound/);
});

t.test("from client-side apply to server-side and back", async (t) => {
  t.equal(await kubectl("apply -f -", manifest("moved", 1)), "deployment.apps/moved created");
  t.ok((await owners("deploy/moved"))["kubectl-client-side-apply Update"]?.includes(".spec.replicas"));
  const other = await run("apply --server-side --field-manager=other -f -", manifest("moved", 2));
  t.match(other.stderr, /conflict with "kubectl-client-side-apply" using apps\/v1: \.spec\.replicas/);
  await kubectl("apply --server-side -f -", manifest("moved", 2));
  t.equal(await replicas("moved"), "2", "no conflict with its own past");
  t.notOk(Object.hasOwn(await owners("deploy/moved"), "kubectl-client-side-apply Update"), "moved on");
  const last = () => kubectl("apply view-last-applied deploy/moved -o json");
  t.match(JSON.parse(await last()), { spec: { replicas: 2 } });
  t.equal(await kubectl("apply -f -", manifest("moved", 3)), "deployment.apps/moved configured");
  t.match(JSON.parse(await last()), { spec: { replicas: 3 } });
  t.equal(await kubectl("apply -f -", manifest("moved", 3)), "deployment.apps/moved unchanged");
});

t.test("edit, replace, set, label, annotate, patch: each under its own name", async (t) => {
  const editor = sedEditor(directory, "0,/^  replicas: .*/s//&\\n  minReadySeconds: 1/");
  process.env.KUBE_EDITOR = editor;
  t.equal(await kubectl("edit deploy/moved"), "deployment.apps/moved edited");
  await kubectl("set image deploy/moved nginx=nginx:2");
  await kubectl("set env deploy/moved COLOR=blue");
  await kubectl("label deploy/moved tier=front");
  await kubectl("annotate deploy/moved note=hi");
  await kubectl('patch deploy/moved -p {"spec":{"revisionHistoryLimit":3}}');
  await kubectl('patch deploy/moved --type=merge -p {"spec":{"progressDeadlineSeconds":60}}');
  await kubectl('patch deploy/moved --type=json -p [{"op":"add","path":"/metadata/labels/x","value":"y"}]');
  await kubectl('patch deploy/moved --subresource=scale --type=merge -p {"spec":{"replicas":1}}');
  const status = '{"status":{"collisionCount":1}}';
  await kubectl(`patch deploy/moved --subresource=status --type=merge -p ${status}`);
  const {
    "kubectl-client-side-apply Update": _,
    "kubectl Apply": __,
    ...others
  } = await owners("deploy/moved");
  const container = '.spec.template.spec.containers[name="nginx"]';
  t.match(others, {
    "kubectl-edit Update": [".spec.minReadySeconds"],
    "kubectl-set Update": [
      `${container}.env`,
      `${container}.env[name="COLOR"]`,
      `${container}.env[name="COLOR"].name`,
      `${container}.env[name="COLOR"].value`,
      `${container}.image`,
    ],
    "kubectl-label Update": [".metadata.labels.tier"],
    "kubectl-annotate Update": [".metadata.annotations.note"],
    "kubectl-patch Update": [
      ".metadata.labels.x",
      ".spec.progressDeadlineSeconds",
      ".spec.revisionHistoryLimit",
    ],
    "kubectl-patch Update scale": [".spec.replicas"],
    "kubectl-patch Update status": [".status.collisionCount"],
  });
  await kubectl("label deploy/moved tier-");
  t.notOk(Object.hasOwn(await owners("deploy/moved"), "kubectl-label Update"));
  // The controllers' own writes must be over: what is replaced is of a certain version.
  await kubectl("rollout status deploy/moved --timeout=60s");
  const object = await kubectl("get deploy/moved -o yaml");
  t.notMatch(object, /managedFields/);
  const replaced = await kubectl("replace -f -", object.replace(/^ {2}replicas: .*$/m, "  replicas: 2"));
  t.equal(replaced, "deployment.apps/moved replaced");
  t.ok((await owners("deploy/moved"))["kubectl-replace Update"]?.includes(".spec.replicas"));
  const forced = await kubectl("replace --force -f -", manifest("moved", 1));
  t.equal(forced, 'deployment.apps "moved" deleted\ndeployment.apps/moved replaced');
});

t.test("apply --prune takes away what the manifests do not have any more", async (t) => {
  const map = (name: string) =>
    `apiVersion: v1\nkind: ConfigMap\nmetadata: { name: ${name}, labels: { set: x } }\n`;
  const line = "apply --prune -l set=x --prune-allowlist=core/v1/ConfigMap -f -";
  t.equal(await kubectl(line, `${map("p1")}---\n${map("p2")}`), "configmap/p1 created\nconfigmap/p2 created");
  t.equal(await kubectl(line, map("p1")), "configmap/p1 unchanged\nconfigmap/p2 pruned");
});
