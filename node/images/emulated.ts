// The common part of emulated processes: listeners inside the pod's namespace, one exit status, signals as the
// first process of a container gets them. Knows sockets, nothing of what is served.

import type { Socket as UdpSocket } from "node:dgram";
import type { EventEmitter } from "node:events";
import { createServer, type Server as HttpServer, type RequestListener } from "node:http";
import { createServer as createTcpServer, type Server, type Socket } from "node:net";
import { hostPort } from "../../common/ip.js";
import type { ExitStatus } from "../process/launch.js";
import { CpuMeter, MEMORY, type Usage } from "./meter.js";
import type { ContainerContext, Workload } from "./types.js";

/** What a process does with a signal: end with that code, ignore it, or something of its own. */
export type SignalAction = number | "ignore" | ((process: EmulatedProcess) => void);

export interface EmulatedOptions {
  /** Default "ignore": the kernel gives the first process of a PID namespace no signal it has no handler for. */
  onTerm?: SignalAction;
  /** What SIGQUIT does; default "ignore". */
  onQuit?: SignalAction;
}

/** `host:port` as Go prints it. */
export function peerOf(socket: { remoteAddress?: string; remotePort?: number }): string {
  return hostPort(socket.remoteAddress ?? "", socket.remotePort ?? 0);
}

/** What a socket is bound to that is to reach `host`, a literal address. */
export const anyAddressFor = (host: string): string => (host.includes(":") ? "::" : "0.0.0.0");

/** What a server says to a datagram; undefined: nothing. */
type DatagramHandler = (
  message: Buffer,
  peer: { address: string; port: number },
) => string | Buffer | undefined | Promise<Buffer | undefined>;

/** A process that exists as sockets of this one. */
export class EmulatedProcess implements Workload {
  readonly context: ContainerContext;
  readonly exited: Promise<ExitStatus>;
  readonly #options: EmulatedOptions;
  readonly #servers = new Set<Server>();
  readonly #udp = new Set<UdpSocket>();
  readonly #connections = new Set<Socket>();
  readonly #meter = new CpuMeter();
  #resolve: (status: ExitStatus) => void = () => {};
  #over = false;

  constructor(context: ContainerContext, options: EmulatedOptions = {}) {
    this.context = context;
    this.#options = options;
    this.exited = new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }

  get over(): boolean {
    return this.#over;
  }

  usage(): Usage {
    const sockets = this.#servers.size + this.#udp.size;
    return {
      cpuNanoseconds: this.#meter.nanoseconds,
      memoryBytes: MEMORY.process + sockets * MEMORY.server + this.#connections.size * MEMORY.connection,
    };
  }

