// The admission plugin PodSecurity: refuses pods that do not keep what their namespace enforces, warns of pods,
// templates of pods and labels of namespaces, with the real plugin's texts. Asked when an object is valid. There is no
// audit log, so that nothing follows from the audit labels but that they have to be right. Knows the store; no HTTP.

import type { PodTemplateSpec } from "kubernetes-types/core/v1.js";
import type { Container, KubeObject, Namespace, Pod, Stored } from "../../common/k8s.js";
import { invalidStatus } from "../resources/validation/field.js";
import type { Engine, Kind } from "./engine.js";
import {
  asksMore,
  type Checked,
  policyOf,
  type Standard,
  standardText,
  violations,
  violationText,
} from "./pod-security.js";
import { forbidden } from "./status.js";

interface Asked {
  engine: Engine;
  kind: Kind;
  namespace: string | undefined;
  object: KubeObject;
  /** Of an update. */
  old?: Stored;
  /** Of the namespace, when they are at hand. */
  labels?: Readonly<Record<string, string>> | undefined;
}

/** More existing pods than that are not looked at when a namespace gets its labels. */
const MAX_PODS = 3000;

type Workload = { spec?: { template?: PodTemplateSpec } };
const ofWorkload = (object: KubeObject) => (object as Workload).spec?.template;

/** Where a kind has its pods, by group and plural. */
const TEMPLATES: Readonly<Record<string, (object: KubeObject) => Checked | undefined>> = {
  "/pods": (object) => object as Pod,
  "/replicationcontrollers": ofWorkload,
  "apps/replicasets": ofWorkload,
  "apps/deployments": ofWorkload,
  "apps/statefulsets": ofWorkload,
  "apps/daemonsets": ofWorkload,
  "batch/jobs": ofWorkload,
  "batch/cronjobs": (object) =>
    (object as { spec?: { jobTemplate?: Workload } }).spec?.jobTemplate?.spec?.template,
};

/** Warnings for whoever asks. @throws StatusError Forbidden (a pod), Invalid (a namespace with wrong labels). */
export async function checkPodSecurity(asked: Asked): Promise<string[]> {
  const { engine, kind, namespace, object, old } = asked;
  const { resource } = kind;
  const which = `${resource.group}/${resource.plural}`;
  if (which === "/namespaces") return await checkNamespace(engine, kind, object as Namespace, old);
  const pods = TEMPLATES[which];
  if (!pods || namespace === undefined) return [];
  if (which === "/pods" && old && !isSignificant(object as Pod, old as Pod)) return [];
  const pod = pods(object);
  if (!pod) return [];
  const labels =
    asked.labels ?? (await engine.store.get(`/registry/namespaces/${namespace}`))?.value.metadata.labels;
  const { policy } = policyOf(labels);
  if (which === "/pods") {
    const broken = violations(policy.enforce, pod);
    if (broken.length > 0)
      throw forbidden(
        resource,
        object.metadata?.name ?? "",
        `violates PodSecurity "${standardText(policy.enforce)}": ${violationText(broken)}`,
      );
  }
  const warned = violations(policy.warn, pod);
  if (warned.length === 0) return [];
  return [`would violate PodSecurity "${standardText(policy.warn)}": ${violationText(warned)}`];
}

/** Of what may change in a pod, this is what the rules look at. */
function isSignificant(now: Pod, before: Pod): boolean {
  const images = ({ spec }: Pod): string[] =>
    [spec?.initContainers, spec?.containers, spec?.ephemeralContainers].flatMap((list, i) =>
      ((list ?? []) as Container[]).map(({ name, image }) => `${i} ${name} ${image}`),
    );
  const known = new Set(images(before));
  return images(now).some((image) => !known.has(image));
}

async function checkNamespace(
  engine: Engine,
  kind: Kind,
  object: Namespace,
  old: Stored | undefined,
): Promise<string[]> {
  const { name = "", labels } = object.metadata ?? {};
  const { policy, errors } = policyOf(labels);
  const before = policyOf(old?.metadata.labels);
  const isNew = !old || JSON.stringify(errors) !== JSON.stringify(before.errors);
  if (errors.length > 0 && isNew) throw invalidStatus(kind.resource, name, errors);
  if (!old || !asksMore(policy.enforce, before.policy.enforce)) return [];
  const { entries } = await engine.store.range(`/registry/pods/${name}/`);
  const pods = entries.map(({ value }) => value as Stored<Pod>);
  return existingPods(name, policy.enforce, pods);
}

/** What is wrong with pods that are there already, those with the same faults on one line. */
function existingPods(namespace: string, standard: Standard, pods: readonly Stored<Pod>[]): string[] {
  const byFaults = new Map<string, string[]>();
  const looked = pods.slice(0, MAX_PODS);
  for (const pod of looked) {
    const faults = violations(standard, pod)
      .map(({ reason }) => reason)
      .join(", ");
    if (faults) byFaults.set(faults, [...(byFaults.get(faults) ?? []), pod.metadata.name]);
  }
  const lines = [...byFaults].map(([faults, names]) => {
    const [first = ""] = names.sort();
    const others = names.length - 1;
    const more = others === 0 ? "" : ` (and ${others} other ${others === 1 ? "pod" : "pods"})`;
    return `${first}${more}: ${faults}`;
  });
  const text = standardText(standard);
  return [
    ...(looked.length < pods.length
      ? [
          `new PodSecurity enforce level only checked against the first ${looked.length} of ${pods.length} existing pods`,
        ]
      : []),
    ...(lines.length > 0
      ? [`existing pods in namespace "${namespace}" violate the new PodSecurity enforce level "${text}"`]
      : []),
    ...lines.sort(),
  ];
}
