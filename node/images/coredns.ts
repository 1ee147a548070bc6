// registry.k8s.io/coredns/coredns: CoreDNS with the plugins of node/dns, for the cluster's names. Reads its Corefile,
// follows the API from inside the pod, listens over UDP and TCP, and for health, readiness and metrics.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { arch } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { InformerFactory } from "../../common/informer.js";
import { Chain } from "../dns/chain.js";
import { CorefileError } from "../dns/corefile.js";
import { Forwarder } from "../dns/forward.js";
import { readHosts } from "../dns/hosts.js";
import { DnsMetrics } from "../dns/metrics.js";
import { bare, RCODE } from "../dns/reply.js";
import { DnsServer } from "../dns/server.js";
import { absolute, type HostsSettings, readSettings, type Settings } from "../dns/settings.js";
import { MessageReader, withLength } from "../dns/stream.js";
import { InformerView } from "../dns/view.js";
import { writeQuery } from "../dns/wire.js";
import { failedProcess, withFlags } from "./echo.js";
import { EmulatedProcess } from "./emulated.js";
import type { ContainerContext, Image, Workload } from "./types.js";

/** How long the server waits for the API before it listens without it, as CoreDNS does; and how often it says so. */
const SYNC_TIMEOUT_MS = 5000;
const SYNC_LOG_MS = 500;
/** How long the start of the container waits for it, so that its first readiness probe finds it ready. */
const START_WAIT_MS = 1000;
const TCP_IDLE_MS = 10_000;

interface HttpPage {
  status: number;
  type?: string;
  text: string | Promise<string>;
}

class CoreDns {
  readonly process: EmulatedProcess;
  readonly #context: ContainerContext;
  readonly #file: string;
  readonly #dnsPort: number;
  readonly #metrics = new DnsMetrics();
  readonly #servers = new Map<number, DnsServer>();
  /** Ports of health, ready and prometheus that are listened on. */
  readonly #pages = new Map<number, Map<string, () => HttpPage>>();
  #settings: readonly Settings[] = [];
  #digest = "";
  #view: InformerView | undefined;
  #synced: Promise<void> = Promise.resolve();
  #reload: NodeJS.Timeout | undefined;
  #unfollow: () => void = () => {};

  constructor(context: ContainerContext, options: { file: string; port: number }) {
    this.#context = context;
    this.#file = options.file;
    this.#dnsPort = options.port;
    this.process = new EmulatedProcess(context, { onTerm: () => this.#terminate() });
    void this.process.exited.then(() => {
      clearTimeout(this.#reload);
      this.#unfollow();
    });
  }

  /** Resolves when it serves, or when it has become clear that it will not soon. */
  async start(): Promise<void> {
    const serving = this.#begin().catch((error: Error) => {
      this.#context.stderr(`${error.message}\n`);
      this.process.exit(1);
    });
    await Promise.race([serving, sleep(START_WAIT_MS, undefined, { ref: false })]);
  }

  async #begin(): Promise<void> {
    await this.#use(this.#read());
    await this.#servePages();
    await this.#serve();
  }

