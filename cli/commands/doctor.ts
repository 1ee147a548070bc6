// kubeplumb doctor: what this machine offers, what is missing and what to do about it.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type CommandSpec, outputOption } from "../command.js";
import { ADMIN_KUBECONFIG, CONTROL_DATA, NODE_DATA, RUN } from "../host-paths.js";
import { visibleLength } from "../table.js";

interface Options {
  output: "text" | "json";
}

const spec: CommandSpec<Options> = {
  description: "Each feature is tried, not guessed. Exit code 1 when something that is needed is missing.",
  options: [outputOption("text", "json")],
  examples: [
    ["for people", "kubeplumb doctor"],
    ["for programs", "kubeplumb doctor -o json"],
  ],
  async run(context, _args, { output }) {
    const { doctor } = await import("../../lab/doctor.js");
    const steps = context.steps();
    steps.start("Trying what the kernel offers");
    const checks = await doctor(roles()).finally(() => steps.close());
    const failed = checks.filter((check) => check.status === "fail").length;
    if (output === "json") {
      context.print(JSON.stringify({ ok: failed === 0, checks }, null, 2));
      return failed === 0 ? 0 : 1;
    }
    const { style } = context;
    const marks = { ok: style.green("✓"), warn: style.yellow("!"), fail: style.red("✗") };
    const width = Math.max(0, ...checks.map((check) => visibleLength(check.name)));
    for (const { name, status, detail, remedy } of checks) {
      context.print(`${marks[status]} ${name.padEnd(width)}   ${style.dim(detail)}`.trimEnd());
      if (remedy && status !== "ok") context.print(`  ${" ".repeat(width)}   ${remedy}`);
    }
    const warned = checks.filter((check) => check.status === "warn").length;
    const useful = warned > 0 ? `; of what is useful, ${count(warned)} missing` : "";
    const needed = failed > 0 ? `${count(failed)} missing that kubeplumb needs` : "kubeplumb runs here";
    context.print(`\n${needed}${useful}`);
    return failed === 0 ? 0 : 1;
  },
};

/** A machine that is neither may become a node. */
function roles() {
  const control = existsSync(CONTROL_DATA);
  const node = existsSync(NODE_DATA) || !control;
  return { runDir: RUN, node, controlPort: control ? controlPort() : undefined };
}

/** As the administrator's kubeconfig has it. */
function controlPort(): number {
  const path = join(CONTROL_DATA, ADMIN_KUBECONFIG);
  const text = existsSync(path) ? readFileSync(path, "utf8") : "";
  return Number(/^\s*server: .*:(\d+)$/m.exec(text)?.[1] ?? 6443);
}

function count(things: number): string {
  return things === 1 ? "one thing is" : `${things} things are`;
}

export default spec as CommandSpec;