  /** Whatever is done about an event of this emitter is done by this process. */
  #metered(emitter: EventEmitter): void {
    const emit = emitter.emit.bind(emitter);
    emitter.emit = (...event) => this.#meter.run(() => emit(...event));
  }

  /** An HTTP server on every address of the pod. False when the port could not be had; the process has ended then. */
  http(port: number, handler: RequestListener): Promise<boolean> {
    return this.#each((host) =>
      this.#listen(createServer({ keepAliveTimeout: 60_000 }, handler), { host, port }),
    );
  }

  tcp(port: number, handler: (socket: Socket) => void): Promise<boolean> {
    const accept = (socket: Socket) => {
      socket.on("error", () => socket.destroy());
      handler(socket);
    };
    return this.#each((host) => this.#listen(createTcpServer(accept), { host, port }));
  }

  /** A server of one's own making on every address of the pod. False as {@link http}. */
  listen(port: number, make: () => Server): Promise<boolean> {
    return this.#each((host) => this.#listen(make(), { host, port }));
  }

  /** A socket a family: what a program that listens on all addresses does with one. */
  async #each(open: (host: string) => Promise<boolean>): Promise<boolean> {
    const ipv6 = this.context.podIPs.some((ip) => ip.includes(":"));
    return (await open("0.0.0.0")) && (!ipv6 || (await open("::")));
  }

  async #listen(server: Server, { host, port }: { host: string; port: number }): Promise<boolean> {
    this.#metered(server);
    server.on("connection", (socket: Socket) => {
      this.#metered(socket);
      this.#connections.add(socket);
      socket.once("close", () => this.#connections.delete(socket));
    });
    try {
      await this.context.ns.listen(server, { host, port });
    } catch (error) {
      this.#bindFailed("tcp", port, error);
      return false;
    }
    server.on("error", (error) => this.context.stderr(`accept: ${error.message}\n`));
    if (this.#over) server.close();
    else this.#servers.add(server);
    return !this.#over;
  }

  /** Answers datagrams; undefined from `handler` is no answer. */
  udp(port: number, handler: DatagramHandler): Promise<boolean> {
    return this.#each((host) => this.#answer({ host, port }, handler));
  }

  async #answer({ host, port }: { host: string; port: number }, handler: DatagramHandler): Promise<boolean> {
    let socket: UdpSocket;
    try {
      socket = await this.context.ns.udp({ host, port });
    } catch (error) {
      this.#bindFailed("udp", port, error);
      return false;
    }
    this.#metered(socket);
    socket.on("error", (error) => this.context.stderr(`udp: ${error.message}\n`));
    socket.on("message", (message, peer) => {
      const send = (answer: string | Buffer | undefined) => {
        // Nobody can be answered at port 0.
        if (answer !== undefined && !this.#over && peer.port > 0)
          socket.send(answer, peer.port, peer.address);
      };
      const answer = handler(message, peer);
      if (answer instanceof Promise) void answer.then(send);
      else send(answer);
    });
    if (this.#over) socket.close();
    else this.#udp.add(socket);
    return !this.#over;
  }

  #bindFailed(protocol: string, port: number, error: unknown): void {
    const { code, message } = error as NodeJS.ErrnoException;
    const why = code === "EADDRINUSE" ? "address already in use" : message;
    this.context.stderr(`listen ${protocol} :${port}: bind: ${why}\n`);
    this.exit(1);
  }

  /** Stops listening, lets requests in progress end, then ends. */
  async shutDown(exitCode: number): Promise<void> {
    const closed = [...this.#servers].map(
      (server) =>
        new Promise<void>((resolve) => {
          server.close(() => resolve());
          if ("closeIdleConnections" in server) (server as HttpServer).closeIdleConnections();
        }),
    );
    await Promise.all(closed);
    this.exit(exitCode);
  }

  /** Ends as exit(2): every socket is closed by the kernel. */
  exit(exitCode: number, signal?: number): void {
    if (this.#over) return;
    this.#over = true;
    for (const server of this.#servers) server.close();
    for (const socket of this.#connections) socket.destroy();
    for (const socket of this.#udp) socket.close();
    this.#servers.clear();
    this.#udp.clear();
    this.#resolve(signal === undefined ? { exitCode } : { exitCode, signal });
  }

  signal(name: NodeJS.Signals): void {
    if (name === "SIGKILL") {
      this.exit(137, 9);
      return;
    }
    const { onTerm = "ignore", onQuit = "ignore" } = this.#options;
    const action = name === "SIGTERM" ? onTerm : name === "SIGQUIT" ? onQuit : "ignore";
    if (typeof action === "number") this.exit(action);
    else if (typeof action === "function") action(this);
  }
}

/** Exit code of a Go program without a handler for SIGTERM, as the first process of a container. */
export const GO_SIGTERM = 2;

/** A line as Go's log package prints it. */
export function goLog(context: ContainerContext, text: string): void {
  const now = new Date().toISOString();
  const day = now.slice(5, 10).replace("-", "");
  context.stderr(`I${day} ${now.slice(11, 23)}000       1 log.go:195] ${text}\n`);
}
