// Two machines of a cluster with a container runtime on them, as an operator sets them up: kubeplumb control, kubeplumb
// node, kubeplumb install cni. Everything is in namespaces and in one cgroup of the test, and goes with them.

import { execFileSync } from "node:child_process";
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { networkInterfaces, tmpdir } from "node:os";
import { basename, join } from "node:path";
import { installCommand } from "./cli.js";
import { type Daemon, Machine, makeWire, type Ran, runToEnd } from "./machines.js";
import { makeImage } from "./oci-image.js";
import { OldCgroups } from "./old-cgroups.js";
import { eventually } from "./until.js";

const SERVER = "https://192.168.56.10:6443";
const CONF = "/etc/cni/net.d/10-kubeplumb.conflist";
const STATE = "/run/kubeplumb/cni";
/** Of the test's cgroup: what a test that was killed has left is removed by the next one. */
const CGROUP = "kp-runtimes-";
const IN_CGROUP = [
  "sh",
  "-c",
  'cd /sys/fs/cgroup; [ -d own ] || cd unified; echo 0 > own/cgroup.procs && cd / && exec "$@"',
  "sh",
];
const FOLDERS = `${process.env.PATH}:/usr/sbin:/sbin`.split(":");

/** Its path; sbin counts. */
export function find(program: string): string | undefined {
  return FOLDERS.map((folder) => join(folder, program)).find((path) => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** Why a test with these programs cannot run here; false when it can. */
export function cannotRun(...programs: string[]): string | false {
  const isRoot = /^\s*0\s+0\s+4294967295\s*$/.test(readFileSync("/proc/self/uid_map", "utf8"));
  if (!isRoot) return "container runtimes are tested as root only";
  const missing = [...programs, "busybox", "kubectl"].filter((program) => !find(program));
  if (missing.length > 0) return `not installed: ${missing.join(", ")}`;
  const isDynamic = readFileSync(find("busybox") ?? "").includes("/ld-");
  return isDynamic && "busybox is not the one of busybox-static";
}

/** What is left on a host of attachments that are not those of the node agent's own pods. */
export interface Traces {
  addresses: string[];
  ports: string[];
  rules: string[];
}

export interface StartOptions {
  /** Called before a node starts. */
  prepare?: (machine: Machine) => Promise<void>;
  /** More words for nodes. */
  nodeWords?: readonly string[];
  /** Containers are to have their limits, if this machine lets a test set any. */
  limits?: boolean;
}

export class RuntimeCluster {
  /** Once started: what sets them, if they were asked for and can be set. */
  limits: OldCgroups | undefined;
  readonly directory = mkdtempSync(join(tmpdir(), CGROUP));
  readonly image: string;
  readonly #command: string;
  readonly #cgroups: string;
  readonly #daemons: Daemon[] = [];
  readonly #machines: Machine[] = [];
  readonly #nodes = new Map<string, Daemon>();

  /** @throws Error outside of a network namespace of its own. */
  constructor() {
    const strangers = Object.keys(networkInterfaces()).filter((name) => name !== "lo");
    if (strangers.length > 0) throw new Error(`this is no namespace of its own: it has ${strangers}`);
    this.#command = installCommand(join(this.directory, "bin"));
    this.image = makeImage(this.directory, find("busybox") ?? "");
    const hierarchy = join(this.directory, "cgroup");
    mkdirSync(hierarchy);
    execFileSync("mount", ["-t", "cgroup2", "none", hierarchy]);
    for (const name of readdirSync(hierarchy))
      if (name.startsWith(CGROUP)) removeCgroups(join(hierarchy, name));
    this.#cgroups = join(hierarchy, basename(this.directory));
    // A cgroup has processes, or others below it.
    mkdirSync(join(this.#cgroups, "own"), { recursive: true });
    writeFileSync(join(this.#cgroups, "own/cgroup.procs"), String(process.pid));
    makeWire();
  }

  get control(): Machine {
    return this.#machines[0] as Machine;
  }

  get one(): Machine {
    return this.#machines[1] as Machine;
  }

  get two(): Machine {
    return this.#machines[2] as Machine;
  }

  /** Until both nodes are Ready and the plugins are where runtimes look for them. */
  async start({ prepare, nodeWords = [], limits = false }: StartOptions = {}): Promise<void> {
    if (limits) this.limits = OldCgroups.mount(this.directory);
    for (const [n, name] of ["control", "one", "two"].entries())
      this.#machines.push(await Machine.create(name, `192.168.56.${10 + n}`, this.directory));
    const [control] = this.#machines as [Machine];
    const api = this.startOn(control, this.#command, "control", "--advertise-address", control.ip);
    await api.logged(/INFO {2}ready/);
    const out = await this.must(control, this.#command, "token", "create", "--print-join-command");
    const words = out.trim().split(" ").slice(1);
    for (const machine of [this.one, this.two]) {
      await this.#ownFolders(machine);
      await this.must(machine, this.#command, "install", "cni");
      await prepare?.(machine);
      await this.startNode(machine, [...words, ...nodeWords]);
    }
    await Promise.all([...this.#nodes.values()].map((node) => node.logged(/the node is Ready/)));
  }

  /** Those that a runtime writes to, beside what every machine has of its own. */
  async #ownFolders(machine: Machine): Promise<void> {
    const cgroup = join(this.#cgroups, machine.name);
    mkdirSync(join(cgroup, "own"), { recursive: true });
    const script = `mount -t tmpfs none /opt && mount -t tmpfs none /var/tmp
      ${this.limits?.script(cgroup) ?? `mount --bind ${cgroup} /sys/fs/cgroup`}`;
    await this.must(machine, "sh", "-ec", script);
  }

  async startNode(machine: Machine, words = ["node", "--server", SERVER]): Promise<Daemon> {
    const node = this.startOn(machine, this.#command, ...words, "--name", machine.name);
    this.#nodes.set(machine.name, node);
    return node;
  }

  /** The kubeplumb command on a machine, to its end; what it prints. @throws Error when it fails. */
  kubeplumb(machine: Machine, ...argv: string[]): Promise<string> {
    return this.must(machine, this.#command, ...argv);
  }

  /** By SIGTERM. */
  async stopNode(machine: Machine): Promise<void> {
    const node = this.#nodes.get(machine.name);
    node?.child.kill("SIGTERM");
    await node?.exited;
  }

  async killNode(machine: Machine): Promise<void> {
    const node = this.#nodes.get(machine.name);
    node?.child.kill("SIGKILL");
    await node?.exited;
  }

  /** A runtime's daemon: in the machine's cgroup, as everything that it starts. */
  startRuntime(machine: Machine, ...argv: string[]): Daemon {
    return this.startOn(machine, ...IN_CGROUP, ...argv);
  }

  /** A runtime's command that starts processes, to its end. @throws Error when it fails. */
  runtime(machine: Machine, ...argv: string[]): Promise<string> {
    return this.must(machine, ...IN_CGROUP, ...argv);
  }

  /** kill -9 of the runtime with all that it has started, at once. */
  async killRuntime(machine: Machine): Promise<void> {
    const cgroup = join(this.#cgroups, machine.name);
    writeFileSync(join(cgroup, "cgroup.kill"), "1");
    await eventually(async () => /^populated 0$/m.test(readFileSync(join(cgroup, "cgroup.events"), "utf8")));
  }

  startOn(machine: Machine, ...argv: string[]): Daemon {
    const daemon = machine.start(...argv);
    this.#daemons.push(daemon);
    return daemon;
  }

  /** A file below the machine's /etc or /var/lib. */
  write(machine: Machine, path: string, text: string): void {
    const own = join(this.directory, machine.name, path.replace(/^\/var\/lib\//, "/var/"));
    mkdirSync(join(own, ".."), { recursive: true });
    writeFileSync(own, text);
  }

  /** A command to its end; what it prints. @throws Error when it fails. */
  async must(machine: Machine, ...argv: string[]): Promise<string> {
    const { code, out, err } = await machine.run(...argv);
    if (code !== 0) throw new Error(`${machine.name}: ${argv.join(" ")}: ${code}: ${err}${out}`);
    return out;
  }

  get kubectlWords(): string[] {
    const kubeconfig = join(this.directory, "control/var/kubeplumb/control/admin.kubeconfig");
    return ["--kubeconfig", kubeconfig, "--cache-dir", join(this.directory, "cache")];
  }

  /** One that goes on, on the control machine. */
  startKubectl(...argv: string[]): Daemon {
    return this.startOn(this.control, "kubectl", ...this.kubectlWords, ...argv);
  }

  async kubectl(argv: readonly string[], input?: string): Promise<string> {
    const { code, out, err } = await runToEnd("kubectl", [...this.kubectlWords, ...argv], input);
    if (code !== 0) throw new Error(`kubectl ${argv.join(" ")}: ${err}`);
    return out;
  }

  /** A pod of the node agent on `two` behind the Service `web`, whose ClusterIP is returned once it answers there. */
  async serveWeb(): Promise<string> {
    const labels = { app: "web" };
    const image = "gcr.io/google-samples/kubernetes-bootcamp:v1";
    const pod = {
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: "web", labels },
      spec: { nodeName: "two", containers: [{ name: "web", image }] },
    };
    await this.kubectl(["apply", "-f", "-"], JSON.stringify(pod));
    await this.kubectl(["expose", "pod", "web", "--port=80", "--target-port=8080"]);
    const ip = await this.kubectl(["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]);
    await eventually(async () => /Running on: web/.test((await this.#get(this.one, ip)).out));
    return ip;
  }

  /** The Service `name` that leads to port 80 of a container that the cluster knows nothing of; its ClusterIP. */
  async serveContainer(name: string, address: string): Promise<string> {
    const metadata = { name, labels: { "kubernetes.io/service-name": name } };
    const spec = { ports: [{ port: 80 }] };
    const slice = {
      apiVersion: "discovery.k8s.io/v1",
      kind: "EndpointSlice",
      metadata,
      addressType: "IPv4",
      ports: [{ port: 80 }],
      endpoints: [{ addresses: [address] }],
    };
    const items = [{ apiVersion: "v1", kind: "Service", metadata: { name }, spec }, slice];
    await this.kubectl(["apply", "-f", "-"], JSON.stringify({ apiVersion: "v1", kind: "List", items }));
    return this.kubectl(["get", "service", name, "-o", "jsonpath={.spec.clusterIP}"]);
  }

  #get(machine: Machine, url: string): Promise<Ran> {
    return machine.run("curl", "-sS", "--max-time", "3", url);
  }

  /** The attachments of the node agent's own pods, as GC wants the valid ones. */
  async #ownAttachments(machine: Machine): Promise<{ containerID: string; ifname: string }[]> {
    const text = await this.must(
      machine,
      "sh",
      "-c",
      `for f in ${STATE}/results/*; do [ ! -f $f ] || { cat $f; echo; }; done`,
    );
    const entries = text
      .split("\n")
      .filter(Boolean)
      .map((line) => JSON.parse(line));
    return entries.map(({ containerId, ifName }) => ({ containerID: containerId, ifname: ifName }));
  }

  async traces(machine: Machine): Promise<Traces> {
    const ids = async () => (await this.#ownAttachments(machine)).map(({ containerID }) => containerID);
    const lines = async (script: string) => (await this.must(machine, "sh", "-c", script)).split("\n");
    // Before and after: the agent may take a pod down, or put one up, while this looks around.
    const own = await ids();
    const files = await lines(
      `cd ${STATE}/networks/kubeplumb && for f in $(ls | grep '^[0-9]'); do echo "$f $(tr -d '\\r' < $f | tr '\\n' ' ')"; done`,
    );
    const links = await lines("ip -o link show master cni0");
    const rules = await lines("iptables-save -t nat | grep -- '-A CNI-HOSTPORT-DNAT' || true");
    own.push(...(await ids()));
    const foreign = (some: string[]) =>
      some.filter((line) => line !== "" && !own.some((id) => line.includes(id)));
    return {
      addresses: foreign(files).map((line) => line.slice(0, line.indexOf(" "))),
      ports: foreign(links).map((line) => / (veth\w+)@/.exec(line)?.[1] ?? line),
      rules: foreign(rules),
    };
  }

  /**
   * GC of both plugins as libcni calls it, one process each: the node agent's pods and `alive` are valid. The one who
   * calls it has to know both, which is why the configuration forbids it to runtimes.
   */
  async collectGarbage(machine: Machine, alive: readonly string[] = []): Promise<void> {
    const list = JSON.parse(await this.must(machine, "cat", CONF));
    const valid = [
      ...(await this.#ownAttachments(machine)),
      ...alive.map((containerID) => ({ containerID, ifname: "eth0" })),
    ];
    for (const { capabilities: _, ...plugin } of list.plugins) {
      const conf = { ...plugin, cniVersion: "1.1.0", name: list.name, "cni.dev/valid-attachments": valid };
      this.write(machine, "/etc/gc.json", JSON.stringify(conf));
      const env = ["CNI_COMMAND=GC", "CNI_PATH=/opt/cni/bin"];
      await this.must(machine, "sh", "-c", `${env.join(" ")} /opt/cni/bin/${plugin.type} < /etc/gc.json`);
    }
  }

  async close(): Promise<void> {
    // Out of the cgroup, which is then killed as a whole: runtimes, their shims, their containers.
    writeFileSync(join(this.#cgroups, "../cgroup.procs"), String(process.pid));
    writeFileSync(join(this.#cgroups, "cgroup.kill"), "1");
    await Promise.all(this.#daemons.map(({ exited }) => exited));
    for (const machine of this.#machines) machine.close();
    await eventually(async () => removeCgroups(this.#cgroups));
    this.limits?.close();
    execFileSync("umount", [join(this.directory, "cgroup")]);
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/** Whether nothing is left. Those that have processes stay. */
function removeCgroups(path: string): boolean {
  if (!existsSync(path)) return true;
  const below = readdirSync(path, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  const isEmpty = below.map(({ name }) => removeCgroups(join(path, name))).every(Boolean);
  try {
    if (isEmpty) rmdirSync(path);
    return isEmpty;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EBUSY") return false;
    throw error;
  }
}
