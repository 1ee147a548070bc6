// The running agent of our CNI plugins: does what their front (cni/front/front.c) hands over, so that no call pays for
// the start of Node. Knows the front's words; the verbs are main.ts's.

import { chmodSync, mkdirSync, readlinkSync, rmSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { dirname } from "node:path";
import { main } from "./main.js";
import { type OwnType, ownPlugin } from "./plugins.js";

/** In the run directory of kubeplumb. */
export const CNI_SOCKET = "cni.sock";
const DEFAULT_SOCKET = `/run/kubeplumb/${CNI_SOCKET}`;
/** The machine's own mounts. What a service of systemd sees in a namespace of its own are the same paths. */
const MACHINE_MOUNTS = "/proc/1/ns/mnt";
/** The front's mark, among the variables that it hands over. */
const STDERR_WORD = "KUBEPLUMB_STDERR";
/** Leaves room for the result in what a front takes. */
const MAX_STDERR = 1 << 16;
/** As much as the front sends. */
const MAX_REQUEST = (1 << 20) + (1 << 16);

export interface CniAgent {
  /** Calls that are under way are answered first. */
  close(): Promise<void>;
}

/** Those a caller must be in: a way of his has to mean the same here. */
interface Place {
  net: string;
  pid: string;
  mnt: readonly string[];
}

function place(): Place {
  const [net, pid, mnt] = ["net", "pid", "mnt"].map((name) => readlinkSync(`/proc/self/ns/${name}`));
  return { net: net as string, pid: pid as string, mnt: [mnt as string, ...machineMounts()] };
}

/** Without the right to look there is only our own. */
function machineMounts(): string[] {
  try {
    return [readlinkSync(MACHINE_MOUNTS)];
  } catch (error) {
    if (["EACCES", "EPERM"].includes((error as NodeJS.ErrnoException).code ?? "")) return [];
    throw error;
  }
}

/**
 * Listens for fronts in the namespaces of this process; only its own user can connect.
 * @throws Error EADDRINUSE when another agent answers there.
 */
export async function startCniAgent(path: string = DEFAULT_SOCKET): Promise<CniAgent> {
  const here = place();
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  if (await answers(path))
    throw Object.assign(new Error(`${path}: an agent is there`), { code: "EADDRINUSE" });
  rmSync(path, { force: true });
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    const chunks: Buffer[] = [];
    let size = 0;
    socket.on("data", (chunk) => {
      size += chunk.length;
      chunks.push(chunk);
      if (size > MAX_REQUEST) socket.destroy();
    });
    socket.on("error", () => socket.destroy());
    socket.on("end", () => void answer(socket, Buffer.concat(chunks), here));
  });
  await listen(server, path);
  return { close: () => new Promise((resolve) => server.close(() => resolve())) };
}

function listen(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    // Between bind and chmod nobody else may get in.
    const mask = process.umask(0o177);
    server.once("error", reject);
    server.listen(path, () => {
      chmodSync(path, 0o600);
      server.off("error", reject);
      resolve();
    });
    process.umask(mask);
  });
}

/** A file that is left of an agent that was killed answers nobody. */
function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path, () => {
      socket.destroy();
      resolve(true);
    });
    socket.on("error", () => resolve(false));
  });
}

/** Ends without a word where the caller has to do it himself: he is in other namespaces, or speaks otherwise. */
async function answer(socket: Socket, request: Buffer, here: Place): Promise<void> {
  const call = parseRequest(request);
  const isHere = call && call.net === here.net && call.pid === here.pid && here.mnt.includes(call.mnt);
  if (!isHere) {
    socket.end();
    return;
  }
  let said = "";
  const { exitCode, output } = await main(call.env, call.input, call.type, (text) => {
    said += text;
  });
  // Only to a front that says it takes the two apart: one of before would print both as the result.
  const tail = call.env[STDERR_WORD] && said !== "" ? `\0${said.slice(0, MAX_STDERR)}` : "";
  socket.end(`${exitCode}${output}${tail}`);
}

/** undefined for what no front of ours has said. */
export function parseRequest(
  request: Buffer,
):
  | { net: string; mnt: string; pid: string; type: OwnType; env: Record<string, string>; input: string }
  | undefined {
  const end = request.indexOf("\0\0");
  if (end < 0) return undefined;
  const [net = "", mnt = "", pid = "", type = "", ...variables] = request
    .toString("utf8", 0, end)
    .split("\0");
  if (!ownPlugin(type)) return undefined;
  const env = Object.fromEntries(
    variables.map((pair) => [pair.slice(0, pair.indexOf("=")), pair.slice(pair.indexOf("=") + 1)]),
  );
  return {
    net,
    mnt,
    pid,
    type: type as OwnType,
    env,
    input: request.toString("utf8", end + 2),
  };
}

/** The program: `kubeplumb-cni agent [SOCKET]`. Ends with SIGTERM or SIGINT. */
export async function runAgent(path?: string): Promise<void> {
  const agent = await startCniAgent(path);
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.once(signal, () => void agent.close().then(() => process.exit(0)));
  }
}
