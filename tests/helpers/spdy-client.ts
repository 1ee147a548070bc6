// A client of the API's SPDY/3.1 streams, made from the framer: port-forward and exec as kubectl before 1.31 asks for
// them. Knows where the API is, no cluster.

import { request } from "node:http";
import { request as requestByTls } from "node:https";
import type { Duplex } from "node:stream";
import type { ServerOptions } from "../../client/kubeconfig.js";
import { SpdyConnection, type SpdyStream } from "../../node/streams/spdy/connection.js";

/** The administrator's socket, or what a kubeconfig has. */
export type ApiAddress = { socketPath: string } | ServerOptions;

/** Upgrades POST `path`. @throws Error with the status and body of a refusal. */
export function spdyConnect(
  api: ApiAddress,
  path: string,
  protocols: readonly string[],
): Promise<{ connection: SpdyConnection; protocol: string }> {
  return new Promise((resolve, reject) => {
    const headers = {
      connection: "Upgrade",
      upgrade: "SPDY/3.1",
      "x-stream-protocol-version": [...protocols],
    };
    const options = { method: "POST", headers };
    const req =
      "socketPath" in api
        ? request({ ...options, socketPath: api.socketPath, path })
        : requestByTls(new URL(path, api.server), { ...options, ca: api.ca, cert: api.cert, key: api.key });
    req.once("error", reject);
    req.once("response", (res) => {
      let body = "";
      res.on("data", (chunk: Buffer) => {
        body += chunk.toString();
      });
      res.once("end", () => reject(new Error(`${res.statusCode}: ${body}`)));
    });
    req.once("upgrade", (res, socket: Duplex, head: Buffer) => {
      if (head.length > 0) socket.unshift(head);
      const connection = new SpdyConnection({ transport: socket, side: "client" });
      resolve({ connection, protocol: String(res.headers["x-stream-protocol-version"]) });
    });
    req.end();
  });
}

let requests = 0;

/** The two streams of one forwarded connection. */
export function forwarded(connection: SpdyConnection, port: number): { data: SpdyStream; error: SpdyStream } {
  const common = { port: [String(port)], requestid: [String(requests++)] };
  const error = connection.open({ ...common, streamtype: ["error"] });
  error.end();
  return { data: connection.open({ ...common, streamtype: ["data"] }), error };
}

/** Everything that comes until the end, or until the stream is cut. */
export function textOf(stream: SpdyStream): Promise<string> {
  const chunks: Buffer[] = [];
  stream.on("data", (chunk: Buffer) => chunks.push(chunk));
  return new Promise((resolve) => {
    const done = () => resolve(Buffer.concat(chunks).toString());
    stream.once("end", done).once("close", done);
  });
}
