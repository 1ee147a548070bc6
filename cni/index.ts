// Runs a configuration list as a container runtime does (what libcni is in Go): our own plugin in this process
// without a fork, any other by the protocol inside the host. CNI specification 1.1, sections 3 and 4.

import type { NetNs } from "../dataplane/kernel/netns.js";
import type { Invocation } from "./bridge.js";
import { type CachedAttachment, ResultCache } from "./cache.js";
import { parseConflist } from "./conflist.js";
import { execPlugin, findPlugin } from "./exec.js";
import { ownPlugin } from "./plugins.js";
import {
  type Attachment,
  CniError,
  type CniResult,
  CODE,
  checkAttachment,
  type NetConf,
  type NetConfList,
  type PluginConf,
  VALID_ATTACHMENTS,
} from "./types.js";
import { atLeast, negotiate, resultAs, resultFrom } from "./version.js";

export {
  DEFAULT_CONFLIST_NAME,
  type DefaultConflistOptions,
  defaultConflist,
  parseConflist,
  readConflist,
} from "./conflist.js";
export * from "./types.js";
export { SUPPORTED_VERSIONS } from "./version.js";

export interface NetworkContext {
  /** Where binaries of other types are looked for. */
  binDirs: readonly string[];
  /** The configuration's file or directory, for messages. */
  confPath?: string;
  /** Results and addresses are kept here: /var/lib/cni of that host. */
  stateDir: string;
  /** The host; plugins work and run there. */
  hostNs: NetNs;
}

export interface AttachmentOptions extends NetworkContext {
  containerId: string;
  /** Path of the pod's network namespace. Missing for DEL when it is gone. */
  netns?: string;
  ifName: string;
  /** CNI_ARGS: K8S_POD_NAMESPACE, K8S_POD_NAME, … */
  args?: Readonly<Record<string, string>>;
  /** By capability; a plugin that declares the capability gets it in runtimeConfig. */
  capabilityArgs?: Readonly<Record<string, unknown>>;
}

const ownerOf = (o: AttachmentOptions): Attachment => ({ containerID: o.containerId, ifname: o.ifName });

/**
 * ADD through all plugins of the list; the result is in the list's version's terms of 1.1, cached for DEL and CHECK.
 * @throws CniError; then what the earlier plugins had made is gone again.
 */
export async function addNetwork(conflist: NetConfList, options: AttachmentOptions): Promise<CniResult> {
  checkAttachment(options.containerId, options.ifName);
  const version = negotiate(conflist.cniVersion, conflist.cniVersions);
  const cache = new ResultCache(options.stateDir);
  const entry = {
    containerId: options.containerId,
    networkName: conflist.name,
    ifName: options.ifName,
    ...(options.netns !== undefined && { netns: options.netns }),
    config: Buffer.from(JSON.stringify(conflist)).toString("base64"),
    ...(options.args && { cniArgs: Object.entries(options.args) }),
    ...(options.capabilityArgs && { capabilityArgs: { ...options.capabilityArgs } }),
  };
  // Not over the record of the same attachment, which ADD is going to refuse.
  const isNew = cache.read(conflist.name, ownerOf(options)) === undefined;
  if (isNew) cache.write(entry);
  const done: PluginConf[] = [];
  let previous: CniResult | undefined;
  try {
    for (const plugin of conflist.plugins) {
      // A foreign plugin that fails may have left something, unless it is missing; ours never does.
      const isOurs = ownPlugin(plugin.type) !== undefined;
      if (!isOurs) {
        findPlugin(plugin.type, options.binDirs);
        done.push(plugin);
      }
      const conf = confOf(conflist, plugin, { version, previous, options });
      const result = await addOne(conf, options);
      if (isOurs) done.push(plugin);
      previous = result ?? previous;
    }
    if (previous === undefined)
      throw new CniError(CODE.plugin, `network ${conflist.name}: no plugin gave a result`);
  } catch (error) {
    const left = await undo(conflist, done, { version, previous, options });
    if (left.length === 0) {
      if (isNew) cache.remove(conflist.name, ownerOf(options));
      throw error;
    }
    throw new CniError((error as Partial<CniError>).code ?? CODE.plugin, (error as Error).message, {
      details: `and the clean-up failed: ${left.join("; ")}`,
      cause: error,
    });
  }
  cache.write({ ...entry, result: resultAs(previous, version) });
  return previous;
}

