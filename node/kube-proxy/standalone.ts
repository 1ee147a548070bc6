// kube-proxy as a program of its own, beside any Kubernetes API server: finds the server, the node and its addresses,
// runs until it is told to end. Knows files, environment and the host's own network namespace.

import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { dirname, resolve } from "node:path";
import { ApiClient } from "../../client/api-client.js";
import { inClusterConnection } from "../../client/in-cluster.js";
import { connectionOf, parseKubeconfig, type ServerOptions } from "../../client/kubeconfig.js";
import { ENDPOINT_SLICES, NODES, SERVICES } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import { InformerFactory } from "../../common/informer.js";
import { ipFamily } from "../../common/ip.js";
import type { Node, Stored } from "../../common/k8s.js";
import type { Logger } from "../../common/log.js";
import { Iptables, type IptablesDriver } from "../../dataplane/iptables/index.js";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { removeProxyRules } from "../../dataplane/proxy/index.js";
import { EventRecorder } from "../pods/events.js";
import type { KubeProxyConfiguration } from "./configuration.js";
import { KubeProxy } from "./kube-proxy.js";

/** Services and slices of another proxy, or that nobody routes, are not even sent. */
const FOR_PROXIES = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";

export interface StandaloneOptions {
  configuration: KubeProxyConfiguration;
  /** Address of the API server, in place of the one that the credentials name (--master). */
  master?: string | undefined;
  /** Ends the program's work in order. */
  signal: AbortSignal;
  log: Logger;
}

/**
 * The server and credentials that a configuration means: its kubeconfig, else those of the pod this runs in.
 * @throws Error naming the file that cannot be read, or what is missing for a pod.
 */
export function connectionFor({ kubeconfig }: KubeProxyConfiguration, master?: string): ServerOptions {
  const connection = kubeconfig ? fromFile(kubeconfig) : masterOrPod(master);
  return master ? { ...connection, server: master } : connection;
}

function fromFile(path: string): ServerOptions {
  return connectionOf(parseKubeconfig(readFileSync(path, "utf8"), path), undefined, dirname(resolve(path)));
}

function masterOrPod(master: string | undefined): ServerOptions {
  return master ? { server: master } : inClusterConnection();
}

/** The name under which this host is a Node, as kubelet and kube-proxy find it. */
export function nodeNameOf({ hostnameOverride }: KubeProxyConfiguration): string {
  return (hostnameOverride || hostname()).trim().toLowerCase();
}

/** InternalIPs before ExternalIPs, one a family. */
function hostIPs(node: Stored<Node> | undefined): string[] {
  const all = ["InternalIP", "ExternalIP"].flatMap((type) =>
    (node?.status?.addresses ?? []).filter((one) => one.type === type).map(({ address }) => address),
  );
  return oneAFamily(all);
}

function oneAFamily(all: readonly string[]): string[] {
  const other = all.find((ip) => ipFamily(ip) !== ipFamily(all[0] ?? ""));
  return [all[0], other].filter((ip) => ip !== undefined);
}

/** Addresses of the Node, one a family; the primary family first. A loopback address when nobody knows of any. */
export function nodeAddresses(node: Stored<Node> | undefined, bindAddress: string): string[] {
  const bound = bindAddress === "0.0.0.0" || bindAddress === "::" ? [] : [bindAddress];
  const found = oneAFamily([...bound, ...hostIPs(node)]);
  return found.length > 0 ? found : [bindAddress === "::" ? "::1" : "127.0.0.1"];
}

/** A driver for each family that this host has; the primary one first and not to be missed. */
export function iptablesOf(ns: NetNs, primary: 4 | 6, log: Logger): [IptablesDriver, ...IptablesDriver[]] {
  const drivers: [IptablesDriver, ...IptablesDriver[]] = [Iptables.open(ns, { family: primary })];
  const second = primary === 4 ? 6 : 4;
  if (second === 6 && !ns.run(() => existsSync("/proc/net/if_inet6"))) return drivers;
  try {
    drivers.push(Iptables.open(ns, { family: second }));
  } catch (error) {
    log.warn({ err: error }, `no IPv${second} iptables here: Services of that family are not routed`);
  }
  return drivers;
}

