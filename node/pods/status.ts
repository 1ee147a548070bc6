// A pod's status from what its containers are doing, as the kubelet computes it (getPhase, GeneratePodReadyCondition
// and friends). Pure.

import type {
  ContainerStateTerminated,
  ContainerStateWaiting,
  ContainerStatus,
} from "kubernetes-types/core/v1.js";
import type { Pod, PodCondition, PodStatus, Stored } from "../../common/k8s.js";

/** What is known of one container, beside its spec. */
export interface ContainerFacts {
  name: string;
  image: string;
  imageID: string;
  containerID: string;
  restartCount: number;
  state:
    | { waiting: ContainerStateWaiting }
    | { running: { startedAt: string } }
    | { terminated: ContainerStateTerminated };
  last?: ContainerStateTerminated;
  /** It has ended, or is yet to start again, only because its image was changed: the pod is not over. */
  replaced?: boolean;
  /** Its readiness probe, if it has one, says so. */
  ready: boolean;
  /** Its startup probe, if it has one, has passed; false when not running. */
  started: boolean;
}

export interface PodFacts {
  init: ContainerFacts[];
  containers: ContainerFacts[];
  ephemeral: ContainerFacts[];
  /** The sandbox is there and has an address. */
  sandboxReady: boolean;
  /** The primary one first, as of the pod's. */
  hostIPs: readonly string[];
  /** Empty while it has none. */
  podIPs: readonly string[];
  startTime: string;
  /** All containers have been ended and will not be started again (the pod is being deleted). */
  ended?: boolean;
  /** A reason to call the whole pod failed whatever its containers do (Evicted, DeadlineExceeded, …). */
  failed?: { reason: string; message: string };
}

type Phase = "Pending" | "Running" | "Succeeded" | "Failed";

export function containerStatus(facts: ContainerFacts): ContainerStatus {
  const running = "running" in facts.state;
  return {
    name: facts.name,
    state: facts.state,
    lastState: facts.last ? { terminated: facts.last } : {},
    ready: facts.ready && (running || ("terminated" in facts.state && facts.state.terminated.exitCode === 0)),
    restartCount: facts.restartCount,
    image: facts.image,
    imageID: facts.imageID,
    ...(facts.containerID ? { containerID: facts.containerID } : {}),
    started: running && facts.started,
  };
}

/** Nothing waits for an ephemeral container: it is never ready. */
function ephemeralStatus(facts: ContainerFacts): ContainerStatus {
  const { started: _, ...status } = containerStatus(facts);
  return { ...status, ready: false };
}

/** Containers whose restartPolicy is Always among the init containers: sidecars (KEP-753). */
export function sidecarNames(pod: Pick<Pod, "spec">): Set<string> {
  const sidecars = (pod.spec?.initContainers ?? []).filter((one) => one.restartPolicy === "Always");
  return new Set(sidecars.map((one) => one.name));
}

/** Whether an init container has done what the next one waits for. */
export function initDone(facts: ContainerFacts, sidecars: ReadonlySet<string>): boolean {
  if (sidecars.has(facts.name)) return "running" in facts.state && facts.started;
  return "terminated" in facts.state && facts.state.terminated.exitCode === 0;
}

export function podPhase(pod: Pick<Pod, "spec">, facts: PodFacts): Phase {
  if (facts.failed) return "Failed";
  const { restartPolicy = "Always" } = pod.spec ?? {};
  const sidecars = sidecarNames(pod);
  // A pod that has run once does not come back to its beginning.
  const initialized = facts.containers.some(({ state, last }) => last || !("waiting" in state));
  for (const one of facts.init) {
    if (initDone(one, sidecars)) continue;
    const failed = !sidecars.has(one.name) && "terminated" in one.state;
    if (failed && restartPolicy === "Never") return "Failed";
    if (!initialized) return "Pending";
  }
  const alive = facts.init.some((one) => sidecars.has(one.name) && "running" in one.state);
  if (!facts.ended) return phaseOfContainers(facts.containers, alive, restartPolicy);
  return phaseOfContainers(
    facts.containers.map((one) => ({ ...one, replaced: false })),
    alive,
    "Never",
  );
}

/** `sidecarRuns`: a pod is not over before its sidecars are; how they ended does not matter. */
function phaseOfContainers(
  containers: readonly ContainerFacts[],
  sidecarRuns: boolean,
  restartPolicy: string,
): Phase {
  let [running, waiting, stopped, succeeded] = [sidecarRuns ? 1 : 0, 0, 0, 0];
  for (const { state, last, replaced } of containers) {
    if ("running" in state || replaced) running++;
    else if ("terminated" in state) {
      stopped++;
      if (state.terminated.exitCode === 0) succeeded++;
    } else if (last) stopped++;
    else waiting++;
  }
  if (waiting > 0) return "Pending";
  if (running > 0) return "Running";
  if (stopped === 0) return "Pending";
  if (restartPolicy === "Always") return "Running";
  if (succeeded === stopped) return "Succeeded";
  return restartPolicy === "Never" ? "Failed" : "Running";
}

type Verdict = { status: boolean; reason?: string; message?: string };

const plural = (names: string[]): string => `[${names.join(" ")}]`;

