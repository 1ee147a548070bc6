// Connects what the API says of Nodes with the hosts of this process: all Nodes to their overlays, each host's own to
// the host.

import { NODES } from "../common/client.js";
import type { Informer, InformerFactory } from "../common/informer.js";
import type { Node, Stored } from "../common/k8s.js";
import type { Overlay } from "../dataplane/overlay/index.js";
import { internalIPs } from "./host/node-object.js";

/** What overlays read of any Node; everything else (heartbeats, mostly) is no news to them. */
function overlayView(node: Stored<Node>): string {
  const annotations = Object.entries(node.metadata.annotations ?? {})
    .filter(([key]) => key.startsWith("flannel.alpha.coreos.com/"))
    .sort();
  const { podCIDR, podCIDRs } = node.spec ?? {};
  return JSON.stringify([node.metadata.uid, annotations, podCIDR, podCIDRs, internalIPs(node)]);
}

/** What a host reads of its own Node besides: conditions that it announced, zone, and whether it is on its way out. */
function ownView(node: Stored<Node>): string {
  const { labels, deletionTimestamp } = node.metadata;
  const network = node.status?.conditions?.find(({ type }) => type === "NetworkUnavailable")?.status;
  return JSON.stringify([network, labels, deletionTimestamp, node.spec?.taints]);
}

/** The part of an overlay that hears of Nodes. */
type NodeListener = Pick<Overlay, "setOwnNode" | "nodesChanged">;

interface OverlayHost {
  overlay: NodeListener;
  own: (node: Stored<Node>) => void;
}

/** The longest that news of other Nodes wait for more of them. */
const LONGEST_WAIT_MS = 200;

/**
 * Nodes to the overlays of all hosts that share an informer: each event is looked at once, however many hosts there
 * are, and all hosts get the same list. The more hosts, the longer news wait to be told together (1 ms a host): N hosts
 * that join make few rounds of N passes instead of N.
 */
class NodeFeed {
  static readonly #feeds = new WeakMap<Informer<Node>, NodeFeed>();
  readonly #nodes: Informer<Node>;
  readonly #hosts = new Map<string, OverlayHost>();
  #timer: NodeJS.Timeout | undefined;
  #unsubscribe: (() => void) | undefined;

  private constructor(nodes: Informer<Node>) {
    this.#nodes = nodes;
  }

  static of(nodes: Informer<Node>): NodeFeed {
    let feed = NodeFeed.#feeds.get(nodes);
    if (!feed) {
      feed = new NodeFeed(nodes);
      NodeFeed.#feeds.set(nodes, feed);
    }
    return feed;
  }

  join(name: string, host: OverlayHost): () => void {
    this.#hosts.set(name, host);
    const node = this.#nodes.get(name);
    if (this.#unsubscribe && node) this.#tellOwn(node);
    this.#unsubscribe ??= this.#nodes.subscribe({
      add: (added) => {
        this.#tellOwn(added);
        this.#schedule();
      },
      update: (old, now) => {
        const news = overlayView(old) !== overlayView(now);
        if (news || ownView(old) !== ownView(now)) this.#tellOwn(now);
        if (news) this.#schedule();
      },
      delete: () => this.#schedule(),
      synced: () => this.#schedule(),
    });
    this.#schedule();
    return () => this.#leave(name, host);
  }

  #leave(name: string, host: OverlayHost): void {
    // A successor of the same name stays.
    if (this.#hosts.get(name) === host) this.#hosts.delete(name);
    if (this.#hosts.size > 0) return;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#unsubscribe?.();
    this.#unsubscribe = undefined;
  }

  #tellOwn(node: Stored<Node>): void {
    const host = this.#hosts.get(node.metadata.name);
    if (!host) return;
    if (node.spec?.podCIDR) host.overlay.setOwnNode(node);
    host.own(node);
  }

  #schedule(): void {
    this.#timer ??= setTimeout(
      () => {
        this.#timer = undefined;
        // Half a list would take the tunnels of the other half away.
        if (!this.#nodes.hasSynced) return;
        const nodes = this.#nodes.list();
        for (const { overlay } of this.#hosts.values()) overlay.nodesChanged(nodes);
      },
      Math.min(this.#hosts.size, LONGEST_WAIT_MS),
    );
  }
}

/**
 * Nodes to the overlay, many changes in one go. `own` hears of every change of the host's own Node that matters to it.
 * Returns the function that ends it.
 */
export function wireOverlay(
  informers: InformerFactory,
  overlay: NodeListener,
  name: string,
  own: (node: Stored<Node>) => void,
): () => void {
  return NodeFeed.of(informers.get(NODES)).join(name, { overlay, own });
}
