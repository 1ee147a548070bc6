// Pods of a VM that are real containers: node-3 is provisioned once more, for containerd, with the cgroups that kubeadm's
// documentation asks for where systemd runs. Knows the cluster of cluster.test.ts, with a pod `peer` on every node.

import { readFileSync } from "node:fs";
import t from "tap";
import { runToEnd } from "../helpers/machines.js";
import { IMAGE, makeImage } from "../helpers/oci-image.js";
import { cannotRun, find } from "../helpers/runtime-machines.js";
import type { VirtualMachine } from "./machine.js";
import { eventually, JOIN, kubectlIn, NAMESPACE, SERVER, type VmCluster } from "./vm-cluster.js";

/** No registry is to be reached: the test's image waits in place of `pause`. */
const CONFIG = `version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "${IMAGE}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = true
`;

const WORKLOAD = `
apiVersion: apps/v1
kind: Deployment
metadata: { name: box }
spec:
  selector: { matchLabels: { app: box } }
  template:
    metadata: { labels: { app: box } }
    spec:
      nodeSelector: { kubernetes.io/hostname: node-3 }
      terminationGracePeriodSeconds: 1
      securityContext: { fsGroup: 2000, seccompProfile: { type: RuntimeDefault } }
      volumes:
        - { name: shared, emptyDir: {} }
        - { name: data, hostPath: { path: /home/box, type: DirectoryOrCreate } }
      containers:
        - name: box
          image: ${IMAGE}
          command: [/bin/sh, -c, 'echo "serving on $(NODE)"; exec httpd -f -p 8080 -h /www']
          env: [{ name: NODE, valueFrom: { fieldRef: { fieldPath: spec.nodeName } } }]
          resources: { limits: { memory: 64Mi } }
          volumeMounts: [{ name: shared, mountPath: /shared }, { name: data, mountPath: /data }]
          readinessProbe: { httpGet: { path: /, port: 8080 }, periodSeconds: 5 }
---
apiVersion: v1
kind: Service
metadata: { name: box }
spec:
  type: NodePort
  clusterIP: 10.96.0.81
  selector: { app: box }
  ports: [{ port: 80, targetPort: 8080, nodePort: 30081 }]
`;
const ANSWER = /hello of the container/;

/** What the machine has of a container's pod: its address, its network namespace, a port of the bridge more than pods. */
const heldOf = (ip: string) => `cd /run/kubeplumb/cni/networks/kubeplumb
  ls | grep -xF ${ip} || true; ls /run/netns | grep ^cni- || true
  [ $(ls | grep -c '^[0-9]') = $(ls /sys/class/net/cni0/brif | wc -l) ] || echo another number of ports`;

