// Two machines whose pods are real containers of containerd, with words to ask for them. Knows kubectl and the test's own
// image.

import { join } from "node:path";
import { REFERENCE } from "./cni.js";
import type { Daemon, Machine } from "./machines.js";
import { IMAGE } from "./oci-image.js";
import { withRuntimeCluster } from "./runtime-checks.js";
import { cannotRun, type RuntimeCluster } from "./runtime-machines.js";

const SOCKET = "/var/lib/containerd.sock";
/** For commands that speak to it. */
export const AT = ["--container-runtime-endpoint", `unix://${SOCKET}`];
const WORDS = ["--runtime", "containerd", ...AT];
const SERVER = "https://192.168.56.10:6443";

/** Where Debian's containerd looks for plugins. */
const DEBIAN = "/usr/lib/cni";

const config = (limits: boolean, binDir: string) => `version = 2
[grpc]
  address = "${SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
  path = "/run/containerd-opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "${IMAGE}"
  # The controllers that it would set may be those of an older hierarchy.
  disable_cgroup = ${!limits}
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "${binDir}"
`;

/** Runs the tests of a file on such machines, or says why it cannot. */
export async function withContainerNodes(suite: (nodes: ContainerNodes) => Promise<void>): Promise<void> {
  const skip =
    cannotRun("containerd", "ctr", "runc") || (!REFERENCE && "not installed: containernetworking-plugins");
  await withRuntimeCluster(
    skip,
    (cluster) => suite(ContainerNodes.of(cluster)),
    (cluster) => ({
      nodeWords: WORDS,
      limits: true,
      prepare: (machine) => ContainerNodes.of(cluster).prepare(machine),
    }),
  );
}

export class ContainerNodes {
  static #only: ContainerNodes | undefined;
  readonly cluster: RuntimeCluster;
  readonly #daemons = new Map<Machine, Daemon>();

  private constructor(cluster: RuntimeCluster) {
    this.cluster = cluster;
  }

  /** A file of tests has one cluster. */
  static of(cluster: RuntimeCluster): ContainerNodes {
    ContainerNodes.#only ??= new ContainerNodes(cluster);
    return ContainerNodes.#only;
  }

  get one(): Machine {
    return this.cluster.one;
  }

  get two(): Machine {
    return this.cluster.two;
  }

  /** Machine one has the reference plugin beside ours, machine two ours beside the reference plugins, as on Debian. */
  async prepare(machine: Machine): Promise<void> {
    const own = `mkdir /opt/copy && cp -a ${REFERENCE}/. /opt/copy && mount --bind /opt/copy ${DEBIAN}
      ln -s /opt/cni/bin/kubeplumb-* ${DEBIAN}/`;
    const ours = `ln -s ${join(REFERENCE ?? "", "loopback")} /opt/cni/bin/loopback`;
    await this.cluster.must(machine, "sh", "-ec", this.#isDebian(machine) ? own : ours);
    await this.startContainerd(machine);
  }

  #isDebian(machine: Machine): boolean {
    return machine.name === "two" && REFERENCE === DEBIAN;
  }

  async startContainerd(machine: Machine): Promise<void> {
    const binDir = this.#isDebian(machine) ? DEBIAN : "/opt/cni/bin";
    const text = config(this.cluster.limits !== undefined, binDir);
    this.cluster.write(machine, "/etc/containerd/config.toml", text);
    const daemon = this.cluster.startRuntime(machine, "containerd");
    this.#daemons.set(machine, daemon);
    await daemon.logged(/containerd successfully booted/);
  }

  /** containerd alone: its shims and containers are not its children. */
  daemon(machine: Machine): Daemon | undefined {
    return this.#daemons.get(machine);
  }

  /** Once more, with real containers. */
  startNode(machine: Machine): Promise<Daemon> {
    return this.cluster.startNode(machine, ["node", "--server", SERVER, ...WORDS]);
  }

  /** What it prints. */
  importImage(machine: Machine): Promise<string> {
    return this.cluster.kubeplumb(machine, "image", "import", this.cluster.image, ...AT);
  }

  /** Containers and sandboxes of the runtime itself. */
  readonly held = (machine: Machine): Promise<string> => this.ctr(machine, "containers", "ls");

  /** Its own tool, on what belongs to pods. */
  ctr(machine: Machine, ...argv: string[]): Promise<string> {
    return this.cluster.must(machine, "ctr", "-a", SOCKET, "-n", "k8s.io", ...argv);
  }

  readonly kubectl = (line: string, input?: string): Promise<string> =>
    this.cluster.kubectl(line.split(" "), input);

  readonly get = (what: string, path: string): Promise<string> =>
    this.kubectl(`get ${what} -o jsonpath={${path}}`);

  /** @throws Error with what the cluster has to say of it. */
  readonly wait = async (line: string): Promise<void> => {
    try {
      await this.kubectl(`wait --timeout=60s ${line}`);
    } catch (error) {
      throw new Error(`${(error as Error).message}\n${await this.kubectl("get events")}`);
    }
  };

  readonly isReady = (name: string): Promise<void> => this.wait(`--for=condition=Ready pod/${name}`);

  apply(object: object): Promise<string> {
    return this.kubectl("apply -f -", JSON.stringify(object));
  }

  /** A pod of one container, `main`. */
  readonly pod = (name: string, container: object, spec: object = {}): Promise<string> =>
    this.apply({
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name, labels: { app: name } },
      spec: {
        terminationGracePeriodSeconds: 1,
        containers: [{ name: "main", image: IMAGE, ...container }],
        ...spec,
      },
    });

  /** The Deployment `web`: one pod on each machine, until it is available; and its Service. */
  async deployWeb(): Promise<void> {
    const labels = { app: "web" };
    await this.apply({
      apiVersion: "apps/v1",
      kind: "Deployment",
      metadata: { name: "web" },
      spec: {
        replicas: 2,
        selector: { matchLabels: labels },
        template: {
          metadata: { labels },
          spec: {
            terminationGracePeriodSeconds: 1,
            containers: [
              {
                name: "web",
                image: IMAGE,
                command: ["/bin/sh", "-c"],
                args: ['echo "serving on $(NODE)" && exec httpd -f -p 8080 -h /www'],
                env: [{ name: "NODE", valueFrom: { fieldRef: { fieldPath: "spec.nodeName" } } }],
                ports: [{ containerPort: 8080 }],
                readinessProbe: { httpGet: { path: "/", port: 8080 }, periodSeconds: 1 },
              },
            ],
          },
        },
      },
    });
    await this.kubectl("expose deployment web --port=80 --target-port=8080 --type=NodePort");
    await this.wait("--for=condition=Available deployment/web");
  }
}
