// The tour itself: from three empty hosts to a web page on this machine's loopback, each step checked. Knows the
// Kubernetes tutorial's bootcamp application; how things are shown and run is elsewhere.

import type { ApiClient } from "../../client/api-client.js";
import type { ClusterInfo } from "../../lab/types.js";
import { nameWords } from "../command.js";
import { findProgram, shellLine } from "../programs.js";
import { type Action, localAction, type Outcome, remoteAction } from "./action.js";
import {
  findService,
  hasClusterDns,
  hasDeployment,
  type PodFact,
  readyPods,
  type ServiceFact,
} from "./facts.js";
import { httpCommand } from "./http.js";
import type { DemoKube } from "./kube.js";
import { type Check, DemoFailure, succeeded, type Transcript } from "./transcript.js";

const APP = "kubernetes-bootcamp";
const IMAGE = "gcr.io/google-samples/kubernetes-bootcamp:v1";
const PORT = 8080;
const REPLICAS = 4;

export interface TourOptions {
  info: ClusterInfo;
  client: ApiClient;
  kube: DemoKube;
  transcript: Transcript;
  /** How we are called: "kubeplumb" or "npx kubeplumb". */
  self: string;
  env: NodeJS.ProcessEnv;
  /** Where a NodePort is, or will be after `action`, on the loopback. */
  publish(nodePort: number): Promise<{ url: string; action?: Action }>;
}

/** Resolves with the URL of the NodePort on this machine. @throws DemoFailure when a step's result is wrong. */
export async function takeTour(options: TourOptions): Promise<string> {
  const tour = new Tour(options);
  await tour.nodes();
  const pods = await tour.deployment();
  const service = await tour.service();
  await tour.clusterIP(service, pods);
  await tour.byName(pods);
  await tour.nodePort(service, pods);
  await tour.podToPod(pods);
  return await tour.loopback(service, pods);
}

class Tour {
  readonly #o: TourOptions;

  constructor(options: TourOptions) {
    this.#o = options;
  }

  async nodes(): Promise<void> {
    const { transcript, kube, info } = this.#o;
    await transcript.step("Hosts", async () => {
      const { output } = await transcript.runUntil(kube.getNodes(), (outcome) => {
        const ready = readyNodes(outcome.output);
        return (
          succeeded(outcome) ??
          (ready === info.nodes.length ? undefined : `${ready} of ${info.nodes.length} hosts are Ready`)
        );
      });
      return `${readyNodes(output)} hosts, each a network namespace`;
    });
  }

  async deployment(): Promise<PodFact[]> {
    const { transcript, kube, client } = this.#o;
    await transcript.step("Deployment", async () => {
      if (await hasDeployment(client, APP)) {
        await transcript.run(kube.getDeployment(APP));
        return "Deployment, there already";
      }
      await transcript.run(kube.createDeployment(APP, IMAGE));
      return undefined;
    });
    let pods: PodFact[] = [];
    await transcript.step("Pods", async () => {
      await transcript.run(kube.scale(APP, REPLICAS));
      await transcript.run(kube.rolloutStatus(APP));
      await transcript.run(kube.getPods(APP));
      pods = await readyPods(client, APP);
      if (pods.length !== REPLICAS)
        throw new DemoFailure(`${pods.length} pods of ${APP} are Ready, not ${REPLICAS}`);
      const hosts = new Set(pods.map(({ node }) => node)).size;
      return `${REPLICAS} pods on ${hosts} host${hosts === 1 ? "" : "s"}`;
    });
    return pods;
  }

  async service(): Promise<Required<ServiceFact> & { nodePort: number }> {
    const { transcript, kube, client } = this.#o;
    let found: ServiceFact | undefined;
    await transcript.step("Service", async () => {
      found = await findService(client, APP, PORT);
      const existed = found !== undefined;
      if (!existed) await transcript.run(kube.expose(APP, PORT));
      await transcript.run(kube.getService(APP));
      found ??= await findService(client, APP, PORT);
      return existed ? "Service, there already" : "Service with a ClusterIP and a NodePort";
    });
    if (found?.clusterIP && found.nodePort !== undefined) return { ...found, nodePort: found.nodePort };
    throw new DemoFailure(
      `service ${APP} has no node port for port ${PORT}; remove it with 'kubectl delete service ${APP}' and begin again`,
    );
  }

