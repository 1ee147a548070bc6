// What a Corefile asks for: each server block with its plugins' settings, checked. Pure. A plugin that is not here is
// refused, as CoreDNS refuses one that is not compiled in.

import { isIP } from "node:net";
import { parseDuration } from "../../common/duration.js";
import { hostPort } from "../../common/ip.js";
import { CorefileError, type Directive, parseCorefile, type ServerBlock } from "./corefile.js";
import { plain } from "./names.js";
import type { ZoneConfig } from "./zone.js";

export interface HostsSettings {
  zones: readonly string[];
  /** A file in the container, read with the Corefile. */
  file: string | undefined;
  /** Lines of a hosts file. */
  inline: readonly string[];
  ttl: number;
  fallthrough: readonly string[];
}

export interface CacheSettings {
  zones: readonly string[];
  success: CachePart;
  denial: CachePart;
}

export interface CachePart {
  capacity: number;
  maxTtl: number;
  minTtl: number;
  /** Zones of which nothing is kept. */
  disabled: readonly string[];
}

export interface ForwardSettings {
  from: string;
  except: readonly string[];
  /** Addresses with port, or files like resolv.conf, in order. */
  to: readonly string[];
  policy: "random" | "round_robin" | "sequential";
  /** 0: as many as come. */
  maxConcurrent: number;
}

export interface Settings {
  zone: string;
  port: number;
  errors: boolean;
  log: boolean;
  loadbalance: boolean;
  loop: boolean;
  /** Ports for HTTP. */
  health: { port: number; lameduckMs: number } | undefined;
  ready: { port: number } | undefined;
  prometheus: { port: number } | undefined;
  reload: { intervalMs: number; jitterMs: number } | undefined;
  hosts: HostsSettings | undefined;
  cache: CacheSettings | undefined;
  kubernetes: ZoneConfig | undefined;
  forwards: ForwardSettings[];
}

/** Where a setting stands, for errors. */
interface Place {
  fail(directive: Directive, message: string): CorefileError;
}

type Setup = (settings: Settings, directive: Directive, place: Place) => void;

const DEFAULT_PORT = 53;
const REVERSE = ["in-addr.arpa", "ip6.arpa"];

/**
 * Reads a Corefile.
 * @param port Of server blocks that name none.
 * @throws CorefileError worded as CoreDNS': the file, the line, the plugin.
 */
export function readSettings(
  text: string,
  file: string,
  options: { env?: Readonly<Record<string, string>>; port?: number } = {},
): Settings[] {
  const { env = {}, port = DEFAULT_PORT } = options;
  const all = parseCorefile(text, file, env).flatMap((block) => blockSettings(block, file, port));
  const seen = new Set<string>();
  for (const { zone, port: own } of all) {
    const key = `dns://${absolute(zone)}:${own}`;
    if (seen.has(key)) throw new CorefileError(`cannot serve ${key} - it is already defined`);
    seen.add(key);
  }
  return all;
}

/** A zone as CoreDNS writes it. */
export function absolute(zone: string): string {
  return zone === "." ? zone : `${zone}.`;
}

function blockSettings(block: ServerBlock, file: string, defaultPort: number): Settings[] {
  return block.keys.map((key) => {
    const match = /^(?:dns:\/\/)?([^:/]+)(?::(\d+))?$/.exec(key);
    if (!match) {
      const text = `${file}:${block.line} - Error during parsing: '${key}' is no zone that can be served here`;
      throw new CorefileError(`${text} (a name, and perhaps a port, as in .:53)`);
    }
    const zone = plain(match[1] ?? "").toLowerCase() || ".";
    const settings = emptySettings(zone, Number(match[2] ?? defaultPort));
    for (const directive of block.directives) {
      const at = `${file}:${directive.line} - Error during parsing: `;
      const setup = PLUGINS[directive.name];
      if (!setup) {
        const known = Object.keys(PLUGINS).join(", ");
        throw new CorefileError(
          `${at}Unknown directive '${directive.name}' (kubeplumb's CoreDNS has ${known})`,
        );
      }
      const { name } = directive;
      setup(settings, directive, {
        fail: ({ line }, message) =>
          new CorefileError(`plugin/${name}: ${file}:${line} - Error during parsing: ${message}`),
      });
    }
    return settings;
  });
}

function emptySettings(zone: string, port: number): Settings {
  return {
    zone,
    port,
    errors: false,
    log: false,
    loadbalance: false,
    loop: false,
    health: undefined,
    ready: undefined,
    prometheus: undefined,
    reload: undefined,
    hosts: undefined,
    cache: undefined,
    kubernetes: undefined,
    forwards: [],
  };
}

const argumentError = (directive: Directive) =>
  `Wrong argument count or unexpected line ending after '${directive.args.at(-1) ?? directive.name}'`;

