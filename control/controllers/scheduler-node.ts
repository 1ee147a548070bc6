// What the scheduler knows of one node: its object and the sums over the pods on it, kept up pod by pod. Pure;
// knows Nodes and Pods.

import type { Node, Pod, Stored } from "../../common/k8s.js";
import { parseQuantity } from "../resources/validation/quantity.js";

/** A host port a pod takes: any address when `ip` is 0.0.0.0. */
export interface HostPort {
  ip: string;
  protocol: string;
  port: number;
}

/** What a pod takes from its node, calculated once. */
export interface PodFacts {
  pod: Stored<Pod>;
  /** Resource name → amount; cpu in thousandths of a core, everything else in its own unit; whole numbers. */
  requests: ReadonlyMap<string, number>;
  /** The same with a minimum for containers that request nothing, so that they weigh something in scoring. */
  weight: { cpu: number; memory: number };
  hostPorts: readonly HostPort[];
  /** The nodes that its affinity names, as a DaemonSet's does; undefined when it names none. */
  onlyNodes: ReadonlySet<string> | undefined;
  /** Pods with the same one are spread over nodes: their controller's uid, or the Services that select them. */
  group: string | undefined;
}

/** What a container weighs that requests nothing: 100m and 200Mi, as in kube-scheduler. */
const UNREQUESTED = { cpu: 100, memory: 200 * 1024 * 1024 };

/** An amount as a whole number, rounded up: millicores of cpu, bytes of memory, pieces of anything else. */
function amountOf(resource: string, text: string | number): number {
  const nanos = parseQuantity(text)?.nanos ?? 0n;
  const unit = resource === "cpu" ? 1_000_000n : 1_000_000_000n;
  return Number((nanos + unit - 1n) / unit);
}

export function podFacts(pod: Stored<Pod>, group: string | undefined): PodFacts {
  const containers = pod.spec?.containers ?? [];
  const weight = { cpu: 0, memory: 0 };
  for (const { resources } of containers) {
    const { cpu, memory } = resources?.requests ?? {};
    weight.cpu += cpu === undefined ? UNREQUESTED.cpu : amountOf("cpu", cpu);
    weight.memory += memory === undefined ? UNREQUESTED.memory : amountOf("memory", memory);
  }
  const sidecars = (pod.spec?.initContainers ?? []).filter(({ restartPolicy }) => restartPolicy === "Always");
  const hostPorts = [...containers, ...sidecars].flatMap((container) =>
    (container.ports ?? []).flatMap(({ hostPort, hostIP, protocol }) =>
      hostPort ? [{ ip: hostIP || "0.0.0.0", protocol: protocol ?? "TCP", port: hostPort }] : [],
    ),
  );
  return { pod, requests: podRequests(pod), weight, hostPorts, onlyNodes: namedNodes(pod), group };
}

/** Terms are alternatives, the fields of one are not: one term that names no node leaves all of them. */
function namedNodes(pod: Stored<Pod>): Set<string> | undefined {
  const required = pod.spec?.affinity?.nodeAffinity?.requiredDuringSchedulingIgnoredDuringExecution;
  const named = new Set<string>();
  for (const { matchFields = [] } of required?.nodeSelectorTerms ?? []) {
    const lists = matchFields.filter(({ operator }) => operator === "In").map(({ values = [] }) => values);
    const [first, ...others] = lists;
    if (!first) return undefined;
    for (const name of first) if (others.every((list) => list.includes(name))) named.add(name);
  }
  return required ? named : undefined;
}

/** Containers run together, init containers one after the other; one with restartPolicy Always stays. */
function podRequests(pod: Stored<Pod>): Map<string, number> {
  const total = new Map<string, number>();
  const add = (requests: Record<string, string> | undefined) => {
    for (const [name, amount] of Object.entries(requests ?? {})) {
      total.set(name, (total.get(name) ?? 0) + amountOf(name, amount));
    }
  };
  const peak = new Map<string, number>();
  const stays = new Map<string, number>();
  for (const { resources, restartPolicy } of pod.spec?.initContainers ?? []) {
    for (const [name, amount] of Object.entries(resources?.requests ?? {})) {
      const needed = amountOf(name, amount) + (stays.get(name) ?? 0);
      peak.set(name, Math.max(peak.get(name) ?? 0, needed));
      if (restartPolicy === "Always") stays.set(name, needed);
    }
    if (restartPolicy === "Always") add(resources?.requests);
  }
  for (const { resources } of pod.spec?.containers ?? []) add(resources?.requests);
  for (const [name, amount] of peak) total.set(name, Math.max(total.get(name) ?? 0, amount));
  add(pod.spec?.overhead);
  return total;
}

/** A node and the sums over its pods. */
export class NodeInfo {
  /** undefined: pods name a node whose object is not known (yet). */
  node: Stored<Node> | undefined;
  readonly pods = new Map<string, PodFacts>();
  readonly requested = new Map<string, number>();
  readonly groups = new Map<string, number>();
  weight = { cpu: 0, memory: 0 };
  #allocatable: { node: Stored<Node>; amounts: Map<string, number> } | undefined;

  /** Adds or replaces a pod. */
  add(facts: PodFacts): void {
    this.remove(facts.pod.metadata.uid);
    this.pods.set(facts.pod.metadata.uid, facts);
    this.#count(facts, 1);
  }

  remove(uid: string): boolean {
    const facts = this.pods.get(uid);
    if (!facts) return false;
    this.pods.delete(uid);
    this.#count(facts, -1);
    return true;
  }

  #count(facts: PodFacts, sign: 1 | -1): void {
    for (const [name, amount] of facts.requests) {
      this.requested.set(name, (this.requested.get(name) ?? 0) + sign * amount);
    }
    this.weight.cpu += sign * facts.weight.cpu;
    this.weight.memory += sign * facts.weight.memory;
    if (facts.group === undefined) return;
    const left = (this.groups.get(facts.group) ?? 0) + sign;
    if (left > 0) this.groups.set(facts.group, left);
    else this.groups.delete(facts.group);
  }

  /** status.allocatable (or capacity) as numbers; undefined for a resource the node does not have. */
  allocatable(name: string): number | undefined {
    const { node } = this;
    if (!node) return undefined;
    if (this.#allocatable?.node !== node) {
      const amounts = new Map<string, number>();
      for (const [resource, amount] of Object.entries(
        node.status?.allocatable ?? node.status?.capacity ?? {},
      )) {
        amounts.set(resource, amountOf(resource, amount));
      }
      this.#allocatable = { node, amounts };
    }
    return this.#allocatable.amounts.get(name);
  }

  /** The first host port that a pod here holds already. */
  conflictingPort(wanted: readonly HostPort[]): HostPort | undefined {
    if (wanted.length === 0) return undefined;
    for (const { hostPorts } of this.pods.values()) {
      for (const taken of hostPorts) {
        const conflict = wanted.find((port) => portsConflict(port, taken));
        if (conflict) return conflict;
      }
    }
    return undefined;
  }
}

function portsConflict(a: HostPort, b: HostPort): boolean {
  if (a.port !== b.port || a.protocol !== b.protocol) return false;
  return a.ip === b.ip || a.ip === "0.0.0.0" || b.ip === "0.0.0.0";
}
