// A host with a node agent for tests: a namespace with an uplink, the API in memory, the kubelet API on a unix
// socket. Everything waits for what it asks for, by watching, not by sleeping.

import { mkdtempSync, rmSync } from "node:fs";
import { createServer, request, type Server } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { WebSocket } from "ws";
import { EVENTS, NODES, PODS } from "../../../common/client.js";
import { InformerFactory } from "../../../common/informer.js";
import type { Container, Event, Pod, PodSpec, PodStatus, Stored } from "../../../common/k8s.js";
import { createLogger } from "../../../common/log.js";
import { NetNs } from "../../../dataplane/kernel/netns.js";
import { RtNetlink } from "../../../dataplane/kernel/rtnetlink.js";
import { type NodeAgent, type NodeAgentOptions, startNodeAgent } from "../../../node/index.js";
import { FakeClient } from "./node-fake-client.js";

export const NODE_IP = "192.168.56.11";
const POD_CIDR = "10.244.1.0/24";
/** How long a test waits for something that must happen. */
const PATIENCE_MS = 60_000;

export const log = createLogger("test", { level: process.env.KUBEPLUMB_LOG_LEVEL ?? "silent" });

export interface ExecResult {
  exitCode: number;
  stdout: string;
  stderr: string;
}

/** One remote command over a WebSocket, by the protocol's bytes. */
export function remoteCommand(
  url: string,
  options: {
    stdin?: string | Buffer;
    protocol?: string;
    /** Called with everything that came by stdout so far and a way to send frames. */
    onOutput?: (stdout: string, send: (channel: number, data: string | Buffer) => void) => void;
  } = {},
): Promise<ExecResult & { status: Record<string, unknown> }> {
  const { stdin, protocol = "v5.channel.k8s.io", onOutput } = options;
  return new Promise((resolve, reject) => {
    const ws = new WebSocket(url, [protocol]);
    const out: Record<number, string> = { 1: "", 2: "", 3: "" };
    const send = (channel: number, data: string | Buffer) =>
      ws.send(Buffer.concat([Buffer.of(channel), Buffer.from(data)]));
    ws.on("open", () => {
      if (stdin === undefined) return;
      send(0, stdin);
      ws.send(Buffer.of(255, 0));
    });
    ws.on("message", (data: Buffer) => {
      const channel = data[0] ?? 0;
      out[channel] = (out[channel] ?? "") + data.subarray(1).toString();
      if (channel === 1) onOutput?.(out[1] ?? "", send);
    });
    ws.on("error", reject);
    ws.on("unexpected-response", (_req, res) => {
      let body = "";
      res.on("data", (chunk: Buffer) => {
        body += chunk.toString();
      });
      res.on("end", () => reject(new Error(`${res.statusCode}: ${body}`)));
    });
    ws.on("close", () => {
      const status = JSON.parse(out[3] || "{}") as {
        status?: string;
        details?: { causes?: { reason: string; message: string }[] };
      };
      const code = status.details?.causes?.find((one) => one.reason === "ExitCode")?.message;
      resolve({
        exitCode: code ? Number(code) : status.status === "Success" ? 0 : -1,
        stdout: out[1] ?? "",
        stderr: out[2] ?? "",
        status,
      });
    });
  });
}

export class Harness implements AsyncDisposable {
  readonly client = new FakeClient();
  readonly informers = new InformerFactory(this.client, { log });
  readonly directory = mkdtempSync(join(tmpdir(), "kubeplumb-node-"));
  readonly ns = NetNs.create("node-1");
  readonly netlink = RtNetlink.open(this.ns);
  #agent: NodeAgent | undefined;
  #server: Server | undefined;

  static async create(options: Partial<NodeAgentOptions> = {}): Promise<Harness> {
    const harness = new Harness();
    const { netlink, informers, client } = harness;
    await netlink.setLink("lo", { up: true });
    await netlink.addVeth({ name: "eth0", peer: { name: "wire" } });
    for (const link of ["eth0", "wire"]) await netlink.setLink(link, { up: true });
    await netlink.addAddress("eth0", `${NODE_IP}/21`);
    informers.get(NODES).subscribe({
      add: (node) => {
        const podCIDR = POD_CIDR;
        if (!node.spec?.podCIDR) void client.patch(NODES, node.metadata.name, "merge", { spec: { podCIDR } });
      },
    });
    informers.start();
    await harness.start(options);
    return harness;
  }

