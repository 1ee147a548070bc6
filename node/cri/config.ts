// A pod and its containers in the words of CRI, as the kubelet's kuberuntime has them: configurations of sandboxes and
// containers, and the labels by which a later life of the agent finds them. Pure.

import { join, relative } from "node:path";
import type { PodSecurityContext, SeccompProfile, SecurityContext } from "kubernetes-types/core/v1.js";
import type { Container, Pod, Stored } from "../../common/k8s.js";
import { podLogDirectory } from "../pods/container-setup.js";
import type { DnsConfig } from "../pods/files.js";
import { podHostname } from "../pods/files.js";
import { hostPorts } from "../pods/sandbox.js";
import type { Privileges } from "../process/privileges.js";
import type { BindMount } from "../process/root-plan.js";
import {
  type ContainerConfig,
  type ContainerSecurity,
  NAMESPACE_MODE,
  PROFILE,
  type Resources,
  type SandboxConfig,
} from "./messages.js";

/** The kubelet's labels and annotations. */
export const LABEL = {
  podName: "io.kubernetes.pod.name",
  podNamespace: "io.kubernetes.pod.namespace",
  podUid: "io.kubernetes.pod.uid",
  container: "io.kubernetes.container.name",
  /** Ours: of all that the agent of this node has made. */
  node: "kubeplumb.io/node",
} as const;
const GRACE = "io.kubernetes.pod.terminationGracePeriod";
const RESTARTS = "io.kubernetes.container.restartCount";

const PROTOCOL: Readonly<Record<string, number>> = { TCP: 0, UDP: 1, SCTP: 2 };
const PROPAGATION: Readonly<Record<string, number>> = { None: 0, HostToContainer: 1, Bidirectional: 2 };

/** What the runtime hides of /proc and /sys, and what it shows read-only, unless a container is privileged. */
const MASKED = [
  "/proc/asound",
  "/proc/acpi",
  "/proc/kcore",
  "/proc/keys",
  "/proc/latency_stats",
  "/proc/timer_list",
  "/proc/timer_stats",
  "/proc/sched_debug",
  "/proc/scsi",
  "/sys/firmware",
  "/sys/devices/virtual/powercap",
];
const READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

const podLabels = ({ metadata: { name, namespace = "", uid } }: Stored<Pod>, node: string) => ({
  [LABEL.podName]: name,
  [LABEL.podNamespace]: namespace,
  [LABEL.podUid]: uid,
  [LABEL.node]: node,
});

function namespaces({ spec }: Stored<Pod>, targetId?: string) {
  const { hostNetwork, hostPID, hostIPC, shareProcessNamespace } = spec ?? {};
  const { pod, container, node, target } = NAMESPACE_MODE;
  const pid = hostPID ? node : shareProcessNamespace ? pod : container;
  return {
    network: hostNetwork ? node : pod,
    pid: targetId === undefined ? pid : target,
    ipc: hostIPC ? node : pod,
    ...(targetId === undefined ? {} : { targetId }),
  };
}

export interface SandboxFacts {
  node: string;
  rootDir: string;
  attempt: number;
  dns: DnsConfig;
  cgroupParent: string;
}

export function sandboxConfigOf(pod: Stored<Pod>, facts: SandboxFacts): SandboxConfig {
  const { name, namespace = "", uid, annotations = {} } = pod.metadata;
  const { hostNetwork = false, securityContext, containers = [], initContainers = [] } = pod.spec ?? {};
  const { nameservers, searches, options } = facts.dns;
  const privileged = [...containers, ...initContainers].some((one) => one.securityContext?.privileged);
  return {
    metadata: { name, namespace, uid, attempt: facts.attempt },
    ...(hostNetwork ? {} : { hostname: podHostname(pod) }),
    logDirectory: podLogDirectory(facts.rootDir, pod),
    dnsConfig: { servers: nameservers, searches, options },
    portMappings: hostNetwork
      ? []
      : hostPorts(pod).map(({ protocol, hostIP = "", ...ports }) => ({
          ...ports,
          protocol: PROTOCOL[protocol] ?? 0,
          hostIp: hostIP,
        })),
    labels: { ...pod.metadata.labels, ...podLabels(pod, facts.node) },
    annotations,
    linux: {
      cgroupParent: facts.cgroupParent,
      securityContext: {
        namespaceOptions: namespaces(pod),
        privileged,
        supplementalGroups: groupsOf(securityContext),
      },
      sysctls: Object.fromEntries((securityContext?.sysctls ?? []).map((one) => [one.name, one.value])),
    },
  };
}

