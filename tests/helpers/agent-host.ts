// A host with a node agent for a kernel test file, gone at its end, and short words for what its pods say.

import t from "tap";
import type { Pod, PodStatus, Stored } from "../../common/k8s.js";
import { Harness } from "../unit/helpers/node-harness.js";

t.setTimeout(240_000);
export const host = await Harness.create({
  images: { "example.com/mapped": "gcr.io/google-samples/kubernetes-bootcamp:v2" },
});
t.teardown(() => host[Symbol.asyncDispose]());
export const { client } = host;

/** The address of a pod. */
export const ip = (pod: Stored<Pod>): string => pod.status?.podIP ?? "";
/** How its first container fares. */
export const main = (status: PodStatus | undefined) => status?.containerStatuses?.[0];
export const restarts = (status: PodStatus): number => main(status)?.restartCount ?? 0;
/** A container that runs a script. */
export const shell = (script: string) => ({ image: "busybox", command: ["sh", "-c", script] });

/** Until `condition` holds; for what no watch tells. */
export async function waitFor(condition: () => Promise<boolean>): Promise<void> {
  for (const end = Date.now() + 60_000; Date.now() < end; ) {
    if (await condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error("waited in vain");
}
