// kubeplumb rules: the rules of a host, or of one Service on it, in groups and with a note each.

import type { Chain } from "../../dataplane/iptables/index.js";
import { requireCluster } from "../clusters.js";
import { type CommandSpec, type Context, nameOption, outputOption } from "../command.js";
import type { Group } from "../explain/groups.js";

interface Options {
  name: string;
  namespace: string;
  ipv6?: boolean;
  raw?: boolean;
  output: "notes" | "json";
}

const spec: CommandSpec<Options> = {
  description:
    "Without SERVICE: the entry points, each Service port, what serves all of them, and the rest of the ruleset. " +
    "The number before a rule is its place in the chain, as iptables --line-numbers counts.",
  arguments: [
    { flags: "<host>", description: "whose rules", complete: "hosts" },
    {
      flags: "[service]",
      description: "only of this Service: SERVICE or NAMESPACE/SERVICE",
      complete: "services",
    },
  ],
  options: [
    nameOption,
    { flags: "-n, --namespace <namespace>", description: "of a SERVICE without one", default: "default" },
    { flags: "-6, --ipv6", description: "ip6tables" },
    { flags: "--raw", description: "the lines as iptables-save prints them" },
    outputOption("notes", "json"),
  ],
  examples: [
    ["everything on a host", "kubeplumb rules node-1"],
    ["what is there for one Service", "kubeplumb rules node-1 web"],
    ["the same for a program", "kubeplumb rules node-1 shop/web --raw"],
  ],
  async run(context, [host = "", service], options) {
    const info = await requireCluster(options.name);
    const hosts = info.nodes.map(({ name }) => name);
    if (!hosts.includes(host)) throw new Error(`there is no host ${host}; there are: ${hosts.join(", ")}`);
    const [
      { ClusterView },
      { readRules },
      { findService, portText },
      { chainsFor, groupsOf, rawText, ruleText },
      { parseSave },
    ] = await Promise.all([
      import("../explain/cluster.js"),
      import("../explain/hosts.js"),
      import("../explain/question.js"),
      import("../explain/groups.js"),
      import("../../dataplane/iptables/index.js"),
    ]);
    const family = options.ipv6 ? 6 : 4;
    const key = service === undefined || service.includes("/") ? service : `${options.namespace}/${service}`;
    // All of it takes as long as the API's lists do.
    const [view, all] = await Promise.all([
      ClusterView.read(info),
      key === undefined ? readRules(info, host, family) : undefined,
    ]);
    if (key !== undefined) findService(view, key);
    const names = view.names(family);
    const { text } = all ?? (await readRules(info, host, family, chainsFor(names, key)));
    const groups = groupsOf(parseSave(text), names, key);
    if (options.output === "json") context.print(JSON.stringify(groups.map(groupJson), null, 2));
    else if (options.raw) context.print(rawText(text, groups));
    else show(context, groups, { ruleText, portText });
    if (groups.length === 0)
      context.note(key ? `${host} has no rule for Service ${key}` : `${host} has no rules`);
    return 0;
  },
};

function groupJson({ title, port, parts }: Group): object {
  return {
    title,
    ...(port && { service: port.service, port: port.portName }),
    chains: parts.map(({ chain, note, rules }) => ({
      table: chain.table,
      chain: chain.name,
      ...(chain.policy && { policy: chain.policy }),
      ...(note && { note }),
      rules: rules.map(({ number, note: words, rule }) => ({
        number,
        note: words,
        rule: rule.args.join(" "),
        ...(rule.comment !== undefined && { comment: rule.comment }),
      })),
    })),
  };
}

/** Notes longer than this push their own rule to the right, and nobody else's. */
const NOTE_WIDTH = 80;

interface Texts {
  ruleText(rule: Chain["rules"][number]): string;
  portText(port: NonNullable<Group["port"]>): string;
}

function show({ style, print }: Context, groups: readonly Group[], { ruleText, portText }: Texts): void {
  for (const [index, { title, port, parts }] of groups.entries()) {
    const addresses = port && [port.clusterIP, ...port.externalIPs, ...port.loadBalancerIPs].join(", ");
    const lines = [`${style.bold(title)}${port ? `  ${portText(port)} at ${addresses}` : ""}`];
    const notes = parts.flatMap(({ rules }) => rules.map(({ note }) => note.length));
    const width = Math.min(NOTE_WIDTH, Math.max(0, ...notes));
    for (const { chain, note, rules } of parts) {
      const policy = chain.policy && chain.policy !== "ACCEPT" ? `policy ${chain.policy}` : "";
      const words = [note, policy].filter(Boolean).join(", ");
      lines.push(`  ${style.cyan(`${chain.table} ${chain.name}`)}${words ? `  ${style.dim(words)}` : ""}`);
      for (const { number, note: what, rule } of rules) {
        lines.push(`${String(number).padStart(6)}  ${what.padEnd(width)}  ${style.dim(ruleText(rule))}`);
      }
    }
    print(`${index > 0 ? "\n" : ""}${lines.join("\n")}`);
  }
}

export default spec as CommandSpec;