function zonesOf(names: readonly string[], { zone }: Settings, directive: Directive, place: Place): string[] {
  const out = names.length > 0 ? names.map((name) => plain(name).toLowerCase()) : [zone];
  const odd = out.find((name) => name.includes("/") || name.includes(":"));
  if (odd)
    throw place.fail(
      directive,
      `'${odd}' is no domain name; networks are written as names here (${REVERSE[0]})`,
    );
  return out;
}

function count(text: string | undefined, directive: Directive, place: Place, most = 2 ** 31): number {
  const value = Number(text);
  if (!text || !/^\d+$/.test(text) || value > most)
    throw place.fail(directive, `'${text ?? ""}' is no number from 0 to ${most}`);
  return value;
}

function duration(text: string | undefined, directive: Directive, place: Place): number {
  const ms = parseDuration(text ?? "");
  if (ms === undefined || ms < 0) throw place.fail(directive, `invalid duration '${text ?? ""}'`);
  return ms;
}

/** Of an address only the port counts: emulated programs listen on every address of their pod. */
function listenPort(directive: Directive, place: Place, fallback: number): number {
  const [text, ...more] = directive.args;
  if (more.length > 0) throw place.fail(directive, argumentError(directive));
  const match = /^(?:0\.0\.0\.0|\[::\])?:(\d+)$/.exec(text ?? `:${fallback}`);
  if (!match)
    throw place.fail(
      directive,
      `'${text}': kubeplumb's CoreDNS listens on every address, as in :${fallback}`,
    );
  return Number(match[1]);
}

/** A directive that takes neither arguments nor a block. */
function flag(name: "errors" | "log" | "loop" | "loadbalance"): Setup {
  return (settings, directive, place) => {
    const extra = directive.args[0] ?? directive.block[0]?.name;
    const allowed = name === "loadbalance" && extra === "round_robin" && directive.args.length === 1;
    if (extra !== undefined && !allowed) throw place.fail(directive, `unknown property '${extra}'`);
    settings[name] = true;
  };
}

/** Runs a block's lines through their handlers. */
function properties(
  directive: Directive,
  place: Place,
  handlers: Readonly<Record<string, (line: Directive) => void>>,
): void {
  for (const line of directive.block) {
    const handler = handlers[line.name];
    if (!handler) throw place.fail(line, `unknown property '${line.name}'`);
    handler(line);
  }
}

/** In CoreDNS' order of plugins as far as that matters to questions: hosts, kubernetes, forward. */
const PLUGINS: Readonly<Record<string, Setup>> = {
  errors: flag("errors"),
  log: flag("log"),
  loadbalance: flag("loadbalance"),
  loop: flag("loop"),
  health(settings, directive, place) {
    settings.health = { port: listenPort(directive, place, 8080), lameduckMs: 0 };
    const { health } = settings;
    properties(directive, place, {
      lameduck: (line) => {
        health.lameduckMs = duration(line.args[0], line, place);
      },
    });
  },
  ready(settings, directive, place) {
    settings.ready = { port: listenPort(directive, place, 8181) };
    properties(directive, place, {});
  },
  prometheus(settings, directive, place) {
    settings.prometheus = { port: listenPort(directive, place, 9153) };
    properties(directive, place, {});
  },
  reload(settings, directive, place) {
    const [interval = "30s", jitter = "15s", ...more] = directive.args;
    if (more.length > 0) throw place.fail(directive, argumentError(directive));
    const intervalMs = duration(interval, directive, place);
    if (intervalMs > 0 && intervalMs < 2000)
      throw place.fail(directive, "interval value must be greater or equal to 2s");
    const jitterMs = Math.min(duration(jitter, directive, place), intervalMs / 2);
    settings.reload = intervalMs > 0 ? { intervalMs, jitterMs } : undefined;
  },
  hosts: setupHosts,
  cache: setupCache,
  kubernetes: setupKubernetes,
  forward: setupForward,
};

function setupHosts(settings: Settings, directive: Directive, place: Place): void {
  const [file, ...zones] = directive.args;
  const hosts: HostsSettings = {
    zones: zonesOf(zones, settings, directive, place),
    // Without a file and without lines it is the container's own hosts file.
    file: file ?? (directive.block.some(({ name }) => isIP(name) !== 0) ? undefined : "/etc/hosts"),
    inline: directive.block
      .filter(({ name }) => isIP(name) !== 0)
      .map(({ name, args }) => [name, ...args].join(" ")),
    ttl: 3600,
    fallthrough: [],
  };
  const others = { ...directive, block: directive.block.filter(({ name }) => isIP(name) === 0) };
  properties(others, place, {
    fallthrough: (line) => {
      hosts.fallthrough = line.args.length > 0 ? line.args.map(plain) : ["."];
    },
    ttl: (line) => {
      hosts.ttl = count(line.args[0], line, place, 65_535);
    },
  });
  settings.hosts = hosts;
}

