// A pod's sandbox that a container runtime has made: its addresses, its network namespace, its end. Knows the runtime's
// calls for sandboxes, no containers.

import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Pod, Stored } from "../../common/k8s.js";
import { NetNs } from "../../dataplane/kernel/netns.js";
import type { PodEnvironment } from "../pods/environment.js";
import { hostNetworkHostsFile, podHostname, podHostsFile } from "../pods/files.js";
import type { PodSandbox } from "../pods/runtime.js";
import { podDirectory, sortedIPs } from "../pods/sandbox.js";
import type { BindMount } from "../process/root-plan.js";
import { type CriClient, unlessGone } from "./client.js";
import { SANDBOX_READY, type SandboxConfig } from "./messages.js";
import type { CriWatcher } from "./watcher.js";

interface Made {
  client: CriClient;
  watcher: CriWatcher;
  id: string;
  config: SandboxConfig;
}

export class CriSandbox implements PodSandbox {
  readonly id: string;
  /** What the runtime made it from: it wants it again with every container. */
  readonly config: SandboxConfig;
  readonly ns: NetNs;
  readonly ips: readonly string[];
  readonly hostname: string;
  readonly directory: string;
  readonly #client: CriClient;
  readonly #watcher: CriWatcher;
  readonly #pod: Stored<Pod>;
  readonly #environment: PodEnvironment;
  #lost: boolean;
  #files: BindMount[] | undefined;

  private constructor(
    pod: Stored<Pod>,
    environment: PodEnvironment,
    { client, watcher, id, config }: Made,
    found: { ns: NetNs; ips: readonly string[]; ready: boolean },
  ) {
    this.id = id;
    this.config = config;
    this.ns = found.ns;
    this.ips = found.ips;
    this.hostname = pod.spec?.hostNetwork ? environment.nodeName : podHostname(pod);
    this.directory = podDirectory(environment.rootDir, pod.metadata.uid);
    this.#client = client;
    this.#watcher = watcher;
    this.#pod = pod;
    this.#environment = environment;
    this.#lost = !found.ready;
  }

  /** One that the runtime has, as it is. @throws GrpcError, or the error of a process that has just ended. */
  static async find(pod: Stored<Pod>, environment: PodEnvironment, made: Made): Promise<CriSandbox> {
    const { status, info } = await made.client.sandboxStatus(made.id);
    const ready = status?.state === SANDBOX_READY;
    const { nodeIPs, hostNs } = environment;
    if (pod.spec?.hostNetwork)
      return new CriSandbox(pod, environment, made, { ns: hostNs, ips: nodeIPs, ready });
    const { ip = "", additionalIps = [] } = status?.network ?? {};
    const ips = sortedIPs([ip, ...additionalIps.map((one) => one.ip)].filter(Boolean), nodeIPs);
    const ns = ready ? NetNs.open(`/proc/${pidOf(info)}/ns/net`, made.id) : hostNs;
    return new CriSandbox(pod, environment, made, { ns, ips, ready });
  }

  /** From now on `lost` is called when it ends by itself. */
  watch(lost: () => void): void {
    if (this.#lost) return;
    this.#watcher.watch(this.id, () => {
      this.#lost = true;
      lost();
    });
  }

  get ip(): string {
    return this.ips[0] ?? "";
  }

  get lost(): boolean {
    return this.#lost;
  }

  /** /etc/hosts; the runtime makes hostname and resolv.conf itself. */
  files(): BindMount[] {
    this.#files ??= this.#writeFiles();
    return this.#files;
  }

  #writeFiles(): BindMount[] {
    const etc = join(this.directory, "etc");
    mkdirSync(etc, { recursive: true });
    const source = join(etc, "hosts");
    const { clusterDomain } = this.#environment;
    const text = this.#pod.spec?.hostNetwork
      ? hostNetworkHostsFile(this.#pod, readFileSync("/etc/hosts", "utf8"))
      : podHostsFile(this.#pod, this.ips, clusterDomain);
    writeFileSync(source, text);
    return [{ source, target: "/etc/hosts", file: true }];
  }

  async remove(): Promise<void> {
    this.#watcher.forget(this.id);
    await removeSandbox(this.#client, this.id);
    this.#close();
    rmSync(this.directory, { recursive: true, force: true });
  }

  leave(): void {
    this.#watcher.forget(this.id);
    this.#close();
  }

  #close(): void {
    if (this.ns !== this.#environment.hostNs) this.ns.close();
  }
}

/** Ends what runs in it, gives its addresses back, and its containers' files. @throws GrpcError */
export async function removeSandbox(client: CriClient, id: string): Promise<void> {
  await client.stopSandbox(id).catch(unlessGone);
  await client.removeSandbox(id).catch(unlessGone);
}

/** The process of a sandbox or container, from what a runtime tells beside the status. @throws Error without it. */
export function pidOf(info: Readonly<Record<string, string>>): number {
  const { pid } = JSON.parse(info.info ?? "{}") as { pid?: number };
  if (!pid) throw new Error("the container runtime does not tell the process of a sandbox or container");
  return pid;
}
