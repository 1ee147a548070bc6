// What the deployment controller writes in one look at a Deployment: its ReplicaSets, its revision, its status, and the
// Events that tell of them. Knows Deployments and ReplicaSets; decides nothing about when.

import { DEPLOYMENTS, isAlreadyExists, type KubeClient, REPLICA_SETS } from "../../common/client.js";
import { type Deployment, keyOf, type ReplicaSet, type Stored } from "../../common/k8s.js";
import type { Logger } from "../../common/log.js";
import { semanticallyEqual } from "./canonical.js";
import { fenceposts, type ReplicaSets, type Resize, sizeOf } from "./deployment-plan.js";
import { newReplicaSet } from "./deployment-replicaset.js";
import {
  annotationsForRevision,
  expiredRevisions,
  maxRevision,
  REVISION,
  sameTemplate,
  sizeAnnotations,
} from "./deployment-revision.js";
import { type DeploymentStatus, hasDeadline, withCondition } from "./deployment-status.js";
import type { EventRecorder } from "./events.js";
import type { Freshness } from "./freshness.js";
import { deleteIfPresent, messageOf, namespaceOf } from "./objects.js";
import { controllerOf } from "./owners.js";

/** What all looks share. */
export interface WriterContext {
  client: KubeClient;
  recorder: EventRecorder;
  log: Logger;
  /** Milliseconds since the epoch. */
  now(): number;
  /** Of what was written to ReplicaSets and to Deployments, by the Deployment's key. */
  replicaSetWrites: Freshness<ReplicaSet>;
  deploymentWrites: Freshness<Deployment>;
}

/** Every method throws StatusError. */
export class DeploymentWriter {
  readonly #context: WriterContext;
  readonly #deployment: Stored<Deployment>;
  readonly #key: string;

  constructor(context: WriterContext, deployment: Stored<Deployment>) {
    this.#context = context;
    this.#deployment = deployment;
    this.#key = keyOf(deployment);
  }

  /** A template that comes back (a rollback) makes its old ReplicaSet the newest revision. */
  async raiseRevision(old: readonly Stored<ReplicaSet>[], current: Stored<ReplicaSet>) {
    const deployment = this.#deployment;
    const annotations = annotationsForRevision(
      deployment,
      current.metadata.annotations,
      maxRevision(old) + 1,
    );
    const minReadySeconds = deployment.spec?.minReadySeconds ?? 0;
    const right =
      semanticallyEqual(annotations, current.metadata.annotations ?? {}) &&
      (current.spec?.minReadySeconds ?? 0) === minReadySeconds;
    const raised = right ? current : await this.#updateReplicaSet(current, annotations, { minReadySeconds });
    await this.#showRevision(raised);
    return raised;
  }

