// The cluster that an end-to-end test runs against: a lab of its own or, when a test of VMs runs that file once more, the
// machines that it lends. Knows what both can do.

import type t from "tap";
import { type Cluster, createCluster } from "../../index.js";
import { swapIfAsked } from "./reference-plugins.js";

const LAB_TIMEOUT_MS = 240_000;

export type TestCluster = Pick<Cluster, "apply" | "exec" | "kubectl" | "rules" | "waitForSync">;

export interface ClusterUnderTest {
  cluster: TestCluster;
  /** Undefined on machines. */
  lab?: Cluster;
  /** The interface by which hosts reach one another. */
  uplink: string;
  /** Of the API server, as hosts know it. */
  apiAddress: string;
  /** Where hosts keep what the overlay tells the CNI plugin. */
  subnetFile: string;
  /** How long pods may take to be ready, for kubectl's --timeout. */
  patience: string;
}

let lent: ClusterUnderTest | undefined;

/** Test files that are loaded from now on run against this one: node-1 to node-3, ready, with nothing in `default`. */
export function lend(one: ClusterUnderTest): void {
  lent = one;
}

/** The lent one; else a lab of three hosts, which ends with the test. */
export async function clusterUnderTest(test: typeof t): Promise<ClusterUnderTest> {
  if (lent) return lent;
  test.setTimeout(LAB_TIMEOUT_MS);
  const lab = await createCluster({ nodes: 3 });
  test.teardown(() => lab.stop());
  await swapIfAsked(lab);
  return {
    cluster: lab,
    lab,
    uplink: "eth0",
    apiAddress: "192.168.56.1",
    subnetFile: "/run/flannel/subnet.env",
    patience: "60s",
  };
}
