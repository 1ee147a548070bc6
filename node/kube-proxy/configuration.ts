// kube-proxy's configuration (kubeproxy.config.k8s.io/v1alpha1): reads it strictly, fills in kube-proxy's defaults.
// Pure; knows nothing of what is done with it.

import { isIP, isIPv4 } from "node:net";
import { parseDuration } from "../../common/duration.js";
import { type Field, readValue, readYaml } from "../../common/fields.js";
import { Cidr } from "../../common/ip.js";

export const DETECT_LOCAL_MODES = [
  "ClusterCIDR",
  "NodeCIDR",
  "BridgeInterface",
  "InterfaceNamePrefix",
] as const;

export type DetectLocalMode = (typeof DETECT_LOCAL_MODES)[number];

/** Address and port of a server; undefined: it is switched off. */
export interface BindAddress {
  host: string;
  port: number;
}

/** Everything resolved; times in milliseconds. */
export interface KubeProxyConfiguration {
  kubeconfig: string;
  hostnameOverride: string;
  /** Of the servers that say nothing else; its family is the first one. */
  bindAddress: string;
  bindAddressHardFail: boolean;
  healthzBindAddress: BindAddress | undefined;
  metricsBindAddress: BindAddress | undefined;
  iptables: {
    masqueradeBit: number;
    masqueradeAll: boolean;
    localhostNodePorts: boolean;
    syncPeriodMs: number;
    minSyncPeriodMs: number;
  };
  detectLocalMode: DetectLocalMode;
  detectLocal: { bridgeInterface: string; interfaceNamePrefix: string };
  /** At most one a family. */
  clusterCIDRs: string[];
  /** CIDRs, or only "primary". */
  nodePortAddresses: string[];
  oomScoreAdj: number;
  conntrack: {
    maxPerCore: number;
    min: number;
    tcpEstablishedTimeoutMs: number;
    tcpCloseWaitTimeoutMs: number;
    tcpBeLiberal: boolean;
    udpTimeoutMs: number;
    udpStreamTimeoutMs: number;
  };
  /** Fields that say something and have no effect: of other modes, or of what only a Go program has. */
  ignored: string[];
}

/**
 * Accepted, because files in the field have them, and without effect: the other modes' (in kube-proxy too), and those
 * that tune client-go, klog and pprof.
 */
const IGNORED = [
  "featureGates",
  "logging",
  "enableProfiling",
  "showHiddenMetricsForVersion",
  "configSyncPeriod",
  "ipvs",
  "nftables",
  "winkernel",
  "windowsRunAsService",
  "portRange",
] as const;
const IGNORED_OF_CONNECTION = ["acceptContentTypes", "contentType", "qps", "burst"] as const;

/** Reads a configuration file. Throws ConfigError with everything that is wrong, each with its line. */
export function parseKubeProxyConfiguration(text: string, source: string): KubeProxyConfiguration {
  return readConfiguration(readYaml(text, source), true);
}

/**
 * The same for an object of the file's shape. Throws ConfigError.
 * @param emptyIsUnset in a file "" and "0s" mean the default (kube-proxy's v1alpha1 defaulting), as flags they mean
 *   what they say: no server, no pause.
 */
export function checkKubeProxyConfiguration(
  value: unknown,
  source: string,
  emptyIsUnset = true,
): KubeProxyConfiguration {
  return readConfiguration(readValue(value, source), emptyIsUnset);
}

