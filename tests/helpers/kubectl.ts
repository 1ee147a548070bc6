// kubectl against a test's own cluster. Knows the cluster's handle only.

import type { Cluster } from "../../index.js";

/** kubectl that must succeed: resolves with stdout, without the last newline. */
export function kubectlOf(cluster: Pick<Cluster, "kubectl">): (...args: string[]) => Promise<string> {
  return async (...args) => {
    const result = await cluster.kubectl(args);
    if (result.exitCode !== 0) throw new Error(`kubectl ${args.join(" ")}: ${result.stderr}`);
    return result.stdout.trimEnd();
  };
}
