// The root of a container's run, made for the first process that needs one: most emulated programs never do. Knows what
// belongs into it, nothing of who runs.

import { join } from "node:path";
import { ContainerRoot } from "../process/container-root.js";
import { LaunchError } from "../process/launch.js";
import type { BindMount } from "../process/root-plan.js";
import type { RunOptions } from "./run.js";

export class RunRoot {
  readonly #options: RunOptions;
  #root: ContainerRoot | undefined;
  #closed = false;

  constructor(options: RunOptions) {
    this.#options = options;
  }

  /** @throws LaunchError kind "setup" when it cannot be made, or the run is over. */
  get(): ContainerRoot {
    if (this.#closed) throw new LaunchError("setup", "cannot exec in a stopped container");
    this.#root ??= this.#make();
    return this.#root;
  }

  /** Undefined: no process has been here, and the container's files are as the image has them. */
  get made(): ContainerRoot | undefined {
    return this.#root;
  }

  #make(): ContainerRoot {
    const { sandbox, container, image, mounts, terminationLog } = this.#options;
    const { terminationMessagePath: target } = container;
    const file = (source: string, target: string): BindMount => ({ source, target, file: true });
    const termination = terminationLog && target ? [file(terminationLog, target)] : [];
    const { shell, programs = {} } = image.image;
    const all = { ...programs, ...(shell ? { "/bin/sh": shell } : {}) };
    const ofImage = Object.entries(all).map(([target, source]) => ({
      ...file(source, target),
      readOnly: true,
    }));
    try {
      return ContainerRoot.create({
        ns: sandbox.ns,
        mounts: [...sandbox.files(), ...ofImage, ...mounts, ...termination],
        files: image.image.files?.(image.tag) ?? {},
        directories: image.image.directories ?? [],
        readOnly: container.securityContext?.readOnlyRootFilesystem ?? false,
        scratch: join(sandbox.directory, "root"),
        warn: (message) => this.#options.warn(message),
      });
    } catch (error) {
      throw new LaunchError("setup", `the container's root could not be made: ${(error as Error).message}`);
    }
  }

  close(): void {
    this.#closed = true;
    this.#root?.close();
    this.#root = undefined;
  }
}
