// kubeplumb proxy: kube-proxy for this host, beside any Kubernetes API server, with kube-proxy's flags.

import { readFileSync, writeFileSync } from "node:fs";
import { stringify } from "yaml";
import { ConfigError } from "../../common/fields.js";
import { createLogger } from "../../common/log.js";
import {
  type KubeProxyConfiguration,
  parseKubeProxyConfiguration,
} from "../../node/kube-proxy/configuration.js";
import { configurationFile } from "../../node/kube-proxy/configuration-file.js";
import {
  configurationFromFlags,
  FIELD_FLAGS,
  type Flag,
  type FlagValues,
  overshadowed,
} from "../../node/kube-proxy/flags.js";
import { cleanUp, runKubeProxy } from "../../node/kube-proxy/standalone.js";
import { type CommandSpec, type Context, integer, type OptionSpec, UsageError } from "../command.js";

interface Options {
  [flag: string]: unknown;
  config?: string;
  hostnameOverride?: string;
  master?: string;
  cleanup?: boolean;
  writeConfigTo?: string;
  v?: number;
}

const PLACEHOLDER: Record<Flag["kind"], string> = {
  string: " <text>",
  list: " <list>",
  integer: " <number>",
  boolean: " [bool]",
  duration: " <duration>",
};

const fieldOptions: OptionSpec[] = FIELD_FLAGS.map(({ name, kind, help }) => ({
  flags: `--${name}${PLACEHOLDER[kind]}`,
  description: help,
  ...(name === "kubeconfig" ? { complete: "files" as const } : {}),
}));

const spec: CommandSpec<Options> = {
  description:
    "Programs this host's iptables from the Services and EndpointSlices of a cluster until it is stopped;\nthe rules stay then. Needs root; in a network namespace of its own it leaves the machine alone.",
  options: [
    {
      flags: "--config <file>",
      description: "a KubeProxyConfiguration; then flags that stand for its fields have no effect",
      complete: "files",
    },
    { flags: "--hostname-override <name>", description: "name of this host's Node; default: the hostname" },
    { flags: "--master <url>", description: "address of the API server, instead of the kubeconfig's" },
    { flags: "--cleanup", description: "remove all rules of a kube-proxy from this host, and end" },
    { flags: "--write-config-to <file>", description: "write the configuration that holds, and end" },
    {
      flags: "--v <level>",
      description: "verbosity of the log: from 4 on with debug messages",
      parse: (value) => integer(value, "level", 0, 10),
    },
    ...fieldOptions,
  ],
  examples: [
    [
      "beside a cluster of your own",
      "kubeplumb proxy --kubeconfig /etc/kubernetes/proxy.conf --cluster-cidr 10.244.0.0/16",
    ],
    ["with the file of a kube-proxy", "kubeplumb proxy --config /var/lib/kube-proxy/config.conf"],
    ["take its rules away", "kubeplumb proxy --cleanup"],
  ],
  async run(context, _args, options) {
    const level = (options.v ?? 0) >= 4 ? "debug" : undefined;
    const log = createLogger("kube-proxy", level ? { level } : {});
    if (options.cleanup) {
      await cleanUp(log);
      return 0;
    }
    const configuration = configurationOf(context, options);
    if (options.writeConfigTo) {
      writeFileSync(options.writeConfigTo, stringify(configurationFile(configuration)));
      return 0;
    }
    await runKubeProxy({ configuration, master: options.master, signal: context.signal, log });
    return 0;
  },
};

/** Flags by kube-proxy's names; commander has them in camel case. */
function flagValues(options: Options): FlagValues {
  const camel = (name: string) => name.replace(/-(.)/g, (_, letter: string) => letter.toUpperCase());
  return Object.fromEntries(
    FIELD_FLAGS.map(({ name }) => [name, options[camel(name)] as string | true | undefined]),
  );
}

function configurationOf(context: Context, options: Options): KubeProxyConfiguration {
  const values = flagValues(options);
  try {
    const configuration = options.config
      ? parseKubeProxyConfiguration(readFileSync(options.config, "utf8"), options.config)
      : configurationFromFlags(values);
    const ineffective = options.config ? overshadowed(values) : [];
    if (ineffective.length > 0) context.note(`without effect beside --config: ${ineffective.join(", ")}`);
    // The one flag that a file does not overshadow: one file serves all nodes.
    return { ...configuration, hostnameOverride: options.hostnameOverride ?? configuration.hostnameOverride };
  } catch (error) {
    if (error instanceof ConfigError) throw new UsageError(error.message);
    throw error;
  }
}

export default spec;
