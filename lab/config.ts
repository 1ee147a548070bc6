// The cluster configuration: reads it strictly, fills in every default, and says what is wrong with it.
// Pure; knows nothing of files or processes.

import { type Field, readValue, readYaml } from "../common/fields.js";
import type { Taint } from "../common/k8s.js";
import { knownImages, resolveImage } from "../node/images/index.js";
import {
  addressRangesProblem,
  dnsLabelProblem,
  domainProblem,
  labelKeyProblem,
  labelValueProblem,
  loopbackProblem,
  portRangeProblem,
  subnetProblem,
} from "./formats.js";
import {
  NODE_CIDR_MASK_SIZE,
  networkProblems,
  poolProblems,
  publishProblems,
  resolveConfig,
  sizeProblems,
} from "./resolve.js";
import {
  type ClusterConfig,
  CONFIG_API_VERSION,
  CONFIG_KIND,
  type ImageMapping,
  type NodeConfig,
  type Publish,
} from "./types.js";

export { ConfigError, type ConfigProblem } from "../common/fields.js";
export { bridgeAddresses, publishProblem, resolveConfig, resolvePublish } from "./resolve.js";
export type { ClusterConfig, ResolvedConfig } from "./types.js";

/** Reads a configuration file's text. Throws ConfigError with everything that is wrong, each with its line. */
export function parseConfig(text: string, source = "cluster configuration"): ClusterConfig {
  return readConfigFields(readYaml(text, source));
}

/** The same for an object. Throws ConfigError. */
export function checkConfig(config: unknown, source = "cluster configuration"): ClusterConfig {
  return readConfigFields(readValue(config, source));
}

function readConfigFields(root: Field): ClusterConfig {
  const fields = root.object([
    "apiVersion",
    "kind",
    "name",
    "networking",
    "dns",
    "nodes",
    "images",
    "publish",
    "controlPlane",
  ]);
  const out: ClusterConfig = {};
  set(out, "apiVersion", fields.apiVersion.oneOf([CONFIG_API_VERSION]));
  set(out, "kind", fields.kind.oneOf([CONFIG_KIND]));
  set(out, "name", fields.name.string(dnsLabelProblem));
  if (!fields.networking.absent) out.networking = readNetworking(fields.networking);
  if (!fields.dns.absent) out.dns = readDns(fields.dns);
  set(out, "nodes", readNodes(fields.nodes));
  if (!fields.images.absent) out.images = readImages(fields.images);
  if (!fields.publish.absent) out.publish = readPublish(fields.publish);
  if (!fields.controlPlane.absent) out.controlPlane = readControlPlane(fields.controlPlane);
  if (root.problems.problems.length === 0) checkWhole(out, fields);
  root.problems.throwIfAny();
  return out;
}

const NETWORKING = [
  "ipFamily",
  "podSubnet",
  "serviceSubnet",
  "nodeSubnet",
  "loadBalancerPool",
  "iptables",
  "nodePortRange",
] as const;

type Prefixes = Parameters<typeof subnetProblem>[1];

/** How small and how large a network may be. */
const PREFIXES: Record<"podSubnet" | "serviceSubnet" | "nodeSubnet", Prefixes> = {
  // kube-controller-manager gives out at most 16 bits of a network.
  podSubnet: { 4: [8, NODE_CIDR_MASK_SIZE[4]], 6: [NODE_CIDR_MASK_SIZE[6] - 16, NODE_CIDR_MASK_SIZE[6]] },
  // kube-apiserver takes at most 20 bits of Service addresses (--service-cluster-ip-range).
  serviceSubnet: { 4: [12, 28], 6: [108, 124] },
  nodeSubnet: { 4: [8, 27], 6: [48, 120] },
};

