// Keeps the Node object and its Lease: registers, reports health, renews. Writes as rarely as the kubelet does: the
// status when it changed, else every five minutes; the Lease every ten seconds.

import { isAlreadyExists, isNotFound, type KubeClient, LEASES, NODES } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import type { Node, Stored } from "../../common/k8s.js";
import type { Logger } from "../../common/log.js";
import { apiTime } from "../pods/environment.js";
import type { EventRecorder } from "../pods/events.js";
import {
  addressHolder,
  type Health,
  type NodeFacts,
  nodeLabels,
  nodeStatus,
  sameNodeStatus,
  statusPatch,
} from "./node-object.js";

const LEASE_NAMESPACE = "kube-node-lease";
const LEASE_SECONDS = 40;
const RENEW_MS = 10_000;
const STATUS_MS = 10_000;
const UNCHANGED_STATUS_MS = 300_000;
const FIRST_RETRY_MS = 100;
const LAST_RETRY_MS = 7000;

/** The cluster will not have this node: another one has its address. */
export class NodeRefusedError extends Error {
  override readonly name = "NodeRefusedError";
}

export interface RegistrationOptions {
  facts: NodeFacts;
  client: KubeClient;
  nodes: Informer<Node>;
  events: EventRecorder;
  health(): Health;
  log: Logger;
}

/** For catch(): what to do instead when the error is of that kind; any other is thrown on. */
const unless =
  (isExpected: (error: unknown) => boolean, instead: () => Promise<unknown>) => (error: unknown) => {
    if (!isExpected(error)) throw error;
    return instead();
  };

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms).unref());

export class Registration {
  readonly #options: RegistrationOptions;
  #stopped = false;
  #timers: NodeJS.Timeout[] = [];
  #unsubscribe: (() => void) | undefined;
  #lastWrite = 0;
  #running: Promise<void> | undefined;
  #again = false;
  #becameReady: (() => void) | undefined;
  #wasReady = false;
  #wasUnschedulable = false;
  /** The Node was created by this agent and has no Lease yet. */
  #isNew = false;
  /** The uid of the Node, for the Lease's owner and for events. */
  uid: string;

  constructor(options: RegistrationOptions) {
    this.#options = options;
    this.uid = options.facts.name;
  }

  /**
   * Creates the Node or brings an existing one of that name in order; tries until the API answers.
   * @throws NodeRefusedError when another node has the same InternalIP.
   */
  async register(): Promise<Stored<Node> | undefined> {
    const { log } = this.#options;
    for (let delay = FIRST_RETRY_MS; !this.#stopped; delay = Math.min(delay * 2, LAST_RETRY_MS)) {
      try {
        return await this.#register();
      } catch (error) {
        if (error instanceof NodeRefusedError) throw error;
        log.warn({ err: error, retryInMs: delay }, "the node could not be registered yet");
        await pause(delay);
      }
    }
    return undefined;
  }

