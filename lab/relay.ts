// Ports of this machine's loopback that lead into the lab: each connection goes over lab.sock to a host's NodePort.
// Runs in the control process, outside all namespaces. Knows sockets; which host is asked is told to it.

import { createServer, type Server, type Socket } from "node:net";
import type { Logger } from "../common/log.js";
import { ClusterError, hasCode, messageOf } from "./errors.js";
import { dial, join } from "./tunnel.js";
import type { Publish } from "./types.js";

export interface RelayOptions {
  labSocket: string;
  /** Address of the host for the next connection, undefined when none is Ready. */
  nextHost: () => string | undefined;
  log: Logger;
}

/** The published ports. */
export class Relay {
  readonly #options: RelayOptions;
  readonly #servers = new Map<string, { publish: Required<Publish>; server: Server }>();
  readonly #sockets = new Set<Socket>();

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
    const { log, labSocket, nextHost } = this.#options;
    const host = nextHost();
    socket.on("error", (error) => log.debug({ hostPort, error: error.message }, "published port: client"));
    this.#sockets.add(socket);
    socket.once("close", () => this.#sockets.delete(socket));
    if (!host) {
      log.warn({ hostPort, nodePort }, "published port: no host is Ready");
      socket.resetAndDestroy();
      return;
    }
    const upstream = dial(labSocket, host, nodePort);
    upstream.then(
      (tunnel) => join(socket, tunnel),
      (error) => {
        log.debug({ hostPort, host, nodePort, error: messageOf(error) }, "published port: not connected");
        socket.resetAndDestroy();
      },
    );
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
