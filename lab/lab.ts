// The inside of the lab process: wire, hosts, one API client for all, a node agent on each host, and lab.sock.
// Runs in namespaces of its own; control is reached over its unix socket and may come and go.

import { readdirSync } from "node:fs";
import type { Server } from "node:http";
import { connect, createServer as createTcpServer, type Server as TcpServer } from "node:net";
import { join as joinPath } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { ApiClient } from "../client/api-client.js";
import { NODES, PODS } from "../common/client.js";
import { InformerFactory } from "../common/informer.js";
import type { Logger } from "../common/log.js";
import { join } from "../common/tunnel.js";
import { Iptables } from "../dataplane/iptables/index.js";
import type { NodeAgent, NodeAgentOptions } from "../node/index.js";
import { EventRecorder } from "../node/pods/events.js";
import { serveRemoteCommand } from "../node/streams/remote-command.js";
import { installClusterDns } from "./cluster-dns.js";
import { messageOf } from "./errors.js";
import { launchInHost } from "./host-process.js";
import { type Host, makeHosts, makeOutside, type Place } from "./hosts.js";
import { residentBytes } from "./identity.js";
import { LoadBalancer } from "./load-balancer.js";
import { assertOwnNetwork, privateRun } from "./machine.js";
import { API_PORT, bridgeAddresses, dnsAddresses, networksOf } from "./resolve.js";
import { type HostDoor, type LabDoors, type NodeDoor, startLabServer } from "./server.js";
import type { ClusterPaths } from "./state.js";
import { dataPlaneInSync } from "./sync.js";
import { dialApi } from "./tunnel.js";
import type { LabStatus, ResolvedConfig } from "./types.js";
import { BRIDGE, Underlay } from "./underlay.js";

export interface LabOptions {
  config: ResolvedConfig;
  paths: ClusterPaths;
  startAgent: (options: NodeAgentOptions) => Promise<NodeAgent>;
  log: Logger;
  /** The hosts are there; milliseconds since the process was asked. */
  onHosts?: (ms: number) => void;
  /** lab.sock was asked to end the lab. */
  onStop?: () => void;
}

/** How long a lab waits for control to listen, in milliseconds. */
const CONTROL_TIMEOUT_MS = 30_000;

/** Makes everything; resolves when every node is Ready. What fails is thrown: the process ends, and with it all. */
export async function startLab(options: LabOptions): Promise<Lab> {
  const { config, paths, log } = options;
  const begin = performance.now();
  assertOwnNetwork();
  privateRun([paths.dir]);
  const underlay = await Underlay.create(bridgeAddresses(config));
  const hosts = await makeHosts(config, underlay, paths.hosts);
  underlay.keepConfigured((error) => log.warn({ err: error }, "a host's eth0 could not be configured again"));
  options.onHosts?.(Math.round(performance.now() - begin));
  log.info({ hosts: hosts.length, ms: Math.round(performance.now() - begin) }, "hosts made");
  await controlListens(paths.controlSocket);
  const lab = new Lab(options, underlay, hosts);
  await lab.start();
  log.info({ ms: Math.round(performance.now() - begin) }, "all nodes are Ready");
  return lab;
}

async function controlListens(path: string): Promise<void> {
  const deadline = Date.now() + CONTROL_TIMEOUT_MS;
  for (;;) {
    const error = await tryConnect(path);
    if (!error) return;
    if (Date.now() > deadline) throw new Error(`control does not listen on ${path}: ${error.message}`);
    await sleep(5);
  }
}

function tryConnect(path: string): Promise<Error | undefined> {
  return new Promise((resolve) => {
    const socket = connect(path, () => {
      socket.destroy();
      resolve(undefined);
    });
    socket.once("error", resolve);
  });
}

/**
 * The API server's address for pods: control listens outside the lab, on loopback; here on an address of the underlay
 * bridge is the other end of a tunnel to it. TLS goes through untouched.
 */
async function startApiGateway(address: string, { paths, log }: LabOptions): Promise<TcpServer> {
  const server = createTcpServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    socket.on("error", () => socket.destroy());
    dialApi(paths.relaySocket).then(
      (tunnel) => join(socket, tunnel),
      (error) => {
        log.debug({ error: messageOf(error) }, "a pod asked for the API, but control is away");
        socket.resetAndDestroy();
      },
    );
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(API_PORT, address, resolve);
  });
  return server;
}

/** A running lab. */
export class Lab implements LabDoors {
  readonly #options: LabOptions;
  readonly #hosts: Map<string, Host>;
  readonly #agents = new Map<string, NodeAgent>();
  readonly #client: ApiClient;
  readonly #informers: InformerFactory;
  readonly #events: EventRecorder;
  readonly #loadBalancer: LoadBalancer;
  /** The place beside the hosts. */
  readonly #outside: Place;
  readonly #since = Date.now();
  #server: Server | undefined;
  #gateways: readonly TcpServer[] = [];