function readNetworking(field: Field): NonNullable<ClusterConfig["networking"]> {
  const fields = field.object(NETWORKING);
  const out: NonNullable<ClusterConfig["networking"]> = {};
  set(out, "ipFamily", fields.ipFamily.oneOf(["ipv4", "ipv6", "dual"]));
  for (const [name, prefixes] of Object.entries(PREFIXES) as [keyof typeof PREFIXES, Prefixes][]) {
    set(
      out,
      name,
      fields[name].string((text) => subnetProblem(text, prefixes)),
    );
  }
  set(out, "loadBalancerPool", fields.loadBalancerPool.string(addressRangesProblem));
  set(out, "iptables", fields.iptables.oneOf(["auto", "nft", "legacy"]));
  set(out, "nodePortRange", fields.nodePortRange.string(portRangeProblem));
  return out;
}

function readDns(field: Field): NonNullable<ClusterConfig["dns"]> {
  const fields = field.object(["enabled", "domain"]);
  const out: NonNullable<ClusterConfig["dns"]> = {};
  set(out, "enabled", fields.enabled.boolean());
  set(out, "domain", fields.domain.string(domainProblem));
  return out;
}

function readNodes(field: Field): ClusterConfig["nodes"] {
  if (field.absent) return undefined;
  if (!field.isList) {
    if (field.isObject || field.isString)
      return field.wrong("a number of hosts or a list of them is expected");
    return field.integer(1, 4096);
  }
  const nodes = field.list().map(readNode);
  if (nodes.length === 0) return field.wrong("at least one host is expected");
  return nodes;
}

function readNode(field: Field): NodeConfig {
  const fields = field.object(["name", "labels", "taints"]);
  const out: NodeConfig = {};
  set(out, "name", fields.name.string(dnsLabelProblem));
  if (!fields.labels.absent) out.labels = readLabels(fields.labels);
  if (!fields.taints.absent) out.taints = fields.taints.list().flatMap(readTaint);
  return out;
}

function readLabels(field: Field): Record<string, string> {
  const out: Record<string, string> = {};
  for (const [key, value] of field.entries()) {
    const problem = labelKeyProblem(key);
    if (problem) value.wrong(`label key ${JSON.stringify(key)}: ${problem}`);
    if (value.absent) value.wrong('a string is expected ("" for an empty label)');
    const text = value.string(labelValueProblem);
    if (!problem && text !== undefined) out[key] = text;
  }
  return out;
}

function readTaint(field: Field): Taint[] {
  const fields = field.object(["key", "value", "effect"]);
  const key = fields.key.absent ? fields.key.wrong("is required") : fields.key.string(labelKeyProblem);
  const value = fields.value.string(labelValueProblem);
  const effect = fields.effect.absent
    ? fields.effect.wrong("is required: NoSchedule, PreferNoSchedule or NoExecute")
    : fields.effect.oneOf(["NoSchedule", "PreferNoSchedule", "NoExecute"]);
  if (key === undefined || effect === undefined) return [];
  return [{ key, effect, ...(value === undefined ? {} : { value }) }];
}

function readImages(field: Field): Record<string, ImageMapping> {
  const out: Record<string, ImageMapping> = {};
  for (const [name, value] of field.entries()) {
    if (name === "" || /\s/.test(name)) value.wrong("an image name without spaces is expected");
    if (value.isString) out[name] = value.string(imageProblem) ?? "";
    else if (!value.isObject)
      value.wrong("an image name or a mapping with image, command, args, env is expected");
    else out[name] = readCommandImage(value);
  }
  return out;
}

function imageProblem(text: string): string | undefined {
  if (typeof resolveImage(text, { hasCommand: false }) === "object") return undefined;
  return `a known image is expected: ${knownImages().join(", ")}`;
}

function readCommandImage(field: Field): Exclude<ImageMapping, string> {
  const fields = field.object(["image", "command", "args", "env"]);
  const out: Exclude<ImageMapping, string> = {};
  set(out, "image", fields.image.string(imageProblem));
  set(out, "command", fields.command.strings());
  set(out, "args", fields.args.strings());
  if (out.image === undefined && !out.command?.length) {
    field.wrong("image (a known one) or command (a list of strings, the program first) is required");
  }
  if (!fields.env.absent) {
    out.env = {};
    for (const [key, value] of fields.env.entries()) {
      if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(key))
        value.wrong("a variable name of letters, digits and _ is expected");
      const text = value.absent ? value.wrong("a string is expected") : value.string();
      if (text !== undefined) out.env[key] = text;
    }
  }
  return out;
}