/** DEL in reverse order. Fine when there is nothing (left) to delete. Throws CniError. */
export async function delNetwork(conflist: NetConfList, options: AttachmentOptions): Promise<void> {
  checkAttachment(options.containerId, options.ifName);
  const version = negotiate(conflist.cniVersion, conflist.cniVersions);
  const cache = new ResultCache(options.stateDir);
  const cached = cache.read(conflist.name, ownerOf(options));
  const previous = cached?.result && atLeast(version, "0.4.0") ? resultFrom(cached.result) : undefined;
  const same = asAdded(options, cached);
  for (const plugin of conflist.plugins.toReversed()) {
    await delOne(confOf(conflist, plugin, { version, previous, options: same }), same);
  }
  cache.remove(conflist.name, ownerOf(options));
}

/** With the arguments of its ADD where the caller gives none: a plugin may find what it made only by them. */
function asAdded(options: AttachmentOptions, cached: CachedAttachment | undefined): AttachmentOptions {
  const capabilityArgs = options.capabilityArgs ?? cached?.capabilityArgs;
  const args = options.args ?? (cached?.cniArgs && Object.fromEntries(cached.cniArgs));
  return { ...options, ...(capabilityArgs && { capabilityArgs }), ...(args && { args }) };
}

/** The configuration that an attachment was made with, which is the one for its DEL: there may be another by now. */
export function attachedConflist(
  options: Pick<AttachmentOptions, "containerId" | "ifName" | "stateDir">,
): NetConfList | undefined {
  const { containerId, ifName, stateDir } = options;
  const cached = new ResultCache(stateDir).find({ containerID: containerId, ifname: ifName });
  return cached && cachedConflist(cached);
}

const cachedConflist = ({ config }: CachedAttachment): NetConfList =>
  parseConflist(Buffer.from(config, "base64").toString(), "the cached configuration");

/**
 * DEL of every attachment of this runtime, each with the configuration of its ADD: what a former life has left. Unlike
 * GC it touches nothing of another runtime on the same network. Without CNI_NETNS: a path of that life, like
 * /proc/PID/fd/N, may be somebody else's by now. Throws AggregateError at the end.
 */
export async function delRemembered(options: NetworkContext): Promise<void> {
  const failures: unknown[] = [];
  for (const entry of new ResultCache(options.stateDir).list()) {
    const { containerId, ifName } = entry;
    try {
      await delNetwork(cachedConflist(entry), { ...options, containerId, ifName });
    } catch (error) {
      failures.push(error);
    }
  }
  if (failures.length > 0)
    throw new AggregateError(failures, `DEL of former attachments: ${failures.join("; ")}`);
}

/** CHECK of an attachment that ADD made. Throws CniError: 104 or a plugin's own when something is not as it was. */
export async function checkNetwork(conflist: NetConfList, options: AttachmentOptions): Promise<void> {
  checkAttachment(options.containerId, options.ifName);
  const version = negotiate(conflist.cniVersion, conflist.cniVersions);
  if (!atLeast(version, "0.4.0")) {
    throw new CniError(CODE.incompatibleVersion, `CHECK needs cniVersion 0.4.0 or newer, not ${version}`);
  }
  if (conflist.disableCheck) return;
  const cached = new ResultCache(options.stateDir).read(conflist.name, ownerOf(options));
  if (!cached?.result) {
    throw new CniError(
      CODE.unknownContainer,
      `container ${options.containerId} has no attachment ${options.ifName} to network ${conflist.name}`,
    );
  }
  const previous = resultFrom(cached.result);
  const same = asAdded(options, cached);
  for (const plugin of conflist.plugins) {
    const conf = confOf(conflist, plugin, { version, previous, options: same });
    const own = ownPlugin(plugin.type);
    if (own) await own.check(conf, invocation(same));
    else await execPlugin("CHECK", conf, same);
  }
}

