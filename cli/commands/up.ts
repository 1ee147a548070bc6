// kubeplumb up: a cluster from nothing, or what is missing of one; then its context in the user's kubeconfig.

import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { text as readAll } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import type { ClusterConfig, Publish, UpResult } from "../../lab/types.js";
import { withDoctorHint } from "../clusters.js";
import {
  type CommandSpec,
  type Context,
  DEFAULT_NAME,
  integer,
  nameWords,
  outputOption,
} from "../command.js";
import { connectUser } from "../connect.js";
import { checkKubeconfigFiles, kubeconfigFiles } from "../kubeconfig-file.js";
import { parsePublish, publishedUrl } from "../ports.js";
import { selfCommand } from "../programs.js";

interface Options {
  name?: string;
  nodes?: number;
  config?: string;
  publish?: Publish[];
  apiPort?: number;
  kubeconfig?: string;
  output: "text" | "json";
}

const spec: CommandSpec<Options> = {
  description: "Needs no root, no container engine and no image. A cluster that runs is left as it is.",
  options: [
    { flags: "--name <name>", description: `the cluster (default: "${DEFAULT_NAME}")`, complete: "clusters" },
    {
      flags: "--nodes <count>",
      description: "how many hosts (default: 3)",
      parse: (value) => integer(value, "number of hosts", 1, 4096),
    },
    {
      flags: "--config <file>",
      description: "cluster configuration, - for standard input",
      complete: "files",
    },
    {
      flags: "--publish <host:node>",
      description: "open a NodePort on this machine's loopback; may be repeated",
      parse: (value, previous) => [...((previous as Publish[] | undefined) ?? []), parsePublish(value)],
    },
    {
      flags: "--api-port <port>",
      description: "TCP port of the API on 127.0.0.1 (default: a free one)",
      parse: (value) => integer(value, "port", 1, 65535),
    },
    {
      flags: "--kubeconfig <file>",
      description: "where the context is written (default: $KUBECONFIG, ~/.kube/config)",
      complete: "files",
    },
    outputOption("text", "json"),
  ],
  examples: [
    ["three hosts", "kubeplumb up"],
    ["a second cluster beside it", "kubeplumb up --name blue --nodes 5"],
    ["NodePort 30080 on http://127.0.0.1:8080", "kubeplumb up --publish 8080:30080"],
  ],
  async run(context, _args, options) {
    const files = kubeconfigFiles(context.streams.env, options.kubeconfig);
    // Before anything is started: a cluster that kubectl cannot be told of is of little use.
    checkKubeconfigFiles(files);
    const config = options.config ? await readConfig(context, options.config) : undefined;
    const info = await start(context, config, options);
    await connectUser(info, files);
    if (options.output === "json") context.print(JSON.stringify(info, null, 2));
    else tell(context, info);
    return 0;
  },
};

async function readConfig(context: Context, path: string): Promise<ClusterConfig> {
  const { parseConfig } = await import("../../lab/config.js");
  if (path === "-") return parseConfig(await readAll(context.streams.stdin), "standard input");
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    throw new Error(`configuration ${path} cannot be read: ${String(error)}`, { cause: error });
  }
  return parseConfig(text, path);
}

async function start(
  context: Context,
  config: ClusterConfig | undefined,
  options: Options,
): Promise<UpResult> {
  const { clusterInfo, up } = await import("../../lab/lifecycle.js");
  const name = options.name ?? config?.name ?? DEFAULT_NAME;
  const isNew = clusterInfo(name) === undefined;
  const { nodes, publish, apiPort } = options;
  const steps = context.steps();
  try {
    const started = up({ name, nodes, config, publish, apiPort, onStep: steps.follow });
    return await interruptible(started, context, () => {
      if (isNew) removeInBackground(name);
    });
  } catch (error) {
    throw withDoctorHint(error);
  } finally {
    steps.close();
  }
}

/** Rejects at Ctrl-C, after `undo`; `work` then ends with the process. */
async function interruptible<T>(work: Promise<T>, context: Context, undo: () => void): Promise<T> {
  const { signal } = context;
  let onAbort: (() => void) | undefined;
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => {
      undo();
      context.note("\ninterrupted; what was begun is being removed");
      reject(signal.reason);
    };
    if (signal.aborted) onAbort();
    else signal.addEventListener("abort", onAbort);
  });
  try {
    return await Promise.race([work, aborted]);
  } finally {
    if (onAbort) signal.removeEventListener("abort", onAbort);
  }
}

/** The half-made cluster is locked by this process until it ends, so another one has to clear it away. */
function removeInBackground(name: string): void {
  const bin = fileURLToPath(new URL("../../../bin/kubeplumb.mjs", import.meta.url));
  spawn(process.execPath, [bin, "down", "--quiet", "--name", name], {
    detached: true,
    stdio: "ignore",
  }).unref();
}

function tell(context: Context, info: UpResult): void {
  const { noteStyle } = context;
  const words = { created: "is up", repaired: "is up again", running: "runs already" };
  context.note(`\nCluster ${noteStyle.bold(info.name)} ${words[info.outcome]}. Go on with:\n\n`);
  const name = ["", ...nameWords(info.name)].join(" ");
  context.note(`  kubectl --context ${info.contextName} get nodes -o wide`);
  context.note(`  ${selfCommand(context.streams.env)} shell${name} ${info.nodes[0]?.name ?? "node-1"}`);
  for (const one of info.published) {
    context.note(`  curl ${publishedUrl(one)}   ${noteStyle.dim(`NodePort ${one.nodePort}`)}`);
  }
}

export default spec as CommandSpec;
