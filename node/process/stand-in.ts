// A real process in place of an emulated program, for those who look from inside: first of its PID namespace, named as the
// program would be, passing on the signals that it gets. A bash that waits. Knows processes, no images.

import { existsSync } from "node:fs";
import { createInterface } from "node:readline";
import { type LaunchedProcess, type LaunchOptions, launch } from "./launch.js";
import { quote } from "./script.js";

/** Only bash gives a program another name, waits for orphans, and acts on a signal while it waits. */
const BASH = ["/bin/bash", "/usr/bin/bash"].find((path) => existsSync(path));

/** Those that programs have handlers for; TERM and the rest do nothing to a first process by themselves. */
const SIGNALS = ["HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "WINCH"];

/** What it says first. */
const READY = "ready";

/** Characters of a process's short name: TASK_COMM_LEN. */
const LONGEST_NAME = 15;

/** nginx of "nginx: master process nginx". */
function shortName(title: string): string {
  const [program = ""] = title.split(" ", 1);
  return program
    .slice(program.lastIndexOf("/") + 1)
    .replace(/:$/, "")
    .slice(0, LONGEST_NAME);
}

/**
 * What bash reads from its standard input, which then stays open as long as the program runs. `titles`: of the process and
 * of its children, which are started anew at SIGHUP. Pure.
 */
export function standInScript([title = "", ...children]: readonly string[]): string {
  const workers = children.map((one) => `(exec -a ${quote(one)} cat) <&0 &`);
  return [
    // One command, read to its end before it runs: the children have the same input.
    "{",
    `printf %s ${quote(shortName(title))} > /proc/$$/comm`,
    `workers() { :; ${workers.join(" ")} }`,
    "workers",
    `for name in ${SIGNALS.join(" ")}; do trap "echo SIG$name" $name; done`,
    ...(workers.length > 0 ? ["trap 'kill $(jobs -p); workers; echo SIGHUP' HUP"] : []),
    `echo ${READY}`,
    "while read -r _; do :; done",
    "exit",
    "}",
    "",
  ].join("\n");
}

/**
 * Starts it, and resolves when it is as it is to be seen; `signalled` hears of each signal. Undefined where this machine has
 * no bash.
 * @throws LaunchError as {@link launch}.
 */
export async function standIn(
  options: Omit<LaunchOptions, "argv" | "stdin" | "tty">,
  titles: readonly string[],
  signalled: (name: NodeJS.Signals) => void,
): Promise<LaunchedProcess | undefined> {
  if (BASH === undefined) return undefined;
  const process = launch({
    ...options,
    env: { ...options.env, BASH_ENV: "" },
    argv: [BASH, "-c", 'exec -a "$0" "$BASH"', titles[0] ?? ""],
    stdin: true,
  });
  const ready = new Promise<void>((resolve) => {
    createInterface(process.stdout).on("line", (line) => {
      if (line === READY) resolve();
      else signalled(line as NodeJS.Signals);
    });
  });
  process.stderr?.resume();
  process.stdin?.write(standInScript(titles));
  await process.started;
  await Promise.race([ready, process.exited]);
  return process;
}
