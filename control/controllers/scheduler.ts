// Gives pods a node. Filters and scores are pure (scheduler-{filter,topology,score}.ts); here are the cache of
// nodes, the retries and the effects. Knows Pods, Nodes and Services.

import type { Binding } from "kubernetes-types/core/v1.js";
import {
  isConflict,
  isNotFound,
  NAMESPACES,
  NODES,
  POD_DISRUPTION_BUDGETS,
  PODS,
  type Resource,
  SERVICES,
} from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import {
  keyOf,
  type Namespace,
  type Node,
  type Pod,
  type PodDisruptionBudget,
  type Service,
  type Stored,
} from "../../common/k8s.js";
import type { WorkQueue } from "../../common/workqueue.js";
import { semanticallyEqual } from "./canonical.js";
import type { ControllerContext } from "./context.js";
import { preempt } from "./disruption.js";
import type { EventRecorder } from "./events.js";
import { messageOf, namespaceOf } from "./objects.js";
import { controllerOf } from "./owners.js";
import { isPodTerminal, podCondition } from "./pod-state.js";
import type { Reconciler } from "./reconcile.js";
import { SchedulerClaims } from "./scheduler-claims.js";
import { filterNode, type Refusal, unschedulableMessage } from "./scheduler-filter.js";
import { NodeInfo, type PodFacts, podFacts } from "./scheduler-node.js";
import { Nominations, type Preemption, planPreemption, priorityOf } from "./scheduler-preemption.js";
import { bestNode } from "./scheduler-score.js";
import { concerns, hasAntiAffinity, NO_RULES, topologyRules } from "./scheduler-topology.js";
import { needsMessage, type VolumeNeeds } from "./scheduler-volumes.js";
import { isInclined, wishesOf } from "./scheduler-wishes.js";
import { indexServicesAndPods, servicesOf } from "./service-pods.js";
import { timestamp } from "./time.js";

const SCHEDULER_NAME = "default-scheduler";
/** Changes that may help waiting pods come in crowds: look once for all of them. */
const RETRY_DELAY_MS = 20;
/** Then a waiting pod is tried again whatever happened: nobody waits for ever because a hint was wrong. */
const FLUSH_MS = 300_000;
/** pods/binding takes a Binding, but is a subresource of pods. */
const BINDINGS: Resource<Binding> = {
  group: "",
  version: "v1",
  plural: "pods",
  kind: "Pod",
  namespaced: true,
};

export class Scheduler implements Reconciler {
  readonly #context: ControllerContext;
  readonly #recorder: EventRecorder;
  readonly #pods: Informer<Pod>;
  readonly #nodes: Informer<Node>;
  readonly #services: Informer<Service>;
  readonly #namespaces: Informer<Namespace>;
  readonly #claims: SchedulerClaims;
  readonly #budgets: Informer<PodDisruptionBudget>;
  readonly #nominations = new Nominations();
  readonly #infos = new Map<string, NodeInfo>();
  /** uid → node name: where each pod is counted, bound or only assumed to be. */
  readonly #placed = new Map<string, string>();
  /** uids of placed pods with required anti-affinity. */
  readonly #guarded = new Set<string>();
  /** uids of placed pods that would rather be near some pods, or far from them. */
  readonly #inclined = new Set<string>();
  /** Pods no node can take now. */
  readonly #waiting = new Map<string, Waiting>();
  /** Those of them that are looked at again when the timer ends. */
  readonly #retry = new Set<string>();
  readonly #queue: WorkQueue;
  #retryTimer: NodeJS.Timeout | undefined;

