// Pods that are real containers: kubeplumb node --runtime containerd on two machines of a cluster, with an image that is
// made here and imported.

import { spawn } from "node:child_process";
import t from "tap";
import { AT, type ContainerNodes, withContainerNodes } from "../helpers/container-nodes.js";
import { IMAGE } from "../helpers/oci-image.js";
import { page } from "../helpers/runtime-checks.js";
import { eventually } from "../helpers/until.js";

await withContainerNodes(suite);

async function suite(nodes: ContainerNodes): Promise<void> {
  const { cluster, one, two, kubectl, get, pod, isReady } = nodes;

  t.test("image import and ls", async (t) => {
    for (const machine of [one, two]) t.match(await nodes.importImage(machine), IMAGE);
    const list = await cluster.kubeplumb(one, "image", "ls", ...AT);
    t.match(list, /^IMAGE +TAG +IMAGE ID +SIZE\nlocalhost\/kubeplumb-test +1 +[0-9a-f]{13} +[\d.]+MB/);
    t.match(await get("node one", ".status.nodeInfo.containerRuntimeVersion"), /^containerd:\/\/\d/);
  });

  t.test("a Deployment on both machines, behind a ClusterIP and a NodePort", async (t) => {
    await nodes.deployWeb();
    const names = await get("pods -l app=web", ".items[*].spec.nodeName");
    t.same(names.split(" ").sort(), ["one", "two"]);
    const clusterIP = await get("service web", ".spec.clusterIP");
    const port = await get("service web", ".spec.ports[0].nodePort");
    for (const url of [clusterIP, `${one.ip}:${port}`, `${two.ip}:${port}`])
      for (const machine of [one, two])
        await eventually(async () => /hello of the container/.test(await page(machine, `http://${url}/`)));
    t.match(await kubectl("logs -l app=web"), /serving on (one|two)\nserving on (one|two)/);
    t.match(
      await get("pods -l app=web", ".items[0].status.containerStatuses[0].containerID"),
      /^containerd:\/\//,
    );
    t.match(await nodes.held(one), /kubeplumb-test/);
  });

  t.test("exec and logs", async (t) => {
    await pod("box", {
      command: ["/bin/sh", "-c", "echo out; echo err >&2; sleep 1000000; echo ended; exit 3"],
      env: [{ name: "GREETING", value: "hello" }],
    });
    await isReady("box");
    // The size comes a moment after the start.
    const terminal = `stty rows 33 cols 99; kubectl ${cluster.kubectlWords.join(" ")} exec -it box -- sh -c "until busybox stty size | busybox grep 99; do sleep 1; done"`;
    t.match(await inTerminal(terminal), /33 99\r\n/, "a terminal, and its size");
    t.match(await kubectl("exec box -- busybox env"), /HOSTNAME=box\n(.*\n)*GREETING=hello\n/);
    t.equal(await kubectl("exec -i box -- cat", "typed\n"), "typed\n", "the end of stdin arrives");
    await t.rejects(kubectl("exec box -- busybox false"), /exit code 1/);
    await t.rejects(kubectl("exec box -- /bin/nothing"), /no such file or directory/);
    // Two pipes: which line is first is not said.
    t.same((await kubectl("logs box")).trim().split("\n").sort(), ["err", "out"]);
    t.match(await kubectl("logs box --timestamps"), /^\d{4}-\d\d-\d\dT\S+ (out|err)\n/);
    const followed = kubectl("logs -f box");
    // The shell goes on when its sleep is killed: the run ends by itself, with 3.
    // It takes the command that does it along.
    await kubectl("exec box -- /bin/busybox killall sleep").catch(() => {});
    t.match(await followed, /out\n(?:.*\n)*ended\n/, "-f ends with the run");
    await eventually(async () => (await get("pod box", ".status.containerStatuses[0].restartCount")) === "1");
    await isReady("box");
    t.match(await kubectl("logs box --previous"), /ended/);
    const last = await get("pod box", ".status.containerStatuses[0].lastState.terminated");
    t.match(JSON.parse(last), { exitCode: 3, reason: "Error", containerID: /^containerd:/ });
    t.match(await kubectl("get pod box -o wide"), /box +1\/1 +Running +1 .* 10\.244\./);
    t.match(await kubectl("describe pod box"), /Started +.*Container started/);
  });

  t.test("what a pod prepares: files, users, init containers, ports of the host", async (t) => {
    await kubectl("create configmap conf --from-literal=key=value");
    await pod(
      "full",
      {
        command: [
          "/bin/sh",
          "-c",
          "cat /conf/key /shared/made > /dev/termination-log; exec httpd -f -p 8080 -h /www",
        ],
        ports: [{ containerPort: 8080, hostPort: 8085 }],
        volumeMounts: [
          { name: "conf", mountPath: "/conf" },
          { name: "shared", mountPath: "/shared" },
        ],
        livenessProbe: { exec: { command: ["cat", "/shared/made"] }, periodSeconds: 1, failureThreshold: 1 },
        securityContext: { readOnlyRootFilesystem: true, capabilities: { drop: ["ALL"] } },
      },
      {
        nodeName: "one",
        securityContext: { runAsUser: 1000, runAsGroup: 1000, fsGroup: 2000 },
        hostAliases: [{ ip: "10.1.2.3", hostnames: ["alias"] }],
        initContainers: [
          {
            name: "first",
            image: IMAGE,
            command: ["/bin/sh", "-c", "echo made > /shared/made"],
            volumeMounts: [{ name: "shared", mountPath: "/shared" }],
          },
        ],
        volumes: [
          { name: "conf", configMap: { name: "conf" } },
          { name: "shared", emptyDir: {} },
        ],
      },
    );
    await isReady("full");
    const sh = (command: string) =>
      cluster.kubectl(["exec", "full", "-c", "main", "--", "/bin/sh", "-c", command]);
    t.match(await sh("busybox id"), /uid=1000 gid=1000 groups=1000,2000/);
    t.match(await sh("cat /etc/hosts"), /10\.1\.2\.3\talias\n/);
    t.match(await sh("cat /etc/resolv.conf"), /nameserver 10\.96\.0\.10\n/);
    t.match(await sh("cat /var/run/secrets/kubernetes.io/serviceaccount/token"), /^ey/);
    t.match(await sh("cat /proc/self/status"), /CapBnd:\t0{16}\n/);
    await t.rejects(sh("echo x > /new"), /exit code/, "the root is read-only");
    t.match(await page(two, "http://192.168.56.11:8085/"), /hello of the container/, "hostPort");
    // The probe fails; the pod's own files outlive the container.
    await sh("busybox rm /shared/made");
    await eventually(async () => /"reason": "Unhealthy"/.test(await kubectl("get events -o json")));
    const last = () => get("pod full", ".status.containerStatuses[0].lastState.terminated");
    await eventually(async () => JSON.parse(await last()).exitCode !== undefined);
    t.equal(JSON.parse(await last()).message, "valuemade\n");
  });

  t.test("a program that is not there, and images that cannot be had", async (t) => {
    const reason = (name: string, state = "state.waiting") =>
      get(`pod ${name}`, `.status.containerStatuses[0].${state}.reason`);
    await pod("bad", { command: ["/bin/nothing"] });
    await pod("never", { image: "localhost/none:1", imagePullPolicy: "Never" });
    await pod("pull", { image: "127.0.0.1:9/none:1" });
    await eventually(async () => (await reason("bad", "lastState.terminated")) === "StartError");
    await eventually(async () => (await reason("never")) === "ErrImageNeverPull");
    await eventually(async () => (await reason("pull")) === "ImagePullBackOff");
    const message = await get("pod pull", ".status.containerStatuses[0].state.waiting.message");
    t.match(message, /Back-off pulling image "127\.0\.0\.1:9\/none:1": .*connection refused/);
    await kubectl("delete pod bad never pull --wait=true --timeout=60s");
  });

  t.test("limits", { skip: !cluster.limits && "no controllers of cgroup v1 here" }, async (t) => {
    const grow = "echo begun; a=xxxxxxxx; while true; do a=$a$a; done";
    const resources = { limits: { memory: "16Mi", cpu: "500m" } };
    await pod(
      "greedy",
      { command: ["/bin/sh", "-c", grow], resources },
      { nodeName: "one", restartPolicy: "Never" },
    );
    const state = () => get("pod greedy", ".status.containerStatuses[0].state.terminated");
    await eventually(async () => (await state()) !== "");
    t.match(JSON.parse(await state()), { reason: "OOMKilled", exitCode: 137 });
    t.equal(await get("pod greedy", ".status.phase"), "Failed");
    await pod("slow", { command: ["/bin/sleep", "1000000"], resources }, { nodeName: "one" });
    await isReady("slow");
    const id = (await get("pod slow", ".status.containerStatuses[0].containerID")).split("//")[1];
    const limit = (file: string) =>
      cluster.must(one, "cat", `/sys/fs/cgroup/${file.replace("/", `/kubepods/${id}/`)}`);
    t.equal(await limit("memory/memory.limit_in_bytes"), `${16 << 20}\n`);
    t.equal(await limit("cpu/cpu.cfs_quota_us"), "50000\n");
    t.equal(await limit("cpu/cpu.shares"), "512\n");
    await kubectl("delete pod greedy slow --wait=true --timeout=60s");
  });

  t.test("port-forward and attach", async (t) => {
    const forward = cluster.startKubectl("port-forward", "deployment/web", "18080:8080");
    await forward.logged(/Forwarding from 127\.0\.0\.1:18080/);
    t.match(await page(cluster.control, "http://127.0.0.1:18080/"), /hello/);
    forward.child.kill();
    await forward.exited;
    const run = `run talk --image=${IMAGE} --restart=Never --rm -i --command -- cat`;
    t.match(await kubectl(run, "through attach\n"), /through attach/);
  });

  t.test("deleted: nothing is left, neither containers nor addresses", async (t) => {
    await kubectl("delete deployment web --wait=true --timeout=60s");
    await kubectl("delete pod --all --wait=true --timeout=60s");
    for (const machine of [one, two]) {
      await eventually(async () => !/kubeplumb-test/.test(await nodes.held(machine)));
      await eventually(async () => (await cluster.traces(machine)).addresses.length === 0);
      t.same(await cluster.traces(machine), { addresses: [], ports: [], rules: [] });
    }
  });
}

/** What a command shows in a terminal of its own; nobody types, and nobody goes away. */
function inTerminal(command: string): Promise<string> {
  return new Promise((resolve) => {
    const child = spawn("script", ["-qec", command, "/dev/null"], { stdio: ["pipe", "pipe", "inherit"] });
    let out = "";
    child.stdout.on("data", (chunk: Buffer) => {
      out += chunk;
    });
    child.once("close", () => resolve(out));
  });
}
