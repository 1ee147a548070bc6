// Watches over nodes: heartbeats, conditions and the taints that follow from them, and pods on lost nodes are marked
// not ready. What a heartbeat means is in node-health.ts. Knows Nodes, Leases and Pods.

import { isNotFound, LEASES, NODES, PODS } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import type { Lease, Node, Pod, Stored, Taint } from "../../common/k8s.js";
import type { WorkQueue } from "../../common/workqueue.js";
import type { ControllerContext } from "./context.js";
import type { EventRecorder } from "./events.js";
import { evictionAllowed, lostConditions, type NodeHealth, observe } from "./node-health.js";
import { namespaceOf } from "./objects.js";
import { indexByNode, podsOnNode } from "./pod-index.js";
import { isPodTerminal, podCondition } from "./pod-state.js";
import { onSight, type Reconciler } from "./reconcile.js";
import {
  MANAGED_NO_SCHEDULE,
  NOT_READY,
  noExecuteTaint,
  noScheduleTaints,
  readyStatus,
  sameTaint,
  UNREACHABLE,
} from "./taints.js";
import { timestamp } from "./time.js";

const LEASE_NAMESPACE = "kube-node-lease";
/** How often heartbeats are looked at, at most; kube-controller-manager's --node-monitor-period. */
const LONGEST_PERIOD_MS = 5000;

export class NodeLifecycleController implements Reconciler {
  readonly #context: ControllerContext;
  readonly #recorder: EventRecorder;
  readonly #nodes: Informer<Node>;
  readonly #leases: Informer<Lease>;
  readonly #pods: Informer<Pod>;
  readonly #graceMs: number;
  readonly #health = new Map<string, NodeHealth>();
  readonly #ready = new Set<string>();
  readonly #notReady = new Set<string>();
  #evictionAllowed = false;
  readonly #queue: WorkQueue;
  #timer: NodeJS.Timeout | undefined;

