// kubeplumb-portmap's configuration and the rules that follow from it: names, order and comments of the reference
// plugin portmap, so that its tools and habits still hold. Pure.

import { type IpFamily, ipFamily } from "../common/ip.js";
import type { Chain, RuleAt } from "../dataplane/iptables/index.js";
import { checkFields, networkName } from "./config.js";
import { addressOf, integerOf, invalid, listOf, objectOf, stringOf } from "./fields.js";
import { containerChain, ownerComment } from "./masquerade.js";
import { type CniResult, type NetConf, VALID_ATTACHMENTS } from "./types.js";
import { negotiate, resultFrom } from "./version.js";

export const DNAT = "CNI-HOSTPORT-DNAT";
export const SETMARK = "CNI-HOSTPORT-SETMARK";
export const MASQ = "CNI-HOSTPORT-MASQ";
/** What one multiport match can hold. */
const MAX_PORTS = 15;
const DEFAULT_MARK_BIT = 13;

const FIELDS = {
  snat: "boolean",
  masqAll: "boolean",
  markMasqBit: "number",
  externalSetMarkChain: "string",
  conditionsV4: "list",
  conditionsV6: "list",
  dataDir: "string",
} as const;

export interface PortMapping {
  hostPort: number;
  containerPort: number;
  protocol: "tcp" | "udp" | "sctp";
  /** One address of the host, or every one of this family or both. */
  hostIP?: string;
  family?: IpFamily;
}

export interface PortmapConf {
  cniVersion: string;
  name: string;
  /** Masquerade what comes from the pods' own block or from 127.0.0.1. */
  snat: boolean;
  /** Masquerade everything. */
  masqAll: boolean;
  markMasqBit: number;
  /** Somebody else's chain that marks what is to be masqueraded (KUBE-MARK-MASQ); MASQ is not made then. */
  externalSetMarkChain?: string;
  /** Further matches of the rules that lead to a pod, as words. */
  conditions: Record<IpFamily, string[]>;
  dataDir?: string;
  mappings: PortMapping[];
  previous?: CniResult;
  validAttachments?: unknown;
}

/** @throws CniError 1, 2 or 7 naming field, value and what is allowed. */
export function parsePortmapConf(conf: NetConf): PortmapConf {
  const cniVersion = negotiate(conf.cniVersion ?? "0.1.0");
  const name = networkName(conf.name);
  checkFields(conf, FIELDS);
  const { snat = true, masqAll = false, externalSetMarkChain, dataDir } = conf as Partial<PortmapConf>;
  const { markMasqBit = DEFAULT_MARK_BIT, conditionsV4 = [], conditionsV6 = [] } = conf;
  if (externalSetMarkChain !== undefined && conf.markMasqBit !== undefined) {
    throw invalid("externalSetMarkChain", "absent where markMasqBit is given", externalSetMarkChain);
  }
  const words = (field: string, value: unknown) =>
    listOf(field, value, { empty: true }).map((word, i) => stringOf(`${field}[${i}]`, word));
  const runtime = (conf.runtimeConfig ?? {}) as { portMappings?: unknown };
  return {
    cniVersion,
    name,
    snat,
    masqAll,
    markMasqBit: integerOf("markMasqBit", markMasqBit, [0, 31]),
    ...(externalSetMarkChain !== undefined && { externalSetMarkChain }),
    conditions: { 4: words("conditionsV4", conditionsV4), 6: words("conditionsV6", conditionsV6) },
    ...(dataDir !== undefined && { dataDir }),
    mappings: readMappings(runtime.portMappings ?? []),
    ...(conf.prevResult !== undefined && { previous: resultFrom(conf.prevResult) }),
    ...(VALID_ATTACHMENTS in conf && { validAttachments: conf[VALID_ATTACHMENTS] }),
  };
}

const MAPPING_KEYS = ["hostPort", "containerPort", "protocol", "hostIP"];
const EVERY_ADDRESS = ["0.0.0.0", "::"];

/** Those without a host port are nobody's business. */
function readMappings(raw: unknown): PortMapping[] {
  return listOf("runtimeConfig.portMappings", raw, { empty: true }).flatMap((one, i) => {
    const at = `runtimeConfig.portMappings[${i}]`;
    const { hostPort = 0, containerPort, protocol = "tcp", hostIP } = objectOf(at, one, MAPPING_KEYS);
    if (integerOf(`${at}.hostPort`, hostPort, [0, 65535]) === 0) return [];
    const lower = String(protocol).toLowerCase();
    if (lower !== "tcp" && lower !== "udp" && lower !== "sctp") {
      throw invalid(`${at}.protocol`, "tcp, udp or sctp", protocol);
    }
    const ip = hostIP === undefined || hostIP === "" ? undefined : addressOf(`${at}.hostIP`, hostIP);
    return [
      {
        hostPort: Number(hostPort),
        containerPort: integerOf(`${at}.containerPort`, containerPort, [1, 65535]),
        protocol: lower,
        ...(ip !== undefined && { family: ipFamily(ip) as IpFamily }),
        ...(ip !== undefined && !EVERY_ADDRESS.includes(ip) && { hostIP: ip }),
      },
    ];
  });
}

