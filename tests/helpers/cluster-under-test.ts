// The cluster that an end-to-end test runs against: a lab of its own or, when a test of VMs runs that file once more, the
// machines that it lends. Knows what both can do.

import type t from "tap";
import type { Test } from "tap";
import { type Cluster, type CreateClusterOptions, createCluster } from "../../index.js";
import { NODE_MODULES, PROGRAM_FILES } from "./machine-files.js";
import { swapIfAsked } from "./reference-plugins.js";

const LAB_TIMEOUT_MS = 240_000;

export type TestCluster = Pick<
  Cluster,
  | "apply"
  | "curl"
  | "exec"
  | "hosts"
  | "kubeconfigPath"
  | "kubectl"
  | "rules"
  | "waitFor"
  | "waitForSync"
  | "waitUntil"
>;

export interface ClusterUnderTest {
  /** A target `underlay` of its commands is the place beside the hosts: 192.168.56.1. */
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
  programs: Programs;
}

/** What containers run that is no image's: paths as they see them. */
export interface Programs {
  node: string;
  /** Directory of npm packages. */
  packages: string;
  /** Files of the host that a pod has to be shown for these. */
  files: readonly string[];
}

let lent: ClusterUnderTest | undefined;

/** Test files that are loaded from now on run against this one: node-1 to node-3, ready, with nothing in `default`. */
export function lend(one: ClusterUnderTest): void {
  lent = one;
}

/** Why a test that needs a lab is skipped: false, or a reason when machines are lent. */
export const onlyInLab = (): false | string => (lent ? "only a lab can" : false);

/** The lent one; else a lab of its own, which ends with the test. */
export async function clusterUnderTest(
  test: typeof t | Test,
  { timeoutMs = LAB_TIMEOUT_MS, ...options }: CreateClusterOptions & { timeoutMs?: number } = {},
): Promise<ClusterUnderTest> {
  if (lent) return lent;
  test.setTimeout(timeoutMs);
  const lab = await createCluster({ nodes: 3, ...options });
  test.teardown(() => lab.stop());
  await swapIfAsked(lab);
  return {
    cluster: lab,
    lab,
    uplink: "eth0",
    apiAddress: "192.168.56.1",
    subnetFile: "/run/flannel/subnet.env",
    patience: "60s",
    programs: { node: process.execPath, packages: NODE_MODULES, files: PROGRAM_FILES },
  };
}