function readConfiguration(root: Field, emptyIsUnset: boolean): KubeProxyConfiguration {
  const f = root.object([
    "apiVersion",
    "kind",
    "clientConnection",
    "hostnameOverride",
    "bindAddress",
    "bindAddressHardFail",
    "healthzBindAddress",
    "metricsBindAddress",
    "mode",
    "iptables",
    "detectLocalMode",
    "detectLocal",
    "clusterCIDR",
    "nodePortAddresses",
    "oomScoreAdj",
    "conntrack",
    ...IGNORED,
  ]);
  f.apiVersion.oneOf(["kubeproxy.config.k8s.io/v1alpha1"]);
  f.kind.oneOf(["KubeProxyConfiguration"]);
  // "" is what the file that kubeadm writes has.
  if (f.mode.string()) f.mode.oneOf(["iptables"]);
  const connection = f.clientConnection.object(["kubeconfig", ...IGNORED_OF_CONNECTION]);
  const local = f.detectLocal.object(["bridgeInterface", "interfaceNamePrefix"]);
  const bindAddress = f.bindAddress.string((text) => addressProblem(text)) || "0.0.0.0";
  const out: KubeProxyConfiguration = {
    kubeconfig: connection.kubeconfig.string() ?? "",
    hostnameOverride: f.hostnameOverride.string() ?? "",
    bindAddress,
    bindAddressHardFail: f.bindAddressHardFail.boolean() ?? false,
    healthzBindAddress: readBindAddress(f.healthzBindAddress, wildcard(bindAddress), 10256, emptyIsUnset),
    metricsBindAddress: readBindAddress(f.metricsBindAddress, loopback(bindAddress), 10249, emptyIsUnset),
    iptables: readIptables(f.iptables, emptyIsUnset),
    detectLocalMode:
      (f.detectLocalMode.string() && f.detectLocalMode.oneOf(DETECT_LOCAL_MODES)) || "ClusterCIDR",
    detectLocal: {
      bridgeInterface: local.bridgeInterface.string(interfaceProblem) ?? "",
      interfaceNamePrefix: local.interfaceNamePrefix.string(interfaceProblem) ?? "",
    },
    clusterCIDRs: readClusterCIDR(f.clusterCIDR),
    nodePortAddresses: readNodePortAddresses(f.nodePortAddresses),
    oomScoreAdj: f.oomScoreAdj.integer(-1000, 1000) ?? -999,
    conntrack: readConntrack(f.conntrack),
    ignored: [...IGNORED.map((name) => f[name]), ...IGNORED_OF_CONNECTION.map((name) => connection[name])]
      .filter(({ value }) => saysSomething(value))
      .map(({ path }) => path),
  };
  needDetector(out, local, f.detectLocalMode);
  root.problems.throwIfAny();
  return out;
}

function readIptables(field: Field, emptyIsUnset: boolean): KubeProxyConfiguration["iptables"] {
  const f = field.object([
    "masqueradeBit",
    "masqueradeAll",
    "localhostNodePorts",
    "syncPeriod",
    "minSyncPeriod",
  ]);
  const syncPeriodMs = duration(f.syncPeriod, 30_000, 0) || 30_000;
  const minSyncPeriodMs = duration(f.minSyncPeriod, 1000, 0) || (emptyIsUnset ? 1000 : 0);
  if (minSyncPeriodMs > syncPeriodMs) f.minSyncPeriod.wrong("must not be longer than syncPeriod");
  return {
    masqueradeBit: f.masqueradeBit.integer(0, 31) ?? 14,
    masqueradeAll: f.masqueradeAll.boolean() ?? false,
    localhostNodePorts: f.localhostNodePorts.boolean() ?? true,
    syncPeriodMs,
    minSyncPeriodMs,
  };
}

function readConntrack(field: Field): KubeProxyConfiguration["conntrack"] {
  const f = field.object([
    "maxPerCore",
    "min",
    "tcpEstablishedTimeout",
    "tcpCloseWaitTimeout",
    "tcpBeLiberal",
    "udpTimeout",
    "udpStreamTimeout",
  ]);
  return {
    maxPerCore: f.maxPerCore.integer(0, 0x7fffffff) ?? 32_768,
    min: f.min.integer(0, 0x7fffffff) ?? 131_072,
    tcpEstablishedTimeoutMs: duration(f.tcpEstablishedTimeout, 86_400_000, 0),
    tcpCloseWaitTimeoutMs: duration(f.tcpCloseWaitTimeout, 3_600_000, 0),
    tcpBeLiberal: f.tcpBeLiberal.boolean() ?? false,
    udpTimeoutMs: duration(f.udpTimeout, 0, 0),
    udpStreamTimeoutMs: duration(f.udpStreamTimeout, 0, 0),
  };
}

