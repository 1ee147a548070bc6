// The server end of `kubectl exec` and `attach`: joins a process with a client, whatever the connection between them.
// Knows streams, nothing of pods or hosts.

import type { IncomingMessage } from "node:http";
import { type Duplex, PassThrough, type Readable, type Writable } from "node:stream";
import type { Status } from "../../common/k8s.js";
import type { RemoteChannels, WantedStreams } from "./remote-channels.js";
import { acceptSpdyChannels, SPDY_PROTOCOLS } from "./remote-spdy.js";
import { WEBSOCKET_PROTOCOLS, WebSocketChannels } from "./remote-websocket.js";
import { type Agreement, acceptWebSocket, agree, refuseUpgrade, UpgradeError } from "./upgrade.js";

/** What runs behind a remote command. */
export interface RemoteProcess {
  stdin: Writable | null;
  stdout: Readable | null;
  /** Null with a terminal: everything comes by stdout then. */
  stderr: Readable | null;
  resize?(columns: number, rows: number): void;
  /** Resolves after the process has ended and all its output has been given to the streams; rejects when it never ran. */
  exited: Promise<{ exitCode: number }>;
  /** The other side has gone: end the process. */
  abandon(): void;
}

export interface RemoteCommandOptions {
  command: string[];
  tty: boolean;
  stdin: boolean;
}

export interface RemoteCommandQuery extends WantedStreams {
  command: string[];
}

const flag = (value: string | null): boolean => value === "1" || value?.toLowerCase() === "true";

/** The query of an exec or attach request (PodExecOptions); `tty` excludes `stderr`, as in the kubelet. */
export function parseRemoteCommandQuery(url: string): RemoteCommandQuery {
  const query = new URL(url, "http://kubelet").searchParams;
  const tty = flag(query.get("tty"));
  return {
    command: query.getAll("command"),
    stdin: flag(query.get("stdin")),
    stdout: flag(query.get("stdout")),
    stderr: flag(query.get("stderr")) && !tty,
    tty,
  };
}

/** The message of channel 3 that tells a client how the command ended. */
export function exitStatusMessage(exitCode: number): Partial<Status> {
  if (exitCode === 0) return { metadata: {}, status: "Success" };
  return {
    metadata: {},
    status: "Failure",
    message: `command terminated with non-zero exit code: exit status ${exitCode}`,
    reason: "NonZeroExitCode",
    details: { causes: [{ reason: "ExitCode", message: String(exitCode) }] },
  };
}

function failureMessage(message: string): Partial<Status> {
  return { metadata: {}, status: "Failure", reason: "InternalError", message, code: 500 };
}

const PROTOCOLS = { webSocket: WEBSOCKET_PROTOCOLS, spdy: SPDY_PROTOCOLS };

const CLIENT_GO = / kubernetes\//;
/**
 * client-go before 1.33 reads a WebSocket before it has made its streams, and drops what comes in between ("Unknown
 * stream id 1, discarding message"). Behind a real kubelet nothing comes that early.
 */
const CLIENT_GO_MS = 25;

type Launch = (options: RemoteCommandOptions) => RemoteProcess | Promise<RemoteProcess>;

/**
 * Serves one exec or attach. `launch` is called when the request is known to be good; what it throws is answered
 * as a Status: {@link UpgradeError} with its own code, anything else after the upgrade on the error channel.
 * A client that goes away abandons the process.
 */
export function serveRemoteCommand(req: IncomingMessage, socket: Duplex, head: Buffer, launch: Launch): void {
  serve(req, socket, head, launch).catch((error: Error) => {
    if (error instanceof UpgradeError) refuseUpgrade(socket, error.code, error.reason, error.message);
    // After the upgrade there is nothing left to answer: the client never opened its streams.
    else socket.destroy();
  });
}

