// The kubelet's port: TLS, and only for the API server, which shows the certificate that it has for kubelets. Knows who
// may come; what is answered is the node agent's.

import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer, type Server } from "node:https";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import type { TLSSocket } from "node:tls";
import { ipFamily } from "../../common/ip.js";
import type { Logger } from "../../common/log.js";
import { acceptDial } from "../../common/tunnel.js";
import { refuseUpgrade } from "../streams/upgrade.js";
import type { KeyPair } from "./key-pair.js";

/** The kubelet's. */
export const KUBELET_PORT = 10_250;

/** Who answers, once it is there. */
export interface Answerer {
  handleRequest(req: IncomingMessage, res: ServerResponse): void;
  handleUpgrade(req: IncomingMessage, socket: Duplex, head: Buffer): void;
}

interface Refusal {
  code: number;
  reason: string;
  message: string;
}

export class KubeletServer {
  readonly #server: Server;
  readonly #ca: string;
  readonly #open = new Set<Socket>();
  #answerer: Answerer | undefined;

  constructor(pair: KeyPair, ca: string, log: Logger) {
    this.#ca = ca;
    this.#server = createServer({
      ...pair,
      ca,
      requestCert: true,
      // Who has none is told so by an answer, not by a broken handshake.
      rejectUnauthorized: false,
      minVersion: "TLSv1.2",
      requestTimeout: 0,
    });
    this.#server.on("tlsClientError", (error) => log.debug({ err: error }, "TLS handshake failed"));
    this.#server.on("connection", (socket: Socket) => {
      this.#open.add(socket);
      socket.once("close", () => this.#open.delete(socket));
    });
    this.#server.on("request", (req: IncomingMessage, res: ServerResponse) => {
      const no = this.#refusal(req);
      if (no) res.writeHead(no.code, { "content-type": "text/plain" }).end(no.message);
      else this.#answerer?.handleRequest(req, res);
    });
    this.#server.on("upgrade", (req: IncomingMessage, socket: Duplex, head: Buffer) => {
      const no = this.#refusal(req);
      if (no) refuseUpgrade(socket, no.code, no.reason, no.message);
      else this.#upgrade(req, socket, head);
    });
  }

  #refusal({ socket }: IncomingMessage): Refusal | undefined {
    const tls = socket as TLSSocket;
    const certificate = tls.getPeerCertificate();
    if (!tls.authorized || !certificate.subject)
      return { code: 401, reason: "Unauthorized", message: "Unauthorized" };
    const groups = [certificate.subject.O ?? []].flat();
    if (!groups.includes("system:masters"))
      return {
        code: 403,
        reason: "Forbidden",
        message: `Forbidden (user=${certificate.subject.CN}, verb=get, resource=nodes, subresource=proxy)`,
      };
    if (!this.#answerer)
      return { code: 503, reason: "ServiceUnavailable", message: "the node agent has not started yet" };
    return undefined;
  }

  #upgrade(req: IncomingMessage, socket: Duplex, head: Buffer): void {
    const [kind, ip = "", port = "", ...more] = (req.url ?? "").split("/").slice(1);
    if (kind !== "dial") this.#answerer?.handleUpgrade(req, socket, head);
    else if (ipFamily(ip) && /^\d{1,5}$/.test(port) && more.length === 0)
      acceptDial(socket as Socket, head, ip, Number(port));
    else refuseUpgrade(socket, 400, "BadRequest", "/dial/<literal address>/<port> is expected");
  }

  /** @throws Error EADDRINUSE and the like. */
  listen(host: string, port = KUBELET_PORT): Promise<void> {
    const server = this.#server;
    return new Promise((resolve, reject) => {
      server.once("error", reject);
      server.listen(port, host, () => {
        server.off("error", reject);
        resolve();
      });
    });
  }

  /** From now on requests are answered. */
  serve(answerer: Answerer): void {
    this.#answerer = answerer;
  }

  /** A renewed certificate, for connections from now on. */
  renew(pair: KeyPair): void {
    this.#server.setSecureContext({ ...pair, ca: this.#ca, minVersion: "TLSv1.2" });
  }

  close(): void {
    this.#server.close();
    for (const socket of this.#open) socket.destroy();
  }
}
