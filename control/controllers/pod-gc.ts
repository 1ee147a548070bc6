// Removes pods that no kubelet will ever remove: bound to nodes that are gone, terminating on a node that is out of
// service, and finished ones beyond a limit. (A pod without a node goes at once, the API sees to that.) Knows Pods
// and Nodes.

import { isNotFound, NODES, PODS } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import { keyOf, type Node, type Pod, type Stored } from "../../common/k8s.js";
import type { ControllerContext } from "./context.js";
import { disrupt } from "./disruption.js";
import { deleteIfPresent } from "./objects.js";
import { isPodTerminal } from "./pod-state.js";
import type { Sweeper } from "./reconcile.js";
import { OUT_OF_SERVICE, readyStatus } from "./taints.js";

/** kube-controller-manager's --terminated-pod-gc-threshold. */
const FINISHED_LIMIT = 12_500;
const LONGEST_PERIOD_MS = 20_000;

/** Of the finished pods as many as there are beyond the limit: evicted ones first, of the others the oldest. */
export function finishedBeyond(pods: readonly Stored<Pod>[], limit: number): Stored<Pod>[] {
  const finished = pods.filter((pod) => isPodTerminal(pod) && !pod.metadata.deletionTimestamp);
  const isEvicted = ({ status }: Stored<Pod>) => Number(status?.reason === "Evicted");
  finished.sort(
    (a, b) =>
      isEvicted(b) - isEvicted(a) || (a.metadata.creationTimestamp < b.metadata.creationTimestamp ? -1 : 1),
  );
  return finished.slice(0, Math.max(0, finished.length - limit));
}

export class PodGcController implements Sweeper {
  readonly periodMs: number;
  readonly #context: ControllerContext;
  readonly #pods: Informer<Pod>;
  readonly #nodes: Informer<Node>;
  readonly #quarantineMs: number;
  /** Node name → since when it has been missing. */
  readonly #missing = new Map<string, number>();

  /** @param options.quarantineMs How long a node has to be gone before its pods are given up. */
  constructor(context: ControllerContext, options: { quarantineMs: number }) {
    this.#context = context;
    this.#pods = context.informers.get(PODS);
    this.#nodes = context.informers.get(NODES);
    this.#quarantineMs = options.quarantineMs;
    this.periodMs = Math.min(LONGEST_PERIOD_MS, Math.max(100, this.#quarantineMs / 2));
  }

  watch(): void {
    // The quarantine begins when the node goes, not when the next sweep comes.
    this.#nodes.subscribe({ delete: (node) => this.#missing.set(node.metadata.name, this.#context.now()) });
  }

  /** Removes what has to go now; what cannot be removed stays until the next sweep. */
  async sweep(): Promise<void> {
    const pods = this.#pods.list();
    await this.#removeOrphans(pods);
    for (const pod of pods) {
      if (!pod.metadata.deletionTimestamp || !this.#isOutOfService(pod.spec?.nodeName)) continue;
      await this.#remove(pod, "PodGC: node is out of service");
    }
    for (const pod of finishedBeyond(pods, FINISHED_LIMIT)) await this.#remove(pod, undefined);
  }

  #isOutOfService(nodeName: string | undefined): boolean {
    const node = nodeName === undefined ? undefined : this.#nodes.get(nodeName);
    if (!node || readyStatus(node) === "True") return false;
    return node.spec?.taints?.some((taint) => taint.key === OUT_OF_SERVICE) ?? false;
  }

  async #removeOrphans(pods: readonly Stored<Pod>[]): Promise<void> {
    const now = this.#context.now();
    const orphans = new Map<string, Stored<Pod>[]>();
    for (const pod of pods) {
      const name = pod.spec?.nodeName;
      if (!name || this.#nodes.get(name)) continue;
      const list = orphans.get(name);
      if (list) list.push(pod);
      else orphans.set(name, [pod]);
    }
    for (const name of this.#missing.keys()) if (!orphans.has(name)) this.#missing.delete(name);
    for (const [name, stranded] of orphans) {
      const since = this.#missing.get(name) ?? now;
      this.#missing.set(name, since);
      if (now - since < this.#quarantineMs || !(await this.#isGone(name))) continue;
      for (const pod of stranded) await this.#remove(pod, "PodGC: node no longer exists");
    }
  }

  /** The cache may be wrong; a pod that is removed does not come back. */
  async #isGone(nodeName: string): Promise<boolean> {
    try {
      await this.#context.client.get(NODES, nodeName);
      return false;
    } catch (error) {
      if (isNotFound(error)) return true;
      this.#context.log.warn({ err: error, node: nodeName }, "cannot tell whether the node exists");
      return false;
    }
  }

  async #remove(pod: Stored<Pod>, disruption: string | undefined): Promise<void> {
    const { client, now, log } = this.#context;
    try {
      if (disruption && !isPodTerminal(pod)) {
        const why = { reason: "DeletionByPodGC", message: disruption, now: now(), failed: true };
        await disrupt(client, pod, why);
      }
      if (!(await deleteIfPresent(client, PODS, pod, { gracePeriodSeconds: 0 }))) return;
      log.info({ pod: keyOf(pod), disruption }, "removed a pod nobody runs");
    } catch (error) {
      if (!isNotFound(error))
        log.warn({ pod: keyOf(pod), err: error }, "a pod nobody runs could not be removed");
    }
  }
}
