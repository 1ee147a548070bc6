// The first process of a PID namespace that the containers of a pod share (shareProcessNamespace): waits, and reaps what
// they leave. Knows a sandbox's place, no containers.

import { join } from "node:path";
import type { NetNs } from "../../dataplane/kernel/netns.js";
import { ContainerRoot } from "../process/container-root.js";
import { LaunchError, type LaunchedProcess } from "../process/launch.js";
import { DEFAULT_CAPABILITIES } from "../process/privileges.js";
import { standIn } from "../process/stand-in.js";

export interface PauseOptions {
  ns: NetNs;
  hostname: string;
  /** Of the pod, on this machine. */
  directory: string;
  warn(message: string): void;
}

export class PauseProcess {
  readonly #options: PauseOptions;
  #starting: Promise<LaunchedProcess> | undefined;

  constructor(options: PauseOptions) {
    this.#options = options;
  }

  /** Its id on this machine. @throws LaunchError */
  async pid(): Promise<number> {
    this.#starting ??= this.#start();
    const pid = (await this.#starting).commandPid();
    if (pid === undefined) throw new LaunchError("setup", "the first process of the pod has ended");
    return pid;
  }

  async #start(): Promise<LaunchedProcess> {
    const { directory, ns, hostname, warn } = this.#options;
    const root = ContainerRoot.create({ ns, mounts: [], files: {}, scratch: join(directory, "pause"), warn });
    const privileges = {
      uid: 0,
      gid: 0,
      groups: [],
      capabilities: DEFAULT_CAPABILITIES,
      noNewPrivileges: true,
    };
    const process = await standIn({ ns, root, hostname, privileges, env: {}, warn }, ["/pause"], () => {});
    if (!process) throw new LaunchError("setup", "bash is not installed on this machine");
    void process.exited.then(() => root.close());
    return process;
  }

  /** Ends it, and with it everything in its PID namespace. */
  async end(): Promise<void> {
    const process = await this.#starting?.catch(() => undefined);
    process?.signal("SIGKILL");
  }
}
