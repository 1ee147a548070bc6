// One attempt of a probe or life-cycle hook: an HTTP request or TCP connection from the host to the pod, or a command
// in the container. Words of failures as the kubelet's (pkg/probe). Knows sockets, no thresholds.

import { type ClientRequest, request as httpRequest, type IncomingMessage } from "node:http";
import type { Socket } from "node:net";
import { connect as tlsConnect } from "node:tls";
import type { HTTPGetAction, TCPSocketAction } from "kubernetes-types/core/v1.js";
import { dialError } from "../../common/dial-error.js";
import { hostPort } from "../../common/ip.js";
import type { Container, Probe } from "../../common/k8s.js";
import type { NetNs } from "../../dataplane/kernel/netns.js";
import { grpcProbe } from "./grpc-probe.js";

export interface ProbeOutcome {
  success: boolean;
  /** For the Unhealthy event. */
  message: string;
}

/** What an attempt needs beside its own fields. */
export interface ProbeTarget {
  /** Where requests come from. */
  hostNs: NetNs;
  podIP: string;
  container: Container;
  /** Runs a command in the container; output is stdout and stderr together. */
  exec(argv: string[], timeoutMs: number): Promise<{ exitCode: number; output: string; timedOut: boolean }>;
}

/** Requests one attempt may make, as net/http's default. */
const MAX_REQUESTS = 10;
/** As much of a body as the kubelet reads. */
const MAX_BODY = 10 * 1024;

/** A port by number or by the container's name for it. @throws Error as the kubelet words it. */
export function resolvePort(port: string | number, container: Pick<Container, "name" | "ports">): number {
  if (typeof port === "number" || /^\d+$/.test(port)) {
    const number = Number(port);
    if (number > 0 && number < 65_536) return number;
    throw new Error(`invalid port number: ${port}`);
  }
  const named = container.ports?.find((one) => one.name === port);
  if (named) return named.containerPort;
  throw new Error(`couldn't find port: "${port}" in container "${container.name}"`);
}

/** Runs what a probe asks for. Never rejects: what goes wrong is a failure with a message. */
export async function attempt(
  probe: Pick<Probe, "httpGet" | "tcpSocket" | "exec" | "grpc">,
  target: ProbeTarget,
  timeoutMs: number,
): Promise<ProbeOutcome> {
  try {
    if (probe.httpGet) return await httpGet(probe.httpGet, target, timeoutMs);
    if (probe.tcpSocket) return await tcpSocket(probe.tcpSocket, target, timeoutMs);
    if (probe.exec) return await command(probe.exec.command ?? [], target, timeoutMs);
    if (probe.grpc) return await grpcProbe(probe.grpc, target, timeoutMs);
    throw new Error(`missing probe handler for ${target.container.name}`);
  } catch (error) {
    return { success: false, message: (error as Error).message };
  }
}

async function command(argv: string[], target: ProbeTarget, timeoutMs: number): Promise<ProbeOutcome> {
  const { exitCode, output, timedOut } = await target.exec(argv, timeoutMs);
  if (timedOut) {
    return {
      success: false,
      message: `command timed out: "${argv.join(" ")}" timed out after ${timeoutMs / 1000}s`,
    };
  }
  return { success: exitCode === 0, message: output.slice(0, MAX_BODY) };
}

function tcpSocket(action: TCPSocketAction, target: ProbeTarget, timeoutMs: number): Promise<ProbeOutcome> {
  const port = resolvePort(action.port as string | number, target.container);
  const host = action.host || target.podIP;
  const socket = target.hostNs.connect({ host, port, timeout: timeoutMs });
  return new Promise((resolve) => {
    socket.once("connect", () => {
      socket.destroy();
      resolve({ success: true, message: "" });
    });
    socket.once("error", (error: NodeJS.ErrnoException) =>
      resolve({ success: false, message: dialError(error, host, port) }),
    );
  });
}

interface HttpTarget {
  url: URL;
  /** Where to connect: the first request goes to the pod whatever its Host header says. */
  host: string;
  port: number;
  headers: Record<string, string>;
}