  async #register(): Promise<Stored<Node>> {
    const { facts, nodes, events, log } = this.#options;
    // Shared by all hosts of the process: a list for each would be N lists of N nodes.
    await nodes.synced;
    const items = nodes.list();
    const holder = addressHolder(items, facts);
    if (holder) {
      const message = `node "${facts.name}" is refused: its InternalIP ${holder.ip} is already that of node "${holder.node.metadata.name}"; every node needs an address of its own (on VMs with a NAT interface, choose the other one)`;
      log.error({ nodeIP: holder.ip, holder: holder.node.metadata.name }, message);
      events.record(this.target(), "Warning", "DuplicateNodeIP", message);
      throw new NodeRefusedError(message);
    }
    const present = items.find((node) => node.metadata.name === facts.name);
    const node = present ? await this.#reconcile(present) : await this.#create();
    this.uid = node.metadata.uid;
    await this.#writeStatus(node);
    return node;
  }

  async #create(): Promise<Stored<Node>> {
    const { facts, client } = this.#options;
    const { name, taints } = facts;
    try {
      const node = await client.create(NODES, {
        apiVersion: "v1",
        kind: "Node",
        metadata: {
          name,
          labels: nodeLabels(facts),
          annotations: { "volumes.kubernetes.io/controller-managed-attach-detach": "true" },
        },
        ...(taints.length > 0 ? { spec: { taints: [...taints] } } : {}),
      });
      this.#isNew = true;
      return node;
    } catch (error) {
      if (!isAlreadyExists(error)) throw error;
      return this.#reconcile(await client.get(NODES, name));
    }
  }

  /** Labels that are the kubelet's to set; everything else of an existing Node is left as it is. */
  async #reconcile(node: Stored<Node>): Promise<Stored<Node>> {
    const { facts, client } = this.#options;
    const labels = nodeLabels(facts);
    const differs = Object.entries(labels).some(([key, value]) => node.metadata.labels?.[key] !== value);
    if (!differs) return node;
    return client.patch(NODES, facts.name, "merge", { metadata: { labels } });
  }

  /** Reports and renews from now on. `becameReady` is called once, when the API has Ready=True. */
  start(becameReady: () => void): void {
    this.#becameReady = becameReady;
    const { nodes, facts } = this.#options;
    void this.#renewLease();
    this.#timers = [
      setInterval(() => void this.#renewLease(), RENEW_MS),
      setInterval(() => this.statusChanged(), STATUS_MS),
    ];
    for (const timer of this.#timers) timer.unref();
    this.#unsubscribe = nodes.subscribe({
      // Somebody else (the node controller) may have written what is not so.
      update: (_old, now) => now.metadata.name === facts.name && this.#check(now),
      add: (now) => now.metadata.name === facts.name && this.#check(now),
      delete: (gone) =>
        gone.metadata.name === facts.name &&
        this.#options.log.warn("the Node object was deleted; it comes back when the agent is started again"),
    });
  }

  /** Tells of kubectl cordon and uncordon. */
  #recordSchedulable({ spec }: Stored<Node>): void {
    const { facts, events } = this.#options;
    const unschedulable = spec?.unschedulable ?? false;
    if (unschedulable === this.#wasUnschedulable) return;
    this.#wasUnschedulable = unschedulable;
    const state = unschedulable ? "NodeNotSchedulable" : "NodeSchedulable";
    events.record(this.target(), "Normal", state, `Node ${facts.name} status is now: ${state}`);
  }

  #check(node: Stored<Node>): void {
    this.#recordSchedulable(node);
    if (!sameNodeStatus(node.status, this.#wanted(node))) this.statusChanged();
  }

  #wanted(node: Stored<Node>) {
    const { facts, health } = this.#options;
    return nodeStatus(facts, health(), node.status, apiTime(Date.now()));
  }

  /** Reports the health as it is now, if the API has another or if it is time. Never two reports at once. */
  statusChanged(): void {
    if (this.#stopped) return;
    if (this.#running) {
      this.#again = true;
      return;
    }
    this.#running = this.#reportStatus()
      .catch((error: unknown) => this.#options.log.warn({ err: error }, "node status not written"))
      .finally(() => {
        this.#running = undefined;
        if (this.#again) {
          this.#again = false;
          this.statusChanged();
        }
      });
  }

  async #reportStatus(): Promise<void> {
    const { nodes, facts } = this.#options;
    const node = nodes.get(facts.name);
    if (!node) return;
    const due = Date.now() - this.#lastWrite >= UNCHANGED_STATUS_MS;
    if (!due && sameNodeStatus(node.status, this.#wanted(node))) return;
    await this.#writeStatus(node);
  }

  async #writeStatus(node: Stored<Node>): Promise<void> {
    const { facts, client, health, events } = this.#options;
    const ready = health().networkProblem === undefined;
    const status = this.#wanted(node);
    const patch = { status: statusPatch(facts, status, node.status) };
    await client.patch(NODES, facts.name, "merge", patch, { subresource: "status" });
    this.#lastWrite = Date.now();
    if (ready !== this.#wasReady) {
      this.#wasReady = ready;
      const state = ready ? "NodeReady" : "NodeNotReady";
      events.record(this.target(), "Normal", state, `Node ${facts.name} status is now: ${state}`);
    }
    if (ready) this.#becameReady?.();
  }

  async #renewLease(): Promise<void> {
    const { facts, client, log } = this.#options;
    const renewTime = new Date().toISOString().replace("Z", "000Z");
    const namespace = LEASE_NAMESPACE;
    const renew = () => client.patch(LEASES, facts.name, "merge", { spec: { renewTime } }, { namespace });
    try {
      // A Node that was just made has no Lease to renew, unless one was left.
      if (this.#isNew) await this.#createLease(renewTime).catch(unless(isAlreadyExists, renew));
      else await renew().catch(unless(isNotFound, () => this.#createLease(renewTime)));
      this.#isNew = false;
    } catch (error) {
      if (!this.#stopped) log.warn({ err: error }, "the node's lease was not renewed");
    }
  }

  #createLease(renewTime: string): Promise<unknown> {
    const { facts, client } = this.#options;
    const namespace = LEASE_NAMESPACE;
    const owner = { apiVersion: "v1", kind: "Node", name: facts.name, uid: this.uid };
    return client.create(
      LEASES,
      {
        apiVersion: "coordination.k8s.io/v1",
        kind: "Lease",
        metadata: { name: facts.name, namespace, ownerReferences: [owner] },
        spec: { holderIdentity: facts.name, leaseDurationSeconds: LEASE_SECONDS, renewTime },
      },
      { namespace },
    );
  }

  /** The Node, for events. */
  target() {
    return { kind: "Node", apiVersion: "v1", name: this.#options.facts.name, uid: this.uid };
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#unsubscribe?.();
    for (const timer of this.#timers) clearInterval(timer);
    await this.#running;
  }
}