function initializedVerdict(pod: Pick<Pod, "spec">, facts: PodFacts, phase: Phase): Verdict {
  if (phase === "Succeeded") return { status: true, reason: "PodCompleted" };
  const sidecars = sidecarNames(pod);
  const incomplete = facts.init.filter((one) => !initDone(one, sidecars)).map((one) => one.name);
  const wereDone = facts.containers.some((one) => !("waiting" in one.state) || one.last);
  if (incomplete.length === 0 || wereDone) return { status: true };
  return {
    status: false,
    reason: "ContainersNotInitialized",
    message: `containers with incomplete status: ${plural(incomplete)}`,
  };
}

function containersReadyVerdict(pod: Pick<Pod, "spec">, facts: PodFacts, phase: Phase): Verdict {
  if (phase === "Succeeded") return { status: false, reason: "PodCompleted" };
  if (phase === "Failed") return { status: false, reason: "PodFailed" };
  const sidecars = sidecarNames(pod);
  const counted = [...facts.init.filter((one) => sidecars.has(one.name)), ...facts.containers];
  const unready = counted.filter((one) => !("running" in one.state && one.ready)).map((one) => one.name);
  if (unready.length === 0) return { status: true };
  return {
    status: false,
    reason: "ContainersNotReady",
    message: `containers with unready status: ${plural(unready)}`,
  };
}

/** Ready: all containers, and every readiness gate that somebody else must open. */
function readyVerdict(pod: Stored<Pod>, containers: Verdict): Verdict {
  if (!containers.status) return containers;
  const closed = (pod.spec?.readinessGates ?? []).flatMap(({ conditionType: type }) => {
    const found = pod.status?.conditions?.find((one) => one.type === type);
    if (!found) return [`corresponding condition of pod readiness gate "${type}" does not exist.`];
    if (found.status === "True") return [];
    return [`the status of pod readiness gate "${type}" is not "True", but ${found.status}`];
  });
  if (closed.length === 0) return { status: true };
  return { status: false, reason: "ReadinessGatesNotReady", message: closed.join(", ") };
}

/** Newer than the published types: Kubernetes 1.35. */
interface Observed {
  observedGeneration?: number;
}

const OWN = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"] as const;

function condition(
  type: string,
  verdict: Verdict,
  before: readonly PodCondition[] | undefined,
  now: string,
): PodCondition {
  const status = verdict.status ? "True" : "False";
  const old = before?.find((one) => one.type === type);
  return {
    type,
    status,
    lastTransitionTime: old?.status === status && old.lastTransitionTime ? old.lastTransitionTime : now,
    ...(verdict.reason ? { reason: verdict.reason } : {}),
    ...(verdict.message ? { message: verdict.message } : {}),
  };
}

/** A pod that is over stays so, whatever is seen of its containers later. */
function lastingPhase(before: PodStatus | undefined, now: Phase): Phase {
  return before?.phase === "Succeeded" || before?.phase === "Failed" ? before.phase : now;
}

/**
 * The status to report. `before` is the status reported last (transition times are kept from it); conditions of
 * others in the API's object are passed on.
 */
export function podStatus(
  pod: Stored<Pod>,
  facts: PodFacts,
  before: PodStatus | undefined,
  now: string,
): PodStatus & Observed {
  const phase = lastingPhase(before, podPhase(pod, facts));
  const containersReady = containersReadyVerdict(pod, facts, phase);
  const verdicts: Record<(typeof OWN)[number], Verdict> = {
    PodReadyToStartContainers: { status: facts.sandboxReady },
    Initialized: initializedVerdict(pod, facts, phase),
    Ready: readyVerdict(pod, containersReady),
    ContainersReady: containersReady,
    PodScheduled: { status: true },
  };
  const foreign = (pod.status?.conditions ?? []).filter(
    (one) => !(OWN as readonly string[]).includes(one.type),
  );
  const [podIP] = facts.podIPs;
  const { generation } = pod.metadata;
  const observed: Observed = generation === undefined ? {} : { observedGeneration: generation };
  return {
    ...observed,
    phase,
    conditions: [
      ...OWN.map((type) => ({ ...condition(type, verdicts[type], before?.conditions, now), ...observed })),
      ...foreign,
    ],
    ...(facts.failed ?? {}),
    hostIP: facts.hostIPs[0],
    hostIPs: facts.hostIPs.map((ip) => ({ ip })),
    ...(podIP ? { podIP, podIPs: facts.podIPs.map((ip) => ({ ip })) } : {}),
    startTime: facts.startTime,
    ...(facts.init.length > 0 ? { initContainerStatuses: facts.init.map(containerStatus) } : {}),
    containerStatuses: facts.containers.map(containerStatus),
    ...(facts.ephemeral.length > 0
      ? { ephemeralContainerStatuses: facts.ephemeral.map(ephemeralStatus) }
      : {}),
  };
}

/** Whether the API's status says of the pod what matters to others as ours does. */
export function sameInEssence(api: PodStatus | undefined, own: PodStatus): boolean {
  const essence = (status: PodStatus | undefined) =>
    JSON.stringify([
      status?.phase,
      own.podIP && status?.podIP,
      OWN.map((type) => status?.conditions?.find((one) => one.type === type)?.status),
      [status?.initContainerStatuses, status?.containerStatuses, status?.ephemeralContainerStatuses].map(
        (list) => list?.map((one) => [one.name, one.ready, one.restartCount, Object.keys(one.state ?? {})]),
      ),
    ]);
  return essence(api) === essence(own);
}
