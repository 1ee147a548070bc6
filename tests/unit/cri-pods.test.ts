// Pods in the words of CRI: configurations, limits, names of images; logs that a runtime writes; pulls that take their
// time; and what is said where no runtime is.

import { appendFileSync, mkdirSync, renameSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import t from "tap";
import { installFiles } from "../../cli/install/files.js";
import type { Container, PodStatus } from "../../common/k8s.js";
import { silentLogger } from "../../common/log.js";
import { containerConfigOf, graceOf, sandboxConfigOf } from "../../node/cri/config.js";
import { connectCri, pluginProblem } from "../../node/cri/connect.js";
import { tagged } from "../../node/cri/images.js";
import { LogFile } from "../../node/cri/log-file.js";
import { resourcesOf } from "../../node/cri/resources.js";
import type { ResolvedImage } from "../../node/images/index.js";
import { ImagePull } from "../../node/pods/image-pull.js";
import { kubeplumb } from "../helpers/cli.js";
import { freeSocket } from "../helpers/unix-server.js";
import { until } from "../helpers/until.js";
import { pod } from "./helpers/node-objects.js";

const facts = {
  node: "n",
  rootDir: "/var",
  attempt: 2,
  dns: { nameservers: ["10.96.0.10"], searches: ["svc"], options: ["ndots:5"] },
  cgroupParent: "/kubepods",
};

t.test("a sandbox", async (t) => {
  const ports = [{ containerPort: 53, hostPort: 5353, protocol: "UDP" }, { containerPort: 80 }];
  const containers = [{ name: "a", ports, securityContext: { privileged: true } }] as Container[];
  const security = { fsGroup: 7, supplementalGroups: [5, 7], sysctls: [{ name: "net.x", value: "1" }] };
  const config = sandboxConfigOf(pod({ containers, hostPID: true, securityContext: security }), facts);
  t.match(config, {
    metadata: { name: "web-1", namespace: "shop", uid: "u-1", attempt: 2 },
    hostname: "web-1",
    logDirectory: "/var/log/pods/shop_web-1_u-1",
    dnsConfig: { servers: ["10.96.0.10"], searches: ["svc"], options: ["ndots:5"] },
    labels: { "io.kubernetes.pod.uid": "u-1", "kubeplumb.io/node": "n" },
  });
  t.same(config.portMappings, [{ protocol: 1, containerPort: 53, hostPort: 5353, hostIp: "" }]);
  t.match(config.linux, {
    cgroupParent: "/kubepods",
    sysctls: { "net.x": "1" },
    securityContext: {
      namespaceOptions: { network: 0, pid: 2, ipc: 0 },
      privileged: true,
      supplementalGroups: [5, 7],
    },
  });
  const host = sandboxConfigOf(pod({ containers, hostNetwork: true, shareProcessNamespace: true }), facts);
  t.notOk("hostname" in host, "the host's own");
  t.same(host.portMappings, []);
  t.same(host.linux?.securityContext?.namespaceOptions, { network: 2, pid: 0, ipc: 0 });
});

t.test("a container", async (t) => {
  const container = {
    name: "main",
    image: "i",
    stdin: true,
    volumeMounts: [{ name: "v", mountPath: "/v", mountPropagation: "HostToContainer" }],
    securityContext: { runAsGroup: 3, capabilities: { drop: ["ALL"], add: ["NET_ADMIN"] } },
  } as Container;
  const of = (spec: object, more: object = {}) =>
    containerConfigOf(pod({ terminationGracePeriodSeconds: 9, ...spec }), container, {
      node: "n",
      rootDir: "/var",
      runNumber: 4,
      logPath: "/var/log/pods/shop_web-1_u-1/main/4.log",
      image: "i:latest",
      user: { uid: 0 },
      env: { A: "1" },
      mounts: [{ source: "/s", target: "/v", readOnly: true }],
      privileges: { uid: 0, gid: 0, groups: [], capabilities: [], noNewPrivileges: true },
      resources: {},
      ...more,
    });
  const config = of({});
  t.match(config, {
    metadata: { name: "main", attempt: 4 },
    image: { image: "i:latest" },
    envs: [{ key: "A", value: "1" }],
    mounts: [{ containerPath: "/v", hostPath: "/s", readonly: true, propagation: 1 }],
    logPath: "main/4.log",
    stdin: true,
    labels: { "io.kubernetes.container.name": "main", "io.kubernetes.pod.uid": "u-1" },
  });
  t.equal(graceOf((config.annotations ?? {}) as Record<string, string>), 9);
  const security = config.linux?.securityContext;
  t.match(security, {
    capabilities: { add: ["NET_ADMIN"], drop: ["ALL"] },
    runAsUser: { value: 0 },
    runAsGroup: { value: 3 },
    noNewPrivs: true,
    namespaceOptions: { pid: 1 },
    seccomp: { profileType: 1 },
  });
  t.ok(security?.maskedPaths?.includes("/proc/kcore"));
  t.ok(security?.readonlyPaths?.includes("/proc/sys"));
  const named = of(
    { securityContext: { seccompProfile: { type: "RuntimeDefault" } } },
    { user: { name: "web" } },
  );
  t.match(named.linux?.securityContext, { runAsUsername: "web", seccomp: { profileType: 0 } });
  t.notOk(named.linux?.securityContext?.runAsUser);
  t.match(of({}, { targetId: "other" }).linux?.securityContext?.namespaceOptions, {
    pid: 3,
    targetId: "other",
  });
});

t.test("limits, as the kubelet works them out", async (t) => {
  const of = (resources: object, qosClass: string) =>
    resourcesOf({ ...pod(), status: { qosClass } as PodStatus }, { resources }, 10 * 2 ** 30);
  t.same(of({}, "BestEffort"), { cpuShares: 2, oomScoreAdj: 1000 });
  const limits = { cpu: "500m", memory: "64Mi" };
  t.same(of({ limits, requests: limits }, "Guaranteed"), {
    cpuShares: 512,
    cpuPeriod: 100_000,
    cpuQuota: 50_000,
    memoryLimit: 64 << 20,
    oomScoreAdj: -997,
  });
  t.match(of({ requests: { cpu: "100m", memory: "1Gi" } }, "Burstable"), {
    cpuShares: 102,
    oomScoreAdj: 900,
  });
  t.match(of({ requests: { memory: "1Ki" } }, "Burstable"), { oomScoreAdj: 999 });
  t.match(of({ limits: { cpu: "1m" } }, "Burstable"), { cpuQuota: 1000 });
});

t.test("names of images", async (t) => {
  t.equal(tagged("nginx"), "nginx:latest");
  t.equal(tagged("localhost:5000/web"), "localhost:5000/web:latest");
  t.equal(tagged("web:1"), "web:1");
  t.equal(tagged("web@sha256:00"), "web@sha256:00");
});

t.test("a log that a runtime writes: read, followed through a change of the file, ended", async (t) => {
  const directory = t.testdir();
  const path = join(directory, "main", "0.log");
  const log = new LogFile(path);
  t.equal(log.read({}), "", "not there yet");
  mkdirSync(join(directory, "main"));
  const line = (text: string) => `2026-11-22T00:00:00.000000001Z stdout F ${text}\n`;
  writeFileSync(path, `${line("one")}2026-11-22T00:00:00.000000002Z stdo`);
  t.equal(log.read({}), "one\n", "half a line is none");
  const heard: string[] = [];
  let end = () => {};
  const over = new Promise<void>((resolve) => {
    end = resolve;
  });
  let ended = false;
  log.follow(
    {},
    over,
    (text) => heard.push(text),
    () => {
      ended = true;
    },
  );
  appendFileSync(path, `ut F two\n${line("three")}`);
  await until(() => heard.length === 2);
  t.same(heard, ["two\n", "three\n"]);
  t.notOk(log.rotate(), "small");
  appendFileSync(path, `${line("four")}${line("x".repeat(16_000)).repeat(700)}`);
  t.ok(log.rotate());
  appendFileSync(`${path}.1`, line("late"));
  writeFileSync(path, line("five"));
  await until(() => heard.includes("five\n"));
  t.ok(heard.indexOf("late\n") < heard.indexOf("five\n"), "what the old file still got is not lost");
  t.equal(heard.length, 2 + 1 + 700 + 1 + 1);
  t.match(log.read({ tailLines: 2 }), /^late\nfive\n$/);
  appendFileSync(path, line("last"));
  end();
  await until(() => ended);
  t.equal(heard.at(-1), "last\n");
  renameSync(path, `${path}.gone`);
  t.match(log.read({ tailLines: 1 }), "late\n");
});

t.test("a pull that takes its time", async (t) => {
  const said: string[] = [];
  let finish = (_error?: Error) => {};
  let rounds = 0;
  const image = { reference: "r", imageID: "id", tag: "1", image: { names: [], entrypoint: [], cmd: [] } };
  const images = {
    find: async () => undefined as ResolvedImage | undefined,
    pull: () =>
      new Promise<{ image: ResolvedImage; bytes: number }>((resolve, reject) => {
        finish = (error) => (error ? reject(error) : resolve({ image, bytes: 5 }));
      }),
  };
  const pull = new ImagePull(
    images,
    { baseMs: 20, maxMs: 40 },
    {
      waitFor: (reason, message) => said.push(`${reason}: ${message}`) > 0,
      event: (_type, reason, message) => said.push(`${reason}! ${message}`),
      done: () => {
        rounds++;
      },
    },
  );
  const ask = () => pull.pull("r", { hasCommand: false, policy: "IfNotPresent" });
  t.equal(await ask(), undefined);
  t.equal(await ask(), undefined, "under way: not begun again");
  t.same(said, ['Pulling! Pulling image "r"']);
  finish(new Error("no route"));
  await until(() => rounds === 1);
  t.equal(await ask(), 20);
  t.match(said.slice(1), [
    'ErrImagePull: Failed to pull image "r": no route',
    /^Failed! .*no route/,
    /ErrImagePull/,
  ]);
  await new Promise((wake) => setTimeout(wake, 25));
  t.equal(await ask(), undefined, "begun again after the back-off");
  finish();
  await until(() => rounds === 2);
  t.strictSame(await ask(), image);
  t.match(said.at(-1), /^Pulled! Successfully pulled image "r" in .* Image size: 5 bytes\.$/);
});

t.test("no runtime: socket and options are named", async (t) => {
  const path = freeSocket();
  const connect = () => connectCri(`unix://${path}`, "n", silentLogger);
  const message = new RegExp(`unix://${path}.*ENOENT.*--container-runtime-endpoint.*--runtime emulated`);
  await t.rejects(connect(), { name: "RuntimeError", message });
  const server = createServer((socket) => socket.end("HTTP/1.1 400 Bad Request\r\n\r\n"));
  await new Promise<void>((resolve) => server.listen(path, resolve));
  await t.rejects(connect(), { name: "RuntimeError", message: /no container runtime answers/ });
  server.close();
  const node = ["node", "--server", "https://10.0.0.1:6443"];
  for (const [words, err] of [
    [["--runtime", "podman"], /emulated, containerd/],
    [["--container-runtime-endpoint", `unix://${path}`], /is for --runtime containerd/],
    [["--runtime", "containerd", "--container-runtime-endpoint", path], /unix:\/\/\/PATH\/TO\/SOCKET/],
  ] as const)
    t.match(await kubeplumb([...node, ...words]), { code: 2, err });
  for (const [words, code, err] of [
    [["import"], 2, /which one\?/],
    [["ls", "x"], 2, /takes no file/],
    [["ls", "--container-runtime-endpoint", `unix://${path}`], 1, /ENOENT.*is containerd running there\?/],
    [["import", "/nowhere.tar"], 1, /nowhere\.tar: there is no such file/],
  ] as const)
    t.match(await kubeplumb(["image", ...words]), { code, err });
});

t.test("a runtime that looks for plugins elsewhere is told where they are", async (t) => {
  const directory = t.testdir({ "kubeplumb-cni": "" });
  t.equal(pluginProblem({ cni: { binDir: directory } }), undefined);
  t.equal(pluginProblem({ cni: { binDirs: ["/nowhere", directory] } }), undefined);
  t.equal(pluginProblem({}), undefined, "one that does not tell");
  t.match(pluginProblem({ cni: { binDir: "/nowhere" } }), /ln -s \/opt\/cni\/bin\/kubeplumb-\* \/nowhere\//);
});

t.test("as a service: after containerd, which it wants", async (t) => {
  const unit = (args: string[]) =>
    String(
      installFiles({ role: "node", program: ["node"], args, secrets: {} }).get(
        "/etc/systemd/system/kubeplumb-node.service",
      )?.text,
    );
  const own = unit(["--runtime", "containerd"]);
  t.match(own, /^Wants=network-online\.target containerd\.service$/m);
  t.match(own, /^After=network-online\.target containerd\.service kubeplumb-control\.service$/m);
  t.notMatch(unit(["--runtime", "emulated"]), /containerd\.service/);
});