/** @param directory for the archive of the image. */
export function testRealContainers(cluster: VmCluster, directory: string): void {
  const kubectl = kubectlIn(cluster);
  const get = (what: string, path: string) => kubectl("get", ...what.split(" "), "-o", `jsonpath={${path}}`);
  const page = async (vm: VirtualMachine, url: string) => (await vm.run(`curl -sS --max-time 10 ${url}`)).out;
  const box = (...argv: string[]) => kubectl("exec", "deployment/box", "--", ...argv);
  const ctr = (vm: VirtualMachine, words: string) => vm.must(`ctr -n k8s.io ${words}`);
  const workers = () =>
    cluster.nodes.filter(({ name }) => name !== "node-2") as [VirtualMachine, VirtualMachine];

  async function peerOn({ name }: VirtualMachine): Promise<{ name: string; ip: string }> {
    const selected = `pods -l app=peer --field-selector spec.nodeName=${name}`;
    const [pod = "", ip = ""] = (await get(selected, ".items[0]['metadata.name', 'status.podIP']")).split(
      " ",
    );
    return { name: pod, ip };
  }
  const reaches = (ttl: number, from: string, ip: string) =>
    eventually(async () =>
      (await kubectl("exec", from, "--", "ping", "-c1", "-W5", ip)).includes(` ttl=${ttl} `),
    );

  let ip = "";

  const options = { skip: cannotRun() };
  t.test("a node is provisioned once more, for containerd", options, async (t) => {
    const [, vm] = workers();
    await kubectl("drain", vm.name, "--ignore-daemonsets", "--timeout=300s");
    t.equal((await vm.run("systemctl is-active containerd")).out, "inactive\n");
    await vm.write("/etc/containerd/config.toml", CONFIG);
    const ready = `kubeplumb: node is ready at ${vm.address}\n`;
    const made = await vm.provision("node", vm.address, SERVER, JOIN, "containerd");
    t.match(made, "written: /opt/cni/bin/kubeplumb-cni\n");
    t.match(made, "written: /etc/systemd/system/kubeplumb-node.service\n");
    t.ok(made.endsWith(ready), made);
    const again = await vm.provision("node", vm.address, SERVER, JOIN);
    t.equal(again, `${"all files are as they should be\n".repeat(2)}${ready}`, "without a word of it, too");
    t.match(await get(`node ${vm.name}`, ".status.nodeInfo.containerRuntimeVersion"), /^containerd:\/\/1\./);
    t.notMatch(await vm.must("journalctl -b -u kubeplumb-node -o cat"), "looks for CNI plugins in");
    await vm.write("/root/image.tar", readFileSync(makeImage(directory, find("busybox") ?? "")));
    t.equal(await vm.must("kubeplumb image import /root/image.tar"), `${IMAGE}\n`);
    await kubectl("uncordon", vm.name);
    const { name } = await peerOn(vm);
    t.ok(
      await eventually(() => kubectl("exec", name, "--", "true").then(() => true)),
      "emulated, as it asks",
    );
  });

  t.test("a pod that is a container, behind a Service", options, async (t) => {
    const [other, vm] = workers();
    await cluster.apply(WORKLOAD, { namespace: NAMESPACE });
    await kubectl("rollout", "status", "deployment/box", "--timeout=600s");
    for (const [from, url] of [
      [other, "10.96.0.81"],
      [vm, "10.96.0.81"],
    ] as const)
      t.ok(await eventually(async () => ANSWER.test(await page(from, url))), `ClusterIP from ${from.name}`);
    for (const { address } of [other, vm]) {
      const ask = () => runToEnd("curl", ["-sS", "--max-time", "10", `${address}:30081`]);
      t.ok(
        await eventually(async () => ANSWER.test((await ask()).out)),
        `NodePort on ${address} from outside`,
      );
    }
    ip = await get("pods -l app=box", ".items[0].status.podIP");
    const block = (await get(`node ${vm.name}`, ".spec.podCIDR")).replace(/0\/24$/, "");
    t.ok(ip.startsWith(block), `${ip} is of ${block}0/24`);
    const there = await peerOn(other);
    t.ok(await reaches(62, there.name, ip), "from a pod on another node, through two hosts");
    t.ok(await reaches(62, "deployment/box", there.ip), "and back");
    t.ok(await reaches(64, (await peerOn(vm)).name, ip), "from an emulated pod on the same node");
    t.equal(await kubectl("logs", "deployment/box"), `serving on ${vm.name}`);
    t.match(await box("cat", "/proc/1/status"), /^Name:\thttpd\n(.*\n)*Seccomp:\t2\n/);
    t.equal(await box("busybox", "stat", "-c", "%g %a", "/shared"), "2000 2777");
    await box("/bin/sh", "-c", "echo written > /data/file");
    t.equal(await vm.must("cat /home/box/file"), "written\n", "a directory that the service has made");
    t.match(await ctr(vm, "containers ls"), new RegExp(`(${IMAGE} +io\\.containerd\\.runc\\.v2.*\\n.*){2}`));
    const cgroup = "cut -d: -f3 /proc/$(pgrep -ox httpd)/cgroup";
    t.match(await vm.must(cgroup), /^\/kubepods\.slice\/cri-containerd-[0-9a-f]{64}\.scope\n$/);
    t.equal(await vm.must(`cat /sys/fs/cgroup$(${cgroup})/memory.max`), `${64 << 20}\n`);
  });

  t.test("the service starts again: its containers go on", options, async (t) => {
    const [other, vm] = workers();
    // It has children while it answers.
    const before = await vm.must("pgrep -ox httpd");
    await vm.must("systemctl restart kubeplumb-node");
    t.equal(await vm.must("pgrep -ox httpd"), before);
    t.equal(await eventually(() => box("cat", "/www/index.html")), "hello of the container");
    t.equal(await get("pods -l app=box", ".items[0].status.containerStatuses[0].restartCount"), "0");
    t.ok(await eventually(async () => ANSWER.test(await page(other, "10.96.0.81"))));
  });

  t.test("deleted, nothing of it is left", options, async (t) => {
    const [, vm] = workers();
    t.match(await vm.must(heldOf(ip)), new RegExp(`^${ip}\\ncni-\\S+\\n$`), "while it is there");
    await kubectl("delete", "deployment/box", "service/box");
    t.ok(await eventually(async () => (await ctr(vm, "tasks ls -q; ctr -n k8s.io containers ls -q")) === ""));
    t.ok(await eventually(async () => (await vm.must(heldOf(ip))) === ""));
  });
}