function firstRequest(action: HTTPGetAction, target: ProbeTarget): HttpTarget {
  const port = resolvePort(action.port as string | number, target.container);
  const host = action.host || target.podIP;
  const scheme = (action.scheme ?? "HTTP").toLowerCase();
  const path = action.path ?? "/";
  const url = new URL(`${scheme}://${hostPort(host, port)}${path.startsWith("/") ? "" : "/"}${path}`);
  // The probe's own headers win; an empty value takes a default away.
  const headers: Record<string, string> = {
    "User-Agent": "kube-probe/1.36",
    Accept: "*/*",
    Connection: "close",
  };
  for (const { name, value } of action.httpHeaders ?? []) {
    const same = Object.keys(headers).find((key) => key.toLowerCase() === name.toLowerCase());
    if (same) delete headers[same];
    if (value) headers[name] = value;
  }
  return { url, host, port, headers };
}

async function httpGet(action: HTTPGetAction, target: ProbeTarget, timeoutMs: number): Promise<ProbeOutcome> {
  const deadline = Date.now() + timeoutMs;
  let next = firstRequest(action, target);
  for (let requests = 1; ; requests++) {
    const { status, location } = await oneRequest(next, target.hostNs, deadline);
    if (status >= 300 && status < 400 && location) {
      const url = new URL(location, next.url);
      // The kubelet leaves it at that when a redirect leads to another host, and counts it as a success.
      if (url.hostname !== next.url.hostname) return { success: true, message: "" };
      if (requests === MAX_REQUESTS) {
        throw new Error(`Get "${location}": stopped after ${MAX_REQUESTS} redirects`);
      }
      const port = Number(url.port || (url.protocol === "https:" ? 443 : 80));
      next = { ...next, url, port };
      continue;
    }
    if (status >= 200 && status < 400) return { success: true, message: "" };
    return { success: false, message: `HTTP probe failed with statuscode: ${status}` };
  }
}

function oneRequest(
  { url, host, port, headers }: HttpTarget,
  ns: NetNs,
  deadline: number,
): Promise<{ status: number; location?: string | undefined }> {
  const text = url.port ? url.href : url.href.replace(url.host, `${url.hostname}:${port}`);
  return new Promise((resolve, reject) => {
    const failed = (why: string) => reject(new Error(`Get "${text}": ${why}`));
    let outgoing: ClientRequest | undefined;
    const timer = setTimeout(
      () => {
        failed("context deadline exceeded (Client.Timeout exceeded while awaiting headers)");
        outgoing?.destroy();
        plain.destroy();
      },
      Math.max(1, deadline - Date.now()),
    );
    const plain = ns.connect({ host, port });
    let connected = false;
    plain.once("connect", () => {
      connected = true;
    });
    const fail = (error: NodeJS.ErrnoException) => {
      clearTimeout(timer);
      failed(
        connected ? (error.code === "ECONNRESET" ? "EOF" : error.message) : dialError(error, host, port),
      );
    };
    plain.once("error", fail);
    const socket: Socket =
      url.protocol === "https:" ? tlsConnect({ socket: plain, rejectUnauthorized: false }) : plain;
    if (socket !== plain) socket.once("error", fail);
    const hasHost = Object.keys(headers).some((name) => name.toLowerCase() === "host");
    outgoing = httpRequest({
      path: url.pathname + url.search,
      headers: { ...headers, ...(hasHost ? {} : { Host: url.host }) },
      createConnection: () => socket,
    });
    outgoing.once("error", fail);
    outgoing.once("response", (response: IncomingMessage) => {
      clearTimeout(timer);
      resolve({ status: response.statusCode ?? 0, location: response.headers.location });
      readSome(response);
    });
    outgoing.end();
  });
}

/** Takes a part of the body, so that the server is not cut off in the middle of a small answer. */
function readSome(response: IncomingMessage): void {
  let bytes = 0;
  response.on("error", () => {});
  response.on("data", (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes > MAX_BODY) response.destroy();
  });
}
