// Ports of this machine's loopback that lead into the lab: each connection goes over lab.sock to a host's NodePort.
// Runs in the control process, outside all namespaces. Knows sockets; which host is asked is told to it.

import { createServer, type Server, type Socket } from "node:net";
import type { Logger } from "../common/log.js";
import { join } from "../common/tunnel.js";
import { ClusterError, hasCode, messageOf } from "./errors.js";
import { dial } from "./tunnel.js";
import type { Publish } from "./types.js";

export interface RelayOptions {
  labSocket: string;
  /** Addresses of the Ready hosts, in the order in which they are tried for the next connection. */
  nextHosts: () => string[];
  log: Logger;
}

/**
 * For a host that has no endpoint of a Service with externalTrafficPolicy Local: it drops what comes, as a load
 * balancer's health check would find out.
 */
const TRY_MS = 1000;

/** The published ports. */
export class Relay {
  readonly #options: RelayOptions;
  readonly #servers = new Map<string, { publish: Required<Publish>; server: Server }>();
  readonly #sockets = new Set<Socket>();
  /** By NodePort: the host that answered when others had not. It is asked first, as long as it answers. */
  readonly #answered = new Map<number, string>();

  constructor(options: RelayOptions) {
    this.#options = options;
  }

  list(): Required<Publish>[] {
    return [...this.#servers.values()].map(({ publish }) => publish);
  }

  /** Listens. The same again does nothing. Rejects with ClusterError PORT_IN_USE. */
  async open(publish: Required<Publish>): Promise<void> {
    const key = `${publish.address}:${publish.hostPort}`;
    const present = this.#servers.get(key);
    if (present?.publish.nodePort === publish.nodePort) return;
    if (present) {
      const text = `${key} leads to NodePort ${present.publish.nodePort} already`;
      throw new ClusterError("PORT_IN_USE", text);
    }
    const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) =>
      this.#relay(socket, publish),
    );
    await listen(server, publish);
    this.#servers.set(key, { publish, server });
  }

  close(): void {
    for (const { server } of this.#servers.values()) server.close();
    this.#servers.clear();
    for (const socket of this.#sockets) socket.destroy();
  }

  #relay(socket: Socket, { hostPort, nodePort }: Required<Publish>): void {
    const { log } = this.#options;
    socket.on("error", (error) => log.debug({ hostPort, error: error.message }, "published port: client"));
    this.#sockets.add(socket);
    socket.once("close", () => this.#sockets.delete(socket));
    this.#connect(nodePort, () => socket.destroyed).then(
      (tunnel) => (socket.destroyed ? tunnel.destroy() : join(socket, tunnel)),
      (error) => {
        log.warn({ hostPort, nodePort, error: messageOf(error) }, "published port: not connected");
        socket.resetAndDestroy();
      },
    );
  }

  /** Each host once; the last one may take its time. */
  async #connect(nodePort: number, given: () => boolean): Promise<Socket> {
    const { labSocket, nextHosts, log } = this.#options;
    const ready = nextHosts();
    const known = this.#answered.get(nodePort);
    const hosts = known && ready.includes(known) ? [...new Set([known, ...ready])] : ready;
    let failure: unknown = new Error("no host is Ready");
    for (const [n, host] of hosts.entries()) {
      if (given()) break;
      try {
        const tunnel = await dial(labSocket, host, nodePort, n < hosts.length - 1 ? TRY_MS : undefined);
        if (n > 0) this.#answered.set(nodePort, host);
        return tunnel;
      } catch (error) {
        failure = error;
        this.#answered.delete(nodePort);
        log.debug({ host, nodePort, error: messageOf(error) }, "published port: the host does not answer");
      }
    }
    throw failure;
  }
}

function listen(server: Server, { address, hostPort }: Required<Publish>): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", (cause) => {
      const place = `${address}:${hostPort}`;
      if (hasCode(cause, "EADDRINUSE")) {
        reject(
          new ClusterError("PORT_IN_USE", `${place} is in use by another program; publish another port`),
        );
      } else if (hasCode(cause, "EACCES")) {
        const text = `${place}: this user may not listen on ports below 1024; publish a higher port`;
        reject(new ClusterError("INVALID_OPTION", text));
      } else reject(cause);
    });
    server.listen(hostPort, address, () => {
      server.removeAllListeners("error");
      resolve();
    });
  });
}
