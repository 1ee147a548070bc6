// kube-proxy's command line: each flag is a field of its configuration file, or says something about the run itself.
// Pure data and one function; knows no command-line library.

import { ConfigError } from "../../common/fields.js";
import { checkKubeProxyConfiguration, type KubeProxyConfiguration } from "./configuration.js";

type FlagKind = "string" | "list" | "integer" | "boolean" | "duration";

export interface Flag {
  /** Without the dashes, as kube-proxy has it. */
  readonly name: string;
  /** Where its value goes in the configuration, dotted. */
  readonly path: string;
  readonly kind: FlagKind;
  readonly help: string;
}

const flag = (name: string, path: string, kind: FlagKind, help: string): Flag => ({ name, path, kind, help });

/** Flags that stand for a field; without effect beside a configuration file, as in kube-proxy. */
export const FIELD_FLAGS: readonly Flag[] = [
  flag("bind-address", "bindAddress", "string", "primary address; its family comes first (default 0.0.0.0)"),
  flag("bind-address-hard-fail", "bindAddressHardFail", "boolean", "end when a port cannot be bound"),
  flag("cluster-cidr", "clusterCIDR", "string", "sources inside are pods; dual stack: two, with a comma"),
  flag("conntrack-max-per-core", "conntrack.maxPerCore", "integer", "NAT connections a core (default 32768)"),
  flag("conntrack-min", "conntrack.min", "integer", "the least of them, whatever the cores (default 131072)"),
  flag("conntrack-tcp-be-liberal", "conntrack.tcpBeLiberal", "boolean", "accept TCP outside the window"),
  flag("conntrack-tcp-timeout-close-wait", "conntrack.tcpCloseWaitTimeout", "duration", "default 1h0m0s"),
  flag("conntrack-tcp-timeout-established", "conntrack.tcpEstablishedTimeout", "duration", "default 24h0m0s"),
  flag("conntrack-udp-timeout", "conntrack.udpTimeout", "duration", "0: as the system has it"),
  flag("conntrack-udp-timeout-stream", "conntrack.udpStreamTimeout", "duration", "0: as the system has it"),
  flag(
    "detect-local-mode",
    "detectLocalMode",
    "string",
    "ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix",
  ),
  flag("healthz-bind-address", "healthzBindAddress", "string", 'default 0.0.0.0:10256; "": none'),
  flag(
    "iptables-localhost-nodeports",
    "iptables.localhostNodePorts",
    "boolean",
    "NodePorts on 127.0.0.1 (default true)",
  ),
  flag(
    "iptables-masquerade-bit",
    "iptables.masqueradeBit",
    "integer",
    "bit of the packet mark, 0 to 31 (default 14)",
  ),
  flag(
    "iptables-min-sync-period",
    "iptables.minSyncPeriod",
    "duration",
    "least time between two syncs (default 1s)",
  ),
  flag(
    "iptables-sync-period",
    "iptables.syncPeriod",
    "duration",
    "time between looks at the tables (default 30s)",
  ),
  flag(
    "kubeconfig",
    "clientConnection.kubeconfig",
    "string",
    "how to reach the API server; default: in-cluster",
  ),
  flag(
    "masquerade-all",
    "iptables.masqueradeAll",
    "boolean",
    "masquerade everything that goes to a ClusterIP",
  ),
  flag("metrics-bind-address", "metricsBindAddress", "string", 'default 127.0.0.1:10249; "": none'),
  flag(
    "nodeport-addresses",
    "nodePortAddresses",
    "list",
    'CIDRs of the addresses with NodePorts, or "primary"',
  ),
  flag("oom-score-adj", "oomScoreAdj", "integer", "-1000 to 1000 (default -999)"),
  flag(
    "pod-bridge-interface",
    "detectLocal.bridgeInterface",
    "string",
    "for detect-local-mode BridgeInterface",
  ),
  flag("pod-interface-name-prefix", "detectLocal.interfaceNamePrefix", "string", "for InterfaceNamePrefix"),
  flag("proxy-mode", "mode", "string", "iptables"),
];

/** Flags given: texts as written; a boolean flag without a value is `true`. */
export type FlagValues = Readonly<Record<string, string | true | undefined>>;

/**
 * The configuration that flags without a file stand for.
 * @throws ConfigError naming each wrong flag, its value and what is allowed.
 */
export function configurationFromFlags(values: FlagValues): KubeProxyConfiguration {
  const file: Record<string, unknown> = {};
  for (const { name, path, kind } of FIELD_FLAGS) {
    const given = values[name];
    if (given !== undefined) put(file, path.split("."), typedValue(kind, given));
  }
  try {
    return checkKubeProxyConfiguration(file, "flags", false);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    throw new ConfigError(
      error.source,
      error.problems.map((problem) => ({ ...problem, path: flagOf(problem.path) })),
    );
  }
}

/** Names of flags beside `--config` that it makes ineffective. */
export function overshadowed(values: FlagValues): string[] {
  return FIELD_FLAGS.filter(({ name }) => values[name] !== undefined).map(({ name }) => `--${name}`);
}

/** What is no number or no boolean stays a text, so that the reader says what is expected. */
function typedValue(kind: FlagKind, given: string | true): unknown {
  if (kind === "boolean") {
    if (given === true || given === "true" || given === "1") return true;
    return given === "false" || given === "0" ? false : given;
  }
  const text = String(given);
  if (kind === "list") return text.split(",").filter(Boolean);
  return kind === "integer" && /^-?\d+$/.test(text) ? Number(text) : text;
}

function put(target: Record<string, unknown>, path: readonly string[], value: unknown): void {
  const [head = "", ...rest] = path;
  if (rest.length === 0) {
    target[head] = value;
    return;
  }
  target[head] ??= {};
  put(target[head] as Record<string, unknown>, rest, value);
}

/** nodePortAddresses[1] → --nodeport-addresses */
function flagOf(path: string): string {
  const plain = path.replace(/\[\d+\]$/, "");
  const found = FIELD_FLAGS.find((one) => one.path === plain);
  return found ? `--${found.name}` : path;
}