  constructor(
    context: ControllerContext,
    queue: WorkQueue,
    options: { nodeMonitorGracePeriodSeconds: number },
  ) {
    this.#context = context;
    this.#recorder = context.events.recorder("node-controller");
    this.#nodes = context.informers.get(NODES);
    this.#leases = context.informers.get(LEASES);
    this.#pods = context.informers.get(PODS);
    indexByNode(this.#pods);
    this.#graceMs = options.nodeMonitorGracePeriodSeconds * 1000;
    this.#queue = queue;
  }

  watch(): void {
    this.#nodes.subscribe({
      add: (node) => {
        const { name } = node.metadata;
        this.#look(node);
        this.#count(node);
        const text = `Node ${name} event: Registered Node ${name} in Controller`;
        this.#recorder.event(node, "Normal", "RegisteredNode", text);
        this.#queue.add(name);
      },
      update: (old, now) => {
        this.#look(now);
        this.#queue.add(now.metadata.name);
        if (readyStatus(old) !== readyStatus(now)) this.#count(now);
      },
      delete: (node) => {
        const { name } = node.metadata;
        const text = `Node ${name} event: Removing Node ${name} from Controller`;
        this.#recorder.event(node, "Normal", "RemovingNode", text);
        this.#health.delete(name);
        this.#ready.delete(name);
        this.#notReady.delete(name);
        this.#judgeDisruption();
      },
    });
    this.#leases.subscribe(onSight((lease) => this.#leaseSeen(lease)));
    this.#timer = setInterval(() => this.monitor(), Math.min(LONGEST_PERIOD_MS, this.#graceMs / 8));
  }

  close(): void {
    clearInterval(this.#timer);
  }

  /** Looks at the age of all heartbeats now. */
  monitor(): void {
    const now = this.#context.now();
    for (const node of this.#nodes.list()) {
      const health = this.#look(node);
      if (now - health.seenAt > this.#graceOf(node)) this.#queue.add(node.metadata.name);
    }
  }

  #count(node: Stored<Node>): void {
    const { name } = node.metadata;
    const isReady = readyStatus(node) === "True";
    (isReady ? this.#ready : this.#notReady).add(name);
    (isReady ? this.#notReady : this.#ready).delete(name);
    this.#judgeDisruption();
  }

  /** When it changes whether pods may be evicted, all nodes that are not ready gain or lose their NoExecute taint. */
  #judgeDisruption(): void {
    const allowed = evictionAllowed(this.#ready.size, this.#notReady.size);
    if (allowed === this.#evictionAllowed) return;
    this.#evictionAllowed = allowed;
    for (const name of this.#notReady) this.#queue.add(name);
  }

  #leaseSeen(lease: Stored<Lease>): void {
    if (lease.metadata.namespace !== LEASE_NAMESPACE) return;
    const node = this.#nodes.get(lease.metadata.name);
    if (node) this.#look(node);
  }

  #look(node: Stored<Node>): NodeHealth {
    const { name } = node.metadata;
    const lease = this.#leases.get(`${LEASE_NAMESPACE}/${name}`);
    const health = observe(this.#health.get(name), node, lease, this.#context.now());
    this.#health.set(name, health);
    return health;
  }

  /** One that never posted a status gets half as long again, as --node-startup-grace-period is to the other. */
  #graceOf(node: Stored<Node>): number {
    return readyStatus(node) === undefined ? this.#graceMs * 1.5 : this.#graceMs;
  }

  async reconcile(name: string): Promise<void> {
    const node = this.#nodes.get(name);
    const health = this.#health.get(name);
    if (!node || !health) return;
    const now = this.#context.now();
    const conditions = now - health.seenAt > this.#graceOf(node) ? lostConditions(node, now) : undefined;
    if (conditions) {
      await this.#markLost(node, conditions);
      return; // its own update brings us back for the taints
    }
    await this.#reconcileTaints(node, now);
    // A kubelet that is there reports its pods itself, also as not ready.
    if (readyStatus(node) === "Unknown") await this.#markPodsNotReady(node, now);
  }

  async #markLost(node: Stored<Node>, conditions: NonNullable<NonNullable<Node["status"]>["conditions"]>) {
    const { name } = node.metadata;
    const draft = { ...node, status: { ...node.status, conditions } } as Node;
    await this.#context.client.update(NODES, draft, { subresource: "status" });
    this.#context.log.warn({ node: name }, "no heartbeat from the node");
    if (readyStatus(node) === "True") {
      this.#recorder.event(node, "Normal", "NodeNotReady", `Node ${name} status is now: NodeNotReady`);
    }
  }

  async #reconcileTaints(node: Stored<Node>, now: number): Promise<void> {
    const present = node.spec?.taints ?? [];
    const taints = wantedTaints(node, this.#evictionAllowed, now);
    const same =
      taints.length === present.length && taints.every((t) => present.some((p) => sameTaint(t, p)));
    if (same) return;
    const { name, resourceVersion } = node.metadata;
    const patch = { metadata: { resourceVersion }, spec: { taints: taints.length > 0 ? taints : null } };
    await this.#context.client.patch(NODES, name, "merge", patch);
  }

  /** Their kubelet cannot say it: Services must stop sending there. */
  async #markPodsNotReady(node: Stored<Node>, now: number): Promise<void> {
    for (const pod of podsOnNode(this.#pods, node.metadata.name)) {
      const ready = podCondition(pod, "Ready");
      if (isPodTerminal(pod) || ready?.status !== "True") continue;
      const condition = { ...ready, status: "False", lastTransitionTime: timestamp(now) };
      const patch = { metadata: { uid: pod.metadata.uid }, status: { conditions: [condition] } };
      const options = { ...namespaceOf(pod), subresource: "status" as const };
      try {
        await this.#context.client.patch(PODS, pod.metadata.name, "strategic", patch, options);
      } catch (error) {
        if (!isNotFound(error)) throw error;
        continue;
      }
      this.#recorder.event(pod, "Warning", "NodeNotReady", "Node is not ready");
    }
  }
}

/**
 * All taints a node should have: those of others, the managed NoSchedule ones that its state calls for, and the
 * NoExecute one when eviction is allowed. One that is there keeps its timeAdded, from which tolerationSeconds count.
 */
export function wantedTaints(node: Stored<Node>, evict: boolean, now: number): Taint[] {
  const present = node.spec?.taints ?? [];
  const foreign = present.filter((taint) => {
    if (taint.effect === "NoSchedule") return !MANAGED_NO_SCHEDULE.has(taint.key);
    return taint.effect !== "NoExecute" || (taint.key !== NOT_READY && taint.key !== UNREACHABLE);
  });
  const noExecute = noExecuteTaint(node);
  const managed = [...noScheduleTaints(node), ...(noExecute && evict ? [noExecute] : [])];
  return [
    ...foreign,
    ...managed.map(
      (taint) => present.find((other) => sameTaint(other, taint)) ?? { ...taint, timeAdded: timestamp(now) },
    ),
  ];
}
