// How the API server reaches the kubelets of real machines: TLS to the node's address, with a certificate that kubelets
// trust, and certain of the node's own. Knows Nodes and sockets.

import { type ConnectionOptions, connect, type TLSSocket } from "node:tls";
import type { Node, Stored } from "../common/k8s.js";
import { openTunnel } from "../common/tunnel.js";
import type { KubeletConnector } from "./api/http/kubelet.js";
import type { NodeDialer } from "./api/http/proxy-dial.js";
import type { Pki } from "./pki.js";

const DEFAULT_PORT = 10_250;
/** As NodeDialer's own. */
const TIMEOUT_MS = 30_000;

export interface KubeletTls {
  connect: KubeletConnector;
  /** Connections to pods, made by their node. */
  dial: NodeDialer;
}

/** @param node the Node of a name; rejects when there is none. */
export function kubeletTls(
  { ca, kubeletClient }: Pki,
  node: (name: string) => Promise<Stored<Node>>,
): KubeletTls {
  const open = (to: Stored<Node>, more: ConnectionOptions = {}): TLSSocket =>
    connect({
      ...addressOf(to),
      ca: ca.cert,
      cert: kubeletClient.cert,
      key: kubeletClient.key,
      servername: to.metadata.name,
      ...more,
    });
  return {
    connect: (to) => ({ ...addressOf(to), pathPrefix: "", createConnection: () => open(to) }),
    dial: async (name, ip, port) => {
      const socket = open(await node(name), { allowHalfOpen: true } as ConnectionOptions);
      return await openTunnel(socket, `/dial/${ip}/${port}`, {
        timeoutMs: TIMEOUT_MS,
        where: `node ${name}`,
      });
    },
  };
}

function addressOf({ status, metadata }: Stored<Node>): { host: string; port: number } {
  const host = status?.addresses?.find(({ type }) => type === "InternalIP")?.address ?? metadata.name;
  return { host, port: status?.daemonEndpoints?.kubeletEndpoint?.Port ?? DEFAULT_PORT };
}