  constructor(options: LabOptions, underlay: Underlay, hosts: readonly Host[]) {
    this.#options = options;
    this.#outside = makeOutside(BRIDGE, underlay.root, options.config);
    this.#hosts = new Map(hosts.map((host) => [host.node.name, host]));
    // As whom it writes, in managedFields.
    const userAgent = "kubelet";
    this.#client = new ApiClient({ socketPath: options.paths.controlSocket, userAgent });
    this.#informers = new InformerFactory(this.#client, { log: options.log.child({ part: "informer" }) });
    const log = options.log.child({ part: "load-balancer" });
    this.#events = new EventRecorder({ client: this.#client, component: "kubeplumb", host: "", log });
    this.#loadBalancer = new LoadBalancer({
      underlay,
      nodes: options.config.nodes,
      informers: this.#informers,
      events: this.#events,
      log,
    });
  }

  /** Starts the agents and lab.sock; resolves when every node is Ready. */
  async start(): Promise<void> {
    const { config, log, paths } = this.#options;
    this.#loadBalancer.start();
    this.#informers.start();
    // Before the agents: control may ask a kubelet as soon as its Node is there.
    const socketPath = paths.labSocket;
    this.#server = await startLabServer({ socketPath, doors: this, log: log.child({ part: "lab.sock" }) });
    this.#gateways = await Promise.all(
      bridgeAddresses(config).map(({ address }) => startApiGateway(address, this.#options)),
    );
    const agents = await Promise.all([...this.#hosts.values()].map((host) => this.#startAgent(host)));
    await Promise.all(agents.map((agent) => agent.ready));
    // Not before: all its pods would go to the first host that is Ready. Nobody waits for it.
    if (config.dns?.enabled) {
      const { serviceSubnet } = config.networking;
      const options = { domain: config.dns.domain, serviceSubnet, log };
      void installClusterDns(this.#client, paths.clusterDnsMark, options);
    }
  }

  async #startAgent({ node, ns, rootDir, runDir }: Host): Promise<NodeAgent> {
    const { config, startAgent, log } = this.#options;
    const agent = await startAgent({
      name: node.name,
      ns,
      nodeIPs: node.ips,
      uplink: "eth0",
      rootDir,
      runDir,
      client: this.#client,
      informers: this.#informers,
      clusterCIDRs: networksOf(config.networking.podSubnet).map(String),
      labels: node.labels,
      taints: node.taints,
      images: config.images,
      ...(config.dns?.enabled
        ? { clusterDNS: dnsAddresses(config.networking.serviceSubnet)[0], clusterDomain: config.dns.domain }
        : {}),
      iptables: config.networking.iptables,
      log: log.child({ node: node.name }),
    });
    this.#agents.set(node.name, agent);
    return agent;
  }

  node(name: string): NodeDoor | undefined {
    return this.#agents.get(name);
  }

  host(name: string): HostDoor | undefined {
    const host = this.#hosts.get(name) ?? (name === BRIDGE ? this.#outside : undefined);
    if (!host) return undefined;
    const { ns, runDir, shell, env } = host;
    const { config, log } = this.#options;
    const variant = config.networking.iptables;
    const lockFile = joinPath(runDir, "xtables.lock");
    return {
      exec: (req, socket, head) =>
        serveRemoteCommand(req, socket, head, (command) => launchInHost(shell, command, env)),
      connect: (ip, port) => ns.connect({ host: ip, port }),
      // A driver of its own: a change of the host's proxy must not wait while thousands of rules are read.
      rules: async ({ family, chains }) =>
        Iptables.open(ns, { family, variant, lockFile, log: log.child({ node: name }) }).print(chains),
    };
  }

  async status(): Promise<LabStatus> {
    const nodes = this.#informers.get(NODES);
    const pods = this.#informers.get(PODS).list();
    const hosts = [...this.#hosts.values()].map(({ node: { name, ip } }) => {
      const conditions = nodes.get(name)?.status?.conditions ?? [];
      const ready = conditions.some(({ type, status }) => type === "Ready" && status === "True");
      return { name, ip, ready, pods: pods.filter((pod) => pod.spec?.nodeName === name).length };
    });
    return {
      hosts,
      pods: pods.filter((pod) => pod.spec?.nodeName).length,
      processes: readdirSync("/proc").filter((entry) => /^\d+$/.test(entry)).length,
      memoryBytes: residentBytes("self") ?? process.memoryUsage.rss(),
      uptimeSeconds: Math.round((Date.now() - this.#since) / 1000),
    };
  }

  sync(): Promise<void> {
    return dataPlaneInSync(this.#client, this.#informers, [...this.#agents.values()]);
  }

  stop(): void {
    this.#options.onStop?.();
  }

  /** Ends every agent and closes the socket. `graceful`: pods get their grace period. */
  async close(options: { graceful: boolean }): Promise<void> {
    this.#server?.close();
    for (const gateway of this.#gateways) gateway.close();
    await Promise.all([...this.#agents.values()].map((agent) => agent.stop(options)));
    await this.#loadBalancer.stop();
    this.#events.stop();
    for (const { shell } of [...this.#hosts.values(), this.#outside]) shell[Symbol.dispose]();
    this.#informers.stop();
    await this.#client.close();
  }
}
