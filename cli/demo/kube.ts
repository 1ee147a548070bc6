// What the demo asks of a Kubernetes client, and kubectl as one. Knows kubectl's command line.

import type { ClusterInfo } from "../../lab/types.js";
import { shellLine } from "../programs.js";
import { type Action, localAction } from "./action.js";

/** Each gives a command ready to be shown and run. */
export interface DemoKube {
  /** Said at the start, when it is not kubectl. */
  readonly notice?: string;
  getNodes(): Action;
  createDeployment(name: string, image: string): Action;
  getDeployment(name: string): Action;
  scale(name: string, replicas: number): Action;
  rolloutStatus(name: string): Action;
  getPods(app: string): Action;
  expose(name: string, port: number): Action;
  getService(name: string): Action;
  exec(pod: string, command: readonly string[]): Action;
  close(): Promise<void>;
}

/** The words after `kubectl`, as the Kubernetes tutorial has them. */
export const kubectlWords = {
  getNodes: () => ["get", "nodes", "-o", "wide"],
  createDeployment: (name: string, image: string) => ["create", "deployment", name, `--image=${image}`],
  getDeployment: (name: string) => ["get", "deployment", name],
  scale: (name: string, replicas: number) => ["scale", `deployments/${name}`, `--replicas=${replicas}`],
  rolloutStatus: (name: string) => ["rollout", "status", `deployments/${name}`],
  getPods: (app: string) => ["get", "pods", "-l", `app=${app}`, "-o", "wide"],
  expose: (name: string, port: number) => [
    "expose",
    `deployment/${name}`,
    "--type=NodePort",
    "--port",
    `${port}`,
  ],
  getService: (name: string) => ["get", "service", name],
  exec: (pod: string, command: readonly string[]) => ["exec", pod, "--", ...command],
};

/** "kubectl get nodes -o wide" */
export function kubectlLine(words: readonly string[]): string {
  return shellLine(["kubectl", ...words]);
}

/** Runs kubectl with the cluster's own kubeconfig, whatever context the user's shell has. */
export function createKubectl(program: string, info: ClusterInfo, env: NodeJS.ProcessEnv): DemoKube {
  const action = (words: readonly string[]): Action =>
    localAction(kubectlLine(words), [program, "--kubeconfig", info.kubeconfigPath, ...words], env);
  return {
    getNodes: () => action(kubectlWords.getNodes()),
    createDeployment: (name, image) => action(kubectlWords.createDeployment(name, image)),
    getDeployment: (name) => action(kubectlWords.getDeployment(name)),
    scale: (name, replicas) => action(kubectlWords.scale(name, replicas)),
    rolloutStatus: (name) => action(kubectlWords.rolloutStatus(name)),
    getPods: (app) => action(kubectlWords.getPods(app)),
    expose: (name, port) => action(kubectlWords.expose(name, port)),
    getService: (name) => action(kubectlWords.getService(name)),
    exec: (pod, command) => action(kubectlWords.exec(pod, command)),
    close: async () => {},
  };
}
