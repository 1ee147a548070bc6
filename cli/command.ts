// What a command is: data (its words, its options, its help) and one function. Knows commander's notation for
// arguments and options, nothing of any command.

import type { Steps } from "./steps.js";
import type { Streams } from "./streams.js";
import type { Style } from "./style.js";

/** What a value can be completed to in a shell. */
export type Completion =
  | "clusters"
  | "hosts"
  | "targets"
  | "services"
  | "places"
  | "files"
  | readonly string[];

export interface ArgumentSpec {
  /** `<host>`, `[part]`, `<words...>` */
  flags: string;
  description: string;
  choices?: readonly string[];
  complete?: Completion;
}

export interface OptionSpec {
  /** `-o, --output <format>` */
  flags: string;
  description: string;
  choices?: readonly string[];
  default?: string | number;
  /** Turns the text into the value. @throws Error saying what is allowed; repeated options give `previous`. */
  parse?(value: string, previous: unknown): unknown;
  complete?: Completion;
}

/** What every command gets. */
export interface Context {
  readonly streams: Streams;
  /** Aborts at Ctrl-C and SIGTERM. */
  readonly signal: AbortSignal;
  readonly quiet: boolean;
  readonly verbose: boolean;
  /** For stdout. */
  readonly style: Style;
  /** For stderr. */
  readonly noteStyle: Style;
  /** The words after `--`, of a command that takes another; undefined when there was no `--`. */
  readonly rest: readonly string[] | undefined;
  /** A result, to stdout. */
  print(text: string): void;
  /** Something for people, to stderr unless --quiet. */
  note(text: string): void;
  /** A step list on stderr. */
  steps(): Steps;
}

export interface CommandSpec<O extends object = object> {
  /** Below the usage line; the summary stands in the table of commands. */
  description?: string;
  arguments?: readonly ArgumentSpec[];
  options?: readonly OptionSpec[];
  /** Each a comment and a command line. */
  examples: readonly (readonly [what: string, line: string])[];
  /** `-- COMMAND …` follows the arguments: shown in the usage, given as {@link Context.rest}. */
  takesCommand?: boolean;
  /** Resolves with the exit code. `args` are as declared; a missing optional one is undefined. */
  run(context: Context, args: readonly (string | undefined)[], options: O): Promise<number>;
}

/** A line of the table of commands. */
export interface CommandEntry {
  name: string;
  summary: string;
  hidden?: boolean;
  load(): Promise<{ default: CommandSpec }>;
}

/** The request itself is wrong: exit code 2 and a hint at --help. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

export const DEFAULT_NAME = "kubeplumb";

/** The words that name a cluster to our own commands: none for the default one. */
export function nameWords(name: string): string[] {
  return name === DEFAULT_NAME ? [] : ["--name", name];
}

/** `--name` of the commands that act on a cluster. */
export const nameOption: OptionSpec = {
  flags: "--name <name>",
  description: "the cluster",
  default: DEFAULT_NAME,
  complete: "clusters",
};

export function outputOption(...formats: string[]): OptionSpec {
  return {
    flags: "-o, --output <format>",
    description: "how the result is written",
    choices: formats,
    default: formats[0],
  };
}

/** @throws Error when `text` is no whole number in the range. */
export function integer(text: string, what: string, min: number, max: number): number {
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= min && value <= max) return value;
  throw new Error(`${what} ${JSON.stringify(text)}: a whole number from ${min} to ${max} is expected`);
}