  #print = (line: string): void => {
    this.#context.stdout(`${line}\n`);
  };

  /** @throws CorefileError, also when the file is not there. */
  #read(): { text: string; settings: Settings[] } {
    const { env } = this.#context;
    const text = this.#fileText(this.#file);
    if (text === undefined)
      throw new CorefileError(`loading Caddyfile via flag: open ${this.#file}: no such file or directory`);
    return { text, settings: readSettings(text, this.#file, { env, port: this.#dnsPort }) };
  }

  /** A file as the container has it; undefined when it cannot be read. */
  #fileText(path: string): string | undefined {
    const there = this.#context.hostPath(path);
    if (there === undefined) return undefined;
    try {
      return readFileSync(there, "utf8");
    } catch {
      return undefined;
    }
  }

  /** Puts settings into force. @throws Error when a file that they name, or the API, cannot be used. */
  async #use({ text, settings }: { text: string; settings: Settings[] }): Promise<void> {
    const kubernetes = settings.filter((one) => one.kubernetes);
    if (kubernetes.length > 0)
      await this.#follow(kubernetes.some((one) => one.kubernetes?.pods === "verified"));
    const chains = settings.map((one) => this.#chain(one));
    for (const { port } of settings) {
      if (!this.#servers.has(port))
        this.#servers.set(port, new DnsServer(port, { metrics: this.#metrics, print: this.#print }));
    }
    for (const [port, server] of this.#servers)
      server.use(chains.filter((chain) => chain.settings.port === port));
    this.#settings = settings;
    this.#digest = digestOf(text);
    this.#scheduleReload();
  }

  #chain(settings: Settings): Chain {
    const { ns, podIPs } = this.#context;
    const read = (path: string) => this.#fileText(path);
    return new Chain(settings, {
      view: this.#view,
      self: podIPs,
      hosts: settings.hosts && this.#hosts(settings.hosts),
      forwarders: settings.forwards.map((one) => new Forwarder(one, { ns, read })),
      server: (...asked) => this.#servers.get(settings.port)?.resolve(...asked) ?? bare(RCODE.SERVFAIL),
      loops: (probe) => {
        const help = "see https://coredns.io/plugins/loop#troubleshooting";
        const zone = absolute(settings.zone);
        this.#fatal(`plugin/loop: Loop detected for zone "${zone}", ${help}. Query: "HINFO ${probe}."`);
      },
    });
  }

  #hosts({ file, inline, zones }: HostsSettings) {
    const text = file === undefined ? "" : this.#fileText(file);
    // CoreDNS goes on as well: the file may come later.
    if (text === undefined) this.#print(`[WARNING] plugin/hosts: File does not exist: ${file}`);
    return readHosts([...(text ?? "").split("\n"), ...inline], zones);
  }

  #fatal(message: string): void {
    this.#context.stderr(`[FATAL] ${message}\n`);
    this.process.exit(1);
  }

  /** Lists and watches from now on, once; again when Pods are wanted too. */
  async #follow(pods: boolean): Promise<void> {
    if (this.#view && (!pods || this.#view.withPods)) return;
    const client = await this.#context.api("coredns");
    this.#unfollow();
    const informers = new InformerFactory(client);
    this.#unfollow = () => {
      informers.stop();
      void client.close();
    };
    this.#view = new InformerView(informers, { pods });
    informers.start();
    this.#synced = this.#view.ready().catch(() => {});
    if (this.process.over) this.#unfollow();
  }

  /** Waits for the API as CoreDNS does, then listens. */
  async #serve(): Promise<void> {
    await this.#awaitSync();
    for (const server of this.#servers.values()) await this.#listen(server);
    if (this.process.over) return;
    for (const { zone, port } of this.#settings) this.#print(`${absolute(zone)}:${port}`);
    if (this.#settings.some(({ reload }) => reload))
      this.#print(`[INFO] plugin/reload: Running configuration SHA512 = ${this.#digest}`);
    this.#print(`CoreDNS-${this.#context.tag.replace(/^v/, "")}`);
    this.#print(`linux/${arch() === "x64" ? "amd64" : arch()}, kubeplumb`);
    this.#probeLoops();
  }

  async #awaitSync(): Promise<void> {
    const deadline = Date.now() + SYNC_TIMEOUT_MS;
    const synced = this.#synced.then(() => true);
    while (!this.process.over && Date.now() < deadline) {
      if (await Promise.race([synced, sleep(SYNC_LOG_MS, false, { ref: false })])) return;
      this.#print("[INFO] plugin/kubernetes: waiting for Kubernetes API before starting server");
    }
    if (!this.process.over)
      this.#print("[WARNING] plugin/kubernetes: starting server with unsynced Kubernetes API");
  }

  async #listen(server: DnsServer): Promise<void> {
    const { port } = server;
    await this.process.udp(port, (message, peer) => server.handle(message, peer, "udp"));
    if (this.process.over) return;
    await this.process.tcp(port, (socket) => serveStream(socket, server));
  }

  /** The plugin "loop": a name that nobody has; if it comes back, what is asked asks us. */
  #probeLoops(): void {
    for (const { loop, forwards, zone, port } of this.#settings) {
      const server = this.#servers.get(port);
      const probe = server?.probe(zone);
      if (!loop || forwards.length === 0 || !server || probe === undefined) continue;
      void server.handle(writeQuery(probe, "HINFO", 1), { address: "127.0.0.1", port: 0 }, "udp");
    }
  }

  async #servePages(): Promise<void> {
    const pages = this.#wantedPages();
    for (const [port, paths] of pages) {
      const known = this.#pages.has(port);
      this.#pages.set(port, paths);
      if (!known && !this.process.over)
        await this.process.http(port, (request, response) => void this.#page(port, request, response));
    }
    for (const port of this.#pages.keys()) if (!pages.has(port)) this.#pages.set(port, new Map());
  }

  #wantedPages(): Map<number, Map<string, () => HttpPage>> {
    const pages = new Map<number, Map<string, () => HttpPage>>();
    const add = (port: number | undefined, path: string, page: () => HttpPage) => {
      if (port === undefined) return;
      const paths = pages.get(port) ?? new Map<string, () => HttpPage>();
      pages.set(port, paths.set(path, page));
    };
    for (const { health, ready, prometheus } of this.#settings) {
      add(health?.port, "/health", () => ({ status: 200, text: "OK" }));
      add(ready?.port, "/ready", () =>
        (this.#view?.synced ?? true) ? { status: 200, text: "OK" } : { status: 503, text: "kubernetes" },
      );
      add(prometheus?.port, "/metrics", () => ({
        status: 200,
        type: this.#metrics.contentType,
        text: this.#metrics.text(),
      }));
    }
    return pages;
  }

  async #page(port: number, { url = "/" }: IncomingMessage, response: ServerResponse): Promise<void> {
    const page = this.#pages.get(port)?.get(url.split("?")[0] ?? "");
    const {
      status,
      type = "text/plain; charset=utf-8",
      text,
    } = page?.() ?? {
      status: 404,
      text: "404 page not found\n",
    };
    response.writeHead(status, { "Content-Type": type }).end(await text);
  }

  #scheduleReload(): void {
    clearTimeout(this.#reload);
    const reload = this.#settings.find((one) => one.reload)?.reload;
    if (!reload || this.process.over) return;
    const wait = reload.intervalMs + Math.random() * reload.jitterMs;
    this.#reload = setTimeout(() => void this.#reloadIfChanged(), wait).unref();
  }

  async #reloadIfChanged(): Promise<void> {
    try {
      const read = this.#read();
      if (digestOf(read.text) === this.#digest) return;
      this.#print("[INFO] Reloading");
      const before = new Set(this.#servers.keys());
      await this.#use(read);
      await this.#servePages();
      for (const [port, server] of this.#servers) if (!before.has(port)) await this.#listen(server);
      this.#print(`[INFO] plugin/reload: Running configuration SHA512 = ${this.#digest}`);
      this.#print("[INFO] Reloading complete");
      this.#probeLoops();
    } catch (error) {
      this.#print(`[ERROR] Corefile changed but reload failed: ${(error as Error).message}`);
    } finally {
      this.#scheduleReload();
    }
  }

  /** Goes on for as long as "lameduck" says: those who ask have to hear first that it goes. */
  #terminate(): void {
    this.#print("[INFO] SIGTERM: Shutting down servers then terminating");
    const lameduckMs = Math.max(0, ...this.#settings.map(({ health }) => health?.lameduckMs ?? 0));
    if (lameduckMs > 0)
      this.#print(`[INFO] plugin/health: Going into lameduck mode for ${lameduckMs / 1000}s`);
    setTimeout(() => this.process.exit(0), lameduckMs).unref();
  }
}

const digestOf = (text: string): string => createHash("sha512").update(text).digest("hex");

function serveStream(socket: Socket, server: DnsServer): void {
  const peer = { address: socket.remoteAddress ?? "", port: socket.remotePort ?? 0 };
  const send = (message: Buffer | undefined) => {
    if (message && socket.writable) socket.write(withLength(message));
  };
  const reader = new MessageReader((message) => {
    const answer = server.handle(message, peer, "tcp");
    if (answer instanceof Promise) void answer.then(send);
    else send(answer);
  });
  socket.setTimeout(TCP_IDLE_MS, () => socket.end());
  socket.on("data", (chunk) => reader.push(chunk));
}

const run = (context: ContainerContext): Promise<Workload> =>
  withFlags(
    context,
    context.argv.slice(1),
    { conf: "string", "dns.port": "number", p: "number", quiet: "boolean", version: "boolean" },
    async ({ flags, operands }) => {
      if (operands.length > 0) return failedProcess(context, `extra command line arguments: ${operands}`, 1);
      if (flags.version) {
        context.stdout(`CoreDNS-${context.tag.replace(/^v/, "")}\n`);
        return failedProcess(context, "", 0);
      }
      const port = Number(flags["dns.port"] ?? flags.p ?? 53);
      const server = new CoreDns(context, { file: String(flags.conf ?? "Corefile"), port });
      await server.start();
      return server.process;
    },
  );

export const coredns: Image = {
  names: ["registry.k8s.io/coredns/coredns", "coredns/coredns", "k8s.gcr.io/coredns/coredns"],
  entrypoint: ["/coredns"],
  cmd: [],
  program: (argv) => (["/coredns", "coredns"].includes(argv[0] ?? "") ? run : undefined),
};