  constructor(context: ControllerContext, queue: WorkQueue) {
    this.#context = context;
    this.#recorder = context.events.recorder(SCHEDULER_NAME);
    this.#pods = context.informers.get(PODS);
    this.#nodes = context.informers.get(NODES);
    this.#services = context.informers.get(SERVICES);
    this.#namespaces = context.informers.get(NAMESPACES);
    this.#claims = new SchedulerClaims(context);
    this.#budgets = context.informers.get(POD_DISRUPTION_BUDGETS);
    indexServicesAndPods(this.#services, this.#pods);
    this.#queue = queue;
  }

  watch(): void {
    this.#nodes.subscribe({
      add: (node) => this.#nodeChanged(undefined, node),
      update: (old, now) => this.#nodeChanged(old, now),
      delete: (node) => this.#nodeDeleted(node),
    });
    this.#pods.subscribe({
      add: (pod) => this.#podChanged(pod),
      update: (old, now) => {
        if (this.#waiting.has(keyOf(now)) && !semanticallyEqual(demandsOf(old), demandsOf(now))) {
          this.#waiting.delete(keyOf(now));
        }
        this.#podChanged(now);
      },
      delete: (pod) => this.#podDeleted(pod),
    });
    this.#claims.watch((concerned) => this.#retryWaiting(({ facts }) => concerned(facts.pod)));
  }

  rank(key: string): number {
    const pod = this.#pods.get(key);
    return pod ? priorityOf(pod) : 0;
  }

  close(): void {
    clearTimeout(this.#retryTimer);
  }

  #info(name: string): NodeInfo {
    let info = this.#infos.get(name);
    if (!info) {
      info = new NodeInfo();
      this.#infos.set(name, info);
    }
    return info;
  }

  #nodeChanged(old: Stored<Node> | undefined, now: Stored<Node>): void {
    const info = this.#info(now.metadata.name);
    info.node = now;
    if (old && semanticallyEqual(placementView(old), placementView(now))) return;
    // Other labels are other topology domains.
    const moved = !old || !semanticallyEqual(old.metadata.labels, now.metadata.labels);
    this.#retryWaiting((pod) => !pod.refused || (moved && pod.apart.size > 0) || this.#opens(pod, info));
  }

  /** Whether a node takes the pod now, as far as it refused it by itself. */
  #opens({ facts, apart }: Waiting, info: NodeInfo): boolean {
    return !!info.node && !apart.has(info.node.metadata.name) && !filterNode(facts, info, NO_RULES);
  }

  /** Whether a rule between pods held the waiting one back, and one of them speaks of `other`. */
  #concerned({ facts, apart }: Waiting, other: Stored<Pod>): boolean {
    const labelsOf = (name: string) => this.#namespaces.get(name)?.metadata.labels;
    return apart.size > 0 && concerns(facts.pod, other, labelsOf);
  }

  #nodeDeleted(node: Stored<Node>): void {
    const info = this.#info(node.metadata.name);
    info.node = undefined;
    if (info.pods.size === 0) this.#infos.delete(node.metadata.name);
    this.#retryWaiting(({ apart }) => apart.size > 0);
  }

  #podChanged(pod: Stored<Pod>): void {
    const { nodeName } = pod.spec ?? {};
    if (isPodTerminal(pod)) {
      this.#waiting.delete(keyOf(pod));
      this.#unplace(pod.metadata.uid);
    } else if (nodeName) {
      this.#waiting.delete(keyOf(pod));
      this.#place(podFacts(pod, this.#groupOf(pod)), nodeName);
    } else if (isMine(pod) && !this.#placed.has(pod.metadata.uid) && !this.#waiting.has(keyOf(pod))) {
      this.#queue.add(keyOf(pod));
    }
  }

  #podDeleted(pod: Stored<Pod>): void {
    this.#waiting.delete(keyOf(pod));
    this.#nominations.delete(pod.metadata.uid);
    this.#unplace(pod.metadata.uid);
  }

  #place(facts: PodFacts, nodeName: string): void {
    const { uid } = facts.pod.metadata;
    if (this.#placed.get(uid) !== nodeName) this.#unplace(uid);
    const before = this.#info(nodeName).pods.get(uid)?.pod;
    this.#info(nodeName).add(facts);
    const moved = !before || !semanticallyEqual(before.metadata.labels, facts.pod.metadata.labels);
    if (moved)
      this.#retryWaiting(
        (waiting) =>
          (needsOthers(waiting.facts.pod) && this.#concerned(waiting, facts.pod)) ||
          (before !== undefined && this.#concerned(waiting, before)),
      );
    this.#placed.set(uid, nodeName);
    this.#nominations.delete(uid);
    if (hasAntiAffinity(facts.pod)) this.#guarded.add(uid);
    if (isInclined(facts.pod)) this.#inclined.add(uid);
  }

  #unplace(uid: string): void {
    const nodeName = this.#placed.get(uid);
    if (nodeName === undefined) return;
    this.#placed.delete(uid);
    this.#guarded.delete(uid);
    this.#inclined.delete(uid);
    const info = this.#info(nodeName);
    const gone = info.pods.get(uid)?.pod;
    info.remove(uid);
    if (!info.node && info.pods.size === 0) this.#infos.delete(nodeName);
    this.#retryWaiting((pod) => this.#opens(pod, info) || (gone !== undefined && this.#concerned(pod, gone)));
  }

  /** The more wait, the longer the pause: a crowd that fits nowhere must not keep the process busy. */
  #retryWaiting(helps: (pod: Waiting) => boolean): void {
    for (const [key, pod] of this.#waiting) if (!this.#retry.has(key) && helps(pod)) this.#retry.add(key);
    if (this.#retry.size === 0) return;
    this.#retryTimer ??= setTimeout(() => {
      this.#retryTimer = undefined;
      // The queue starts with what comes first, whatever comes next.
      const keys = [...this.#retry].sort((a, b) => this.rank(b) - this.rank(a));
      for (const key of keys) if (this.#waiting.delete(key)) this.#queue.add(key);
      this.#retry.clear();
    }, RETRY_DELAY_MS + this.#waiting.size);
  }

  /** Pods of one controller, else pods that the same Services select, are spread. */
  #groupOf(pod: Stored<Pod>): string | undefined {
    const controller = controllerOf(pod);
    if (controller) return controller.uid;
    const names = servicesOf(pod, this.#services).map((service) => service.metadata.name);
    return names.length > 0 ? `${pod.metadata.namespace}/${names.sort().join(",")}` : undefined;
  }

  async reconcile(key: string): Promise<void> {
    const pod = this.#pods.get(key);
    if (!pod || pod.spec?.nodeName || !isMine(pod) || this.#placed.has(pod.metadata.uid)) return;
    const facts = podFacts(pod, this.#groupOf(pod));
    this.#waiting.delete(key);
    const needs = this.#claims.needsOf(pod);
    const decision = this.#decide(facts, needs);
    if ("message" in decision) {
      this.#waiting.set(key, decision);
      this.#queue.addAfter(key, FLUSH_MS);
      const { preemption, message } = decision;
      if (preemption) this.#nominations.set(facts, preemption);
      await this.#tellUnschedulable(pod, message, preemption?.info.node?.metadata.name);
      for (const victim of preemption?.victims ?? [])
        await preempt(this.#context, this.#recorder, victim.pod, pod, preemption?.info.node);
      return;
    }
    const nodeName = decision.metadata.name;
    if (needs.unbound.length > 0) {
      this.#waiting.set(key, { facts, refused: false, apart: new Set() });
      this.#queue.addAfter(key, FLUSH_MS);
      return await this.#claims.choose(needs, this.#info(nodeName));
    }
    this.#place(facts, nodeName);
    try {
      await this.#bind(pod, nodeName);
    } catch (error) {
      // Deleted or bound by somebody else meanwhile: the informer tells what is true.
      if (this.#pods.get(key)?.spec?.nodeName === undefined) this.#unplace(pod.metadata.uid);
      if (!isNotFound(error) && !isConflict(error)) {
        const text = `binding rejected: ${messageOf(error)}`;
        this.#recorder.event(pod, "Warning", "FailedScheduling", text);
      }
      throw error;
    }
    const text = `Successfully assigned ${key} to ${nodeName}`;
    this.#recorder.event(pod, "Normal", "Scheduled", text);
  }

  /** The node, or why there is none. Synchronous: the next decision sees this one's placement. */
  #decide(facts: PodFacts, needs: VolumeNeeds): Stored<Node> | Undecided {
    const infos = [...this.#infos.values()].filter((info) => info.node);
    if (needs.problem !== undefined) {
      const message = needsMessage(infos.length, needs.problem);
      return { facts, message, refused: infos.length > 0, apart: new Set() };
    }
    const labelsOf = (name: string) => this.#namespaces.get(name)?.metadata.labels;
    const rules = () => topologyRules(facts, infos, this.#where(this.#guarded), labelsOf);
    const topology = rules();
    const possible: NodeInfo[] = [];
    const refusals = new Map<NodeInfo, Refusal>();
    const apart = new Set<string>();
    for (const info of infos) {
      const refusal = this.#nominations.reserving(info, facts, () =>
        filterNode(facts, info, topology, needs),
      );
      if (refusal) refusals.set(info, refusal);
      else possible.push(info);
      if (refusal?.between) apart.add(info.node?.metadata.name ?? "");
    }
    const wishes = wishesOf(facts, infos, this.#where(this.#inclined), labelsOf);
    const best = bestNode(facts, possible, wishes)?.node;
    if (best) return best;
    const ineligible = this.#ineligible(facts.pod);
    const fits = (info: NodeInfo) =>
      this.#nominations.reserving(info, facts, () => !filterNode(facts, info, rules(), needs));
    const open = [...refusals].filter(([, { fixed }]) => !fixed).map(([info]) => info);
    const preemption = ineligible ? undefined : planPreemption(facts, open, fits, this.#budgets.list());
    const message = unschedulableMessage(infos.length, [...refusals.values()], preemption ?? ineligible);
    return { facts, message, refused: infos.length > 0, apart, ...(preemption ? { preemption } : {}) };
  }

  /** Why nobody is sent away for this pod. */
  #ineligible({ metadata, spec }: Stored<Pod>): string | undefined {
    if (spec?.preemptionPolicy === "Never") return "not eligible due to preemptionPolicy=Never.";
    if (!this.#nominations.isWaiting(metadata.uid)) return undefined;
    return "not eligible due to a terminating pod on the nominated node.";
  }

  #where(uids: ReadonlySet<string>): { facts: PodFacts; info: NodeInfo }[] {
    return [...uids].flatMap((uid) => {
      const info = this.#infos.get(this.#placed.get(uid) ?? "");
      const facts = info?.pods.get(uid);
      return info && facts ? [{ info, facts }] : [];
    });
  }

  async #bind(pod: Stored<Pod>, nodeName: string): Promise<void> {
    const { name, namespace, uid } = pod.metadata;
    const binding: Binding = {
      apiVersion: "v1",
      kind: "Binding",
      metadata: { name, uid, ...(namespace ? { namespace } : {}) },
      target: { apiVersion: "v1", kind: "Node", name: nodeName },
    };
    await this.#context.client.create(BINDINGS, binding, { ...namespaceOf(pod), subresource: "binding" });
  }

  /** @param nominated The node on which room is made for it. */
  async #tellUnschedulable(pod: Stored<Pod>, message: string, nominated?: string): Promise<void> {
    this.#recorder.event(pod, "Warning", "FailedScheduling", message);
    const present = podCondition(pod, "PodScheduled");
    if (present?.status === "False" && present.message === message && !nominated) return;
    const condition = {
      type: "PodScheduled",
      status: "False",
      reason: "Unschedulable",
      message,
      lastTransitionTime:
        present?.status === "False" && present.lastTransitionTime
          ? present.lastTransitionTime
          : timestamp(this.#context.now()),
    };
    const nomination = nominated ? { nominatedNodeName: nominated } : {};
    const patch = { status: { ...nomination, conditions: [condition] } };
    const options = {
      ...namespaceOf(pod),
      subresource: "status" as const,
      fieldManager: "kube-scheduler",
    };
    await this.#context.client.patch(PODS, pod.metadata.name, "strategic", patch, options);
  }
}

/** A pod that waits. */
interface Waiting {
  facts: PodFacts;
  /** False: there was no node to ask. */
  refused: boolean;
  /** Nodes from which only a rule between pods keeps it away. */
  apart: ReadonlySet<string>;
}

interface Undecided extends Waiting {
  message: string;
  preemption?: Preemption;
}

function isMine(pod: Stored<Pod>): boolean {
  if (pod.metadata.deletionTimestamp || (pod.spec?.schedulingGates ?? []).length > 0) return false;
  return (pod.spec?.schedulerName ?? SCHEDULER_NAME) === SCHEDULER_NAME;
}

/** Whether pods that come or move may make room for it: affinity and spread constraints. */
function needsOthers(pod: Stored<Pod>): boolean {
  return !!pod.spec?.affinity?.podAffinity || (pod.spec?.topologySpreadConstraints ?? []).length > 0;
}

/** What of a waiting pod decides about placement: its status does not. */
function demandsOf(pod: Stored<Pod>) {
  return { labels: pod.metadata.labels, spec: pod.spec };
}

/** What of a node decides about placement: heartbeats do not. */
function placementView(node: Stored<Node>) {
  return {
    labels: node.metadata.labels,
    taints: node.spec?.taints,
    unschedulable: node.spec?.unschedulable,
    allocatable: node.status?.allocatable ?? node.status?.capacity,
    conditions: node.status?.conditions?.map(({ type, status }) => `${type}=${status}`),
  };
}
