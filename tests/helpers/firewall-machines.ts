// Three machines of a cluster, of which a test protects all with a real firewall: control, and two nodes, one of them
// with iptables-legacy where the kernel has it. The firewalls are Debian's packages, unpacked by scripts/setup.mjs and laid
// over /usr and /etc of one machine; nothing of them runs outside of the test's namespaces.

import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { networkInterfaces, tmpdir } from "node:os";
import { join } from "node:path";
import t, { type Test } from "tap";
import type { Check } from "../../lab/doctor.js";
import { installCommand } from "./cli.js";
import { type Daemon, Machine, makeWire, type Ran, runToEnd } from "./machines.js";
import { BOOTCAMP, deployment, manifest, service } from "./manifests.js";
import { type PodRow, podRows } from "./pod-rows.js";
import { eventually } from "./until.js";

/** Of scripts/setup.mjs, in the checkout. */
const UNPACKED = join(process.cwd(), ".cache/firewalls");
const LIMIT = ["--max-time", "5"];
/** A firewall that drops makes a client wait for nothing. */
const DROPPED = ["--max-time", "2"];
const CLUSTER_IP = "10.96.0.80";
const PAGE = /Running on: web-/;

/** Why a test of real firewalls cannot run here; false when it can. */
function cannotRunFirewalls(): string | false {
  const isRoot = /^\s*0\s+0\s+4294967295\s*$/.test(readFileSync("/proc/self/uid_map", "utf8"));
  if (!isRoot) return "firewalls are tested as root only";
  return existsSync(UNPACKED) ? false : "ufw and firewalld are not unpacked (scripts/setup.mjs)";
}

const WEB = manifest(
  deployment(
    "web",
    {
      containers: [{ name: "web", image: `${BOOTCAMP}:v1` }],
      topologySpreadConstraints: [
        {
          maxSkew: 1,
          topologyKey: "kubernetes.io/hostname",
          whenUnsatisfiable: "DoNotSchedule",
          labelSelector: { matchLabels: { app: "web" } },
        },
      ],
    },
    { replicas: 2 },
  ),
  service("web", {
    type: "NodePort",
    clusterIP: CLUSTER_IP,
    selector: { app: "web" },
    ports: [{ port: 80, targetPort: 8080, nodePort: 30080 }],
  }),
);

/** Runs the tests of a file on such machines, or says why it cannot. */
export async function withFirewallCluster(suite: (cluster: FirewallCluster) => Promise<void>): Promise<void> {
  const skip = cannotRunFirewalls();
  if (skip) {
    t.pass(skip, { skip });
    t.end();
    return;
  }
  t.setTimeout(230_000);
  const cluster = new FirewallCluster();
  t.teardown(() => cluster.close());
  await cluster.start();
  await suite(cluster);
}

export class FirewallCluster {
  readonly #directory = mkdtempSync(join(tmpdir(), "kp-firewalls-"));
  readonly #command = installCommand(join(this.#directory, "bin"));
  readonly #daemons: Daemon[] = [];
  readonly #machines: Machine[] = [];
  readonly #nodes: Daemon[] = [];
  #api: Daemon | undefined;
  #pods: PodRow[] = [];
  readonly #namespaces = new Map<Machine, string>();

  get control(): Machine {
    return this.#machines[0] as Machine;
  }

  get nodes(): [Machine, Machine] {
    return this.#machines.slice(1) as [Machine, Machine];
  }

  get machines(): readonly Machine[] {
    return this.#machines;
  }