/** Where a pod's packets go: its address of one family with the prefix length. */
export interface Target {
  ip: string;
  cidr: string;
}

export const dnatChain = (network: string, containerId: string): string =>
  containerChain("CNI-DN-", network, containerId);

/** The chains of one family that serve all pods, and the jumps to them. */
export function sharedRules(conf: PortmapConf): {
  chains: Chain[];
  jumps: (RuleAt & { position: "append" | "prepend" })[];
} {
  const { externalSetMarkChain, markMasqBit } = conf;
  const mark = `0x${(2 ** markMasqBit).toString(16)}`;
  const local = ["-m", "addrtype", "--dst-type", "LOCAL", "-j", DNAT];
  const jumps = (["PREROUTING", "OUTPUT"] as const).map((chain) => ({
    table: "nat" as const,
    chain,
    rule: local,
    position: "append" as const,
  }));
  const chains: Chain[] = [{ table: "nat", name: DNAT, rules: [] }];
  if (externalSetMarkChain !== undefined) return { chains, jumps };
  const comment = (text: string) => ["-m", "comment", "--comment", text];
  return {
    chains: [
      ...chains,
      {
        table: "nat",
        name: SETMARK,
        rules: [
          {
            args: [...comment("CNI portfwd masquerade mark"), "-j", "MARK", "--set-xmark", `${mark}/${mark}`],
          },
        ],
      },
      {
        table: "nat",
        name: MASQ,
        rules: [{ args: ["-m", "mark", "--mark", `${mark}/${mark}`, "-j", "MASQUERADE"] }],
      },
    ],
    jumps: [
      ...jumps,
      {
        table: "nat",
        chain: "POSTROUTING",
        rule: [...comment("CNI portfwd requiring masquerade"), "-j", MASQ],
        // Before others who would masquerade, or return, what they know nothing of.
        position: "prepend",
      },
    ],
  };
}

/** The mappings that hold for a family. */
export function mappingsOf({ mappings }: PortmapConf, family: IpFamily): PortMapping[] {
  return mappings.filter((mapping) => mapping.family === undefined || mapping.family === family);
}

/** A pod's own chain, and what leads to it from {@link DNAT}. */
export function podRules(
  conf: PortmapConf,
  containerId: string,
  { ip, cidr }: Target,
): { chain: Chain; leads: RuleAt[] } {
  const family: IpFamily = ipFamily(ip) === 6 ? 6 : 4;
  const mappings = mappingsOf(conf, family);
  const name = dnatChain(conf.name, containerId);
  const setMark = conf.externalSetMarkChain ?? SETMARK;
  const sources = conf.masqAll ? [undefined] : [cidr, ...(family === 4 ? ["127.0.0.1/32"] : [])];
  const rules = mappings.flatMap(({ hostPort, containerPort, protocol, hostIP }) => {
    const at = hostIP === undefined ? [] : ["-d", `${hostIP}/${family === 6 ? 128 : 32}`];
    const to = ["-p", protocol, "-m", protocol, "--dport", String(hostPort)];
    const marks = conf.snat ? sources : [];
    return [
      ...marks.map((source) => [
        ...(source === undefined ? [] : ["-s", source]),
        ...at,
        ...to,
        "-j",
        setMark,
      ]),
      [...at, ...to, "-j", "DNAT", "--to-destination", `${family === 6 ? `[${ip}]` : ip}:${containerPort}`],
    ];
  });
  const leads = (["tcp", "udp", "sctp"] as const).flatMap((protocol) => {
    const own = mappings.filter((mapping) => mapping.protocol === protocol);
    const ports = [...new Set(own.map(({ hostPort }) => hostPort))];
    const groups = Array.from({ length: Math.ceil(ports.length / MAX_PORTS) }, (_, n) =>
      ports.slice(n * MAX_PORTS, (n + 1) * MAX_PORTS),
    );
    return groups.map((group) => ({
      table: "nat" as const,
      chain: DNAT,
      rule: [
        ...["-p", protocol, "-m", "comment", "--comment", `dnat ${ownerComment(conf.name, containerId)}`],
        ...["-m", "multiport", "--dports", group.join(","), ...conf.conditions[family], "-j", name],
      ],
    }));
  });
  return { chain: { table: "nat", name, rules: rules.map((args) => ({ args })) }, leads };
}
