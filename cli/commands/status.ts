// kubeplumb status: the two processes, the hosts and what is wrong with them.

import type { ClusterStatus, ProcessStatus } from "../../lab/types.js";
import { type CommandSpec, type Context, nameOption, outputOption } from "../command.js";
import { publishedUrl } from "../ports.js";
import { formatAge, formatBytes } from "../style.js";
import { formatTable } from "../table.js";

interface Options {
  name: string;
  output: "table" | "json";
}

const spec: CommandSpec<Options> = {
  description: "Exit code 0 when it runs, 1 otherwise.",
  options: [nameOption, outputOption("table", "json")],
  examples: [
    ["for people", "kubeplumb status"],
    ["for programs", "kubeplumb status -o json"],
  ],
  async run(context, _args, { name, output }) {
    const lifecycle = await import("../../lab/lifecycle.js");
    const status = await lifecycle.status(name);
    if (output === "json") context.print(JSON.stringify(status, null, 2));
    else show(context, status);
    return status.state === "running" ? 0 : 1;
  },
};

function show(context: Context, status: ClusterStatus): void {
  const { style } = context;
  const paint = { running: style.green, degraded: style.yellow, stopped: style.red, absent: style.red };
  context.print(`Cluster ${style.bold(status.name)}: ${paint[status.state](status.state)}`);
  if (status.state === "absent") {
    context.note(`'kubeplumb up --name ${status.name}' creates it`);
    return;
  }
  const facts: string[][] = [
    ["control", processLine(status.control)],
    ["lab", processLine(status.lab, status.lab.pods === undefined ? [] : [`${status.lab.pods} pods`])],
  ];
  if (status.info) {
    facts.unshift(["API", status.info.server], ["context", status.info.contextName]);
    for (const one of status.info.published)
      facts.push(["NodePort", `${one.nodePort} at ${publishedUrl(one)}`]);
  }
  context.print(`\n${formatTable(facts, "  ")}`);
  const rows = status.nodes.map(({ name, ip, ready, pods }) => [
    name,
    ip,
    ready ? "Ready" : style.yellow("NotReady"),
    String(pods),
  ]);
  context.print(`\n${formatTable([["HOST", "ADDRESS", "STATUS", "PODS"], ...rows])}`);
  for (const problem of status.problems) context.print(`${style.yellow("!")} ${problem}`);
}

function processLine(process: ProcessStatus, more: readonly string[] = []): string {
  if (!process.running) return "not running";
  const parts = [`pid ${process.pid}`];
  if (process.startedAt) parts.push(`for ${formatAge(Date.now() - Date.parse(process.startedAt))}`);
  if (process.memoryBytes) parts.push(formatBytes(process.memoryBytes));
  return [...parts, ...more].join(", ");
}

export default spec as CommandSpec;
