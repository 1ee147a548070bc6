// metrics.k8s.io: scrapes the kubelets and tells what nodes and pods use. Knows Nodes and Pods by their informers, and
// how to ask a kubelet; what the figures mean is usage-store.ts's business.

import { NODES, PODS } from "../../common/client.js";
import type { Informer, InformerFactory } from "../../common/informer.js";
import {
  keyOf,
  type Node,
  type NodeMetrics,
  type Pod,
  type PodMetrics,
  type Stored,
} from "../../common/k8s.js";
import type { Logger } from "../../common/log.js";
import { isPodActive } from "../controllers/pod-state.js";
import { canonicalQuantity } from "../resources/validation/quantity.js";
import { parseResourceMetrics } from "./resource-metrics.js";
import { type Usage, UsageStore } from "./usage-store.js";

/** metrics-server's --metric-resolution. */
const RESOLUTION_MS = 15_000;

/** Reads a document of a kubelet. @throws Error when it does not answer in time. */
export type KubeletReader = (node: Stored<Node>, path: string) => Promise<string>;

export interface MetricsServerOptions {
  read: KubeletReader;
  log: Logger;
  /** Milliseconds between two scrapes; default 15 000. */
  resolutionMs?: number;
}

export class MetricsServer {
  readonly #options: MetricsServerOptions;
  readonly #resolutionMs: number;
  readonly #store: UsageStore;
  #nodes: Informer<Node> | undefined;
  #pods: Informer<Pod> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #unsubscribe: (() => void) | undefined;
  /** By node. */
  readonly #running = new Map<string, Promise<void>>();

  constructor(options: MetricsServerOptions) {
    this.#options = options;
    this.#resolutionMs = options.resolutionMs ?? RESOLUTION_MS;
    this.#store = new UsageStore(this.#resolutionMs);
  }

  /** Scrapes from now on. The informers are started by whoever made them. */
  start(informers: InformerFactory): void {
    this.#nodes = informers.get(NODES);
    this.#pods = informers.get(PODS);
    // A new node's first point at once: the second one makes it a figure.
    this.#unsubscribe = this.#nodes.subscribe({ add: (node) => this.#begin(node) });
    this.#timer = setInterval(() => this.#scrapeAll(), this.#resolutionMs);
  }

  async stop(): Promise<void> {
    this.#unsubscribe?.();
    clearInterval(this.#timer);
    await Promise.all(this.#running.values());
  }

  #scrapeAll(): void {
    const nodes = this.#nodes?.list() ?? [];
    this.#store.keepNodes(new Set(nodes.map((node) => node.metadata.name)));
    for (const node of nodes) this.#begin(node);
  }

  /** A kubelet that has not answered yet is not asked again. */
  #begin(node: Stored<Node>): void {
    const { name } = node.metadata;
    if (this.#running.has(name)) return;
    const end = () => this.#running.delete(name);
    this.#running.set(name, this.#scrape(node).finally(end));
  }

  async #scrape(node: Stored<Node>): Promise<void> {
    const { name } = node.metadata;
    try {
      this.#store.add(name, parseResourceMetrics(await this.#options.read(node, "/metrics/resource")));
    } catch (error) {
      // A host that is down is told by its Node; its pods' figures are not shown for ever.
      this.#options.log.debug({ err: error, node: name }, "the kubelet was not scraped");
      this.#store.add(name, { node: undefined, pods: new Map() });
    }
  }

  nodeMetrics(): Stored<NodeMetrics>[] {
    return (this.#nodes?.list() ?? []).flatMap((node) => {
      const usage = this.#store.node(node.metadata.name);
      if (!usage) return [];
      return [
        { ...head("NodeMetrics", node), ...interval(usage), usage: amounts(usage) } as Stored<NodeMetrics>,
      ];
    });
  }

  /** Of one namespace, or of all. */
  podMetrics(namespace: string | undefined): Stored<PodMetrics>[] {
    return (this.#pods?.list() ?? []).flatMap((pod) => {
      if (namespace !== undefined && pod.metadata.namespace !== namespace) return [];
      const node = pod.spec?.nodeName;
      const usages = node && isPodActive(pod) ? this.#store.pod(node, keyOf(pod)) : undefined;
      if (!usages) return [];
      const oldest = [...usages.values()].reduce((a, b) => (b.at < a.at ? b : a));
      const containers = [...usages].map(([name, usage]) => ({ name, usage: amounts(usage) }));
      return [{ ...head("PodMetrics", pod), ...interval(oldest), containers } as Stored<PodMetrics>];
    });
  }
}

/** Of no revision: what is measured is not stored. */
function head(kind: string, { metadata }: Stored<Node | Pod>) {
  const { name, namespace, labels } = metadata;
  return {
    kind,
    apiVersion: "metrics.k8s.io/v1beta1",
    metadata: {
      name,
      ...(namespace ? { namespace } : {}),
      creationTimestamp: rfc3339(Date.now()),
      ...(labels ? { labels } : {}),
    },
  };
}

function interval({ at, windowMs }: Usage): { timestamp: string; window: string } {
  return { timestamp: rfc3339(at), window: `${windowMs / 1000}s` };
}

function amounts({ cpuCores, memoryBytes }: Usage): Record<string, string> {
  return {
    cpu: canonicalQuantity(`${Math.ceil(cpuCores * 1e9)}n`),
    memory: canonicalQuantity(`${Math.ceil(memoryBytes / 1024)}Ki`),
  };
}

const rfc3339 = (ms: number): string => `${new Date(ms).toISOString().slice(0, 19)}Z`;