function readPublish(field: Field): Publish[] {
  return field.list().flatMap((item) => {
    const fields = item.object(["hostPort", "nodePort", "address"]);
    const required = (port: Field) => (port.absent ? port.wrong("is required") : port.integer(1, 65535));
    const hostPort = required(fields.hostPort);
    const nodePort = required(fields.nodePort);
    const address = fields.address.string(loopbackProblem);
    if (hostPort === undefined || nodePort === undefined) return [];
    return [{ hostPort, nodePort, ...(address === undefined ? {} : { address }) }];
  });
}

function readControlPlane(field: Field): NonNullable<ClusterConfig["controlPlane"]> {
  const fields = field.object(["apiPort", "nodeMonitorGracePeriodSeconds", "defaultTolerationSeconds"]);
  const out: NonNullable<ClusterConfig["controlPlane"]> = {};
  set(out, "apiPort", fields.apiPort.integer(1, 65535));
  set(out, "nodeMonitorGracePeriodSeconds", fields.nodeMonitorGracePeriodSeconds.integer(1, 3600));
  set(out, "defaultTolerationSeconds", fields.defaultTolerationSeconds.integer(0, 86_400));
  return out;
}

/** What no single field shows: overlaps, duplicates, and whether the networks are large enough. */
function checkWhole(config: ClusterConfig, fields: Record<"networking" | "nodes" | "publish", Field>): void {
  const resolved = resolveConfig(config);
  const networking = fields.networking.object(NETWORKING);
  const unfit = networkProblems(resolved);
  for (const { field, message } of unfit) networking[field].wrong(message);
  if (unfit.length === 0) {
    for (const message of sizeProblems(resolved)) fields.nodes.wrong(message);
    for (const message of poolProblems(resolved)) networking.loadBalancerPool.wrong(message);
  }
  const seen = new Map<string, number>();
  const items = fields.nodes.isList ? fields.nodes.list() : [];
  for (const [index, { name }] of resolved.nodes.entries()) {
    const first = seen.get(name);
    if (first === undefined) seen.set(name, index);
    else items[index]?.wrong(`two hosts are called ${name} (nodes[${first}] too); names must differ`);
  }
  const ports = fields.publish.list();
  for (const { index, message } of publishProblems(resolved)) ports[index]?.wrong(message);
}

/** What the command line adds to a configuration; its values win. */
export interface ConfigOverrides {
  name?: string;
  nodes?: number;
  publish?: readonly Publish[];
  apiPort?: number;
}

/**
 * The configuration with the overrides applied and checked again. A number of hosts keeps what the configuration
 * says of the first ones and leaves out or adds the rest. Throws ConfigError.
 */
export function overrideConfig(config: ClusterConfig, overrides: ConfigOverrides): ClusterConfig {
  const { name, nodes, publish = [], apiPort } = overrides;
  const out: ClusterConfig = { ...config };
  if (name !== undefined) out.name = name;
  if (nodes !== undefined) {
    out.nodes = Array.isArray(config.nodes) && Number.isInteger(nodes) ? resized(config.nodes, nodes) : nodes;
  }
  if (publish.length > 0) out.publish = [...(config.publish ?? []), ...publish];
  if (apiPort !== undefined) out.controlPlane = { ...config.controlPlane, apiPort };
  return checkConfig(out, "options");
}

function resized(nodes: readonly NodeConfig[], count: number): NodeConfig[] {
  return Array.from({ length: Math.max(count, 0) }, (_, index) => nodes[index] ?? {});
}

/** Sets what was given; a field that is absent or wrong stays away. */
function set<T, K extends keyof T>(target: T, key: K, value: T[K] | undefined): void {
  if (value !== undefined) target[key] = value;
}
