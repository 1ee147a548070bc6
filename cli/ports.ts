// The notation of published ports, HOSTPORT:NODEPORT or HOSTPORT:SERVICE. Pure.

import { keyOf, type Service, type Stored } from "../common/k8s.js";
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

/** A port to publish whose NodePort is a Service's. */
export interface ServicePublish extends Omit<Publish, "nodePort"> {
  namespace: string;
  service: string;
  /** Name or number of the Service's port; undefined: its only one. */
  port?: string;
}

/** `8080:web`, `8080:shop/web:http`, `127.0.0.2:8080:web`; undefined for text of another form. */
export function parseServicePublish(text: string): ServicePublish | undefined {
  const pattern =
    /^(?:(?<address>\[[^\]]*\]|\d+\.\d+\.\d+\.\d+):)?(?<host>\d+):(?:(?<namespace>[^:/]+)\/)?(?<service>[a-z][^:/]*)(?::(?<port>[^:/]+))?$/;
  const match = pattern.exec(text)?.groups;
  if (!match) return undefined;
  const hostPort = integer(match.host ?? "", `${JSON.stringify(text)}: host port`, 1, 65535);
  const address = match.address?.replace(/^\[|\]$/g, "");
  return {
    hostPort,
    namespace: match.namespace ?? "default",
    service: match.service ?? "",
    ...(match.port ? { port: match.port } : {}),
    ...(address ? { address } : {}),
  };
}

/** @throws Error saying which ports there are, or that the Service has no NodePort. */
export function nodePortOf(service: Stored<Service>, wanted: string | undefined): number {
  const { type, ports = [] } = service.spec ?? {};
  const key = keyOf(service);
  const fit = ports.filter(
    ({ name, port }) => wanted === undefined || wanted === name || wanted === String(port),
  );
  const [only, ...more] = fit;
  if (!only || more.length > 0) {
    const there = ports.map(({ name, port }) => (name ? `${name} (${port})` : port)).join(", ");
    throw new Error(`Service ${key}: one of its ports must be named: ${there}`);
  }
  if (!only.nodePort)
    throw new Error(
      `Service ${key} is of type ${type} and has no NodePort; NodePort and LoadBalancer have one`,
    );
  return only.nodePort;
}
