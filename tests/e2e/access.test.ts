// The API from inside a pod, as "Accessing the Kubernetes API from a Pod" has it: token, CA and namespace where every
// client library looks for them, the Service kubernetes, and what kubectl says of accounts. In a lab or on VMs.

import { mkdtempSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { directory, installCommand } from "../helpers/cli.js";
import { clusterUnderTest } from "../helpers/cluster-under-test.js";
import { kubectlOf } from "../helpers/kubectl.js";
import { machineFiles } from "../helpers/machine-files.js";

const { cluster, lab, patience, programs } = await clusterUnderTest(t, { nodes: 2 });
const kubectl = kubectlOf(cluster);

const MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount";
const ASK = `cd ${MOUNT} && curl -sS --cacert ca.crt -H "Authorization: Bearer $(cat token)" \
https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT`;

t.test("a pod whose image is emulated: the token is there for whoever execs", async (t) => {
  await kubectl("run", "web", "--image=nginx");
  await kubectl("wait", "--for=condition=Ready", "pod/web", `--timeout=${patience}`);
  t.equal(await kubectl("exec", "web", "--", "cat", `${MOUNT}/namespace`), "default");
  t.match(await kubectl("exec", "web", "--", "cat", `${MOUNT}/ca.crt`), /^-----BEGIN CERTIFICATE-----/);
  const version = await kubectl("exec", "web", "--", "sh", "-c", `${ASK}/version`);
  t.match(JSON.parse(version), { gitVersion: /^v1\.\d+/ });
  const ask = () =>
    kubectl("exec", "web", "--", "sh", "-c", `${ASK}/api/v1/namespaces/$(cat namespace)/pods`);
  t.match(JSON.parse(await ask()), {
    code: 403,
    message:
      'pods is forbidden: User "system:serviceaccount:default:default" cannot list resource "pods" in API group "" in the namespace "default"',
  });
  await kubectl("create", "rolebinding", "look", "--clusterrole=view", "--serviceaccount=default:default");
  const pods = await ask();
  t.match(JSON.parse(pods), { kind: "PodList", items: [{ metadata: { name: "web" } }] });
  const nobody = await kubectl(
    "exec",
    "web",
    "--",
    "sh",
    "-c",
    `curl -sS --cacert ${MOUNT}/ca.crt https://$KUBERNETES_SERVICE_HOST/api/v1/pods`,
  );
  t.match(JSON.parse(nobody), { code: 401, reason: "Unauthorized" });
  t.match(await kubectl("describe", "pod", "web"), /kube-api-access-\w{5} \(ro\)/);
});

t.test("a pod that is a process finds it at its start", async (t) => {
  const script = `${ASK}/api/v1/namespaces/default/configmaps/kube-root-ca.crt | grep -c BEGIN`;
  await kubectl("run", "asker", "--image=busybox", "--restart=Never", "--command", "--", "sh", "-c", script);
  await kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/asker", `--timeout=${patience}`);
  t.equal(await kubectl("logs", "asker"), "1");
});

t.test("an account of one's own, its token, and what it may", async (t) => {
  await kubectl("create", "serviceaccount", "robot");
  const token = await kubectl("create", "token", "robot", "--duration=20m");
  t.match(token, /^[\w-]+\.[\w-]+\.[\w-]+$/);
  const who = JSON.parse(await kubectl("--token", token, "auth", "whoami", "-o", "json"));
  // kubectl has the administrator's certificate too, and that counts first, as in a real cluster.
  t.equal(who.status.userInfo.username, "kubernetes-admin");
  t.equal(await kubectl("auth", "can-i", "delete", "nodes"), "yes");
  t.match(await kubectl("auth", "can-i", "--list"), /\*\.\*/);
  await kubectl(
    "run",
    "shy",
    "--image=busybox",
    `--overrides={"spec":{"automountServiceAccountToken":false,"serviceAccountName":"robot"}}`,
    "--command",
    "--",
    "sleep",
    "1000",
  );
  await kubectl("wait", "--for=condition=Ready", "pod/shy", `--timeout=${patience}`);
  const looked = await cluster.kubectl(["exec", "shy", "--", "ls", MOUNT]);
  t.not(looked.exitCode, 0, "no token where none is wanted");
});

t.test("kubeplumb proxy in a pod, with the pod's own credentials", async (t) => {
  const program = lab ? installCommand(mkdtempSync(join(directory, "bin-"))) : "/usr/local/bin/kubeplumb";
  const role = ["--clusterrole=system:node-proxier", "--serviceaccount=default:default"];
  await kubectl("create", "clusterrolebinding", "proxy", ...role);
  await kubectl("create", "service", "clusterip", "web", "--tcp=80");
  await kubectl("label", "pod", "web", "app=web");
  const args = ["proxy", "--hostname-override=node-1", "--cluster-cidr=10.244.0.0/16"];
  const { container, spec } = machineFiles(lab ? [...programs.files, directory] : programs.files);
  const main = { name: "proxy", image: "busybox", command: [program, ...args], ...container };
  const privileged = { ...main, securityContext: { privileged: true } };
  const overrides = JSON.stringify({ spec: { ...spec, containers: [privileged] } });
  await kubectl("run", "proxy", "--image=busybox", `--overrides=${overrides}`);
  await kubectl("wait", "--for=condition=Ready", "pod/proxy", `--timeout=${patience}`);
  const rules = async () => {
    const { stdout } = await cluster.kubectl(["exec", "proxy", "--", "iptables-save", "-t", "nat"]);
    return stdout;
  };
  const ip = await kubectl("get", "pod", "web", "-o", "jsonpath={.status.podIP}");
  let found = "";
  const looks = lab ? 100 : 1000;
  for (let i = 0; i < looks && !found.includes(`--to-destination ${ip}:80`); i++) found = await rules();
  t.match(found, `--to-destination ${ip}:80`, "it has read Services and EndpointSlices");
  const mode = await kubectl("exec", "proxy", "--", "curl", "-s", "127.0.0.1:10249/proxyMode");
  t.equal(mode, "iptables");
});
