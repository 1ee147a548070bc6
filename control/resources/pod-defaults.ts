// Defaults of pods and pod templates, as the real server fills them in (core/v1 defaults, and the admission
// plugins ServiceAccount, Priority and DefaultTolerationSeconds). Knows the fields of a pod, no request.

import type {
  Container,
  EphemeralContainer,
  LifecycleHandler,
  PodSpec,
  ProjectedVolumeSource,
  Volume,
} from "kubernetes-types/core/v1.js";
import type { Pod, Probe } from "../../common/k8s.js";
import { canonicalResourceList } from "./validation/quantity.js";

const MODE_0644 = 0o644;

/** Defaults of a pod's spec, whether of a pod or of a template. */
export function defaultPodSpec(spec: PodSpec): void {
  spec.restartPolicy ||= "Always";
  spec.terminationGracePeriodSeconds ??= 30;
  spec.dnsPolicy ||= "ClusterFirst";
  spec.securityContext ??= {};
  spec.schedulerName ||= "default-scheduler";
  // serviceAccount is the deprecated name of the same field; the real server always shows both.
  if (spec.serviceAccountName || spec.serviceAccount) {
    spec.serviceAccountName ||= spec.serviceAccount;
    spec.serviceAccount = spec.serviceAccountName;
  }
  for (const c of spec.containers ?? []) defaultContainer(c);
  for (const c of spec.initContainers ?? []) defaultContainer(c);
  for (const c of spec.ephemeralContainers ?? []) defaultContainer(c);
  for (const v of spec.volumes ?? []) defaultVolume(v);
  canonicalResourceList(spec.overhead);
}

/** Defaults that only a pod gets, not a template. */
export function defaultPod(pod: Pod): void {
  const spec = pod.spec;
  if (!spec) return;
  defaultPodSpec(spec);
  spec.enableServiceLinks ??= true;
  for (const c of [...(spec.containers ?? []), ...(spec.initContainers ?? [])]) {
    const { limits } = c.resources ?? {};
    if (limits && c.resources) c.resources.requests = { ...limits, ...c.resources.requests };
    if (spec.hostNetwork) for (const port of c.ports ?? []) port.hostPort ||= port.containerPort;
  }
}

/** What admission adds to a new pod: its service account and priority. */
export function admitPod(spec: PodSpec): void {
  spec.serviceAccountName ||= "default";
  spec.serviceAccount = spec.serviceAccountName;
  spec.priority ??= 0;
  spec.preemptionPolicy ??= "PreemptLowerPriority";
}

/** DefaultTolerationSeconds: how long a pod stays on a node that is not ready or not reachable. */
export function tolerateLostNode(spec: PodSpec, seconds: number): void {
  for (const key of ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]) {
    const tolerated = (spec.tolerations ?? []).some(
      (t) => (t.key === key || !t.key) && (t.effect === "NoExecute" || !t.effect),
    );
    if (tolerated) continue;
    spec.tolerations = [
      ...(spec.tolerations ?? []),
      { key, operator: "Exists", effect: "NoExecute", tolerationSeconds: seconds },
    ];
  }
}

/** The pull policy by the tag: Always for :latest or none, unless a digest pins the image. */
function defaultPullPolicy(image: string): "Always" | "IfNotPresent" {
  const [reference = "", digest] = image.split("@");
  const last = reference.slice(reference.lastIndexOf("/") + 1);
  const colon = last.indexOf(":");
  if (colon < 0) return digest === undefined && reference !== "" ? "Always" : "IfNotPresent";
  return last.slice(colon + 1) === "latest" ? "Always" : "IfNotPresent";
}

function defaultContainer(c: Container | EphemeralContainer): void {
  c.imagePullPolicy ||= defaultPullPolicy(c.image ?? "");
  c.terminationMessagePath ||= "/dev/termination-log";
  c.terminationMessagePolicy ||= "File";
  c.resources ??= {};
  canonicalResourceList(c.resources.limits);
  canonicalResourceList(c.resources.requests);
  for (const port of c.ports ?? []) port.protocol ||= "TCP";
  for (const env of c.env ?? []) {
    if (env.valueFrom?.fieldRef) env.valueFrom.fieldRef.apiVersion ||= "v1";
  }
  defaultProbe(c.livenessProbe);
  defaultProbe(c.readinessProbe);
  defaultProbe(c.startupProbe);
  defaultHandler(c.lifecycle?.postStart);
  defaultHandler(c.lifecycle?.preStop);
}

function defaultProbe(probe: Probe | undefined): void {
  if (!probe) return;
  probe.timeoutSeconds ||= 1;
  probe.periodSeconds ||= 10;
  probe.successThreshold ||= 1;
  probe.failureThreshold ||= 3;
  if (probe.grpc) probe.grpc.service ??= "";
  defaultHandler(probe);
}

function defaultHandler(handler: Pick<LifecycleHandler, "httpGet"> | undefined): void {
  if (!handler?.httpGet) return;
  handler.httpGet.path ||= "/";
  handler.httpGet.scheme ||= "HTTP";
}

function defaultVolume(volume: Volume): void {
  const { name: _, ...sources } = volume;
  if (Object.values(sources).every((source) => source === undefined || source === null)) volume.emptyDir = {};
  if (volume.secret) volume.secret.defaultMode ??= MODE_0644;
  if (volume.configMap) volume.configMap.defaultMode ??= MODE_0644;
  if (volume.hostPath) volume.hostPath.type ??= "";
  if (volume.downwardAPI) {
    volume.downwardAPI.defaultMode ??= MODE_0644;
    for (const item of volume.downwardAPI.items ?? []) if (item.fieldRef) item.fieldRef.apiVersion ||= "v1";
  }
  if (volume.projected) defaultProjected(volume.projected);
}

function defaultProjected(projected: ProjectedVolumeSource): void {
  projected.defaultMode ??= MODE_0644;
  for (const source of projected.sources ?? []) {
    if (source.serviceAccountToken) source.serviceAccountToken.expirationSeconds ??= 3600;
    for (const item of source.downwardAPI?.items ?? []) if (item.fieldRef) item.fieldRef.apiVersion ||= "v1";
  }
}
