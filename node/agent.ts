// One host of a cluster: puts registration, overlay, service proxy, pod network, pods and kubelet API together.
// Knows the order in which they need one another, and nothing of their inside.

import { existsSync, mkdirSync, readFileSync } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import { ENDPOINT_SLICES, NODES, PODS, SERVICES } from "../common/client.js";
import { type IpFamily, parseIp } from "../common/ip.js";
import type { Logger } from "../common/log.js";
import { Iptables } from "../dataplane/iptables/index.js";
import { Cgroups, cgroupRecord } from "../dataplane/kernel/cgroups.js";
import type { NetNs } from "../dataplane/kernel/netns.js";
import { Overlay, PUBLIC_IP, subnetEnvPath } from "../dataplane/overlay/index.js";
import { capacity, goArch, nodeInfo } from "./host/machine.js";
import { CniNetwork, NOT_READY } from "./host/network.js";
import type { NodeFacts } from "./host/node-object.js";
import { Registration } from "./host/registration.js";
import { setHostSysctls } from "./host/sysctls.js";
import { checkKubeProxyConfiguration } from "./kube-proxy/configuration.js";
import { KubeProxy } from "./kube-proxy/kube-proxy.js";
import { KubeletApi } from "./kubelet/api.js";
import type { NodeAgent, NodeAgentOptions } from "./options.js";
import { KUBELET_BACKOFF } from "./pods/backoff.js";
import { emulatedRuntime } from "./pods/emulated.js";
import type { PodEnvironment } from "./pods/environment.js";
import { EventRecorder } from "./pods/events.js";
import { parseResolvConf } from "./pods/files.js";
import { PodManager } from "./pods/manager.js";
import type { ContainerRuntime } from "./pods/runtime.js";
import { NodeStats } from "./stats/node-stats.js";
import { wireOverlay } from "./wiring.js";

const DEFAULT_MAX_PODS = 110;
const RETRY_MS = 10_000;
/** The kubelet looks at a pod again every minute or so. */
const VOLUMES_MS = 60_000;
/** Between SIGTERM and SIGKILL when the whole agent stops: the host is going, nobody is waited for long. */
const STOP_GRACE_MS = 2000;

/**
 * Starts the agent of one host: returns as soon as its parts run, `ready` tells when the Node is.
 * @throws Error when the host cannot be used at all (no iptables, a broken CNI configuration, no netlink).
 */
export async function startNodeAgent(options: NodeAgentOptions): Promise<NodeAgent> {
  const agent = new Agent(options);
  agent.start();
  return agent;
}

function factsOf(options: NodeAgentOptions, nodeIPs: readonly string[], runtimeVersion: string): NodeFacts {
  const { name, labels = {}, taints = [], maxPods = DEFAULT_MAX_PODS, rootDir } = options;
  const info = nodeInfo(runtimeVersion);
  return { name, nodeIPs, labels, taints, arch: goArch(), info, capacity: capacity(maxPods, rootDir) };
}

const familiesOf = ({ nodeIPs }: NodeAgentOptions): IpFamily[] => nodeIPs.map((ip) => parseIp(ip).family);

class Agent implements NodeAgent {
  readonly name: string;
  readonly ns: NetNs;
  readonly ready: Promise<void>;
  readonly proxy: KubeProxy;
  readonly #options: NodeAgentOptions;
  readonly #log: Logger;
  /**
   * As the uplink has them now, one a family. The same array for all parts: each reads it when it needs an address.
   * Only kube-proxy's nodePortAddresses "primary" is worked out at its start (the real one ends when they change).
   */
  readonly #nodeIPs: string[];
  /** One a family, the primary one first. */
  readonly #iptables: readonly [Iptables, ...Iptables[]];
  readonly #overlay: Overlay;
  readonly #network: CniNetwork;
  readonly #events: EventRecorder;
  readonly #emulated: ContainerRuntime;
  readonly #runtime: ContainerRuntime;
  readonly #registration: Registration;
  readonly #pods: PodManager;
  readonly #stats: NodeStats;
  readonly #api: KubeletApi;
  readonly #endings: (() => void)[] = [];
  #resolveReady: () => void = () => {};
  #rejectReady: (error: Error) => void = () => {};
  #overlayUp = false;
  #hasPodCIDR = false;
  #networkReady: () => void = () => {};
  #stopping: Promise<void> | undefined;

