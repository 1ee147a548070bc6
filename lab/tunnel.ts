// The way through lab.sock to an address inside the lab. Knows sockets only.

import { connect, type Socket } from "node:net";
import { openTunnel } from "../common/tunnel.js";

/**
 * A TCP connection from the lab's root namespace, that is from outside the hosts, by GET /dial/IP/PORT of lab.sock.
 * @throws Error with what the lab says when the address does not answer, or after `timeoutMs`, default the lab's 10 s;
 *   ENOENT, ECONNREFUSED without a lab.
 */
export function dial(labSocket: string, ip: string, port: number, timeoutMs?: number): Promise<Socket> {
  return upgrade(labSocket, `/dial/${ip}/${port}`, timeoutMs);
}

/**
 * The same from inside a host, by GET /hosts/NAME/dial/IP/PORT: from there all pods can be reached.
 * @throws Error in Go's words, dial tcp IP:PORT: …, when the address does not answer.
 */
export function dialFromHost(labSocket: string, host: string, ip: string, port: number): Promise<Socket> {
  return upgrade(labSocket, `/hosts/${encodeURIComponent(host)}/dial/${ip}/${port}`);
}

/** A connection to the API server's TLS port, from inside the lab, by GET /api of relay.sock. Throws as {@link dial}. */
export function dialApi(relaySocket: string): Promise<Socket> {
  return upgrade(relaySocket, "/api");
}

function upgrade(socketPath: string, path: string, timeoutMs?: number): Promise<Socket> {
  const socket = connect({ path: socketPath, allowHalfOpen: true });
  return openTunnel(socket, path, { timeoutMs, where: socketPath });
}
