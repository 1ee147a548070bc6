// registry.k8s.io/e2e-test-images/agnhost: the Kubernetes project's own test image; subcommands, flags, replies
// and exit codes as the original's (kubernetes/test/images/agnhost).

import { hostPort } from "../../common/ip.js";
import { netexec } from "./agnhost-netexec.js";
import { failedProcess, withFlags } from "./echo.js";
import { anyAddressFor, EmulatedProcess, GO_SIGTERM, goLog, peerOf } from "./emulated.js";
import { resolveHost, splitHostPort } from "./resolve.js";
import type { ContainerContext, Image, Workload } from "./types.js";

type Subcommand = (context: ContainerContext, args: readonly string[]) => Promise<Workload>;

export const serveHostname: Subcommand = (context, args) =>
  withFlags(
    context,
    args,
    { tcp: "boolean", udp: "boolean", http: "boolean", close: "boolean", port: "number" },
    async ({ flags }) => {
      const { tcp = false, udp = false, http = true, close = false } = flags;
      const port = Number(flags.port ?? 9376);
      const { hostname } = context;
      const log = (text: string) => goLog(context, text);
      if (http && (tcp || udp)) {
        log("Can't server TCP/UDP mode and HTTP mode at the same time");
        return failedProcess(context, "", 1);
      }
      const process = new EmulatedProcess(context, {
        // The original sleeps for a minute after SIGTERM and goes on serving.
        onTerm: () => {
          log("Shutting down after receiving signal: terminated.");
          log("Awaiting pod deletion.");
          setTimeout(() => process.exit(0), 60_000).unref();
        },
      });
      if (tcp) {
        await process.tcp(port, (socket) => {
          log(`TCP request from ${peerOf(socket)}`);
          socket.end(hostname);
        });
      }
      if (udp) {
        await process.udp(port, (_message, peer) => {
          log(`UDP request from ${hostPort(peer.address, peer.port)}`);
          return hostname;
        });
      }
      if (http) {
        await process.http(port, (request, response) => {
          log(`HTTP request from ${peerOf(request.socket)}`);
          if (close) response.setHeader("Connection", "close");
          response.writeHead(200, { "Content-Type": "text/plain; charset=utf-8" });
          response.end(hostname);
        });
      }
      if (!process.over) log(`Serving on port ${port}.`);
      return process;
    },
  );

const pauseCommand: Subcommand = async (context) => {
  context.stdout("Paused\n");
  return new EmulatedProcess(context, { onTerm: 2 });
};

/** Words for the end of a connection attempt: TIMEOUT, REFUSED, DNS, OTHER. */
const connect: Subcommand = (context, args) =>
  withFlags(
    context,
    args,
    { timeout: "duration", protocol: "string", "udp-data": "string" },
    async ({ flags, operands }) => {
      const process = new EmulatedProcess(context, { onTerm: GO_SIGTERM });
      const fail = (text: string) => {
        context.stderr(`${text}\n`);
        process.exit(1);
      };
      const protocol = String(flags.protocol ?? "tcp") || "tcp";
      if (operands.length !== 1) {
        fail(`Error: accepts 1 arg(s), received ${operands.length}`);
        return process;
      }
      if (protocol !== "tcp" && protocol !== "udp") {
        fail(protocol === "sctp" ? "OTHER: protocol not supported" : `Unsupported protocol\n${protocol}`);
        return process;
      }
      let target: { host: string; port: number };
      try {
        target = splitHostPort(operands[0] ?? "");
      } catch (error) {
        fail(`UNKNOWN: ${(error as Error).message}`);
        return process;
      }
      void resolveHost(context, target.host).then(
        (host) => {
          if (process.over) return;
          const timeout = Number(flags.timeout ?? 0);
          if (protocol === "tcp") connectTcp(process, host, target.port, timeout, fail);
          else
            void connectUdp(
              process,
              host,
              target.port,
              timeout,
              String(flags["udp-data"] ?? "hostname"),
              fail,
            );
        },
        (error: Error) => fail(`DNS: ${error.message}`),
      );
      return process;
    },
  );

function connectTcp(
  process: EmulatedProcess,
  host: string,
  port: number,
  timeout: number,
  fail: (text: string) => void,
): void {
  const socket = process.context.ns.connect({ host, port, ...(timeout > 0 ? { timeout } : {}) });
  socket.once("connect", () => {
    socket.destroy();
    process.exit(0);
  });
  socket.once("error", (error: NodeJS.ErrnoException) => {
    if (error.code === "ETIMEDOUT") fail("TIMEOUT");
    else if (error.code === "ECONNREFUSED") fail("REFUSED");
    else fail(`OTHER: dial tcp ${hostPort(host, port)}: ${error.message}`);
  });
}