  constructor(options: NodeAgentOptions) {
    const { name, ns, rootDir, runDir, client, informers } = options;
    this.#options = options;
    this.#nodeIPs = [...options.nodeIPs];
    this.name = name;
    this.ns = ns;
    this.#log = options.log;
    this.ready = new Promise((resolve, reject) => {
      this.#resolveReady = resolve;
      this.#rejectReady = reject;
    });
    // The reason is in the log as well; whoever waits for `ready` hears it too.
    this.ready.catch(() => {});
    for (const directory of [rootDir, runDir]) mkdirSync(directory, { recursive: true });
    const [primary, ...others] = familiesOf(options);
    if (primary === undefined) throw new RangeError("nodeIPs: a node needs an address");
    const open = (family: IpFamily) =>
      Iptables.open(ns, {
        family,
        variant: options.iptables,
        lockFile: options.xtablesLock ?? join(runDir, "xtables.lock"),
        log: this.#part("iptables"),
      });
    this.#iptables = [open(primary), ...others.map(open)];
    this.#events = new EventRecorder({ client, component: "kubelet", host: name, log: this.#part("events") });
    this.proxy = this.#makeProxy();
    this.#overlay = this.#makeOverlay();
    this.#network = new CniNetwork({
      confDir: options.cniConfDir ?? join(rootDir, "etc/cni/net.d"),
      shared: options.cniConfDir !== undefined,
      binDirs: options.cniBinDirs ?? ["/opt/cni/bin", "/usr/lib/cni"],
      // Who has which address is of no use to a machine that has started anew, and a file in memory is made in a
      // third of the time of one on a disk.
      stateDir: join(runDir, "cni"),
      subnetFile: subnetEnvPath(runDir),
      hostNs: ns,
    });
    this.#emulated = emulatedRuntime(options.images ?? {}, new Cgroups(cgroupRecord(rootDir)));
    this.#runtime = options.runtime ?? this.#emulated;
    const facts = factsOf(options, this.#nodeIPs, this.#runtime.version);
    this.#registration = new Registration({
      facts,
      client,
      nodes: informers.get(NODES),
      events: this.#events,
      health: () => ({ networkProblem: this.#networkProblem(), overlayUp: this.#overlayUp }),
      log: this.#part("registration"),
    });
    this.#pods = new PodManager(
      this.#podEnvironment(facts.capacity),
      informers.get(PODS, options.alone ? { fieldSelector: `spec.nodeName=${name}` } : {}),
    );
    this.#stats = new NodeStats(this.#pods);
    this.#api = new KubeletApi({
      nodeName: name,
      rootDir,
      pods: this.#pods,
      stats: this.#stats,
      log: this.#part("kubelet"),
    });
  }

  #part(part: string): Logger {
    return this.#log.child({ part });
  }

  #makeProxy(): KubeProxy {
    const { ns, name, clusterCIDRs } = this.#options;
    const configuration = checkKubeProxyConfiguration({ clusterCIDR: clusterCIDRs.join(",") }, "node");
    return new KubeProxy({
      ns,
      nodeName: name,
      nodeIPs: this.#nodeIPs,
      iptables: this.#iptables,
      configuration,
      record: (...event) => this.#events.record(...event),
      log: this.#part("proxy"),
    });
  }

  #makeOverlay(): Overlay {
    const { ns, name, nodeIPs, uplink, clusterCIDRs, runDir } = this.#options;
    return new Overlay({
      ns,
      nodeName: name,
      uplink,
      stacks: this.#iptables.flatMap((iptables) => {
        const inFamily = (text: string) => text.includes(":") === (iptables.family === 6);
        const [publicIP, network] = [nodeIPs.find(inFamily), clusterCIDRs.find(inFamily)];
        return publicIP && network ? [{ publicIP, network, iptables }] : [];
      }),
      runDir,
      publish: (annotations) => this.#publish(annotations),
      log: this.#part("overlay"),
    });
  }

  #podEnvironment(allocatable: NodeFacts["capacity"]): PodEnvironment {
    const { name, ns, rootDir, client, informers, timing } = this.#options;
    const services = informers.get(SERVICES);
    const resolver = "/etc/resolv.conf";
    return {
      nodeName: name,
      nodeIPs: this.#nodeIPs,
      allocatable,
      hostNs: ns,
      rootDir,
      client,
      services: () => services.list(),
      events: this.#events,
      network: this.#network,
      runtime: this.#runtime,
      emulated: this.#emulated,
      clusterDNS: this.#options.clusterDNS,
      clusterDomain: this.#options.clusterDomain ?? "cluster.local",
      nodeDns: parseResolvConf(existsSync(resolver) ? readFileSync(resolver, "utf8") : ""),
      timing: {
        restartBackoff: KUBELET_BACKOFF,
        imageBackoff: KUBELET_BACKOFF,
        retryMs: RETRY_MS,
        volumesMs: VOLUMES_MS,
        ...timing,
      },
      log: this.#part("pods"),
    };
  }

  start(): void {
    this.#stats.start();
    setHostSysctls(this.ns, familiesOf(this.#options), this.#log);
    this.#network.ensureConfiguration();
    this.#run().catch((error: Error) => {
      if (!this.#stopping) this.#log.error({ err: error }, "the node does not become ready");
      this.#rejectReady(error);
    });
  }

  async #run(): Promise<void> {
    const { informers } = this.#options;
    const networkReady = new Promise<void>((resolve) => {
      this.#networkReady = resolve;
    });
    const node = await this.#registration.register();
    if (!node || this.#stopping) return;
    this.#events.record(this.#registration.target(), "Normal", "Starting", "Starting kubelet.");
    this.#hasPodCIDR = Boolean(node.spec?.podCIDR);
    this.#endings.push(
      wireOverlay(informers, this.#overlay, this.name, (own) => {
        this.#hasPodCIDR = Boolean(own.spec?.podCIDR);
        this.proxy.nodeChanged(own);
        this.#check();
      }),
    );
    this.proxy.watch({
      services: informers.get(SERVICES),
      endpointSlices: informers.get(ENDPOINT_SLICES),
    });
    this.#registration.start(() => this.#resolveReady());
    this.#overlay.start();
    await this.proxy.start();
    await this.#overlay.ready;
    this.#overlayUp = true;
    this.#check();
    await networkReady;
    // The environment of a container names the Services there are.
    await informers.get(SERVICES).synced;
    if (!this.#stopping) await this.#pods.start();
  }

  #networkProblem(): string | undefined {
    if (!this.#hasPodCIDR || !this.#overlayUp) return NOT_READY;
    return this.#network.notReady() ?? this.#runtime.notReady();
  }

  #check(): void {
    if (!this.#networkProblem()) this.#networkReady();
    this.#registration.statusChanged();
  }

  /** What the overlay announces: annotations now; the condition, and addresses that are new, with the next status. */
  async #publish(annotations: Record<string, string>): Promise<void> {
    for (const [n, ip] of this.#nodeIPs.entries())
      this.#nodeIPs[n] = annotations[PUBLIC_IP[parseIp(ip).family]] ?? ip;
    this.#registration.statusChanged();
    await this.#options.client.patch(NODES, this.name, "merge", { metadata: { annotations } });
  }

  handleRequest(req: IncomingMessage, res: ServerResponse): void {
    this.#api.handleRequest(req, res);
  }

  handleUpgrade(req: IncomingMessage, socket: Duplex, head: Buffer): void {
    this.#api.handleUpgrade(req, socket, head);
  }

  podSandbox(namespace: string, name: string): { ns: NetNs; pid?: number } | undefined {
    const worker = this.#pods.find(namespace, name);
    if (!worker?.sandbox) return undefined;
    const pid = worker.containers.map((one) => one.run?.pid).find((one) => one !== undefined);
    return pid === undefined ? { ns: worker.sandbox.ns } : { ns: worker.sandbox.ns, pid };
  }

  async rules(): Promise<string> {
    return (await Promise.all(this.#iptables.map((driver) => driver.save()))).join("");
  }

  stop({ graceful }: { graceful: boolean }): Promise<void> {
    this.#stopping ??= this.#stop(graceful);
    return this.#stopping;
  }

  async #stop(graceful: boolean): Promise<void> {
    this.#rejectReady(new Error(`node ${this.name} was stopped before it was ready`));
    for (const end of this.#endings) end();
    this.#stats.stop();
    await this.#registration.stop();
    // First, so that it does not look after every link of a pod that goes.
    await Promise.all([this.proxy.stop(), this.#overlay.stop()]);
    await this.#pods.stop(graceful ? STOP_GRACE_MS : undefined);
    await Promise.all([...new Set([this.#runtime, this.#emulated])].map((one) => one.close()));
    this.#events.stop();
  }
}