  get agent(): NodeAgent {
    if (!this.#agent) throw new Error("no agent runs");
    return this.#agent;
  }

  options(more: Partial<NodeAgentOptions> = {}): NodeAgentOptions {
    const backoff = { baseMs: 400, maxMs: 2000 };
    return {
      name: "node-1",
      ns: this.ns,
      nodeIPs: [NODE_IP],
      uplink: "eth0",
      rootDir: join(this.directory, "var"),
      runDir: join(this.directory, "run"),
      client: this.client,
      informers: this.informers,
      clusterCIDRs: ["10.244.0.0/16"],
      iptables: "auto",
      timing: { restartBackoff: backoff, imageBackoff: backoff, retryMs: 200, volumesMs: 300 },
      log,
      ...more,
    };
  }

  async start(options: Partial<NodeAgentOptions> = {}): Promise<void> {
    this.#agent = await startNodeAgent(this.options(options));
    await this.#agent.ready;
    this.#server = createServer((req, res) => this.agent.handleRequest(req, res));
    this.#server.on("upgrade", (req, socket, head) => this.agent.handleUpgrade(req, socket, head));
    await new Promise<void>((resolve) => this.#server?.listen(this.socketPath, resolve));
  }

  get socketPath(): string {
    return join(this.directory, "kubelet.sock");
  }

  async stopAgent(graceful = true): Promise<void> {
    this.#server?.close();
    this.#server?.closeAllConnections();
    await this.#agent?.stop({ graceful });
    this.#agent = undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stopAgent(false);
    this.informers.stop();
    this.netlink.close();
    this.ns.close();
    rmSync(this.directory, { recursive: true, force: true });
  }

  /** A pod bound to this node, as the scheduler leaves it. */
  pod(name: string, container: Partial<Container>, spec: Partial<PodSpec> = {}): Promise<Stored<Pod>> {
    const object = {
      metadata: { name, namespace: "default" },
      spec: {
        nodeName: "node-1",
        terminationGracePeriodSeconds: 2,
        containers: [{ name: "main", image: "busybox", ...container }],
        ...spec,
      },
    };
    return this.client.create(PODS, object, { namespace: "default" });
  }

  /** Resolves with the pod when `condition` holds of its status. */
  async until(
    name: string,
    condition: (status: PodStatus, pod: Stored<Pod>) => unknown,
  ): Promise<Stored<Pod>> {
    const check = (pod: Stored<Pod> | undefined) =>
      pod?.metadata.name === name && condition(pod.status ?? {}, pod) ? pod : undefined;
    return this.#watch<Stored<Pod>>(`pod ${name}`, (found) =>
      this.informers.get(PODS).subscribe({
        add: (pod) => found(check(pod)),
        update: (_old, pod) => found(check(pod)),
      }),
    );
  }

  running(name: string): Promise<Stored<Pod>> {
    return this.until(name, (status) => status.phase === "Running");
  }

  ready(name: string): Promise<Stored<Pod>> {
    return this.until(name, (status) => isReady(status));
  }

  async gone(name: string): Promise<void> {
    const pods = this.informers.get(PODS);
    if (!pods.get(`default/${name}`)) return;
    await this.#watch<true>(`the end of pod ${name}`, (found) =>
      pods.subscribe({ delete: (pod) => found(pod.metadata.name === name ? true : undefined) }),
    );
  }

  async #watch<T>(
    what: string,
    subscribe: (found: (value: T | undefined) => void) => () => void,
  ): Promise<T> {
    let end: (() => void) | undefined;
    let timer: NodeJS.Timeout | undefined;
    try {
      return await new Promise<T>((resolve, reject) => {
        timer = setTimeout(() => {
          const pods = this.informers
            .get(PODS)
            .list()
            .map((pod) => [pod.metadata.name, pod.status]);
          reject(new Error(`waited in vain for ${what}: ${JSON.stringify(pods)}`));
        }, PATIENCE_MS);
        end = subscribe((value) => value !== undefined && resolve(value));
      });
    } finally {
      clearTimeout(timer);
      end?.();
    }
  }

  /** Resolves with the first event about `name` with that reason. */
  event(name: string, reason: string, message = /./): Promise<Stored<Event>> {
    const check = (event: Stored<Event>) =>
      event.involvedObject.name === name && event.reason === reason && message.test(event.message ?? "")
        ? event
        : undefined;
    return this.#watch(`event ${reason} of ${name}`, (found) =>
      this.informers.get(EVENTS).subscribe({ add: (event) => found(check(event)) }),
    );
  }

  /** GET of the kubelet API. */
  get(path: string): Promise<{ code: number; body: string }> {
    return new Promise((resolve, reject) => {
      const outgoing = request({ socketPath: this.socketPath, path }, (response) => {
        let body = "";
        response.on("data", (chunk: Buffer) => {
          body += chunk.toString();
        });
        response.on("end", () => resolve({ code: response.statusCode ?? 0, body }));
      });
      outgoing.on("error", reject);
      outgoing.end();
    });
  }

  async logs(pod: string, query = "", container = "main"): Promise<string> {
    const { code, body } = await this.get(`/containerLogs/default/${pod}/${container}?${query}`);
    return code === 200 ? body : `${code} ${body}`;
  }

  exec(
    pod: string,
    command: string[],
    options: Parameters<typeof remoteCommand>[1] & { tty?: boolean; verb?: "exec" | "attach" } = {},
  ): Promise<ExecResult & { status: Record<string, unknown> }> {
    const { tty, verb = "exec", ...rest } = options;
    const query = new URLSearchParams(command.map((word): [string, string] => ["command", word]));
    query.set("stdout", "true");
    if (tty) query.set("tty", "true");
    else query.set("stderr", "true");
    if (rest.stdin !== undefined || rest.onOutput) query.set("stdin", "true");
    return remoteCommand(
      `ws+unix://${this.socketPath}:/nodes/node-1/${verb}/default/${pod}/main?${query}`,
      rest,
    );
  }

  /** Output of curl in the host. */
  async curl(...args: string[]): Promise<string> {
    return (await this.ns.exec("curl", ["-s", "--connect-timeout", "1", "--max-time", "5", ...args])).stdout;
  }
}

export function isReady(status: PodStatus): boolean {
  return status.conditions?.some((one) => one.type === "Ready" && one.status === "True") ?? false;
}
