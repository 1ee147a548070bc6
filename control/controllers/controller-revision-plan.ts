// The history of a StatefulSet's or DaemonSet's template, one ControllerRevision a template: what one holds, which is
// the present one, which may go. Pure; knows ControllerRevisions and templates, not whose they are.

import type { ControllerRevision, PodTemplateSpec, Stored } from "../../common/k8s.js";
import { sameTemplate, templateHash } from "./deployment-revision.js";
import { controllerReference } from "./owners.js";

export type Revision = Stored<ControllerRevision>;

/** What a StatefulSet and a DaemonSet have in common here. */
export type RevisionOwner = Stored & {
  spec?: { template: PodTemplateSpec; revisionHistoryLimit?: number };
  status?: { collisionCount?: number };
};

/** The label of pods that says which revision made them. */
export const CONTROLLER_REVISION_HASH = "controller-revision-hash";

interface Data {
  spec?: { template?: PodTemplateSpec & { $patch?: string } };
}

const templates = new WeakMap<Revision, PodTemplateSpec>();

/** The template that a revision holds: its data is the strategic merge patch which puts it back. */
export function templateOf(revision: Revision): PodTemplateSpec | undefined {
  const known = templates.get(revision);
  if (known) return known;
  const held = (revision.data as Data | undefined)?.spec?.template;
  if (!held) return undefined;
  const { $patch: _, ...template } = held;
  templates.set(revision, template);
  return template;
}

/** Oldest first. */
export function byRevision(a: Revision, b: Revision): number {
  if (a.revision !== b.revision) return a.revision - b.revision;
  const [x, y] = [a.metadata.creationTimestamp, b.metadata.creationTimestamp];
  return x === y ? (a.metadata.name < b.metadata.name ? -1 : 1) : x < y ? -1 : 1;
}

export type RevisionPlan =
  | { type: "present"; revision: Revision }
  /** A template that comes back (a rollback) becomes the newest revision. */
  | { type: "raise"; revision: Revision; to: number }
  | { type: "create"; number: number };

/** @param revisions Sorted by {@link byRevision}. */
export function planRevision(
  template: PodTemplateSpec | undefined,
  revisions: readonly Revision[],
): RevisionPlan {
  const newest = revisions.at(-1);
  const next = (newest?.revision ?? 0) + 1;
  const equal = revisions.findLast((revision) => sameTemplate(templateOf(revision), template));
  if (!equal) return { type: "create", number: next };
  return equal === newest
    ? { type: "present", revision: equal }
    : { type: "raise", revision: equal, to: next };
}

/** @param hashLabel Under which the revision itself carries its hash. */
export function newRevision(
  owner: RevisionOwner,
  number: number,
  collisionCount: number,
  hashLabel: string,
): ControllerRevision {
  const { template } = owner.spec ?? { template: {} };
  const hash = templateHash(template, collisionCount);
  const { name, namespace = "", annotations } = owner.metadata;
  return {
    apiVersion: "apps/v1",
    kind: "ControllerRevision",
    metadata: {
      name: `${name.slice(0, 223)}-${hash}`,
      namespace,
      labels: { ...template.metadata?.labels, [hashLabel]: hash },
      ...(annotations ? { annotations } : {}),
      ownerReferences: [controllerReference(owner)],
    },
    data: { spec: { template: { ...template, $patch: "replace" } } },
    revision: number,
  };
}

/** Beyond `limit` the oldest of those that nothing uses. @param live Names of revisions in use. */
export function expiredHistory(
  revisions: readonly Revision[],
  live: ReadonlySet<string>,
  limit: number,
): Revision[] {
  const unused = revisions.filter(({ metadata }) => !live.has(metadata.name) && !metadata.deletionTimestamp);
  return unused.slice(0, Math.max(0, unused.length - limit));
}
