// The kubeplumb command: reads the arguments, runs one command, turns what it throws into one line and an exit code
// (0 done, 1 failed, 2 wrong usage, 130 interrupted). Knows commander; knows no cluster.

import { Argument, Command, CommanderError, Option } from "commander";
import { type CommandEntry, type CommandSpec, type Context, UsageError } from "./command.js";
import { commands } from "./commands/index.js";
import { formatLogLine } from "./log-format.js";
import { Steps } from "./steps.js";
import { hasColor, isInteractive, processStreams, type Streams } from "./streams.js";
import { createStyle } from "./style.js";

const DESCRIPTION =
  "A Kubernetes network data plane on this machine: hosts, pods and Services that really route.";

interface GlobalOptions {
  quiet?: boolean;
  verbose?: boolean;
}

/**
 * Runs a command line (without node and script). Never throws and never ends the process: resolves with the
 * exit code.
 */
export async function run(
  line: readonly string[],
  streams: Streams = processStreams(),
  signal: AbortSignal = new AbortController().signal,
): Promise<number> {
  const argv = line[0] === "--version" ? ["version", ...line.slice(1)] : line;
  const name = commandName(argv);
  const verbose = argv.slice(0, dashes(argv)).some((word) => /^(-q?v|--verbose)$/.test(word));
  let program: Command | undefined;
  let hint: string | undefined;
  try {
    const entry = commands.find((one) => one.name === name);
    const spec = entry ? (await entry.load()).default : undefined;
    // Help about what there is not: commander would show its own, without a word.
    const asked = entry ? argv : argv.filter((word) => word !== "help" || name === undefined);
    const words = spec?.takesCommand ? argv.slice(0, dashes(argv)) : asked;
    const rest = spec?.takesCommand && dashes(argv) < argv.length ? argv.slice(dashes(argv) + 1) : undefined;
    if (spec?.takesCommand && rest === undefined) hint = "The command to be run follows after --";
    let exitCode = 0;
    program = createProgram(streams);
    for (const one of commands) {
      const command = program.command(one.name, { hidden: one.hidden ?? false }).summary(one.summary);
      if (one !== entry || !spec) continue;
      describe(command, one, spec);
      command.action(async (...received: unknown[]) => {
        const args = received.slice(0, spec.arguments?.length ?? 0) as (string | undefined)[];
        const context = createContext(streams, signal, program?.opts() ?? {}, rest);
        exitCode = await spec.run(context, args, command.opts());
      });
    }
    if (words.length === 0) {
      program.outputHelp();
      return 0;
    }
    await program.parseAsync([...words], { from: "user" });
    return exitCode;
  } catch (error) {
    return report(error, { streams, signal, verbose, name, hint });
  }
}

/** The first word that is no flag: the command, or what `help` is asked about. */
function commandName(argv: readonly string[]): string | undefined {
  const words = argv.filter((word) => !word.startsWith("-"));
  return words[0] === "help" ? words[1] : words[0];
}

/** Where `--` stands, or the end. */
function dashes(argv: readonly string[]): number {
  const index = argv.indexOf("--");
  return index < 0 ? argv.length : index;
}

function createProgram(streams: Streams): Command {
  const program = new Command("kubeplumb")
    .description(DESCRIPTION)
    .option("-q, --quiet", "only results and errors")
    .option("-v, --verbose", "errors with all their details")
    .option("--version", "print the version")
    .exitOverride()
    .configureOutput({
      writeOut: (text) => streams.stdout.write(text),
      writeErr: (text) => streams.stderr.write(text),
      getOutHelpWidth: () => streams.stdout.columns ?? 100,
      getErrHelpWidth: () => streams.stderr.columns ?? 100,
      getOutHasColors: () => hasColor(streams.stdout, streams.env),
      getErrHasColors: () => hasColor(streams.stderr, streams.env),
    })
    .configureHelp({ showGlobalOptions: true })
    .helpCommand("help [command]", "show the help of a command")
    .addHelpText("after", "\nStart with: kubeplumb up\nOr see it all: kubeplumb demo");
  return program;
}

