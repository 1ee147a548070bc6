// The lab's own end-to-end tests on VMs, one after the other. What they make goes after each of them, so that the next one
// begins with an empty namespace and nodes can be drained.

import t from "tap";
import { lend } from "../helpers/cluster-under-test.js";
import { kubectlOf } from "../helpers/kubectl.js";
import { eventually, type VmCluster } from "./vm-cluster.js";

const KINDS =
  "all,ingresses,poddisruptionbudgets,endpointslices,configmaps,secrets,serviceaccounts,rolebindings";
/** What every namespace `default` has. */
const OWN = ["kubernetes", "default", "kube-root-ca.crt"].map((name) => `metadata.name!=${name}`).join(",");
/** What they make elsewhere. */
const BESIDE = [
  "clusterrolebinding/proxy",
  "clusterrolebinding/dns",
  "namespace/other",
  "namespace/ingress-kubeplumb",
];

/** Tests of the folder e2e by their names. They run in this order, after what the file that calls has before it. */
export async function runLabTests(cluster: VmCluster, names: readonly string[]): Promise<void> {
  const kubectl = kubectlOf(cluster);
  lend({
    cluster,
    uplink: "eth1",
    apiAddress: cluster.control.address,
    subnetFile: "/run/kubeplumb/flannel/subnet.env",
    patience: "200s",
    // A container sees /usr and /opt of its machine anyway.
    programs: { node: "/usr/local/bin/node", packages: "/opt/kubeplumb/node_modules", files: [] },
  });
  for (const name of names) {
    await import(`../e2e/${name}.test.js`);
    t.test(`what the lab's test ${name} has made goes`, async () => {
      await kubectl("delete", KINDS, "--field-selector", OWN, "--now");
      // Some have been replaced meanwhile, and those that go for good would take their time for it.
      await kubectl("delete", "pods", "--all", "--now");
      await kubectl("delete", ...BESIDE, "--ignore-not-found");
      await eventually(async () => (await kubectl("get", "pods", "-o", "name")) === "");
    });
  }
}
