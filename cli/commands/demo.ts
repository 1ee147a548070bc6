// kubeplumb demo: what `npm start` runs. A cluster, the tour through it, and how to go on.

import { createServer } from "node:net";
import type { ClusterInfo, UpResult } from "../../lab/types.js";
import { withDoctorHint } from "../clusters.js";
import { type CommandSpec, type Context, integer, nameOption, nameWords } from "../command.js";
import { connectUser } from "../connect.js";
import type { Action } from "../demo/action.js";
import type { DemoKube } from "../demo/kube.js";
import { DemoFailure } from "../demo/transcript.js";
import { kubeconfigFiles } from "../kubeconfig-file.js";
import { publishedUrl } from "../ports.js";
import { findProgram, selfCommand, shellLine } from "../programs.js";
import { formatTable } from "../table.js";

interface Options {
  name: string;
  nodes?: number;
  client: "auto" | "kubectl" | "own";
  kubeconfig?: string;
}

/** Where the NodePort is looked for a place on the loopback. */
const FIRST_HOST_PORT = 8080;
const LAST_HOST_PORT = 8179;

const spec: CommandSpec<Options> = {
  description:
    "Creates the cluster, or takes the one that runs; it stays up afterwards. Exit code 1 when a step fails.",
  options: [
    nameOption,
    {
      flags: "--nodes <count>",
      description: "how many hosts (default: 3)",
      parse: (value) => integer(value, "number of hosts", 1, 4096),
    },
    {
      flags: "--client <which>",
      description: "who talks to the API; auto: kubectl when it is installed",
      choices: ["auto", "kubectl", "own"],
      default: "auto",
    },
    {
      flags: "--kubeconfig <file>",
      description: "where the context is written (default: $KUBECONFIG, ~/.kube/config)",
      complete: "files",
    },
  ],
  examples: [
    ["all of it", "kubeplumb demo"],
    ["only the commands and their output", "kubeplumb demo --quiet"],
  ],
  async run(context, _args, options) {
    const { env } = context.streams;
    const info = await start(context, options);
    const connected = await connect(context, info, options);
    const self = selfCommand(env);
    const [{ ApiClient }, { takeTour }, { Transcript }] = await Promise.all([
      import("../../client/api-client.js"),
      import("../demo/tour.js"),
      import("../demo/transcript.js"),
    ]);
    const kube = await chooseClient(context, info, options, self);
    const client = new ApiClient({ socketPath: info.controlSocket });
    const publish = (nodePort: number) => publishNodePort(info, nodePort, self);
    try {
      if (kube.notice) context.note(`\n${context.noteStyle.yellow("!")} ${kube.notice}`);
      const transcript = new Transcript(context);
      const url = await takeTour({ info, client, kube, transcript, self, env, publish });
      farewell(context, info, { url, self, connected });
      return 0;
    } catch (error) {
      if (!(error instanceof DemoFailure)) throw error;
      const name = ["", ...nameWords(info.name)].join(" ");
      const hint = `the cluster is still up: ${self} status${name}, ${self} logs${name}, ${self} down${name}`;
      throw new Error(`${error.message}\n${hint}`, { cause: error });
    } finally {
      await Promise.all([kube.close(), client.close()]);
    }
  },
};

async function start(context: Context, { name, nodes }: Options): Promise<UpResult> {
  const { up } = await import("../../lab/lifecycle.js");
  const { noteStyle } = context;
  context.note(`Cluster ${noteStyle.bold(name)}`);
  const steps = context.steps();
  try {
    const info = await up({ name, nodes, onStep: steps.follow });
    if (info.outcome === "running") context.note(` ${noteStyle.green("✓")} runs already`);
    return info;
  } catch (error) {
    throw withDoctorHint(error);
  } finally {
    steps.close();
  }
}

/** A kubeconfig that cannot be written is a pity, not the end of the demo. */
async function connect(context: Context, info: ClusterInfo, { kubeconfig }: Options): Promise<boolean> {
  try {
    await connectUser(info, kubeconfigFiles(context.streams.env, kubeconfig));
    return true;
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    context.note(` ${context.noteStyle.yellow("!")} your kubeconfig is left as it is: ${reason}`);
    return false;
  }
}

async function chooseClient(
  context: Context,
  info: ClusterInfo,
  { client }: Options,
  self: string,
): Promise<DemoKube> {
  const { env } = context.streams;
  const kubectl = client === "own" ? undefined : findProgram("kubectl", env);
  if (kubectl) return (await import("../demo/kube.js")).createKubectl(kubectl, info, env);
  if (client === "kubectl") throw new Error("kubectl is not in $PATH; --client own needs none");
  const own = (await import("../demo/own-client.js")).createOwnClient(info, self);
  return client === "own" ? { ...own, notice: "kubeplumb's own client makes kubectl's requests." } : own;
}

/** On the first port that is free; a NodePort that is published already stays where it is. */
async function publishNodePort(
  info: ClusterInfo,
  nodePort: number,
  self: string,
): Promise<{ url: string; action?: Action }> {
  const lifecycle = await import("../../lab/lifecycle.js");
  const present = lifecycle.clusterInfo(info.name)?.published.find((one) => one.nodePort === nodePort);
  if (present) return { url: publishedUrl(present) };
  for (let hostPort = FIRST_HOST_PORT; hostPort <= LAST_HOST_PORT; hostPort++) {
    if (!(await isFree(hostPort))) continue;
    const url = publishedUrl({ hostPort, nodePort });
    const line = shellLine([
      ...self.split(" "),
      "publish",
      ...nameWords(info.name),
      `${hostPort}:${nodePort}`,
    ]);
    const run = async () => {
      await lifecycle.publish(info.name, { hostPort, nodePort });
      return { exitCode: 0, output: url };
    };
    return { url, action: { line, run } };
  }
  throw new DemoFailure(`no TCP port from ${FIRST_HOST_PORT} to ${LAST_HOST_PORT} is free on 127.0.0.1`);
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen({ host: "127.0.0.1", port, exclusive: true }, () => server.close(() => resolve(true)));
  });
}

function farewell(
  context: Context,
  info: ClusterInfo,
  { url, self, connected }: { url: string; self: string; connected: boolean },
): void {
  const { style, streams } = context;
  const name = ["", ...nameWords(info.name)].join(" ");
  const kubectl = connected
    ? `kubectl --context ${info.contextName}`
    : `kubectl --kubeconfig ${info.kubeconfigPath}`;
  const host = info.nodes[0]?.name ?? "node-1";
  const withKubectl = findProgram("kubectl", streams.env) !== undefined;
  const rows = [
    [url, "the NodePort, in a browser"],
    ...(withKubectl ? [[`${kubectl} get pods -o wide`, connected ? "the current context" : ""]] : []),
    [`${self} explain${name} kubernetes-bootcamp`, "what happens to a packet, and why"],
    [`${self} exec${name} ${host} -- iptables-save -t nat`, "the rules of a host"],
    [`${self} shell${name} ${host}`, "look around in it"],
    [`${self} down${name}`, "stop, and leave nothing behind"],
  ].map(([line = "", what = ""]) => [line, style.dim(what)]);
  context.print(`\nThe cluster stays up. Go on with\n\n${formatTable(rows, "  ")}`);
}

export default spec as CommandSpec;