function describe(command: Command, entry: CommandEntry, spec: CommandSpec): void {
  const summary = entry.summary.charAt(0).toUpperCase() + entry.summary.slice(1);
  command.description(spec.description ? `${summary}.\n${spec.description}` : `${summary}.`);
  for (const argument of spec.arguments ?? []) {
    const one = new Argument(argument.flags, argument.description);
    if (argument.choices) one.choices(argument.choices);
    command.addArgument(one);
  }
  for (const option of spec.options ?? []) {
    const one = new Option(option.flags, option.description);
    if (option.choices) one.choices(option.choices);
    if (option.default !== undefined) one.default(option.default);
    const { parse } = option;
    if (parse)
      one.argParser((value, previous: unknown) => parsed(option.flags, () => parse(value, previous)));
    command.addOption(one);
  }
  if (spec.takesCommand) {
    command.usage(
      `[options]${(spec.arguments ?? []).map(({ flags }) => ` ${flags}`).join("")} -- COMMAND [ARGS...]`,
    );
  }
  const lines = spec.examples.map(([what, line]) => `  # ${what}\n  ${line}`);
  command.addHelpText("after", `\nExamples:\n${lines.join("\n")}`);
}

function parsed<T>(flags: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    throw new UsageError(`option '${flags}': ${error instanceof Error ? error.message : String(error)}`);
  }
}

function createContext(
  streams: Streams,
  signal: AbortSignal,
  { quiet = false, verbose = false }: GlobalOptions,
  rest: readonly string[] | undefined,
): Context {
  const { stdout, stderr, env } = streams;
  const noteStyle = createStyle(hasColor(stderr, env));
  return {
    streams,
    signal,
    quiet,
    verbose,
    rest,
    style: createStyle(hasColor(stdout, env)),
    noteStyle,
    print: (text) => void stdout.write(text.endsWith("\n") ? text : `${text}\n`),
    note: (text) => {
      if (!quiet) stderr.write(text.endsWith("\n") ? text : `${text}\n`);
    },
    steps: () => new Steps(stderr, { style: noteStyle, interactive: isInteractive(stderr, env), quiet }),
  };
}

interface Circumstances {
  streams: Streams;
  signal: AbortSignal;
  verbose: boolean;
  name: string | undefined;
  /** What a wrong command line may come from. */
  hint: string | undefined;
}

/** Says what went wrong, on stderr; returns the exit code. */
function report(error: unknown, { streams, signal, verbose, name, hint }: Circumstances): number {
  const { stderr } = streams;
  if (error instanceof CommanderError) {
    if (error.exitCode === 0) return 0;
    if (hint) stderr.write(`${hint}.\n`);
    stderr.write(`See 'kubeplumb ${commands.some((one) => one.name === name) ? `${name} ` : ""}--help'.\n`);
    return 2;
  }
  if (signal.aborted) return 130;
  // Whoever read our output has gone (kubeplumb logs | head): what a shell reports for SIGPIPE.
  if (error instanceof Error && "code" in error && error.code === "EPIPE") return 141;
  const style = createStyle(hasColor(stderr, streams.env));
  const message = error instanceof Error ? error.message : String(error);
  // A process that did not start is told with the end of its log, whose lines are JSON.
  const lines = message.split("\n").map((line) => formatLogLine(line, style));
  stderr.write(`${style.red("error:")} ${lines.join("\n")}\n`);
  if (error instanceof UsageError) {
    stderr.write(`See 'kubeplumb ${name} --help'.\n`);
    return 2;
  }
  if (verbose && error instanceof Error) stderr.write(details(error));
  return 1;
}

/** Where it was thrown, and the same of its causes; a message that stands there already is not said again. */
function details(error: Error): string {
  const lines: string[] = [];
  let said = error.message;
  for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) {
    if (!said.includes(cause.message)) lines.push(`caused by ${cause.name}: ${cause.message}`);
    said += cause.message;
    const frames = cause.stack?.indexOf("\n    at ") ?? -1;
    if (cause.stack && frames >= 0) lines.push(cause.stack.slice(frames + 1));
  }
  return `${lines.join("\n")}\n`;
}

type EndSignal = "SIGINT" | "SIGTERM" | "SIGHUP";

/** What bin/kubeplumb.mjs starts: runs the process's own command line, then ends the process. */
export async function main(): Promise<void> {
  const interrupt = new AbortController();
  let asked: EndSignal | undefined;
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(name, () => {
      // The second time nobody wants to wait for an orderly end.
      if (asked) process.exit(exitCodeOf(name));
      asked = name;
      interrupt.abort(new Error(`interrupted by ${name}`));
    });
  }
  for (const output of [process.stdout, process.stderr]) {
    output.on("error", (error: NodeJS.ErrnoException) => process.exit(error.code === "EPIPE" ? 141 : 1));
  }
  const code = await run(process.argv.slice(2), processStreams(), interrupt.signal);
  process.exit(code === 130 && asked ? exitCodeOf(asked) : code);
}

/** As a shell reports an end by signal: 128 and its number (signal(7)). */
function exitCodeOf(signal: EndSignal): number {
  return 128 + { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 }[signal];
}
