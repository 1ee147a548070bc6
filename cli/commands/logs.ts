// kubeplumb logs: what the two processes of a cluster have written, or a pod.

import { existsSync } from "node:fs";
import { join } from "node:path";
import type { ClusterInfo } from "../../lab/types.js";
import { explained, requireCluster } from "../clusters.js";
import { type CommandSpec, type Context, integer, nameOption, UsageError } from "../command.js";
import { formatLogLine } from "../log-format.js";
import { tailFile } from "../tail.js";

interface Options {
  name: string;
  follow?: boolean;
  tail?: number;
  container?: string;
  output: "text" | "json";
}

const PROCESSES = ["control", "lab"] as const;

const spec: CommandSpec<Options> = {
  description: "Of both processes when none is named; of a pod by NAMESPACE/POD.",
  arguments: [{ flags: "[source]", description: "control, lab or NAMESPACE/POD", complete: PROCESSES }],
  options: [
    nameOption,
    { flags: "-f, --follow", description: "go on with what is written from now on" },
    {
      flags: "--tail <lines>",
      description: "only the last lines of each",
      parse: (value) => integer(value, "number of lines", 0, Number.MAX_SAFE_INTEGER),
    },
    { flags: "-c, --container <container>", description: "container of the pod" },
    {
      flags: "-o, --output <format>",
      description: "json: as it is written",
      choices: ["text", "json"],
      default: "text",
    },
  ],
  examples: [
    ["the last lines of both processes", "kubeplumb logs --tail 20"],
    ["watch the hosts", "kubeplumb logs lab -f"],
    ["of a pod", "kubeplumb logs default/web-0"],
  ],
  async run(context, [source], options) {
    const info = await requireCluster(options.name);
    if (source?.includes("/")) return await podLogs(context, info, source, options);
    const wanted = source === undefined ? [...PROCESSES] : PROCESSES.filter((one) => one === source);
    if (wanted.length === 0) {
      throw new UsageError(`${JSON.stringify(source)}: control, lab or NAMESPACE/POD is expected`);
    }
    const files = wanted.filter((one) => source !== undefined || existsSync(join(info.dir, `${one}.log`)));
    const show = (one: string) => processLogs(context, info, one, files.length > 1, options);
    if (options.follow) await Promise.all(files.map(show));
    else for (const one of files) await show(one);
    return context.signal.aborted ? 130 : 0;
  },
};

async function processLogs(
  context: Context,
  info: ClusterInfo,
  source: string,
  named: boolean,
  { follow, tail, output }: Options,
): Promise<void> {
  const prefix = named && output === "text" ? `${context.style.dim(source.padEnd(8))}` : "";
  const path = join(info.dir, `${source}.log`);
  for await (const line of tailFile(path, { lines: tail, follow, signal: context.signal })) {
    context.print(prefix + (output === "json" ? line : formatLogLine(line, context.style)));
  }
}

async function podLogs(
  context: Context,
  info: ClusterInfo,
  source: string,
  { follow, tail, container }: Options,
): Promise<number> {
  const [namespace = "", pod = "", more] = source.split("/");
  if (!namespace || !pod || more !== undefined) {
    throw new UsageError(`${JSON.stringify(source)}: NAMESPACE/POD is expected`);
  }
  const { ApiClient } = await import("../../client/api-client.js");
  const client = new ApiClient({ socketPath: info.controlSocket });
  const path = `/api/v1/namespaces/${encodeURIComponent(namespace)}/pods/${encodeURIComponent(pod)}/log`;
  try {
    for await (const chunk of client.stream(path, { follow, tailLines: tail, container }, context.signal)) {
      context.streams.stdout.write(chunk);
    }
    return context.signal.aborted ? 130 : 0;
  } catch (error) {
    throw explained(error, info.name);
  } finally {
    await client.close();
  }
}

export default spec as CommandSpec;