/** Whether anything in it differs from Go's zero values, with which tools fill files. */
function saysSomething(value: unknown): boolean {
  if (typeof value === "object" && value !== null) return Object.values(value).some(saysSomething);
  return ![undefined, null, false, 0, "", "0", "0s"].some((zero) => zero === value);
}

/** Milliseconds. */
function duration(field: Field, otherwise: number, least: number): number {
  const text = field.string((value) => {
    const ms = parseDuration(value);
    if (ms === undefined) return 'a duration like "30s" or "1h0m0s" is expected';
    return ms >= least ? undefined : `must be ${least === 0 ? "0s or longer" : "longer than 0s"}`;
  });
  return text === undefined ? otherwise : (parseDuration(text) ?? otherwise);
}

function addressProblem(text: string): string | undefined {
  return text === "" || isIP(text) ? undefined : "an IP address is expected";
}

function interfaceProblem(text: string): string | undefined {
  return text.length <= 15 && !/[\s/:]/.test(text) ? undefined : "a name of up to 15 characters is expected";
}

function wildcard(bindAddress: string): string {
  return isIPv4(bindAddress) ? "0.0.0.0" : "::";
}

function loopback(bindAddress: string): string {
  return isIPv4(bindAddress) ? "127.0.0.1" : "::1";
}

/** `IP:port`, or an IP alone for the default port. */
function readBindAddress(
  field: Field,
  host: string,
  port: number,
  emptyIsUnset: boolean,
): BindAddress | undefined {
  const text = field.string((value) =>
    value === "" || splitBindAddress(value, port)
      ? undefined
      : 'IP or IP:port is expected, "[::1]:10249" for IPv6',
  );
  if (text === undefined || (text === "" && emptyIsUnset)) return { host, port };
  return splitBindAddress(text, port);
}

export function splitBindAddress(text: string, defaultPort: number): BindAddress | undefined {
  if (isIP(text)) return { host: text, port: defaultPort };
  const match = /^(?:\[([^\]]+)\]|([^:]*)):(\d{1,5})$/.exec(text);
  if (!match) return undefined;
  const [, six, four, digits] = match;
  const host = six ?? four ?? "";
  const port = Number(digits);
  return isIP(host) && (six === undefined) === isIPv4(host) && port <= 65_535 ? { host, port } : undefined;
}

function readClusterCIDR(field: Field): string[] {
  const text = field.string((value) => {
    const cidrs = value.split(",").filter(Boolean);
    if (!cidrs.every((one) => familyOf(one)))
      return "a CIDR, or one a family separated by a comma, is expected";
    return new Set(cidrs.map(familyOf)).size === cidrs.length
      ? undefined
      : "at most one CIDR a family is allowed";
  });
  return text ? text.split(",").filter(Boolean) : [];
}

function readNodePortAddresses(field: Field): string[] {
  const list = field.strings() ?? [];
  for (const [index, text] of list.entries()) {
    if (text === "primary" && list.length > 1)
      field.list()[index]?.wrong('"primary" cannot be combined with CIDRs');
    else if (text !== "primary" && !familyOf(text))
      field.list()[index]?.wrong('a CIDR or "primary" is expected');
  }
  return list;
}

function familyOf(cidr: string): 4 | 6 | undefined {
  try {
    return Cidr.parse(cidr).family;
  } catch {
    return undefined;
  }
}

/** A mode that cannot tell local traffic would masquerade everything or nothing without a word. */
function needDetector(
  { detectLocalMode, detectLocal }: KubeProxyConfiguration,
  fields: Record<"bridgeInterface" | "interfaceNamePrefix", Field>,
  mode: Field,
): void {
  const { bridgeInterface, interfaceNamePrefix } = fields;
  if (mode.problems.problems.length > 0) return;
  if (detectLocalMode === "BridgeInterface" && !detectLocal.bridgeInterface)
    bridgeInterface.wrong("is required in detectLocalMode BridgeInterface");
  if (detectLocalMode === "InterfaceNamePrefix" && !detectLocal.interfaceNamePrefix)
    interfaceNamePrefix.wrong("is required in detectLocalMode InterfaceNamePrefix");
}