async function serve(req: IncomingMessage, socket: Duplex, head: Buffer, launch: Launch): Promise<void> {
  const query = parseRemoteCommandQuery(req.url ?? "/");
  const agreement = agree(req, PROTOCOLS);
  if (!query.stdin && !query.stdout && !query.stderr) {
    throw new UpgradeError(400, "BadRequest", "you must specify at least 1 of stdin, stdout, stderr");
  }
  const process = await launched(socket, query, launch);
  try {
    const channels = await openChannels(req, socket, head, agreement, query);
    if (!channels) throw new Error("the client has gone");
    if (process instanceof Error) channels.finish(failureMessage(process.message));
    else await carry(process, channels);
  } catch (error) {
    if (!(process instanceof Error)) process.abandon();
    throw error;
  }
}

/** The process, or why there is none. @throws UpgradeError */
async function launched(
  socket: Duplex,
  query: RemoteCommandQuery,
  launch: Launch,
): Promise<RemoteProcess | Error> {
  const gone = () => socket.destroy();
  socket.on("error", gone);
  try {
    const process = await launch({ command: query.command, tty: query.tty, stdin: query.stdin });
    return { ...process, stdout: held(process.stdout), stderr: held(process.stderr) };
  } catch (error) {
    if (error instanceof UpgradeError) throw error;
    return error instanceof Error ? error : new Error(String(error));
  } finally {
    socket.off("error", gone);
  }
}

/**
 * The output until somebody reads it. Node throws a child's output away when it ends before that, and a client of SPDY
 * takes its time to open its streams.
 */
export function held(output: Readable | null): Readable | null {
  if (!output) return null;
  const through = new PassThrough();
  // Cut off is an end, too.
  output.once("close", () => through.end());
  return output.pipe(through);
}

/** Undefined when the client has gone meanwhile. */
async function openChannels(
  req: IncomingMessage,
  socket: Duplex,
  head: Buffer,
  { kind, protocol }: Agreement,
  query: RemoteCommandQuery,
): Promise<RemoteChannels | undefined> {
  if (socket.destroyed) return undefined;
  if (kind === "spdy") return await acceptSpdyChannels(socket, head, protocol, query);
  const ws = await acceptWebSocket(req, socket, head, protocol);
  const patience = CLIENT_GO.test(req.headers["user-agent"] ?? "") ? CLIENT_GO_MS : 0;
  return ws && new WebSocketChannels(ws, query, patience);
}

/** Both ways, until the process has ended and the client has heard how. */
async function carry(process: RemoteProcess, channels: RemoteChannels): Promise<void> {
  void channels.gone.then(() => {
    process.stdin?.end();
    process.abandon();
  });
  channels.onResize((columns, rows) => process.resize?.(columns, rows));
  typeInto(channels.stdin, process.stdin);
  const outputs = [copy(process.stdout, channels.stdout), copy(process.stderr, channels.stderr)];
  const ending = await process.exited.catch((error: Error) => error);
  await Promise.all(outputs);
  channels.finish(
    ending instanceof Error ? failureMessage(ending.message) : exitStatusMessage(ending.exitCode),
  );
}

/** A process that reads slowly slows down the client; one that reads no more is typed into without effect. */
function typeInto(client: Readable | null, stdin: Writable | null): void {
  if (!client) return;
  client.on("error", () => {});
  if (!stdin || stdin.destroyed) {
    client.resume();
    return;
  }
  stdin.on("error", () => {});
  stdin.once("close", () => client.resume());
  client.pipe(stdin);
}

/**
 * Resolves when all of the stream has been given to the client, or the client has gone. What nobody wants is read and
 * dropped, so that the process does not block.
 */
function copy(stream: Readable | null, client: Writable | null): Promise<void> {
  if (!stream) return Promise.resolve();
  if (!client) {
    stream.resume();
    return Promise.resolve();
  }
  client.once("close", () => stream.resume());
  stream.pipe(client);
  // Cut off is an end, too, and not one that a pipe passes on.
  for (const event of ["close", "error"]) stream.once(event, () => client.end());
  return new Promise((resolve) => {
    for (const event of ["finish", "close", "error"]) client.once(event, () => resolve());
  });
}
