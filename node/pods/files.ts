// The texts of a pod's /etc/hosts, /etc/hostname and /etc/resolv.conf, as the kubelet writes them. Pure.

import type { Pod, Stored } from "../../common/k8s.js";

/** The pod's own host name: spec.hostname, else its name, 63 characters at most. */
export function podHostname(pod: Stored<Pod>): string {
  const name = pod.spec?.hostname || pod.metadata.name;
  return name.slice(0, 63).replace(/[-.]+$/, "");
}

/** hostname.subdomain.namespace.svc.domain, when the pod has a subdomain. */
export function podFqdn(pod: Stored<Pod>, clusterDomain: string): string | undefined {
  const subdomain = pod.spec?.subdomain;
  if (!subdomain) return undefined;
  return `${podHostname(pod)}.${subdomain}.${pod.metadata.namespace}.svc.${clusterDomain}`;
}

/** /etc/hosts of a pod with an address of its own. */
export function podHostsFile(pod: Stored<Pod>, podIPs: readonly string[], clusterDomain: string): string {
  const fqdn = podFqdn(pod, clusterDomain);
  const lines = [
    "# Kubernetes-managed hosts file.",
    "127.0.0.1\tlocalhost",
    "::1\tlocalhost ip6-localhost ip6-loopback",
    "fe00::0\tip6-localnet",
    "fe00::0\tip6-mcastprefix",
    "fe00::1\tip6-allnodes",
    "fe00::2\tip6-allrouters",
    ...podIPs.map((ip) => `${ip}\t${fqdn ? `${fqdn}\t` : ""}${podHostname(pod)}`),
    ...hostAliasLines(pod),
  ];
  return `${lines.join("\n")}\n`;
}

/** /etc/hosts of a hostNetwork pod: the node's own, and the pod's aliases. */
export function hostNetworkHostsFile(pod: Stored<Pod>, nodeHosts: string): string {
  const lines = [
    "# Kubernetes-managed hosts file (host network).",
    nodeHosts.trimEnd(),
    ...hostAliasLines(pod),
  ];
  return `${lines.join("\n")}\n`;
}

function hostAliasLines(pod: Stored<Pod>): string[] {
  const aliases = pod.spec?.hostAliases ?? [];
  if (aliases.length === 0) return [];
  return [
    "",
    "# Entries added by HostAliases.",
    ...aliases.map(({ ip, hostnames = [] }) => `${ip}\t${hostnames.join("\t")}`),
  ];
}

export interface DnsConfig {
  nameservers: string[];
  searches: string[];
  options: string[];
}

/** resolv.conf(5) as far as it matters here. */
export function parseResolvConf(text: string): DnsConfig {
  const config: DnsConfig = { nameservers: [], searches: [], options: [] };
  for (const line of text.split("\n")) {
    const [key, ...values] = line
      .replace(/[#;].*$/, "")
      .trim()
      .split(/\s+/);
    if (key === "nameserver") config.nameservers.push(...values.slice(0, 1));
    else if (key === "search" || key === "domain") config.searches = values;
    else if (key === "options") config.options.push(...values);
  }
  return config;
}

function unique(values: readonly string[]): string[] {
  return [...new Set(values)];
}

/**
 * The DNS configuration of a pod by its dnsPolicy. Without a cluster DNS there is no nameserver line for
 * ClusterFirst: the machine's resolvers cannot be reached from inside the lab, and a refused query beats a timeout.
 */
export function podDns(
  pod: Stored<Pod>,
  options: { clusterDNS?: string | undefined; clusterDomain: string; node: DnsConfig },
): DnsConfig {
  const { clusterDNS, clusterDomain, node } = options;
  const { dnsPolicy = "ClusterFirst", hostNetwork = false, dnsConfig } = pod.spec ?? {};
  const cluster = dnsPolicy === "ClusterFirstWithHostNet" || (dnsPolicy === "ClusterFirst" && !hostNetwork);
  const base: DnsConfig = cluster
    ? {
        nameservers: clusterDNS ? [clusterDNS] : [],
        searches: [
          `${pod.metadata.namespace}.svc.${clusterDomain}`,
          `svc.${clusterDomain}`,
          clusterDomain,
          ...node.searches,
        ],
        options: ["ndots:5"],
      }
    : dnsPolicy === "None"
      ? { nameservers: [], searches: [], options: [] }
      : node;
  const extra = (dnsConfig?.options ?? []).map(({ name = "", value }) =>
    value === undefined ? name : `${name}:${value}`,
  );
  const replaced = new Set(extra.map((option) => option.split(":")[0]));
  return {
    nameservers: unique([...base.nameservers, ...(dnsConfig?.nameservers ?? [])]),
    searches: unique([...base.searches, ...(dnsConfig?.searches ?? [])]),
    options: [...base.options.filter((option) => !replaced.has(option.split(":")[0])), ...extra],
  };
}

const MOST_NAMESERVERS = 3;
const MOST_SEARCHES = 32;
const MOST_SEARCH_CHARACTERS = 2048;

/** What of it a resolver takes (resolv.conf(5)), and what there is to say of the rest, in the kubelet's words. */
export function withinLimits(dns: DnsConfig): { dns: DnsConfig; omitted: string[] } {
  const nameservers = dns.nameservers.slice(0, MOST_NAMESERVERS);
  const searches: string[] = [];
  for (const path of dns.searches) {
    const fits = [...searches, path].join(" ").length <= MOST_SEARCH_CHARACTERS;
    if (searches.length === MOST_SEARCHES || !fits) break;
    searches.push(path);
  }
  const omitted: string[] = [];
  if (nameservers.length < dns.nameservers.length) {
    omitted.push(
      `Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: ${nameservers.join(" ")}`,
    );
  }
  if (searches.length < dns.searches.length) {
    omitted.push(
      `Search Line limits were exceeded, some search paths have been omitted, the applied search line is: ${searches.join(" ")}`,
    );
  }
  return { dns: { ...dns, nameservers, searches }, omitted };
}

export function resolvConf(dns: DnsConfig): string {
  const lines = [
    ...(dns.searches.length > 0 ? [`search ${dns.searches.join(" ")}`] : []),
    ...dns.nameservers.map((server) => `nameserver ${server}`),
    ...(dns.options.length > 0 ? [`options ${dns.options.join(" ")}`] : []),
  ];
  return lines.map((line) => `${line}\n`).join("");
}
