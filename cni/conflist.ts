// Network configurations on disk: the first file of a directory, read strictly; and the one we write ourselves.

import { readdirSync, readFileSync } from "node:fs";
import { extname, join } from "node:path";
import { CniError, CODE, isIdentifier, type NetConfList, type PluginConf } from "./types.js";
import { NEWEST_VERSION, negotiate } from "./version.js";

const LIST_FIELDS = [
  "cniVersion",
  "cniVersions",
  "name",
  "disableCheck",
  "disableGC",
  "loadOnlyInlinedPlugins",
  "plugins",
];
const EXTENSIONS = [".conflist", ".conf", ".json"];

/**
 * The first *.conflist, *.conf or *.json of a directory in lexical order, as container runtimes choose it.
 * @returns undefined when there is none (or no directory): the network is not ready yet.
 * @throws CniError 6 or 7 naming file, field and value.
 */
export function readConflist(directory: string): { path: string; conflist: NetConfList } | undefined {
  let names: string[];
  try {
    names = readdirSync(directory);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new CniError(CODE.io, `cannot read the CNI configuration directory ${directory}`, { cause: error });
  }
  const [first] = names.filter((name) => EXTENSIONS.includes(extname(name))).sort();
  if (first === undefined) return undefined;
  const path = join(directory, first);
  return { path, conflist: parseConflist(readFileSync(path, "utf8"), path) };
}

/** Parses a configuration list or a single plugin's configuration. Throws CniError 6 or 7; `where` is for people. */
export function parseConflist(text: string, where = "CNI configuration"): NetConfList {
  let raw: unknown;
  try {
    raw = JSON.parse(text);
  } catch (error) {
    throw new CniError(CODE.decode, `${where} is not valid JSON: ${(error as Error).message}`, {
      cause: error,
    });
  }
  if (!isObject(raw)) throw new CniError(CODE.invalidConfig, `${where} must be a JSON object`);
  if (!("plugins" in raw) && "type" in raw) return parseConflist(JSON.stringify(listOf(raw)), where);
  return validate(raw, where);
}

/** A single plugin's configuration (*.conf) as a list of one. */
function listOf(conf: Record<string, unknown>): Record<string, unknown> {
  const { cniVersion, name, ...plugin } = conf;
  return {
    ...(cniVersion !== undefined && { cniVersion }),
    ...(name !== undefined && { name }),
    plugins: [plugin],
  };
}

function validate(raw: Record<string, unknown>, where: string): NetConfList {
  const bad = (field: string, allowed: string): CniError =>
    new CniError(
      CODE.invalidConfig,
      `${where}: ${field} must be ${allowed}, not ${JSON.stringify(valueAt(raw, field)) ?? "absent"}`,
    );
  const unknown = Object.keys(raw).find((key) => !LIST_FIELDS.includes(key));
  if (unknown !== undefined) {
    throw new CniError(
      CODE.unsupportedField,
      `${where}: unknown field ${unknown}=${JSON.stringify(raw[unknown])}; allowed: ${LIST_FIELDS.join(", ")}`,
    );
  }
  const { name, plugins } = raw;
  if (typeof name !== "string" || !isIdentifier(name)) {
    throw bad("name", 'a name (a letter or digit, then letters, digits, "_", "." or "-")');
  }
  if (!Array.isArray(plugins) || plugins.length === 0) throw bad("plugins", "a list of at least one plugin");
  for (const [i, plugin] of plugins.entries()) {
    if (!isObject(plugin)) throw bad(`plugins[${i}]`, "an object");
    const { type } = plugin;
    if (typeof type !== "string" || !/^[^/\s]+$/.test(type)) {
      throw bad(`plugins[${i}].type`, "the name of a plugin binary, without a path");
    }
    if (plugin.capabilities !== undefined && !isObject(plugin.capabilities)) {
      throw bad(`plugins[${i}].capabilities`, "an object of booleans");
    }
  }
  for (const field of ["disableCheck", "disableGC", "loadOnlyInlinedPlugins"]) {
    if (raw[field] !== undefined && typeof raw[field] !== "boolean") throw bad(field, "true or false");
  }
  const { cniVersion = "0.2.0", cniVersions } = raw;
  if (typeof cniVersion !== "string") throw bad("cniVersion", "a version");
  if (cniVersions !== undefined && !(Array.isArray(cniVersions) && cniVersions.every(isString))) {
    throw bad("cniVersions", "a list of versions");
  }
  try {
    negotiate(cniVersion, cniVersions as string[] | undefined);
  } catch (error) {
    if (!(error instanceof CniError)) throw error;
    throw new CniError(error.code, `${where}: ${error.message}`, { details: error.details, cause: error });
  }
  return { ...raw, cniVersion, name, plugins: plugins as PluginConf[] } as NetConfList;
}

/** The value at "a" or "a[0].b"; undefined when a step is missing. */
function valueAt(raw: unknown, field: string): unknown {
  return field
    .split(/[.[\]]+/)
    .filter((step) => step !== "")
    .reduce<unknown>((at, step) => (at as Record<string, unknown> | undefined)?.[step], raw);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

const isString = (value: unknown): value is string => typeof value === "string";

export interface DefaultConflistOptions {
  /** Default "kubeplumb". */
  name?: string;
  /** Default "cni0". */
  bridge?: string;
  /** Where the overlay says which block this host has. Default /run/flannel/subnet.env. */
  subnetFile?: string;
  /** Instead of subnetFile: a fixed block. */
  subnet?: string;
  /** Where the plugin keeps which address is whose. Default: the runtime's state directory or /var/lib/cni. */
  dataDir?: string;
  /** Default: the overlay's. */
  mtu?: number;
  /** Other runtimes use the network too: then none may collect garbage, for it knows only its own attachments. */
  shared?: boolean;
}

/** The file name under which {@link defaultConflist} belongs into a configuration directory. */
export const DEFAULT_CONFLIST_NAME = "10-kubeplumb.conflist";

/** The configuration of the cluster network: our own plugins. Write it with JSON.stringify. */
export function defaultConflist(options: DefaultConflistOptions = {}): NetConfList {
  const { name = "kubeplumb", bridge = "cni0", shared = false, ...rest } = options;
  return {
    // Runtimes of before 1.1 refuse a version that they do not know, and never look at cniVersions.
    cniVersion: "1.0.0",
    cniVersions: ["1.0.0", NEWEST_VERSION],
    name,
    ...(shared && { disableGC: true }),
    plugins: [
      { type: "kubeplumb-cni", bridge, hairpinMode: true, ...rest },
      { type: "kubeplumb-portmap", capabilities: { portMappings: true } },
    ],
  };
}