/**
 * Runs a kube-proxy for this host until `signal` aborts; the rules stay then.
 * @throws Error when it cannot start: no credentials, no iptables, a port taken with bindAddressHardFail; and, as
 * kube-proxy ends, when the Node gets other addresses, by which much was decided: who runs it shall start it again.
 */
export async function runKubeProxy({ configuration, master, signal, log }: StandaloneOptions): Promise<void> {
  const ns = NetNs.current();
  const nodeName = nodeNameOf(configuration);
  const client = new ApiClient({
    ...connectionFor(configuration, master),
    userAgent: "kube-proxy/kubeplumb",
  });
  log.info({ server: client.address, node: nodeName }, "starting");
  if (configuration.ignored.length > 0)
    log.info({ fields: configuration.ignored }, "these fields have no effect here");
  adjustOomScore(configuration.oomScoreAdj, log);
  const informers = new InformerFactory(client, { log });
  const nodes = informers.get(NODES, { fieldSelector: `metadata.name=${nodeName}` });
  const services = informers.get(SERVICES, { labelSelector: FOR_PROXIES });
  const endpointSlices = informers.get(ENDPOINT_SLICES, { labelSelector: FOR_PROXIES });
  const events = new EventRecorder({ client, component: "kube-proxy", host: nodeName, log });
  informers.start();
  try {
    const node = await firstSight(nodes, nodeName, signal);
    if (signal.aborted) return;
    if (!node)
      log.warn({ node: nodeName }, "there is no such Node; --hostname-override gives it another name");
    const nodeIPs = nodeAddresses(node, configuration.bindAddress);
    const proxy = new KubeProxy({
      ns,
      nodeName,
      nodeIPs,
      iptables: iptablesOf(ns, ipFamily(nodeIPs[0] ?? "") === 6 ? 6 : 4, log),
      configuration,
      record: (...event) => events.record(...event),
      log,
    });
    proxy.watch({ services, endpointSlices });
    const moved = new AbortController();
    const known = hostIPs(node).join();
    const follow = (own: Stored<Node>) => {
      proxy.nodeChanged(own);
      const now = hostIPs(own).join();
      if (now === "" || now === known) return;
      moved.abort(new Error(`Node ${nodeName} had the addresses ${known || "(none)"} and has now ${now}`));
    };
    nodes.subscribe({ add: follow, update: (_old, own) => follow(own) });
    try {
      await proxy.start();
      const target = { kind: "Node", apiVersion: "v1", name: nodeName, uid: nodeName };
      events.record(target, "Normal", "Starting", "");
      await aborted(AbortSignal.any([signal, moved.signal]));
      if (!signal.aborted) moved.signal.throwIfAborted();
    } finally {
      await proxy.stop();
    }
  } finally {
    informers.stop();
    events.stop();
    await client.close();
    log.info("ended; the rules stay (kubeplumb proxy --cleanup removes them)");
  }
}

/** Removes what a kube-proxy has left on this host, for both families; rules and chains of others stay. */
export async function cleanUp(log: Logger): Promise<void> {
  const ns = NetNs.current();
  for (const driver of iptablesOf(ns, 4, log)) {
    await removeProxyRules(driver);
    log.info({ family: driver.family, variant: driver.variant }, "rules removed");
  }
}

/** The Node when the API knows it; waits as long as the API is away. */
async function firstSight(
  nodes: Informer<Node>,
  name: string,
  signal: AbortSignal,
): Promise<Stored<Node> | undefined> {
  await Promise.race([nodes.synced, aborted(signal)]);
  return nodes.get(name);
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((done) => signal.addEventListener("abort", () => done(), { once: true }));
}

/** proc(5): who is ended last when memory runs out. Only root may ask for less than it has. */
function adjustOomScore(score: number, log: Logger): void {
  try {
    writeFileSync("/proc/self/oom_score_adj", String(score));
  } catch (error) {
    log.warn({ err: error, score }, "cannot set oom_score_adj");
  }
}
