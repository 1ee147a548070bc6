// The pod network of one host: its CNI configuration, and pods joined through it. Knows CNI, nothing of what a pod
// does with its network.

import { mkdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  type AttachmentOptions,
  addNetwork,
  attachedConflist,
  DEFAULT_CONFLIST_NAME,
  defaultConflist,
  delNetwork,
  delRemembered,
  gcNetwork,
  readConflist,
} from "../../cni/index.js";
import type { NetNs } from "../../dataplane/kernel/netns.js";
import { RtNetlink } from "../../dataplane/kernel/rtnetlink.js";
import type { HostPort, PodIdentity, PodNetwork } from "../pods/environment.js";

export interface CniNetworkOptions {
  confDir: string;
  /** Other runtimes read that directory too. */
  shared?: boolean;
  binDirs: readonly string[];
  /** Which address is whose, and results; lives as long as the pods' namespaces. */
  stateDir: string;
  /** Where the overlay says which block this host has. */
  subnetFile: string;
  hostNs: NetNs;
}

const IF_NAME = "eth0";
/** Name of podman's default network. */
const PODMAN = "podman";

/** Attachments worked on at the same time by all hosts of this process: they take turns in the kernel anyway. */
const CONCURRENCY = 16;
const turns: (() => void)[] = [];
let busy = 0;

/** Runs `work` when it is its turn. */
async function inTurn<T>(work: () => Promise<T>): Promise<T> {
  if (busy >= CONCURRENCY) await new Promise<void>((resolve) => turns.push(resolve));
  else busy++;
  try {
    return await work();
  } finally {
    const next = turns.shift();
    if (next) next();
    else busy--;
  }
}

/** The words of a container runtime whose network is not there yet. */
export const NOT_READY =
  "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized";

type Conf = ReturnType<typeof readConflist>;

export class CniNetwork implements PodNetwork {
  readonly #options: CniNetworkOptions;
  #conf: { version: string; conf: Conf } | undefined;

  constructor(options: CniNetworkOptions) {
    this.#options = options;
  }

  /**
   * Writes our own configuration unless there is one, of whatever kind but podman's: its package brings a network for its
   * own containers, which ours comes before. @throws CniError for one that is broken.
   */
  ensureConfiguration(): void {
    const { confDir, stateDir, subnetFile, shared = false } = this.#options;
    mkdirSync(confDir, { recursive: true });
    const present = this.#readConf();
    if (present && present.conflist.name !== PODMAN) return;
    const conflist = defaultConflist({ subnetFile, dataDir: stateDir, shared });
    writeFileSync(join(confDir, DEFAULT_CONFLIST_NAME), `${JSON.stringify(conflist, null, 2)}\n`);
  }

  /** Asked for with every pod and every look at the node's health: parsed again only when directory or file changed. */
  #readConf(): Conf {
    const { confDir } = this.#options;
    const known = this.#conf;
    if (known && known.version === versionOf(confDir, known.conf?.path)) return known.conf;
    // Looked at before it is read for good: what changes meanwhile is read again the next time.
    const version = versionOf(confDir, readConflist(confDir)?.path);
    const conf = readConflist(confDir);
    this.#conf = { version, conf };
    return conf;
  }

  notReady(): string | undefined {
    return this.#readConf() ? undefined : NOT_READY;
  }

  async add(
    pod: PodIdentity & { hostPorts?: readonly HostPort[] },
    sandboxId: string,
    ns: NetNs,
  ): Promise<string[]> {
    const conf = this.#readConf();
    if (!conf) throw new Error(NOT_READY);
    await loopbackUp(ns);
    const { hostPorts = [] } = pod;
    const attachment = {
      ...this.#attachment(pod, sandboxId, ns, conf.path),
      ...(hostPorts.length > 0 && { capabilityArgs: { portMappings: hostPorts } }),
    };
    const result = await inTurn(() => addNetwork(conf.conflist, attachment));
    const ips = (result.ips ?? []).map(({ address }) => address.slice(0, address.indexOf("/")));
    if (ips.length === 0)
      throw new Error(`the CNI network ${conf.conflist.name} (${conf.path}) gave the pod no address`);
    return ips;
  }

  /**
   * With the configuration of its ADD. While that fails (a plugin's program is gone, say) the pod stays and it is tried
   * again, as containerd does: only the plugin knows what it holds outside the namespace.
   */
  async remove(pod: PodIdentity, sandboxId: string, ns: NetNs): Promise<void> {
    const { stateDir, confDir } = this.#options;
    const made = attachedConflist({ containerId: sandboxId, ifName: IF_NAME, stateDir });
    const conflist = made ?? this.#readConf()?.conflist;
    // Without a configuration nothing of it can be left but the namespace, which goes by itself.
    if (!conflist) return;
    await inTurn(() => delNetwork(conflist, this.#attachment(pod, sandboxId, ns, confDir)));
  }

  async collectGarbage(): Promise<void> {
    const conf = this.#readConf();
    try {
      await this.giveBackOwn();
    } finally {
      if (conf) await gcNetwork(conf.conflist, { ...this.#context(conf), valid: [] });
    }
  }

  async giveBackOwn(): Promise<void> {
    await delRemembered(this.#context(this.#readConf()));
  }

  #context(conf: Conf) {
    const { binDirs, stateDir, hostNs } = this.#options;
    return { binDirs, stateDir, hostNs, ...(conf && { confPath: conf.path }) };
  }

  #attachment(pod: PodIdentity, containerId: string, ns: NetNs, confPath: string): AttachmentOptions {
    const { binDirs, stateDir, hostNs } = this.#options;
    return {
      containerId,
      netns: ns.path,
      ifName: IF_NAME,
      args: {
        IgnoreUnknown: "1",
        K8S_POD_NAMESPACE: pod.namespace,
        K8S_POD_NAME: pod.name,
        K8S_POD_INFRA_CONTAINER_ID: containerId,
        K8S_POD_UID: pod.uid,
      },
      binDirs,
      confPath,
      stateDir,
      hostNs,
    };
  }
}

/** Changes when a file comes, goes or is renamed (the directory's time) or is written in place (the file's). */
function versionOf(...paths: (string | undefined)[]): string {
  return paths
    .map((path) => (path === undefined ? undefined : statSync(path, { bigint: true, throwIfNoEntry: false })))
    .map((facts) => (facts ? `${facts.ino}/${facts.size}/${facts.mtimeNs}/${facts.ctimeNs}` : ""))
    .join(" ");
}

/** What a runtime's "loopback" plugin does. */
async function loopbackUp(ns: NetNs): Promise<void> {
  const netlink = RtNetlink.open(ns);
  try {
    await netlink.setLink("lo", { up: true });
  } finally {
    netlink.close();
  }
}
