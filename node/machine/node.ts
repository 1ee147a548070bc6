// A machine as a node of a cluster: joins or comes back, keeps its certificates fresh, and runs one node agent on the
// machine's own network. Knows the order of these steps; files below its data and run directories only.

import { readFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { ApiClient } from "../../client/api-client.js";
import { CNI_SOCKET, startCniAgent } from "../../cni/agent.js";
import { CONFIG_MAPS, isReason, type KubeClient, StatusError } from "../../common/client.js";
import { InformerFactory } from "../../common/informer.js";
import { ipFamily } from "../../common/ip.js";
import type { Logger } from "../../common/log.js";
import { nodeNeeds } from "../../dataplane/firewall/index.js";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { startNodeAgent } from "../agent.js";
import { connectCri } from "../cri/connect.js";
import { endLeftPods, recordRuntime } from "../cri/leftovers.js";
import { FirewallWatch } from "../host/firewall-watch.js";
import { chooseUplink, machineAddresses, type Uplink } from "../host/uplink.js";
import type { NodeAgent } from "../options.js";
import { EventRecorder } from "../pods/events.js";
import type { ContainerRuntime } from "../pods/runtime.js";
import { discoverCa, JoinError, joinWithToken, nodeUser, publicKeyHash, requestCertificate } from "./join.js";
import { type KeyPair, readKeyPair, renewAt, writeFileAtomically, writeKeyPair } from "./key-pair.js";
import { KUBELET_PORT, KubeletServer } from "./kubelet-server.js";

export interface MachineNodeOptions {
  name: string;
  /** https://192.168.56.10:6443 */
  server: string;
  /** To join; not needed once this machine has its own certificate. */
  token?: string | undefined;
  /** sha256:HEX of the CA's public key; goes with `token`. */
  caHash?: string | undefined;
  nodeIP?: string | undefined;
  iface?: string | undefined;
  /** Certificates, logs, volumes. */
  dataDir: string;
  /** What ends with the machine: addresses of pods, the overlay's facts. */
  runDir: string;
  cniConfDir: string;
  /** Of a container runtime with CRI that is to run the pods: unix:///PATH. Without it they are emulated. */
  runtimeEndpoint?: string | undefined;
  log: Logger;
}

export interface MachineNode {
  /** Resolves when the Node is Ready; rejects when the cluster will not have it. */
  readonly ready: Promise<void>;
  /**
   * Ends emulated pods in order and lets go; containers of a runtime go on. Rules, bridge and overlay stay, as those of
   * kube-proxy and flannel do.
   */
  stop(): Promise<void>;
}

/** control publishes it: control/controllers/cluster-info.ts. */
const NODE_CONFIG = { namespace: "kube-system", name: "kubeplumb-node-config" };
const XTABLES_LOCK = "/run/xtables.lock";
const LOOK_MS = 60_000;
const FIRST_RETRY_MS = 250;
const LAST_RETRY_MS = 10_000;
const REACH_MS = 10_000;

/**
 * Joins or comes back, and starts the agent.
 * @throws JoinError, UplinkError, RuntimeError: what a person must change; Error when the machine cannot be used.
 */
export async function startMachineNode(
  options: MachineNodeOptions,
  signal: AbortSignal,
): Promise<MachineNode> {
  const node = new Machine(options, signal);
  try {
    await node.start();
    return node;
  } catch (error) {
    await node.stop();
    throw error;
  }
}

class Machine implements MachineNode {
  readonly #options: MachineNodeOptions;
  readonly #signal: AbortSignal;
  readonly #undo: (() => Promise<void> | void)[] = [];
  #agent: NodeAgent | undefined;

  constructor(options: MachineNodeOptions, signal: AbortSignal) {
    this.#options = options;
    this.#signal = signal;
  }

  get ready(): Promise<void> {
    return this.#agent?.ready ?? Promise.reject(new Error("the node has not been started"));
  }

  #path(file: string): string {
    return join(this.#options.dataDir, "pki", file);
  }

  async start(): Promise<void> {
    const { name, server, log, runDir, dataDir, cniConfDir } = this.#options;
    const runtime = await this.#runtime();
    const uplink = await this.#uplink();
    const ca = await this.#ca();
    const identity = await this.#identity(ca);
    const client = new ApiClient({ server, ca, identity: identity.current, userAgent: "kubelet" });
    this.#undo.push(() => client.close());
    this.#keepFresh("client", identity, client);
    const facts = await this.#persist(() => clusterFacts(client), "the API server");
    const serving = await this.#serving(ca, client);
    const kubelet = new KubeletServer(serving.current(), ca, log.child({ part: "kubelet" }));
    this.#keepFresh("serving", serving, client, (pair) => kubelet.renew(pair));
    await kubelet.listen(ipFamily(uplink.ip) === 6 ? "::" : "0.0.0.0");
    this.#undo.push(() => kubelet.close());
    const informers = new InformerFactory(client, { log: log.child({ part: "informer" }) });
    this.#undo.push(() => informers.stop());
    this.#agent = await startNodeAgent({
      name,
      ns: NetNs.current(name),
      nodeIPs: [uplink.ip],
      uplink: uplink.iface,
      rootDir: dataDir,
      runDir,
      cniConfDir,
      runtime,
      client,
      informers,
      alone: true,
      ...facts,
      iptables: "auto",
      xtablesLock: XTABLES_LOCK,
      log,
    });
    const agent = this.#agent;
    this.#undo.push(() => agent.stop({ graceful: true }));
    kubelet.serve(agent);
    await this.#serveCni();
    informers.start();
    this.#watchFirewall(client, uplink, facts);
    log.info(
      { node: name, nodeIP: uplink.ip, iface: uplink.iface, port: KUBELET_PORT },
      "node agent started",
    );
  }

  #watchFirewall(client: KubeClient, { iface, ip }: Uplink, { clusterCIDRs }: ClusterFacts): void {
    const { name, runDir, log } = this.#options;
    const events = new EventRecorder({ client, component: "kubelet", host: name, log });
    const target = { kind: "Node", apiVersion: "v1", name, uid: name };
    const watch = new FirewallWatch({
      ns: NetNs.current(name),
      where: { runDir, uplink: iface, ips: [ip], networks: clusterCIDRs },
      needs: nodeNeeds,
      tell: (message) => events.record(target, "Warning", "FirewallBlocks", message),
      log: log.child({ part: "firewall" }),
    });
    this.#undo.push(async () => {
      await watch.stop();
      events.stop();
    });
    watch.start();
  }

  /** For the plugins that other runtimes of this machine call: they work without, but a start of Node later. */
  async #serveCni(): Promise<void> {
    const { runDir, log } = this.#options;
    try {
      const plugins = await startCniAgent(join(runDir, CNI_SOCKET));
      this.#undo.push(() => plugins.close());
    } catch (error) {
      log.warn({ err: error }, "plugins that other runtimes call will not be done here");
    }
  }

  /** Undefined: the emulated one. Pods that another one has of a former life would be nobody's: they are ended. */
  async #runtime(): Promise<ContainerRuntime | undefined> {
    const { runtimeEndpoint: endpoint, name: node, dataDir, log } = this.#options;
    const runtime = endpoint && (await connectCri(endpoint, node, log.child({ part: "runtime" })));
    await endLeftPods(dataDir, log, endpoint);
    if (!runtime) return undefined;
    recordRuntime(dataDir, { endpoint, node });
    this.#undo.push(() => runtime.close());
    return runtime;
  }

  async #uplink(): Promise<Uplink> {
    const { nodeIP, iface, server } = this.#options;
    const isTold = nodeIP !== undefined || iface !== undefined;
    const reached = isTold ? undefined : await this.#persist(() => ownAddressTo(server), server);
    return chooseUplink(machineAddresses(), { nodeIP, iface }, reached);
  }

  /** Kept from the first time; another one only by another hash. */
  async #ca(): Promise<string> {
    const { server, caHash, token } = this.#options;
    const path = this.#path("ca.crt");
    const kept = readIfThere(path);
    if (kept && (!caHash || publicKeyHash(kept) === caHash.toLowerCase())) return kept;
    if (!token || !caHash)
      throw new JoinError(
        "this machine has not joined a cluster yet: it needs --token and --discovery-token-ca-cert-hash, as printed on the control machine by: kubeplumb token create --print-join-command",
      );
    const ca = await this.#persist(() => discoverCa(server, caHash), server);
    writeFileAtomically(path, ca);
    return ca;
  }

  async #identity(ca: string): Promise<Kept> {
    const { name, server, token, log } = this.#options;
    const path = this.#path("kubelet-client.pem");
    const kept = readKeyPair(path, nodeUser(name), ca);
    if (kept) return new Kept(path, kept);
    if (!token)
      throw new JoinError(
        `this machine has no valid certificate as node ${name}: it needs a --token, from the control machine by: kubeplumb token create`,
      );
    const join = () => joinWithToken({ server, ca, token, nodeName: name }, this.#signal);
    const pair = await this.#persist(join, server);
    writeKeyPair(path, pair);
    log.info({ node: name }, "joined the cluster");
    return new Kept(path, pair);
  }

  async #serving(ca: string, client: KubeClient): Promise<Kept> {
    const { name: nodeName } = this.#options;
    const path = this.#path("kubelet-serving.pem");
    const kept = readKeyPair(path, nodeUser(nodeName), ca);
    if (kept) return new Kept(path, kept);
    const ask = () => requestCertificate(client, { nodeName, for: "serving" }, this.#signal);
    const pair = await this.#persist(ask, "the API server");
    writeKeyPair(path, pair);
    return new Kept(path, pair);
  }

  #keepFresh(
    purpose: "client" | "serving",
    kept: Kept,
    client: KubeClient,
    use?: (pair: KeyPair) => void,
  ): void {
    const { name: nodeName, log } = this.#options;
    const look = async () => {
      if (!kept.isDue()) return;
      try {
        const pair = await requestCertificate(client, { nodeName, for: purpose }, this.#signal);
        kept.replace(pair);
        use?.(pair);
        log.info({ for: purpose }, "certificate renewed");
      } catch (error) {
        if (!this.#signal.aborted)
          log.warn({ err: error, for: purpose }, "the certificate was not renewed yet");
      }
    };
    const timer = setInterval(() => void look(), LOOK_MS);
    this.#undo.push(() => clearInterval(timer));
    void look();
  }

  /** Tries until it is done, as long as nobody is there who answers; what is answered with an error is thrown. */
  async #persist<T>(work: () => Promise<T>, who: string): Promise<T> {
    for (let delay = FIRST_RETRY_MS; ; delay = Math.min(delay * 2, LAST_RETRY_MS)) {
      try {
        return await work();
      } catch (error) {
        if (!isTransient(error)) throw explained(error, who);
        this.#options.log.warn({ err: error, retryInMs: delay }, `${who} does not answer yet`);
        await sleep(delay, undefined, { signal: this.#signal });
      }
    }
  }

  async stop(): Promise<void> {
    for (const step of this.#undo.splice(0).reverse()) await step();
  }
}

/** A pair in use, and on disk. */
class Kept {
  readonly #path: string;
  readonly #chance = Math.random();
  #pair: KeyPair;

  constructor(path: string, pair: KeyPair) {
    this.#path = path;
    this.#pair = pair;
  }

  readonly current = (): KeyPair => this.#pair;

  isDue(): boolean {
    return Date.now() >= renewAt(this.#pair.cert, this.#chance);
  }

  replace(pair: KeyPair): void {
    writeKeyPair(this.#path, pair);
    this.#pair = pair;
  }
}

interface ClusterFacts {
  clusterCIDRs: string[];
  clusterDomain: string;
  clusterDNS: string | undefined;
}

async function clusterFacts(client: KubeClient): Promise<ClusterFacts> {
  const { name, namespace } = NODE_CONFIG;
  const { data = {} } = await client.get(CONFIG_MAPS, name, namespace);
  const { clusterCIDRs = "", clusterDomain = "cluster.local", clusterDNS } = data;
  return { clusterCIDRs: clusterCIDRs.split(",").filter(Boolean), clusterDomain, clusterDNS };
}

/** The address from which this machine reaches the server. */
function ownAddressTo(server: string): Promise<string> {
  const { hostname, port } = new URL(server);
  return new Promise((resolve, reject) => {
    const socket = connect({ host: hostname.replace(/^\[|\]$/g, ""), port: Number(port) || 443 });
    const late = Object.assign(new Error("no answer"), { code: "ETIMEDOUT" });
    socket.setTimeout(REACH_MS, () => socket.destroy(late));
    socket.once("error", reject);
    socket.once("connect", () => {
      resolve(socket.localAddress ?? "");
      socket.destroy();
    });
  });
}

const NOBODY = [
  "ECONNREFUSED",
  "ECONNRESET",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "ETIMEDOUT",
  "EAI_AGAIN",
  "EPIPE",
];
const UNDICI = ["UND_ERR_SOCKET", "UND_ERR_CONNECT_TIMEOUT", "UND_ERR_HEADERS_TIMEOUT"];

/** Whether it may be better in a moment: nobody listens yet, or what is asked for has not been written yet. */
function isTransient(error: unknown): boolean {
  if (error instanceof StatusError) return error.code >= 500 || isReason(error, "NotFound");
  const code = error instanceof Error && "code" in error ? String(error.code) : "";
  return [...NOBODY, ...UNDICI].includes(code);
}

function explained(error: unknown, who: string): unknown {
  const code = error instanceof Error && "code" in error ? String(error.code) : "";
  if (/^(UNABLE_TO_|SELF_SIGNED|DEPTH_ZERO|CERT_|ERR_TLS_CERT)/.test(code))
    return new JoinError(
      `${who} does not show a certificate of this cluster's CA (${(error as Error).message}); if the cluster was made anew, remove this node's state with: kubeplumb uninstall node`,
    );
  return error;
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
