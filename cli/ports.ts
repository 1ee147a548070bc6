// The notation of published ports, HOSTPORT:NODEPORT. Pure.

import type { Publish } from "../lab/types.js";
import { integer } from "./command.js";

/**
 * `8080:30080`, `127.0.0.2:8080:30080`, `[::1]:8080:30080`. Which ports and addresses are allowed is for the
 * cluster to say. @throws Error naming the part that is wrong.
 */
export function parsePublish(text: string): Publish {
  const match = /^(?:(?<address>\[[^\]]*\]|[^:[\]]*):)?(?<host>[^:]*):(?<node>[^:]*)$/.exec(text)?.groups;
  if (!match) {
    throw new Error(
      `${JSON.stringify(text)}: [ADDRESS:]HOSTPORT:NODEPORT is expected, for instance 8080:30080`,
    );
  }
  const hostPort = integer(match.host ?? "", `${JSON.stringify(text)}: host port`, 1, 65535);
  const nodePort = integer(match.node ?? "", `${JSON.stringify(text)}: node port`, 1, 65535);
  const address = match.address?.replace(/^\[|\]$/g, "");
  return address ? { hostPort, nodePort, address } : { hostPort, nodePort };
}

/** http://127.0.0.1:8080 */
export function publishedUrl(publish: Publish): string {
  const address = publish.address ?? "127.0.0.1";
  return `http://${address.includes(":") ? `[${address}]` : address}:${publish.hostPort}`;
}
