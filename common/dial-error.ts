// A connection that could not be made, in the words that Go's net package and so all of Kubernetes has for it. Pure.

import { hostPort } from "./ip.js";

const WORDS: Readonly<Record<string, string>> = {
  ECONNREFUSED: "connect: connection refused",
  EHOSTUNREACH: "connect: no route to host",
  ENETUNREACH: "connect: network is unreachable",
  EADDRNOTAVAIL: "connect: cannot assign requested address",
  ETIMEDOUT: "i/o timeout",
};

/** `network`: tcp, tcp4, tcp6. */
export function dialError(
  error: NodeJS.ErrnoException,
  host: string,
  port: number,
  network: "tcp" | "tcp4" | "tcp6" = "tcp",
): string {
  return `dial ${network} ${hostPort(host, port)}: ${WORDS[error.code ?? ""] ?? error.message}`;
}