/** Deletes every attachment of the network that is not in `valid`: first those in the cache, then what plugins find. */
export async function gcNetwork(
  conflist: NetConfList,
  options: NetworkContext & { valid: readonly Attachment[] },
): Promise<void> {
  const version = negotiate(conflist.cniVersion, conflist.cniVersions);
  if (conflist.disableGC) return;
  const { valid, ...context } = options;
  const failures: unknown[] = [];
  const attempt = (work: Promise<unknown>) => work.catch((error: unknown) => failures.push(error));
  for (const entry of new ResultCache(options.stateDir).list(conflist.name)) {
    const { containerId, ifName, netns } = entry;
    if (valid.some((v) => v.containerID === containerId && v.ifname === ifName)) continue;
    await attempt(delNetwork(conflist, { ...context, containerId, ifName, ...(netns && { netns }) }));
  }
  for (const plugin of conflist.plugins) {
    const conf = { ...confOf(conflist, plugin, { version }), [VALID_ATTACHMENTS]: valid };
    const own = ownPlugin(plugin.type);
    if (own) {
      await attempt(own.gc(conf, { ...options, dataDir: options.stateDir }));
    } else if (atLeast(version, "1.1.0")) {
      await attempt(execPlugin("GC", conf, options));
    }
  }
  if (failures.length > 0)
    throw new AggregateError(failures, `GC of network ${conflist.name}: ${failures.join("; ")}`);
}

/** Throws CniError 50, 51 or 105 when ADD could not work now. */
export async function statusNetwork(conflist: NetConfList, options: NetworkContext): Promise<void> {
  const version = negotiate(conflist.cniVersion, conflist.cniVersions);
  for (const plugin of conflist.plugins) {
    const conf = confOf(conflist, plugin, { version });
    const own = ownPlugin(plugin.type);
    if (own) await own.status(conf, { ...options, dataDir: options.stateDir });
    else if (atLeast(version, "1.1.0")) await execPlugin("STATUS", conf, options);
    else findPlugin(plugin.type, options.binDirs);
  }
}

interface ConfFacts {
  version: string;
  previous?: CniResult | undefined;
  options?: AttachmentOptions;
}

/** What one plugin gets: its own part of the list and what the runtime adds (specification, section 3). */
function confOf(conflist: NetConfList, plugin: PluginConf, facts: ConfFacts): NetConf {
  const { version, previous, options } = facts;
  const { capabilities = {}, ...own } = plugin;
  const runtimeConfig = Object.fromEntries(
    Object.entries(options?.capabilityArgs ?? {}).filter(([capability]) => capabilities[capability]),
  );
  return {
    ...own,
    type: plugin.type,
    cniVersion: version,
    name: conflist.name,
    ...(Object.keys(runtimeConfig).length > 0 && { runtimeConfig }),
    ...(previous && { prevResult: resultAs(previous, version) }),
  };
}

function invocation(options: AttachmentOptions): Invocation {
  return { ...options, dataDir: options.stateDir };
}

async function addOne(conf: NetConf, options: AttachmentOptions): Promise<CniResult | undefined> {
  const own = ownPlugin(conf.type);
  if (own) return own.add(conf, invocation(options));
  const printed = await execPlugin("ADD", conf, options);
  return printed === undefined ? undefined : resultFrom(printed);
}

async function delOne(conf: NetConf, options: AttachmentOptions): Promise<void> {
  const own = ownPlugin(conf.type);
  if (own) await own.del(conf, invocation(options));
  else await execPlugin("DEL", conf, options);
}

/** DEL of the plugins that had run, last first; returns what went wrong. */
async function undo(
  conflist: NetConfList,
  done: readonly PluginConf[],
  facts: ConfFacts & { options: AttachmentOptions },
): Promise<string[]> {
  const left: string[] = [];
  for (const plugin of done.toReversed()) {
    try {
      await delOne(confOf(conflist, plugin, facts), facts.options);
    } catch (error) {
      left.push((error as Error).message);
    }
  }
  return left;
}