  /** From a host and from a pod: both are caught by the rules of their own host. */
  async clusterIP({ clusterIP }: ServiceFact, pods: readonly PodFact[]): Promise<void> {
    const { transcript, kube, env } = this.#o;
    const command = httpCommand(`${clusterIP}:${PORT}`, env);
    await transcript.step("ClusterIP, from a host", async () => {
      await transcript.runUntil(this.#inHost(0, command), answeredBy(pods));
      return undefined;
    });
    const [from] = pods;
    await transcript.step("ClusterIP, from a pod", async () => {
      await transcript.runUntil(kube.exec(from?.name ?? "", command), answeredBy(pods));
      return undefined;
    });
  }

  /** Through the cluster's DNS, where the cluster has it. */
  async byName(pods: readonly PodFact[]): Promise<void> {
    const { transcript, kube, client, env } = this.#o;
    const [from] = pods;
    if (!from || !(await hasClusterDns(client))) return;
    await transcript.step("By name, from a pod", async () => {
      await transcript.runUntil(kube.exec(from.name, httpCommand(`${APP}:${PORT}`, env)), answeredBy(pods));
      return undefined;
    });
  }

  async nodePort({ nodePort }: ServiceFact, pods: readonly PodFact[]): Promise<void> {
    const { transcript, info, env } = this.#o;
    await transcript.step("NodePort, on every host", async () => {
      // Each host is asked by its neighbour, the last by the first.
      const asked = info.nodes.length > 4 ? info.nodes.slice(0, 3) : info.nodes;
      for (const [index, node] of asked.entries()) {
        const command = httpCommand(`${node.ip}:${nodePort}`, env);
        await transcript.runUntil(this.#inHost((index + 1) % info.nodes.length, command), answeredBy(pods));
      }
      return undefined;
    });
  }

  /** Across hosts when there are pods on two; else between two pods of one. */
  async podToPod(pods: readonly PodFact[]): Promise<void> {
    const { transcript, kube, env } = this.#o;
    const [from] = pods;
    const to = pods.find(({ node }) => node !== from?.node) ?? pods[1];
    if (!from || !to) throw new DemoFailure("two pods are needed to reach one from the other");
    const way = from.node === to.node ? "on one host" : "through the VXLAN tunnel";
    await transcript.step(`Pod to pod, ${way}`, async () => {
      if (findProgram("ping", env)) {
        await transcript.runUntil(kube.exec(from.name, ["ping", "-c1", to.ip]), pinged);
      } else {
        await transcript.runUntil(
          kube.exec(from.name, httpCommand(`${to.ip}:${PORT}`, env)),
          answeredBy([to]),
        );
      }
      return undefined;
    });
  }

  async loopback({ nodePort }: { nodePort: number }, pods: readonly PodFact[]): Promise<string> {
    const { transcript, env, publish } = this.#o;
    let address = "";
    await transcript.step("NodePort, from this machine", async () => {
      const { url, action } = await publish(nodePort);
      address = url;
      if (action) await transcript.run(action);
      const command = httpCommand(url, env);
      await transcript.runUntil(localAction(shellLine(command), command, env), answeredBy(pods));
      return undefined;
    });
    return address;
  }

  #inHost(index: number, command: readonly string[]): Action {
    const { info, self } = this.#o;
    const host = info.nodes[index]?.name ?? "node-1";
    const line = shellLine([...self.split(" "), "exec", ...nameWords(info.name), host, "--", ...command]);
    return remoteAction(line, { socketPath: info.labSocket, path: `/hosts/${host}/exec` }, command);
  }
}

/** Rows of `kubectl get nodes` whose STATUS is Ready. */
function readyNodes(table: string): number {
  return table.split("\n").filter((row) => row.split(/\s+/)[1] === "Ready").length;
}

/** The bootcamp application's reply, from one of these pods. */
export function answeredBy(pods: readonly { name: string }[]): Check {
  return (outcome: Outcome) => {
    const failed = succeeded(outcome);
    if (failed) return failed;
    const pod = /^Hello Kubernetes bootcamp! \| Running on: (\S+) \| v=\d/.exec(outcome.output.trim())?.[1];
    if (pod === undefined) return "this is not the reply of the bootcamp application";
    if (!pods.some(({ name }) => name === pod))
      return `the reply comes from ${pod}, which is none of the pods`;
    return undefined;
  };
}

const pinged: Check = (outcome) =>
  succeeded(outcome) ??
  (/\b1 (packets )?received\b/.test(outcome.output) ? undefined : "no reply to the ping");
