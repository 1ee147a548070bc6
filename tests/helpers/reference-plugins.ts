// The reference CNI plugins in a lab in place of ours: the conflist of every host is swapped, as an operator would.

import { writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Cluster } from "../../index.js";
import { kubectlOf } from "./kubectl.js";

/** Set to "reference" by a test that runs another one once more. */
const CHOICE = "KUBEPLUMB_TEST_PLUGINS";

/** On the same bridge, in the upper half of the node's block: pods of the cluster have come by our own before the swap. */
const conflist = (podCIDR: string) => ({
  cniVersion: "1.0.0",
  name: "reference",
  plugins: [
    {
      type: "bridge",
      bridge: "cni0",
      // The overlay's.
      mtu: 1450,
      isDefaultGateway: true,
      hairpinMode: true,
      ipam: {
        type: "host-local",
        ranges: [[{ subnet: podCIDR, rangeStart: podCIDR.replace(".0/24", ".128") }]],
      },
    },
    { type: "portmap", capabilities: { portMappings: true } },
  ],
});

/** Whether an address is of their range. */
export const isTheirs = (ip: string): boolean => Number(ip.split(".")[3]) >= 128;

/** From now on pods come by the reference plugins. */
export async function useReferencePlugins(cluster: Cluster): Promise<void> {
  const kubectl = kubectlOf(cluster);
  for (const { name } of cluster.hosts) {
    const podCIDR = await kubectl("get", "node", name, "-o", "jsonpath={.spec.podCIDR}");
    // The host's /etc/cni/net.d, where a runtime takes the first file.
    const confDir = join(dirname(cluster.info.labSocket), "hosts", name, "var/etc/cni/net.d");
    writeFileSync(join(confDir, "00-reference.conflist"), JSON.stringify(conflist(podCIDR)));
  }
}

let swapped: Cluster | undefined;
/** The one that {@link swapIfAsked} has swapped the plugins of. */
export const swappedCluster = (): Cluster | undefined => swapped;

/** When a test runs for the second time, by {@link runOnReferencePlugins}: its cluster has no pod of ours from then on. */
export async function swapIfAsked(cluster: Cluster): Promise<void> {
  if (process.env[CHOICE] !== "reference") return;
  swapped = cluster;
  await useReferencePlugins(cluster);
  const kubectl = kubectlOf(cluster);
  await kubectl("delete", "pod", "-n", "kube-system", "-l", "k8s-app=kube-dns");
  await kubectl("rollout", "status", "-n", "kube-system", "deployment/coredns", "--timeout=60s");
}

/** Loads a test file, in which {@link swapIfAsked} follows createCluster. */
export async function runOnReferencePlugins(file: URL): Promise<void> {
  process.env[CHOICE] = "reference";
  await import(file.href);
}