function setupCache(settings: Settings, directive: Directive, place: Place): void {
  const [first = "", ...others] = directive.args;
  const timed = /^\d+$/.test(first);
  const part = (maxTtl: number): CachePart => ({
    capacity: 9984,
    maxTtl: timed ? Number(first) : maxTtl,
    minTtl: 5,
    disabled: [],
  });
  const cache: CacheSettings = {
    zones: zonesOf(timed ? others : directive.args, settings, directive, place),
    success: part(3600),
    denial: part(1800),
  };
  const limits = (name: "success" | "denial") => (line: Directive) => {
    const [capacity, maxTtl, minTtl] = line.args;
    const target = cache[name];
    target.capacity = count(capacity, line, place);
    if (maxTtl !== undefined) target.maxTtl = count(maxTtl, line, place);
    if (minTtl !== undefined) target.minTtl = count(minTtl, line, place);
  };
  properties(directive, place, {
    success: limits("success"),
    denial: limits("denial"),
    disable: (line) => {
      const [name, ...zones] = line.args;
      if (name !== "success" && name !== "denial")
        throw place.fail(line, `cache type for disable must be "success" or "denial"`);
      cache[name].disabled = zones.length > 0 ? zones.map(plain) : ["."];
    },
  });
  settings.cache = cache;
}

function setupKubernetes(settings: Settings, directive: Directive, place: Place): void {
  if (settings.kubernetes) throw place.fail(directive, "only one kubernetes plugin allowed per server block");
  const zones = zonesOf(directive.args, settings, directive, place);
  if (zones.includes(".")) throw place.fail(directive, "'.' is no domain that a cluster can have");
  const zone: ZoneConfig = {
    zones,
    pods: "disabled",
    ttl: 5,
    fallthrough: [],
    endpointPodNames: false,
    ignoreEmptyService: false,
    namespaces: undefined,
  };
  properties(directive, place, {
    pods: (line) => {
      const [mode] = line.args;
      if (mode !== "disabled" && mode !== "insecure" && mode !== "verified")
        throw place.fail(
          line,
          `wrong value for pods: ${mode ?? ""},  must be one of: disabled, verified, insecure`,
        );
      zone.pods = mode;
    },
    ttl: (line) => {
      zone.ttl = count(line.args[0], line, place, 3600);
    },
    fallthrough: (line) => {
      zone.fallthrough = line.args.length > 0 ? line.args.map(plain) : ["."];
    },
    endpoint_pod_names: () => {
      zone.endpointPodNames = true;
    },
    namespaces: (line) => {
      if (line.args.length === 0) throw place.fail(line, argumentError(line));
      zone.namespaces = new Set(line.args);
    },
    ignore: (line) => {
      if (line.args[0] !== "empty_service")
        throw place.fail(line, `unable to parse ignore value: '${line.args[0] ?? ""}'`);
      zone.ignoreEmptyService = true;
    },
  });
  settings.kubernetes = zone;
}

function setupForward(settings: Settings, directive: Directive, place: Place): void {
  const [from, ...to] = directive.args;
  if (from === undefined || to.length === 0) throw place.fail(directive, argumentError(directive));
  const forward: ForwardSettings = {
    from: plain(from).toLowerCase(),
    except: [],
    to: to.map((text) => upstream(text) ?? ""),
    policy: "random",
    maxConcurrent: 0,
  };
  const odd = to.find((text) => upstream(text) === undefined);
  if (odd !== undefined) throw place.fail(directive, `not an IP address or file: "${odd}"`);
  properties(directive, place, {
    except: (line) => {
      forward.except = line.args.map((name) => plain(name).toLowerCase());
    },
    policy: (line) => {
      const [policy] = line.args;
      if (policy !== "random" && policy !== "round_robin" && policy !== "sequential")
        throw place.fail(line, `unknown policy '${policy ?? ""}'`);
      forward.policy = policy;
    },
    max_concurrent: (line) => {
      forward.maxConcurrent = count(line.args[0], line, place);
    },
  });
  settings.forwards.push(forward);
}

/** "10.0.0.1:5353" of an address with or without port, a path as it is; undefined of anything else. */
function upstream(text: string): string | undefined {
  if (text.startsWith("/")) return text;
  const match = /^(?:dns:\/\/)?(?:\[([^\]]+)\]|([^:[\]]+))(?::(\d+))?$/.exec(text);
  const host = isIP(text) ? text : (match?.[1] ?? match?.[2] ?? "");
  if (isIP(host) === 0) return undefined;
  return hostPort(host, Number((isIP(text) ? undefined : match?.[3]) ?? DEFAULT_PORT));
}
