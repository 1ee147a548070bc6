// The history of a Deployment: which ReplicaSet is the new one, template hashes, revisions and the annotations that
// kubectl rollout reads. Pure; knows Deployments and ReplicaSets.

import type { Deployment, PodTemplateSpec, ReplicaSet, Stored } from "../../common/k8s.js";
import { canonicalJson } from "./canonical.js";

export const REVISION = "deployment.kubernetes.io/revision";
const REVISION_HISTORY = "deployment.kubernetes.io/revision-history";
export const DESIRED_REPLICAS = "deployment.kubernetes.io/desired-replicas";
export const MAX_REPLICAS = "deployment.kubernetes.io/max-replicas";
export const POD_TEMPLATE_HASH = "pod-template-hash";

/** Annotations of a Deployment that are about itself and are not handed down to its ReplicaSets. */
const NOT_INHERITED = new Set([
  "kubectl.kubernetes.io/last-applied-configuration",
  REVISION,
  REVISION_HISTORY,
  DESIRED_REPLICAS,
  MAX_REPLICAS,
  "deprecated.deployment.rollback.to",
]);
/** The longest revision-history annotation, in characters. */
const LONGEST_HISTORY = 2000;
/** No vowels and no digits that look like them, so that no hash spells a word. */
const SAFE_ALPHABET = "bcdfghjklmnpqrstvwxz2456789";

/** FNV-1a, 32 bits. */
export function fnv32a(text: string): number {
  let hash = 0x811c9dc5;
  for (const byte of Buffer.from(text)) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash >>> 0;
}

/** A number in letters that are safe in names: each digit's character code, modulo the alphabet. */
export function safeEncode(text: string): string {
  let out = "";
  for (const char of text) out += SAFE_ALPHABET[char.charCodeAt(0) % SAFE_ALPHABET.length] ?? "";
  return out;
}

const canonicalTemplates = new WeakMap<PodTemplateSpec, string>();

/** The template as text, without the label that tells ReplicaSets apart. */
function canonicalTemplate(template: PodTemplateSpec): string {
  const known = canonicalTemplates.get(template);
  if (known !== undefined) return known;
  const { [POD_TEMPLATE_HASH]: _hash, ...labels } = template.metadata?.labels ?? {};
  const { annotations, ...metadata } = template.metadata ?? {};
  // An empty map is no map; in metadata, unlike in a spec, that never means anything.
  const text = canonicalJson({
    ...template,
    metadata: {
      ...metadata,
      labels: Object.keys(labels).length > 0 ? labels : undefined,
      annotations: annotations && Object.keys(annotations).length > 0 ? annotations : undefined,
    },
  });
  canonicalTemplates.set(template, text);
  return text;
}

/** The value of the pod-template-hash label. `collisionCount` is Deployment.status.collisionCount. */
export function templateHash(template: PodTemplateSpec, collisionCount: number | undefined): string {
  return safeEncode(String(fnv32a(`${canonicalTemplate(template)}${collisionCount ?? ""}`)));
}

/** Whether two templates make the same pods. */
export function sameTemplate(a: PodTemplateSpec | undefined, b: PodTemplateSpec | undefined): boolean {
  return !!a && !!b && canonicalTemplate(a) === canonicalTemplate(b);
}

/** Oldest first; by name within one second. */
export function byCreation(a: Stored<ReplicaSet>, b: Stored<ReplicaSet>): number {
  const [x, y] = [a.metadata.creationTimestamp, b.metadata.creationTimestamp];
  return x === y ? (a.metadata.name < b.metadata.name ? -1 : 1) : x < y ? -1 : 1;
}

/** The ReplicaSet that has the Deployment's template (the oldest, should there be several) and all others. */
export function splitReplicaSets(deployment: Stored<Deployment>, replicaSets: readonly Stored<ReplicaSet>[]) {
  const sorted = [...replicaSets].sort(byCreation);
  const current = sorted.find((rs) => sameTemplate(rs.spec?.template, deployment.spec?.template));
  return { current, old: sorted.filter((rs) => rs !== current) };
}

function revisionOf(object: Stored<ReplicaSet> | Stored<Deployment>): number {
  const revision = Number(object.metadata.annotations?.[REVISION] ?? 0);
  return Number.isInteger(revision) ? revision : 0;
}

export function maxRevision(replicaSets: readonly Stored<ReplicaSet>[]): number {
  return Math.max(0, ...replicaSets.map(revisionOf));
}

/** Annotations handed down to a ReplicaSet. */
function inheritedAnnotations(deployment: Stored<Deployment>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(deployment.metadata.annotations ?? {}).filter(([key]) => !NOT_INHERITED.has(key)),
  );
}

/** What the new ReplicaSet's annotations have to be: inherited ones, and the revision raised, never lowered. */
export function annotationsForRevision(
  deployment: Stored<Deployment>,
  present: Record<string, string> | undefined,
  revision: number,
): Record<string, string> {
  const annotations = { ...present, ...inheritedAnnotations(deployment) };
  const old = present?.[REVISION];
  if (old !== undefined && !(Number(old) < revision)) return annotations;
  annotations[REVISION] = String(revision);
  if (old !== undefined) annotations[REVISION_HISTORY] = appendHistory(present?.[REVISION_HISTORY], old);
  return annotations;
}

function appendHistory(history: string | undefined, revision: string): string {
  const entries = history ? history.split(",") : [];
  entries.push(revision);
  while (entries.join(",").length > LONGEST_HISTORY) entries.shift();
  return entries.join(",");
}

/** The size annotations by which a later scaling of the Deployment is noticed and shared out. */
export function sizeAnnotations(desired: number, max: number): Record<string, string> {
  return { [DESIRED_REPLICAS]: String(desired), [MAX_REPLICAS]: String(max) };
}

/** The size annotation's number; undefined when it is absent or no number. */
export function annotatedSize(
  rs: Stored<ReplicaSet>,
  name: typeof DESIRED_REPLICAS | typeof MAX_REPLICAS,
): number | undefined {
  const text = rs.metadata.annotations?.[name];
  const size = Number(text);
  return text === undefined || !Number.isInteger(size) ? undefined : size;
}

/** Old ReplicaSets beyond spec.revisionHistoryLimit that nothing uses any more, lowest revision first. */
export function expiredRevisions(
  deployment: Stored<Deployment>,
  old: readonly Stored<ReplicaSet>[],
): Stored<ReplicaSet>[] {
  const limit = deployment.spec?.revisionHistoryLimit;
  if (limit === undefined) return [];
  const alive = old.filter((rs) => !rs.metadata.deletionTimestamp);
  const excess = alive.length - limit;
  if (excess <= 0) return [];
  const sorted = [...alive].sort((a, b) => revisionOf(a) - revisionOf(b) || byCreation(a, b));
  return sorted
    .slice(0, excess)
    .filter(
      (rs) =>
        (rs.status?.replicas ?? 0) === 0 &&
        (rs.spec?.replicas ?? 1) === 0 &&
        (rs.metadata.generation ?? 0) <= (rs.status?.observedGeneration ?? 0),
    );
}