function groupsOf(security: PodSecurityContext | undefined): number[] {
  const { fsGroup, supplementalGroups = [] } = security ?? {};
  return [...new Set([...supplementalGroups, ...(fsGroup === undefined ? [] : [fsGroup])])];
}

export interface ContainerFacts {
  node: string;
  rootDir: string;
  runNumber: number;
  logPath: string;
  /** Of the image as the runtime knows it. */
  image: string;
  user: { uid: number } | { name: string };
  command?: readonly string[] | undefined;
  args?: readonly string[] | undefined;
  env: Readonly<Record<string, string>>;
  mounts: readonly BindMount[];
  privileges: Privileges;
  resources: Resources;
  /** The container whose processes it shall see. */
  targetId?: string | undefined;
}

export function containerConfigOf(
  pod: Stored<Pod>,
  container: Container,
  facts: ContainerFacts,
): ContainerConfig {
  const { name, workingDir = "", stdin = false, stdinOnce = false, tty = false } = container;
  const grace = pod.spec?.terminationGracePeriodSeconds ?? 30;
  return {
    metadata: { name, attempt: facts.runNumber },
    image: { image: facts.image },
    command: facts.command,
    args: facts.args,
    workingDir,
    envs: Object.entries(facts.env).map(([key, value]) => ({ key, value })),
    mounts: facts.mounts.map((mount) => ({
      containerPath: mount.target,
      hostPath: mount.source,
      readonly: mount.readOnly ?? false,
      propagation: propagationOf(container, mount.target),
    })),
    labels: { ...podLabels(pod, facts.node), [LABEL.container]: name },
    annotations: { [RESTARTS]: String(facts.runNumber), [GRACE]: String(grace) },
    logPath: relative(podLogDirectory(facts.rootDir, pod), facts.logPath),
    stdin,
    stdinOnce,
    tty,
    linux: { resources: facts.resources, securityContext: securityOf(pod, container, facts) },
  };
}

/** Seconds that a container of ours has to end, by its annotations. */
export const graceOf = (annotations: Readonly<Record<string, string>>): number =>
  Number(annotations[GRACE] ?? 30);

function propagationOf({ volumeMounts = [] }: Container, target: string): number {
  const mount = volumeMounts.find(({ mountPath }) => mountPath === target);
  return PROPAGATION[mount?.mountPropagation ?? "None"] ?? 0;
}

function securityOf(pod: Stored<Pod>, container: Container, facts: ContainerFacts): ContainerSecurity {
  const ofPod = pod.spec?.securityContext;
  const own: SecurityContext = container.securityContext ?? {};
  const user = own.runAsUser ?? ofPod?.runAsUser;
  const group = own.runAsGroup ?? ofPod?.runAsGroup;
  const { capabilities, privileged = false } = own;
  // Only where a user is named as well may a group be: the image's is named then.
  const { user: ofImage } = facts;
  const asked = user ?? ("uid" in ofImage ? ofImage.uid : undefined);
  return {
    capabilities: { add: capabilities?.add ?? [], drop: capabilities?.drop ?? [] },
    privileged,
    namespaceOptions: namespaces(pod, facts.targetId),
    ...(asked === undefined ? {} : { runAsUser: { value: asked } }),
    ...(asked === undefined && "name" in ofImage ? { runAsUsername: ofImage.name } : {}),
    ...(group === undefined ? {} : { runAsGroup: { value: group } }),
    readonlyRootfs: own.readOnlyRootFilesystem ?? false,
    supplementalGroups: groupsOf(ofPod),
    noNewPrivs: facts.privileges.noNewPrivileges,
    ...(privileged || own.procMount === "Unmasked" ? {} : { maskedPaths: MASKED, readonlyPaths: READ_ONLY }),
    seccomp: seccompOf(own.seccompProfile ?? ofPod?.seccompProfile, facts.rootDir),
  };
}

/** Without a profile a container is not confined, as the kubelet has it by default. */
function seccompOf(profile: SeccompProfile | undefined, rootDir: string) {
  if (profile?.type === "RuntimeDefault") return { profileType: PROFILE.runtimeDefault };
  if (profile?.type !== "Localhost") return { profileType: PROFILE.unconfined };
  return {
    profileType: PROFILE.localhost,
    localhostRef: join(rootDir, "seccomp", profile.localhostProfile ?? ""),
  };
}
