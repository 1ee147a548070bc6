// Tutorials as tests: a text of commands and what they print, run in one shell from top to bottom and compared line by
// line. Knows the text's form; starts a shell, and nothing of clusters.
//
//   ## A step                      a test of its own
//   $ kubectl get pods             a command; more lines of it begin with "> "
//   NAME   READY   STATUS          its output, standard error too; runs of spaces count as one
//   web-<id>   1/1   <any>         <word>: some text without spaces; <any>: some text or none; <age>: 5s, 2m10s
//   ...                            any lines, or none
//   (exit 1)                       the exit code, when it is not 0
//   $~ command                     the same, repeated for a while until it prints this; so are commands that only look
//                                  (kubectl get, describe, logs …), as a busy machine shows things a little later
//   $! kubectl apply -f x.yaml     run for what it does: its output is not looked at, its exit code is
//   # some text                    for readers
//   <<< x.yaml                     a file of that name, up to the line >>>

import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

const REPEAT_MS = 90_000;
const COMMAND_MS = 100_000;
const LOOKS = /^kubectl (-\S+ )*(get|describe|logs|top|events|rollout history) /;

export interface Step {
  title: string;
  actions: Action[];
}

export type Action =
  | { kind: "file"; name: string; text: string }
  | {
      kind: "command";
      line: number;
      how: "once" | "until" | "quiet";
      command: string;
      expected: string[];
      exitCode: number;
    };

/** @throws Error naming the line that has no place. */
export function parseTutorial(text: string): Step[] {
  const steps: Step[] = [];
  const lines = text.split("\n");
  for (let at = 0; at < lines.length; at++) {
    const line = lines[at] ?? "";
    const step = steps.at(-1);
    const last = step?.actions.at(-1);
    if (line.startsWith("## ")) {
      steps.push({ title: line.slice(3), actions: [] });
    } else if (!step) {
      if (line.trim() !== "" && !line.startsWith("# "))
        throw new Error(`line ${at + 1}: before the first step`);
    } else if (line.startsWith("<<< ")) {
      const end = lines.indexOf(">>>", at);
      if (end < 0) throw new Error(`line ${at + 1}: the file has no end`);
      step.actions.push({
        kind: "file",
        name: line.slice(4),
        text: `${lines.slice(at + 1, end).join("\n")}\n`,
      });
      at = end;
    } else if (/^\$[~!]? /.test(line)) {
      const command = line.slice(line.indexOf(" ") + 1);
      const how = line[1] === "!" ? "quiet" : line[1] === "~" || LOOKS.test(command) ? "until" : "once";
      step.actions.push({ kind: "command", line: at + 1, how, command, expected: [], exitCode: 0 });
    } else if (line.startsWith("# ")) {
      // A word to the reader.
    } else if (last?.kind === "command") {
      const code = /^\(exit (\d+)\)$/.exec(line)?.[1];
      if (line.startsWith("> ") && last.expected.length === 0) last.command += `\n${line.slice(2)}`;
      else if (code !== undefined) last.exitCode = Number(code);
      else last.expected.push(line);
    } else if (line.trim() !== "") throw new Error(`line ${at + 1}: belongs to no command`);
  }
  for (const { actions } of steps)
    for (const action of actions) if (action.kind === "command") action.expected = trimmed(action.expected);
  return steps;
}

const squeezed = (line: string): string => line.replace(/\s+/g, " ").trim();

function trimmed(lines: readonly string[]): string[] {
  const end = lines.findLastIndex((line) => line.trim() !== "") + 1;
  return lines.slice(0, end).map(squeezed);
}

const PLACES: Readonly<Record<string, string>> = { any: ".*", age: "(?:\\d+(?:ms|[dhms]))+|<invalid>" };

function patternOf(line: string): RegExp {
  const parts = line.split(/<([a-z-]+)>/);
  const source = parts.map((part, n) =>
    n % 2 === 0 ? part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&") : `(?:${PLACES[part] ?? "\\S+"})`,
  );
  return new RegExp(`^${source.join("")}$`);
}