async function connectUdp(
  process: EmulatedProcess,
  host: string,
  port: number,
  timeout: number,
  data: string,
  fail: (text: string) => void,
): Promise<void> {
  const socket = await process.context.ns.udp({ host: anyAddressFor(host) });
  const timer =
    timeout > 0
      ? setTimeout(() => {
          socket.close();
          fail(`TIMEOUT: read udp ${hostPort(host, port)}: i/o timeout`);
        }, timeout)
      : undefined;
  const done = (outcome: () => void) => {
    clearTimeout(timer);
    socket.close();
    outcome();
  };
  void process.exited.then(() => clearTimeout(timer));
  socket.once("error", (error: NodeJS.ErrnoException) =>
    done(() =>
      fail(error.code === "ECONNREFUSED" ? `REFUSED: ${error.message}` : `UNKNOWN: ${error.message}`),
    ),
  );
  // Connected, so that an ICMP "port unreachable" comes back as ECONNREFUSED.
  socket.connect(port, host, () => socket.send(`${data}\n`));
  socket.once("message", (message) =>
    done(() => (message.length > 0 ? process.exit(0) : fail("OTHER: No data received from the server."))),
  );
}

const porter: Subcommand = async (context, args) =>
  withFlags(context, args, { "json-response": "boolean" }, async ({ flags }) => {
    const process = new EmulatedProcess(context, { onTerm: GO_SIGTERM });
    for (const [name, value] of Object.entries(context.env)) {
      const [, kind, port] = /^SERVE_(?:(TCP|UDP|TLS|SCTP)_)?PORT_(\d+)$/.exec(name) ?? [];
      if (port === undefined) continue;
      if (kind === "UDP") await process.udp(Number(port), () => value);
      else if (kind === "TLS" || kind === "SCTP") {
        goLog(
          context,
          `${name}: kubeplumb's agnhost porter serves SERVE_PORT, SERVE_TCP_PORT and SERVE_UDP_PORT`,
        );
      } else {
        await process.http(Number(port), (request, response) => {
          if (!flags["json-response"]) {
            response.writeHead(200, { "Content-Type": "text/plain; charset=utf-8" });
            return response.end(value);
          }
          response.writeHead(200, { "Content-Type": "application/json" });
          return response.end(JSON.stringify({ Method: request.method, Body: value }));
        });
      }
    }
    return process;
  });

/** Healthy for ten seconds: the server behind the examples of liveness probes. */
export const liveness: Subcommand = async (context) => {
  const process = new EmulatedProcess(context, { onTerm: GO_SIGTERM });
  const started = Date.now();
  await process.http(8080, (request, response) => {
    const seconds = (Date.now() - started) / 1000;
    const url = new URL(request.url ?? "/", "http://localhost");
    if (url.pathname === "/healthz") {
      response.writeHead(seconds > 10 ? 500 : 200).end(seconds > 10 ? `error: ${seconds}` : "ok");
    } else if (url.pathname === "/started") response.end(`${seconds}s`);
    else if (url.pathname === "/redirect") {
      response.writeHead(302, { Location: url.searchParams.get("loc") ?? "" }).end();
    } else response.writeHead(404).end("404 page not found\n");
  });
  return process;
};

const SUBCOMMANDS: Record<string, Subcommand> = {
  netexec,
  "serve-hostname": serveHostname,
  pause: pauseCommand,
  connect,
  porter,
  liveness,
};

const NAMES = ["/agnhost", "agnhost"];

export const agnhost: Image = {
  names: ["registry.k8s.io/e2e-test-images/agnhost", "k8s.gcr.io/e2e-test-images/agnhost"],
  entrypoint: ["/agnhost"],
  cmd: ["pause"],
  program: (argv) =>
    NAMES.includes(argv[0] ?? "")
      ? async (context) => {
          const [, name = "", ...args] = context.argv;
          const subcommand = SUBCOMMANDS[name];
          if (subcommand) return subcommand(context, args);
          const known = Object.keys(SUBCOMMANDS).join(", ");
          const message = `Error: unknown command "${name}" for "agnhost"; kubeplumb emulates: ${known}`;
          return failedProcess(context, message, 1);
        }
      : undefined,
};
