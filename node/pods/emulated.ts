// The emulated runtime: pods are emulated by this process, or are its child processes, and end with it. Knows sandboxes
// and runs, no pod's life.

import { rmSync } from "node:fs";
import { join } from "node:path";
import type { Pod, Stored } from "../../common/k8s.js";
import type { Cgroups } from "../../dataplane/kernel/cgroups.js";
import { RUNTIME_VERSION } from "../host/machine.js";
import { type ImageSpec, type ResolvedImage, resolveImage, unknownImageMessage } from "../images/index.js";
import type { Privileges } from "../process/privileges.js";
import { mapsOneUser } from "../process/user-ns.js";
import type { PodEnvironment } from "./environment.js";
import { ignoredFields } from "./ignored-fields.js";
import { ContainerRun, type RunOptions } from "./run.js";
import type { ContainerRuntime, ImageSource, PodSandbox } from "./runtime.js";
import { Sandbox } from "./sandbox.js";

const PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** `mapped`: what image names stand for, beside those that are built in; `cgroups`: for the limits of containers. */
export function emulatedRuntime(
  mapped: Readonly<Record<string, ImageSpec>>,
  cgroups: Cgroups,
): ContainerRuntime {
  const runs = new Map<string, ContainerRun>();
  return {
    version: RUNTIME_VERSION,
    outlivesAgent: false,
    images: emulatedImages(mapped),
    notReady: () => undefined,
    takeOver: (_pods, environment) => giveBack(environment, cgroups),
    left: () => undefined,
    ignoredFields: (pod: Stored<Pod>) => ignoredFields(pod, mapsOneUser()),
    createSandbox: (pod, environment) => Sandbox.create(pod, environment),
    baseEnv: ({ image }: ResolvedImage, { uid }: Privileges, { hostname }: PodSandbox) => ({
      PATH,
      // As runtimes set it for a user that /etc/passwd of the image does not know.
      HOME: uid === 0 ? "/root" : "/",
      HOSTNAME: hostname,
      ...image.env,
    }),
    start: async (options) => {
      const sharePid = await sharedPid(options, runs);
      const run = await ContainerRun.start({ ...options, ...(sharePid && { sharePid }) }, cgroups);
      runs.set(run.id, run);
      void run.exited.then(() => runs.delete(run.id));
      return run;
    },
    close: () => cgroups.remove(),
  };
}

/** A process in whose PID namespace the container is to live: of its target, of its pod; undefined: none but its own. */
async function sharedPid(
  { targetID = "", sandbox }: RunOptions,
  runs: ReadonlyMap<string, ContainerRun>,
): Promise<number | undefined> {
  const target = await runs.get(targetID)?.show();
  return target ?? (sandbox instanceof Sandbox ? sandbox.sharedPid() : undefined);
}

/** Everything ended with the former life: addresses and files are left. */
async function giveBack({ network, rootDir, log }: PodEnvironment, cgroups: Cgroups): Promise<void> {
  try {
    await cgroups.remove();
    await network.collectGarbage();
  } catch (error) {
    log.warn({ err: error }, "addresses of a former life could not all be given back");
  }
  rmSync(join(rootDir, "pods"), { recursive: true, force: true });
}

/** Every image there is is here; a pull transfers nothing. */
function emulatedImages(mapped: Readonly<Record<string, ImageSpec>>): ImageSource {
  const find = (reference: string, hasCommand: boolean) => resolveImage(reference, { mapped, hasCommand });
  return {
    find: async (reference, hasCommand) => find(reference, hasCommand),
    pull: async (reference, hasCommand) => {
      const image = find(reference, hasCommand);
      if (!image || image === "invalid") throw new Error(unknownImageMessage(reference, mapped));
      return { image, bytes: 0 };
    },
  };
}