/** Whether `printed` is what is expected; else the first expected line that found no match. */
export function compare(expected: readonly string[], printed: readonly string[]): string | undefined {
  const from = (e: number, p: number): string | undefined => {
    if (e === expected.length) return p === printed.length ? undefined : `(nothing more, but: ${printed[p]})`;
    const line = expected[e] ?? "";
    if (line === "...") {
      for (let skip = p; skip <= printed.length; skip++)
        if (from(e + 1, skip) === undefined) return undefined;
      return expected[e + 1] ?? "...";
    }
    if (p < printed.length && patternOf(line).test(printed[p] ?? "")) return from(e + 1, p + 1);
    return line;
  };
  return from(0, 0);
}

/** One bash for a whole tutorial: variables and background jobs live on from step to step. */
export class Shell {
  readonly #bash: ChildProcess;
  readonly #directory: string;
  #buffer = "";
  #wake: () => void = () => {};
  #count = 0;

  constructor(directory: string, env: NodeJS.ProcessEnv) {
    this.#directory = directory;
    // A process group of its own: what a tutorial leaves in the background ends with it.
    this.#bash = spawn("bash", ["--noprofile", "--norc"], { cwd: directory, env, detached: true });
    for (const stream of [this.#bash.stdout, this.#bash.stderr])
      stream?.on("data", (chunk: Buffer) => {
        this.#buffer += chunk.toString();
        this.#wake();
      });
    this.#bash.once("exit", () => this.#wake());
  }

  write(name: string, text: string): void {
    const path = join(this.#directory, name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, text);
  }

  /** Runs one command to its end. @throws Error when the shell ends, or nothing comes for too long. */
  async run(command: string): Promise<{ lines: string[]; exitCode: number }> {
    const mark = `--end-${++this.#count}-`;
    this.#buffer = "";
    this.#bash.stdin?.write(`{ ${command}\n} 2>&1 </dev/null\necho "${mark}$?--"\n`);
    const end = new RegExp(`${mark}(\\d+)--\n`);
    const deadline = Date.now() + COMMAND_MS;
    for (;;) {
      const found = end.exec(this.#buffer);
      if (found) {
        // biome-ignore lint/suspicious/noControlCharactersInRegex: colours are made of one.
        const text = this.#buffer.slice(0, found.index).replace(/\u001b\[[\d;]*m/g, "");
        return { lines: trimmed(text.split("\n")), exitCode: Number(found[1]) };
      }
      const left = deadline - Date.now();
      if (this.#bash.exitCode !== null || left <= 0)
        throw new Error(`${command}: ${left <= 0 ? "took too long" : "the shell ended"}:\n${this.#buffer}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  /** What is wrong with an action's outcome; undefined when it is as the text says. */
  async perform(action: Action): Promise<string | undefined> {
    if (action.kind === "file") {
      this.write(action.name, action.text);
      return undefined;
    }
    const { how, command, expected, exitCode, line } = action;
    for (const deadline = Date.now() + REPEAT_MS; ; ) {
      const ran = await this.run(command).catch((error: Error) => ({ lines: [error.message], exitCode: -1 }));
      const missing = how === "quiet" ? undefined : compare(expected, ran.lines);
      if (missing === undefined && ran.exitCode === exitCode) return undefined;
      if (how === "until" && Date.now() < deadline) {
        await new Promise((resolve) => setTimeout(resolve, 200));
        continue;
      }
      const why =
        missing === undefined ? `exit code ${ran.exitCode}, not ${exitCode}` : `no line: ${missing}`;
      return `line ${line}: ${why}\n$ ${command}\n${ran.lines.join("\n")}`;
    }
  }

  close(): void {
    if (this.#bash.pid !== undefined && this.#bash.exitCode === null)
      process.kill(-this.#bash.pid, "SIGKILL");
  }
}
