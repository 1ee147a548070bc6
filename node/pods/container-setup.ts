// Everything that a run of a container needs, put together from the pod: command line, environment, mounts, log
// path. Reads ConfigMaps and Secrets; starts nothing.

import { join } from "node:path";
import type { EphemeralContainer } from "kubernetes-types/core/v1.js";
import type { Container, Pod, Stored } from "../../common/k8s.js";
import { commandLine, type ResolvedImage } from "../images/index.js";
import type { Privileges } from "../process/privileges.js";
import { containerEnv, type Env, envReferences, expand, servicesEnv } from "./env.js";
import type { PodEnvironment } from "./environment.js";
import { configMapData, fetchTexts, secretData } from "./objects.js";
import { privilegesOf } from "./privileges.js";
import type { RunOptions } from "./run.js";
import type { PodSandbox } from "./runtime.js";
import { containerMounts, type Volumes } from "./volumes.js";

/**
 * init: runs to its end before the rest; sidecar: an init container with restartPolicy Always; ephemeral: added later to
 * look around, runs once; main: the rest.
 */
export type ContainerKind = "init" | "sidecar" | "ephemeral" | "main";

/** The pod, as its containers see it. */
export interface ContainerOwner {
  readonly pod: Stored<Pod>;
  readonly hasInit: boolean;
  readonly environment: PodEnvironment;
  /** There when containers are started. */
  readonly sandbox: PodSandbox | undefined;
  readonly volumes: Volumes;
  container(name: string): { readonly run: { readonly id: string } | undefined } | undefined;
  /** Fills the volumes that wait for a process to read them. @throws VolumeError */
  completeVolumes(): Promise<void>;
  /** Something to act on or to report has happened. */
  changed(): void;
  event(
    container: { name: string; kind: ContainerKind },
    type: "Normal" | "Warning",
    reason: string,
    message: string,
  ): void;
}

/** <rootDir>/log/pods/<namespace>_<pod>_<uid>, as the kubelet names it. */
export function podLogDirectory(rootDir: string, pod: Stored<Pod>): string {
  const { namespace, name, uid } = pod.metadata;
  return join(rootDir, "log", "pods", `${namespace}_${name}_${uid}`);
}

export function logPath(rootDir: string, pod: Stored<Pod>, container: string, run: number): string {
  return join(podLogDirectory(rootDir, pod), container, `${run}.log`);
}

/** Where a run of a container may leave its last words, below the pod's directory. */
export function terminationLogPath(directory: string, container: string, run: number): string {
  return join(directory, "containers", container, String(run));
}

async function environmentOf(
  owner: ContainerOwner,
  sandbox: PodSandbox,
  container: Container,
  image: ResolvedImage,
  privileges: Privileges,
): Promise<Env> {
  const { pod, environment } = owner;
  const { client, nodeName, nodeIPs, allocatable } = environment;
  const namespace = pod.metadata.namespace ?? "";
  const references = envReferences(container);
  const configMaps = await fetchTexts(references.configMaps, (name) =>
    configMapData(client, namespace, name),
  );
  const secrets = await fetchTexts(references.secrets, (name) => secretData(client, namespace, name));
  const base = {
    ...environment.runtime.baseEnv(image, privileges, sandbox),
    ...servicesEnv(pod, environment.services()),
  };
  return containerEnv(pod, container, base, {
    configMap: (name) => configMaps.get(name),
    secret: (name) => secrets.get(name),
    nodeName,
    hostIPs: nodeIPs,
    podIPs: sandbox.ips,
    allocatable,
  });
}

/** @throws ContainerConfigError, VolumeError, or the API's error. */
export async function buildRun(
  owner: ContainerOwner,
  container: Container,
  resolved: ResolvedImage,
  runNumber: number,
): Promise<RunOptions> {
  const { pod, environment, sandbox } = owner;
  if (!sandbox) throw new Error(`container ${container.name} has no sandbox to start in`);
  const targets = (container.volumeMounts ?? []).map(({ mountPath }) => mountPath);
  const image = { ...resolved, image: resolved.image.mounted?.(targets) ?? resolved.image };
  const privileges = privilegesOf(pod, container, image.image.user);
  const env = await environmentOf(owner, sandbox, container, image, privileges);
  const expanded = {
    ...(container.command ? { command: container.command.map((word) => expand(word, env)) } : {}),
    ...(container.args ? { args: container.args.map((word) => expand(word, env)) } : {}),
  };
  const { targetContainerName = "" } = container as EphemeralContainer;
  const target = owner.container(targetContainerName)?.run;
  return {
    pod,
    container,
    image,
    ...(target && { targetID: target.id }),
    ...expanded,
    argv: commandLine(image.image, expanded),
    env,
    privileges,
    runNumber,
    mounts: containerMounts(container, owner.volumes, env),
    completeVolumes: () => owner.completeVolumes(),
    sandbox,
    environment,
    logPath: logPath(environment.rootDir, pod, container.name, runNumber),
    ...(container.terminationMessagePath
      ? { terminationLog: terminationLogPath(sandbox.directory, container.name, runNumber) }
      : {}),
    warn: (message) =>
      environment.log.warn(
        { pod: pod.metadata.name, namespace: pod.metadata.namespace, container: container.name },
        message,
      ),
  };
}
