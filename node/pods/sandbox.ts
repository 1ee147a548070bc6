// A pod's sandbox: its network namespace, joined to the network, and the files that all its containers share.
// Knows namespaces and files, no containers.

import { randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ipFamily } from "../../common/ip.js";
import type { Pod, Stored } from "../../common/k8s.js";
import { NetNs } from "../../dataplane/kernel/netns.js";
import type { BindMount } from "../process/root-plan.js";
import type { HostPort, PodEnvironment } from "./environment.js";
import {
  hostNetworkHostsFile,
  podDns,
  podHostname,
  podHostsFile,
  resolvConf,
  withinLimits,
} from "./files.js";
import { PauseProcess } from "./pause-process.js";
import type { PodSandbox } from "./runtime.js";
import { networkSysctls } from "./sysctls.js";

export function podDirectory(rootDir: string, uid: string): string {
  return join(rootDir, "pods", uid);
}

/** Addresses of a plugin's choice and order, the node's primary family first; one a family, as kubelet takes them. */
export function sortedIPs(ips: readonly string[], nodeIPs: readonly string[]): string[] {
  const primary = ipFamily(nodeIPs[0] ?? "") === 6 ? 6 : 4;
  const found = [primary, primary === 6 ? 4 : 6].map((family) => ips.find((ip) => ipFamily(ip) === family));
  return found.filter((ip) => ip !== undefined);
}

export class Sandbox implements PodSandbox {
  /** It ends with this process only. */
  readonly lost = false;
  readonly id: string;
  readonly ns: NetNs;
  /** At least one, the primary one first. */
  readonly ips: readonly string[];
  readonly hostname: string;
  readonly directory: string;
  readonly #pod: Stored<Pod>;
  readonly #environment: PodEnvironment;
  readonly #hostNetwork: boolean;
  readonly #pause: PauseProcess;
  #files: BindMount[] | undefined;

  private constructor(
    pod: Stored<Pod>,
    environment: PodEnvironment,
    { id, ns, ips }: { id: string; ns: NetNs; ips: readonly string[] },
  ) {
    this.#pod = pod;
    this.#environment = environment;
    this.#hostNetwork = pod.spec?.hostNetwork ?? false;
    this.id = id;
    this.ns = ns;
    this.ips = ips;
    this.hostname = this.#hostNetwork ? environment.nodeName : podHostname(pod);
    this.directory = podDirectory(environment.rootDir, pod.metadata.uid);
    const { log } = environment;
    const { hostname, directory } = this;
    const warn = (message: string) => log.warn({ pod: pod.metadata.name }, message);
    this.#pause = new PauseProcess({ ns, hostname, directory, warn });
  }

  /** @throws the error of the namespace or of the network plugin; nothing is left then. */
  static async create(pod: Stored<Pod>, environment: PodEnvironment): Promise<Sandbox> {
    const id = randomBytes(32).toString("hex");
    const { namespace = "", name, uid } = pod.metadata;
    const identity = { namespace, name, uid };
    if (pod.spec?.hostNetwork)
      return new Sandbox(pod, environment, { id, ns: environment.hostNs, ips: environment.nodeIPs });
    const ns = NetNs.create(`${namespace}/${name}`);
    try {
      for (const { name, value } of networkSysctls(pod)) ns.sysctl(name, value);
      const joined = await environment.network.add({ ...identity, hostPorts: hostPorts(pod) }, id, ns);
      const ips = sortedIPs(joined, environment.nodeIPs);
      return new Sandbox(pod, environment, { id, ns, ips });
    } catch (error) {
      try {
        await environment.network.remove(identity, id, ns);
      } catch (second) {
        environment.log.warn(
          { err: second, pod: `${namespace}/${name}` },
          "half a sandbox could not be removed",
        );
      }
      ns.close();
      throw error;
    }
  }

  get ip(): string {
    return this.ips[0] ?? "";
  }

  /** A process whose PID namespace all containers are to live in; undefined: each has its own. @throws LaunchError */
  async sharedPid(): Promise<number | undefined> {
    const { hostPID, shareProcessNamespace } = this.#pod.spec ?? {};
    if (hostPID) return process.pid;
    return shareProcessNamespace ? this.#pause.pid() : undefined;
  }

  /** /etc/hosts, /etc/resolv.conf and /etc/hostname of the pod, written when first asked for. */
  files(): BindMount[] {
    this.#files ??= this.#writeFiles();
    return this.#files;
  }

  #writeFiles(): BindMount[] {
    const { clusterDNS, clusterDomain, nodeDns: node } = this.#environment;
    const { dns, omitted } = withinLimits(podDns(this.#pod, { clusterDNS, clusterDomain, node }));
    for (const message of omitted) this.#warn("DNSConfigForming", message);
    const etc = join(this.directory, "etc");
    mkdirSync(etc, { recursive: true });
    const texts: Record<string, string> = {
      hosts: this.#hostNetwork
        ? hostNetworkHostsFile(this.#pod, readFileSync("/etc/hosts", "utf8"))
        : podHostsFile(this.#pod, this.ips, clusterDomain),
      "resolv.conf": resolvConf(dns),
      hostname: `${this.hostname}\n`,
    };
    return Object.entries(texts).map(([name, text]) => {
      const source = join(etc, name);
      writeFileSync(source, text);
      return { source, target: `/etc/${name}`, file: true };
    });
  }

  #warn(reason: string, message: string): void {
    const { namespace = "", name, uid } = this.#pod.metadata;
    const target = { kind: "Pod", apiVersion: "v1", name, namespace, uid };
    this.#environment.events.record(target, "Warning", reason, message);
  }

  async remove(): Promise<void> {
    const { namespace = "", name, uid } = this.#pod.metadata;
    await this.#pause.end();
    if (!this.#hostNetwork) {
      await this.#environment.network.remove({ namespace, name, uid }, this.id, this.ns);
      this.ns.close();
    }
    rmSync(this.directory, { recursive: true, force: true });
  }

  leave(): void {
    void this.#pause.end();
    this.ns.close();
  }
}

/** Of all containers, as a kubelet tells them to the runtime. */
export function hostPorts({ spec }: Stored<Pod>): HostPort[] {
  const containers = [...(spec?.initContainers ?? []), ...(spec?.containers ?? [])];
  return containers
    .flatMap(({ ports = [] }) => ports)
    .flatMap(({ hostPort, containerPort, protocol = "TCP", hostIP }) =>
      hostPort ? [{ hostPort, containerPort, protocol, ...(hostIP && { hostIP }) }] : [],
    );
}