  /** Until a pod on each node answers. @throws Error outside of a network namespace of its own. */
  async start(): Promise<void> {
    const strangers = Object.keys(networkInterfaces()).filter((name) => name !== "lo");
    if (strangers.length > 0) throw new Error(`this is no namespace of its own: it has ${strangers}`);
    makeWire();
    for (const [n, name] of ["control", "one", "two"].entries())
      this.#machines.push(await Machine.create(name, `192.168.56.${10 + n}`, this.#directory));
    for (const machine of this.#machines) await this.must(machine, "sh", "-ec", LAY_OVER);
    await this.#useLegacy(this.nodes[1]);
    this.#api = this.#start(this.control, this.#command, "control", "--advertise-address", this.control.ip);
    await this.#api.logged(/INFO {2}ready/);
    const join = await this.must(this.control, this.#command, "token", "create", "--print-join-command");
    const words = join.trim().split(" ").slice(1);
    for (const node of this.nodes)
      this.#nodes.push(this.#start(node, this.#command, ...words, "--name", node.name));
    await Promise.all(this.#nodes.map((node) => node.logged(/the node is Ready/)));
    await this.kubectl(["apply", "-f", "-"], WEB);
    await this.kubectl(["rollout", "status", "deployment/web", "--timeout=60s"]);
    this.#pods = await podRows((argv) => this.kubectl(argv), "-l", "app=web");
    if (new Set(this.#pods.map(({ node }) => node)).size !== 2) throw new Error("not a pod on each node");
  }

  /** Chosen as an administrator does; nft it stays where the kernel has no legacy tables. */
  async #useLegacy(machine: Machine): Promise<void> {
    const script = `iptables-legacy -t nat -S >/dev/null 2>&1 || exit 0
      for name in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do
        ln -sf /usr/sbin/$(echo $name | sed 's/tables/tables-legacy/') /etc/alternatives/$name
      done`;
    await this.must(machine, "sh", "-c", script);
  }

  #start(machine: Machine, ...argv: string[]): Daemon {
    const daemon = machine.start(...argv);
    this.#daemons.push(daemon);
    return daemon;
  }

  /** A process that lasts as long as the test. */
  startOn(machine: Machine, ...argv: string[]): Daemon {
    return this.#start(machine, ...argv);
  }

  /** A command to its end; what it prints. @throws Error when it fails. */
  async must(machine: Machine, ...argv: string[]): Promise<string> {
    const { code, out, err } = await machine.run(...argv);
    if (code !== 0) throw new Error(`${machine.name}: ${argv.join(" ")}: ${code}: ${err}${out}`);
    return out;
  }

  async kubectl(argv: readonly string[], input?: string): Promise<string> {
    const kubeconfig = join(this.#directory, "control/var/kubeplumb/control/admin.kubeconfig");
    const own = ["--kubeconfig", kubeconfig, "--cache-dir", join(this.#directory, "cache")];
    const limit = "--request-timeout=20s";
    const { code, out, err } = await runToEnd("kubectl", [...own, limit, ...argv], input);
    if (code !== 0) throw new Error(`kubectl ${argv.join(" ")}: ${err}`);
    return out;
  }

  /** What the daemon of that machine has logged of firewalls. */
  log(machine: Machine): Daemon {
    return (machine === this.control ? this.#api : this.#nodes[this.nodes.indexOf(machine)]) as Daemon;
  }

  #podOn(machine: Machine): PodRow {
    return this.#pods.find(({ node }) => node === machine.name) as PodRow;
  }

  /** Whether a pod of one node reaches the pod of the other one through the overlay. */
  async #crosses(from: Machine, to: Machine, limit: readonly string[]): Promise<boolean> {
    const { ns, url } = { ns: await this.#namespaceOf(from), url: `http://${this.#podOn(to).ip}:8080` };
    const { out } = await from.run("nsenter", `--net=${ns}`, "curl", "-sS", ...limit, url);
    return PAGE.test(out);
  }

  /** Of the pod, whose program is in the agent: a descriptor of the agent's, found by the pod's address. */
  async #namespaceOf(machine: Machine): Promise<string> {
    const known = this.#namespaces.get(machine);
    if (known !== undefined) return known;
    const { ip } = this.#podOn(machine);
    const script = `for f in /proc/*/fd/*; do
        case $(readlink $f) in net:*|/proc/*/ns/net) nsenter --net=$f ip -o address 2>/dev/null | grep -q ' ${ip}/' && echo $f && exit 0;; esac
      done; exit 1`;
    const path = (await this.must(machine, "sh", "-c", script)).trim();
    this.#namespaces.set(machine, path);
    return path;
  }

  /** All that a cluster is for: pods across nodes, ClusterIP, NodePort from outside, logs, the API from a pod. */
  async works(t: Test, what: string): Promise<void> {
    const [one, two] = this.nodes;
    const once = (name: string, look: () => Promise<boolean>) =>
      eventually(look).then(
        () => t.pass(`${what}: ${name}`),
        (error) => t.fail(`${what}: ${name}: ${error}`),
      );
    for (const [from, to] of [
      [one, two],
      [two, one],
    ] as const) {
      await once(`${from.name} to ${to.name}, pod to pod`, () => this.#crosses(from, to, LIMIT));
      const get = (url: string) => from.run("curl", "-sS", ...LIMIT, url);
      await once(`ClusterIP on ${from.name}`, async () => PAGE.test((await get(CLUSTER_IP)).out));
      const outside = () => this.outside(`${from.ip}:30080`);
      // Twice: the pods take turns by chance, and one of them is behind the overlay.
      for (let n = 0; n < 4; n++)
        await once(`NodePort on ${from.name}`, async () => PAGE.test((await outside()).out));
      const { name } = this.#podOn(from);
      await once(`logs of ${from.name}`, async () => /App Started/.test(await this.kubectl(["logs", name])));
      const api = ["exec", name, "--", "curl", "-sk", ...LIMIT, "https://10.96.0.1/version"];
      await once(`API from a pod on ${from.name}`, async () =>
        /gitVersion|Forbidden|Unauthorized/.test(await this.kubectl(api)),
      );
    }
  }

  outside(url: string): Promise<Ran> {
    return runToEnd("curl", ["-sS", ...LIMIT, url]);
  }

  /** The overlay carries nothing to either node. */
  async isCut(t: Test, what: string): Promise<void> {
    const [one, two] = this.nodes;
    t.notOk(await this.#crosses(one, two, DROPPED), `${what}: one to two`);
    t.notOk(await this.#crosses(two, one, DROPPED), `${what}: two to one`);
  }

  /** What the doctor finds about firewalls on that machine. */
  async doctor(machine: Machine): Promise<Check[]> {
    const { out, err } = await machine.run(this.#command, "doctor", "-o", "json");
    const { checks } = JSON.parse(out || `{"checks":[{"name":"firewall","detail":${JSON.stringify(err)}}]}`);
    return (checks as Check[]).filter(({ name }) => /^(firewall|iptables variants)/.test(name));
  }

  /** Does what the doctor says on each machine, word for word. Resolves with the lines of each. */
  async followAll(): Promise<string[][]> {
    return await Promise.all(this.#machines.map((machine) => this.#follow(machine)));
  }

  async #follow(machine: Machine): Promise<string[]> {
    const checks = (await this.doctor(machine)).filter(
      ({ name, remedy }) => name.startsWith("firewall") && remedy,
    );
    // In brackets at its end is what is for people.
    const lines = checks.map(({ remedy = "" }) => remedy.replace(/ {3}\(.*\)$/, ""));
    for (const line of lines) await this.must(machine, "sh", "-ec", line);
    return lines;
  }

  /** The doctor has nothing to say of firewalls. */
  async isSilent(t: Test): Promise<void> {
    const all = await Promise.all(this.#machines.map((machine) => this.doctor(machine)));
    for (const [n, checks] of all.entries())
      t.match(checks, [{ status: "ok" }], `${this.#machines[n]?.name}: the doctor has nothing to say`);
  }

  async close(): Promise<void> {
    for (const { child } of this.#daemons) child.kill("SIGKILL");
    await Promise.all(this.#daemons.map(({ exited }) => exited));
    for (const machine of this.#machines) machine.close();
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

/** The packages' files over those of the machine, as their own scripts leave them (ufw's templates into /etc/ufw). */
const LAY_OVER = `mount -t overlay overlay -o lowerdir=${UNPACKED}/usr:/usr /usr
  cp -a ${UNPACKED}/etc/. /etc/
  cp /usr/share/ufw/*.init /usr/share/ufw/ufw.conf /usr/share/ufw/iptables/* /etc/ufw/
  chmod -R go-w /etc/ufw /etc/default/ufw
  mount -t tmpfs none /var/log`;
