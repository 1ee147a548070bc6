// Connects what the API says (Services, EndpointSlices, Nodes) with the service proxy and the overlay of one host.

import { ENDPOINT_SLICES, NODES, SERVICES } from "../common/client.js";
import type { InformerFactory } from "../common/informer.js";
import type { Node, Stored } from "../common/k8s.js";
import type { Overlay } from "../dataplane/overlay/index.js";
import type { ServiceProxy } from "../dataplane/proxy/index.js";
import { internalIPs } from "./host/node-object.js";

/** Services and EndpointSlices to the proxy. Returns the function that ends it. */
export function wireProxy(informers: InformerFactory, proxy: ServiceProxy): () => void {
  const endings = [
    informers.get(SERVICES).subscribe({
      add: (service) => proxy.serviceChanged(undefined, service),
      update: (old, service) => proxy.serviceChanged(old, service),
      delete: (service) => proxy.serviceChanged(service, undefined),
      synced: () => proxy.setSynced("services"),
    }),
    informers.get(ENDPOINT_SLICES).subscribe({
      add: (slice) => proxy.endpointSliceChanged(undefined, slice),
      update: (old, slice) => proxy.endpointSliceChanged(old, slice),
      delete: (slice) => proxy.endpointSliceChanged(slice, undefined),
      synced: () => proxy.setSynced("endpointslices"),
    }),
  ];
  return () => {
    for (const end of endings) end();
  };
}

/** What the overlay reads of a Node; everything else (heartbeats, mostly) is no news to it. */
function overlayView(node: Stored<Node>): string {
  const annotations = Object.entries(node.metadata.annotations ?? {})
    .filter(([key]) => key.startsWith("flannel.alpha.coreos.com/"))
    .sort();
  return JSON.stringify([node.metadata.uid, annotations, node.spec?.podCIDR, internalIPs(node)]);
}

/**
 * Nodes to the overlay, many changes in one go. `own` hears of every change of the host's own Node.
 * Returns the function that ends it.
 */
export function wireOverlay(
  informers: InformerFactory,
  overlay: Overlay,
  name: string,
  own: (node: Stored<Node>) => void,
): () => void {
  const nodes = informers.get(NODES);
  let scheduled = false;
  let ended = false;
  const all = () => {
    if (scheduled) return;
    scheduled = true;
    setImmediate(() => {
      scheduled = false;
      // Half a list would take the tunnels of the other half away.
      if (!ended && nodes.hasSynced) overlay.nodesChanged(nodes.list());
    });
  };
  const one = (node: Stored<Node>) => {
    if (node.metadata.name !== name) return;
    if (node.spec?.podCIDR) overlay.setOwnNode(node);
    own(node);
  };
  const end = nodes.subscribe({
    add: (node) => {
      one(node);
      all();
    },
    update: (old, node) => {
      if (overlayView(old) === overlayView(node)) return;
      one(node);
      all();
    },
    delete: all,
    synced: all,
  });
  return () => {
    ended = true;
    end();
  };
}