  /** Makes the ReplicaSet of the present template. It counts when the cache shows it. */
  async create(sets: ReplicaSets): Promise<void> {
    const { client, replicaSetWrites } = this.#context;
    const deployment = this.#deployment;
    const draft = newReplicaSet(deployment, sets);
    let created: Stored<ReplicaSet>;
    try {
      created = await client.create(REPLICA_SETS, draft, namespaceOf(deployment));
    } catch (error) {
      if (isAlreadyExists(error)) return await this.#resolveCollision(draft);
      const message = `Failed to create new replica set "${draft.metadata?.name}": ${messageOf(error)}`;
      await this.writeProgress("False", "ReplicaSetCreateError", message);
      throw error;
    }
    replicaSetWrites.wrote(this.#key, created);
    if (sizeOf(created) > 0) this.#tellScaled(created, 0, sizeOf(created));
    await this.#showRevision(created);
    if (!hasDeadline(deployment)) return;
    const message = `Created new replica set "${created.metadata.name}"`;
    await this.writeProgress("True", "NewReplicaSetCreated", message);
  }

  /** The name is taken: by ourselves a moment ago (then it is the one), or by another template of the same hash. */
  async #resolveCollision(draft: ReplicaSet): Promise<void> {
    const { client, log, replicaSetWrites } = this.#context;
    const { metadata, spec, status } = this.#deployment;
    const name = draft.metadata?.name ?? "";
    const present = await client.get(REPLICA_SETS, name, metadata.namespace);
    if (controllerOf(present)?.uid === metadata.uid && sameTemplate(present.spec?.template, spec?.template)) {
      replicaSetWrites.wrote(this.#key, present);
      return;
    }
    const collisionCount = (status?.collisionCount ?? 0) + 1;
    log.info({ deployment: this.#key, replicaSet: name, collisionCount }, "template hash collision");
    await this.writeStatus({ ...status, collisionCount });
  }

  /** Applies sizes and the annotations that remember them; returns the ReplicaSets as written. */
  async resize(wanted: readonly Resize[]): Promise<Stored<ReplicaSet>[]> {
    const desired = sizeOf(this.#deployment);
    const sizes = sizeAnnotations(desired, desired + fenceposts(this.#deployment).maxSurge);
    const written: Stored<ReplicaSet>[] = [];
    for (const { rs, replicas } of wanted) {
      const before = sizeOf(rs);
      const annotations = { ...rs.metadata.annotations, ...sizes };
      if (before === replicas && semanticallyEqual(annotations, rs.metadata.annotations ?? {})) continue;
      written.push(await this.#updateReplicaSet(rs, annotations, { replicas }));
      if (before !== replicas) this.#tellScaled(rs, before, replicas);
    }
    return written;
  }

  async #updateReplicaSet(
    rs: Stored<ReplicaSet>,
    annotations: Record<string, string>,
    change: { replicas: number } | { minReadySeconds: number },
  ): Promise<Stored<ReplicaSet>> {
    const { client, replicaSetWrites } = this.#context;
    const draft = { ...rs, metadata: { ...rs.metadata, annotations }, spec: { ...rs.spec, ...change } };
    const updated = await client.update(REPLICA_SETS, draft as ReplicaSet, namespaceOf(rs));
    replicaSetWrites.wrote(this.#key, updated);
    return updated;
  }

  #tellScaled(rs: Stored<ReplicaSet>, from: number, to: number): void {
    const direction = to > from ? "up" : "down";
    const message = `Scaled ${direction} replica set ${rs.metadata.name} from ${from} to ${to}`;
    this.#context.recorder.event(this.#deployment, "Normal", "ScalingReplicaSet", message);
  }

  /** Removes what revisionHistoryLimit does not keep. */
  async cleanUp(old: readonly Stored<ReplicaSet>[]): Promise<void> {
    const { client, replicaSetWrites } = this.#context;
    for (const rs of expiredRevisions(this.#deployment, old)) {
      await deleteIfPresent(client, REPLICA_SETS, rs);
      replicaSetWrites.deleted(this.#key, rs);
    }
  }

  async #showRevision(rs: Stored<ReplicaSet>): Promise<void> {
    const { client, deploymentWrites } = this.#context;
    const { name, annotations } = this.#deployment.metadata;
    const revision = rs.metadata.annotations?.[REVISION];
    if (revision === undefined || annotations?.[REVISION] === revision) return;
    const patch = { metadata: { annotations: { [REVISION]: revision } } };
    // With the status, as the real controller: an annotation that somebody sets is a new generation, this is none.
    const options = { ...namespaceOf(this.#deployment), subresource: "status" as const };
    deploymentWrites.wrote(this.#key, await client.patch(DEPLOYMENTS, name, "merge", patch, options));
  }

  /** Sets the Progressing condition and nothing else. */
  async writeProgress(status: "True" | "False", reason: string, message: string): Promise<void> {
    const present = this.#deployment.status;
    const wanted = { type: "Progressing", status, reason, message };
    const conditions = withCondition(present?.conditions, wanted, this.#context.now());
    await this.writeStatus({ ...present, conditions });
  }

  /** Writes the status if it differs. */
  async writeStatus(status: DeploymentStatus): Promise<void> {
    const { client, deploymentWrites } = this.#context;
    const { metadata, status: present = {} } = this.#deployment;
    if (semanticallyEqual(status, present)) return;
    // A patch, since our own annotation patch may have changed the version a moment ago, and nobody else writes here.
    const removed = Object.keys(present).filter((field) => !(field in status));
    const patch = { status: { ...status, ...Object.fromEntries(removed.map((field) => [field, null])) } };
    const options = { ...namespaceOf(this.#deployment), subresource: "status" as const };
    deploymentWrites.wrote(
      this.#key,
      await client.patch(DEPLOYMENTS, metadata.name, "merge", patch, options),
    );
  }
}
