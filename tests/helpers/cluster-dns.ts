// A cluster's DNS as tests ask it: clusters with it, dig in a pod and what it says, commands in pods.

import type { Test } from "tap";
import { type Cluster, createCluster, DEPLOYMENTS } from "../../index.js";
import type { TestCluster } from "./cluster-under-test.js";

export const SYSTEM = "kube-system";

/** What dig has to say to one question: its status, then each record of the answer, names and TTLs included. */
export interface Dug {
  status: string;
  flags: string;
  answer: string[];
  authority: string[];
}

function parseDig(text: string): Dug {
  const section = (name: string) =>
    (new RegExp(`;; ${name} SECTION:\\n((?:[^;\\n].*\\n)*)`).exec(text)?.[1] ?? "")
      .split("\n")
      .filter(Boolean)
      .map((line) => line.replace(/\s+/g, " "));
  return {
    status: /status: (\w+)/.exec(text)?.[1] ?? text.trim(),
    flags: /flags: ([\w ]*)/.exec(text)?.[1] ?? "",
    answer: section("ANSWER"),
    authority: section("AUTHORITY"),
  };
}

/** Every question in one go, each with dig's arguments. */
export async function dig(
  cluster: Pick<TestCluster, "exec">,
  pod: string,
  questions: readonly string[],
): Promise<Dug[]> {
  const script = questions.map((one) => `echo "<dig>"; dig +noidnin +tries=1 +time=30 ${one}`).join("\n");
  const { stdout } = await cluster.exec(pod, ["sh", "-c", script]);
  return stdout.split("<dig>\n").slice(1).map(parseDig);
}

/** Gone with the test. */
export async function start(
  t: Test,
  config: NonNullable<Parameters<typeof createCluster>[0]>,
): Promise<Cluster> {
  const cluster = await createCluster(config);
  t.teardown(() => cluster.stop());
  return cluster;
}

/** Until both replicas of the cluster's DNS are Ready. */
export const ready = (cluster: Pick<TestCluster, "waitFor">) =>
  cluster.waitFor(DEPLOYMENTS, "coredns", (one) => one?.status?.readyReplicas === 2, { namespace: SYSTEM });

/** What a command in a pod prints. */
export const inside = async (cluster: Pick<TestCluster, "exec">, pod: string, ...argv: string[]) =>
  (await cluster.exec(pod, argv)).stdout.trim();
