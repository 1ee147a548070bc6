// What a command line can go on with. Knows the table of commands; asks `Providers` for names of the moment.

import { Option } from "commander";
import type { CommandEntry, CommandSpec, Completion, OptionSpec } from "../command.js";

export interface Candidate {
  value: string;
  description?: string;
}

/** What depends on the clusters there are. An answer that cannot be had is an empty list. */
export interface Providers {
  clusters(): Promise<string[]>;
  hosts(cluster: string): Promise<string[]>;
  /** Hosts and NAMESPACE/POD. */
  targets(cluster: string): Promise<string[]>;
  /** NAMESPACE/POD. */
  pods(cluster: string): Promise<string[]>;
  /** NAMESPACE/SERVICE of those that rules are made for. */
  services(cluster: string): Promise<string[]>;
}

export interface Candidates {
  candidates: Candidate[];
  /** The shell should offer file names. */
  files: boolean;
}

const GLOBAL_OPTIONS = [
  { flags: "-q, --quiet", description: "only results and errors" },
  { flags: "-v, --verbose", description: "errors with all their details" },
  { flags: "-h, --help", description: "display help for command" },
];
/** Stands before a command only. */
const VERSION_OPTION = { flags: "--version", description: "print the version" };
const NOTHING: Candidates = { candidates: [], files: false };

interface KnownOption {
  long: string | undefined;
  short: string | undefined;
  description: string;
  takesValue: boolean;
  choices: readonly string[] | undefined;
  complete: Completion | undefined;
}

/** @param words after `kubeplumb`, the last being the one under the cursor, possibly empty. */
export async function complete(
  words: readonly string[],
  commands: readonly CommandEntry[],
  providers: Providers,
  defaultCluster: string,
): Promise<Candidates> {
  const current = words.at(-1) ?? "";
  // bash breaks words at "=": --name = blue
  const before = words.slice(0, -1).filter((word) => word !== "=");
  const visible = commands.filter((entry) => !entry.hidden);
  const start = before.findIndex((word) => !word.startsWith("-"));
  const name = before[start];
  if (name === undefined || (name === "help" && before.length === start + 1)) {
    if (current.startsWith("-")) return only(current, optionCandidates(known([VERSION_OPTION]), before));
    return only(current, [
      ...visible.map((entry) => ({ value: entry.name, description: entry.summary })),
      ...(name === "help" ? [] : [{ value: "help", description: "show the help of a command" }]),
    ]);
  }
  const entry = visible.find((one) => one.name === name);
  if (!entry) return NOTHING;
  const spec = (await entry.load()).default;
  return await completeCommand(spec, before.slice(start + 1), current, providers, defaultCluster);
}

async function completeCommand(
  spec: CommandSpec,
  before: readonly string[],
  current: string,
  providers: Providers,
  defaultCluster: string,
): Promise<Candidates> {
  // The command that follows "--" is somebody else's.
  if (before.includes("--")) return { candidates: [], files: spec.takesCommand === true };
  const options = known(spec.options ?? []);
  const { positionals, pending, given } = read(before, options);
  const cluster = given.get("--name") ?? defaultCluster;
  const context = { providers, cluster, namespace: given.get("--namespace") ?? "default", typed: current };
  if (pending)
    return only(current, await values(pending.choices ?? pending.complete, context), pending.complete);
  const inline = /^(--[^=]+)=(.*)$/.exec(current);
  if (inline) {
    const option = options.find((one) => one.long === inline[1]);
    const inside = { ...context, typed: inline[2] ?? "" };
    const found = option ? await values(option.choices ?? option.complete, inside) : [];
    const whole = found.map(({ value }) => ({ value: `${inline[1]}=${value}` }));
    return only(current, whole, option?.complete);
  }
  if (current.startsWith("-")) return only(current, optionCandidates(options, before));
  const argument = spec.arguments?.[positionals];
  const found = argument
    ? await values(argument.complete ?? argument.choices, context)
    : spec.takesCommand && positionals === (spec.arguments?.length ?? 0)
      ? [{ value: "--", description: "the command follows" }]
      : [];
  return only(current, found, argument?.complete);
}

function known(specs: readonly OptionSpec[]): KnownOption[] {
  return [...specs, ...GLOBAL_OPTIONS].map((option: OptionSpec) => {
    const { long, short, required, optional } = new Option(option.flags);
    return {
      long,
      short,
      description: option.description,
      takesValue: required || optional,
      choices: option.choices,
      complete: option.complete,
    };
  });
}

/** How many arguments stand before the cursor, the option whose value is being written, and the values of others. */
function read(before: readonly string[], options: readonly KnownOption[]) {
  const given = new Map<string | undefined, string>();
  let positionals = 0;
  let pending: KnownOption | undefined;
  for (const word of before) {
    if (pending) {
      given.set(pending.long, word);
      pending = undefined;
      continue;
    }
    if (!word.startsWith("-")) {
      positionals += 1;
      continue;
    }
    const [flag = "", value] = word.split("=", 2);
    const option = options.find((one) => one.long === flag || one.short === flag);
    if (option && value) given.set(option.long, value);
    if (option?.takesValue && value === undefined) pending = option;
  }
  return { positionals, pending, given };
}

function optionCandidates(options: readonly KnownOption[], before: readonly string[]): Candidate[] {
  const repeatable = new Set(["--publish"]);
  return options
    .filter(({ long, short }) => {
      const used = (long && before.includes(long)) || (short && before.includes(short));
      return !used || (long !== undefined && repeatable.has(long));
    })
    .map(({ long, short, description }) => ({ value: long ?? short ?? "", description }));
}

interface Circumstances {
  providers: Providers;
  cluster: string;
  /** Of names without one. */
  namespace: string;
  /** The beginning of the value. */
  typed: string;
}

async function values(what: Completion | undefined, context: Circumstances): Promise<Candidate[]> {
  if (what === undefined || what === "files") return [];
  const found = typeof what === "string" ? await namesOf(what, context) : what;
  return found.map((value) => ({ value }));
}

async function namesOf(
  what: "clusters" | "hosts" | "targets" | "services" | "places",
  { providers, cluster, namespace, typed }: Circumstances,
): Promise<string[]> {
  if (what === "clusters") return providers.clusters();
  if (what === "services") return shortened(await providers.services(cluster), namespace, typed !== "");
  if (what !== "places") return providers[what](cluster);
  const [hosts, pods] = await Promise.all([providers.hosts(cluster), providers.pods(cluster)]);
  return [
    ...hosts.map((host) => `node/${host}`),
    ...shortened(pods, namespace, typed.startsWith("pod/")).map((pod) => `pod/${pod}`),
    "external",
  ];
}

/** Names without their namespace where it is the usual one; `both`: with it too. */
function shortened(names: readonly string[], namespace: string, both: boolean): string[] {
  const isOwn = (name: string) => name.startsWith(`${namespace}/`);
  const own = names.filter(isOwn);
  const short = own.map((name) => name.slice(namespace.length + 1));
  return [...short, ...(both ? names : names.filter((name) => !isOwn(name)))];
}

function only(current: string, candidates: readonly Candidate[], complete?: Completion): Candidates {
  return {
    candidates: candidates.filter(({ value }) => value.startsWith(current)),
    files: complete === "files",
  };
}
