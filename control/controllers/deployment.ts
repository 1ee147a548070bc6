// Rolls a Deployment out over ReplicaSets. What should be is decided in deployment-{plan,revision,status}.ts; here
// are the effects. Knows Deployments, ReplicaSets and (for Recreate) Pods.

import { DEPLOYMENTS, isAlreadyExists, isNotFound, PODS, REPLICA_SETS } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import { type Deployment, keyOf, type Pod, type ReplicaSet, type Stored } from "../../common/k8s.js";
import { WorkQueue } from "../../common/workqueue.js";
import { semanticallyEqual } from "./canonical.js";
import type { Controller, ControllerContext } from "./context.js";
import {
  fenceposts,
  isScalingEvent,
  planRecreate,
  planRollingUpdate,
  planScale,
  type ReplicaSets,
  type Resize,
  sizeOf,
} from "./deployment-plan.js";
import { newReplicaSet, withResized } from "./deployment-replicaset.js";
import {
  annotationsForRevision,
  expiredRevisions,
  maxRevision,
  REVISION,
  sameTemplate,
  sizeAnnotations,
  splitReplicaSets,
} from "./deployment-revision.js";
import {
  type DeploymentStatus,
  deadlineCheckIn,
  findCondition,
  hasDeadline,
  isComplete,
  observedStatus,
  pauseConditions,
  rolloutStatus,
  withCondition,
} from "./deployment-status.js";
import type { EventRecorder } from "./events.js";
import { Freshness, STALE_RETRY_MS } from "./freshness.js";
import { ignoreNotFound, messageOf, namespaceOf } from "./objects.js";
import {
  claim,
  controlledBy,
  controllerOf,
  indexByController,
  indexBySelector,
  selectorCandidates,
  selects,
} from "./owners.js";
import { isPodTerminal } from "./pod-state.js";

export class DeploymentController implements Controller {
  readonly name = "deployment";
  readonly #context: ControllerContext;
  readonly #recorder: EventRecorder;
  readonly #deployments: Informer<Deployment>;
  readonly #replicaSets: Informer<ReplicaSet>;
  readonly #pods: Informer<Pod>;
  readonly #writes: Freshness<ReplicaSet>;
  readonly #ownWrites: Freshness<Deployment>;
  readonly #queue: WorkQueue;

  constructor(context: ControllerContext) {
    this.#context = context;
    this.#recorder = context.events.recorder("deployment-controller");
    this.#deployments = context.informers.get(DEPLOYMENTS);
    this.#replicaSets = context.informers.get(REPLICA_SETS);
    this.#pods = context.informers.get(PODS);
    indexByController(this.#replicaSets);
    indexByController(this.#pods);
    indexBySelector(this.#deployments, (deployment) => deployment.spec?.selector.matchLabels ?? {});
    this.#writes = new Freshness(this.#replicaSets, context.now);
    this.#ownWrites = new Freshness(this.#deployments, context.now);
    this.#queue = new WorkQueue({
      name: this.name,
      worker: (key) => this.#sync(key).catch(ignoreNotFound),
      concurrency: 8,
      log: context.log.child({ controller: this.name }),
    });
  }

  start(): void {
    const enqueue = (deployment: Stored<Deployment>) => this.#queue.add(keyOf(deployment));
    this.#deployments.subscribe({ add: enqueue, update: (_old, now) => enqueue(now), delete: enqueue });
    this.#replicaSets.subscribe({
      add: (rs) => this.#replicaSetChanged(rs),
      update: (old, now) => {
        if (controllerOf(old)?.uid !== controllerOf(now)?.uid) this.#replicaSetChanged(old);
        this.#replicaSetChanged(now);
      },
      delete: (rs) => this.#replicaSetChanged(rs),
    });
    this.#pods.subscribe({
      update: (old, now) => {
        if (isPodTerminal(now) !== isPodTerminal(old)) this.#podGone(now);
      },
      delete: (pod) => this.#podGone(pod),
    });
    this.#queue.start();
  }

  stop(): Promise<void> {
    return this.#queue.stop();
  }

  #replicaSetChanged(rs: Stored<ReplicaSet>): void {
    const namespace = rs.metadata.namespace ?? "";
    const reference = controllerOf(rs);
    if (reference) {
      const key = `${namespace}/${reference.name}`;
      if (reference.kind === "Deployment" && this.#deployments.get(key)?.metadata.uid === reference.uid) {
        this.#queue.add(key);
      }
      return;
    }
    if (rs.metadata.deletionTimestamp) return;
    for (const deployment of selectorCandidates(this.#deployments, namespace, rs.metadata.labels)) {
      if (selects(deployment.spec?.selector, rs.metadata.labels)) this.#queue.add(keyOf(deployment));
    }
  }

  /** Recreate waits for the last old pod, which only a pod's own end shows. */
  #podGone(pod: Stored<Pod>): void {
    const reference = controllerOf(pod);
    if (reference?.kind !== "ReplicaSet") return;
    const rs = this.#replicaSets.get(`${pod.metadata.namespace}/${reference.name}`);
    const owner = rs && controllerOf(rs);
    const deployment = owner && this.#deployments.get(`${pod.metadata.namespace}/${owner.name}`);
    if (deployment?.spec?.strategy?.type === "Recreate") this.#queue.add(keyOf(deployment));
  }

  async #sync(key: string): Promise<void> {
    const deployment = this.#deployments.get(key);
    if (!deployment) {
      this.#writes.forget(key);
      this.#ownWrites.forget(key);
      return;
    }
    if (!this.#writes.isFresh(key) || !this.#ownWrites.isFresh(key)) {
      this.#queue.addAfter(key, STALE_RETRY_MS);
      return;
    }
    const owned = await claim({
      client: this.#context.client,
      ownerResource: DEPLOYMENTS,
      owner: deployment,
      selector: deployment.spec?.selector,
      resource: REPLICA_SETS,
      informer: this.#replicaSets,
    });
    const sets: ReplicaSets = splitReplicaSets(deployment, owned);
    const now = this.#context.now();
    if (deployment.metadata.deletionTimestamp) {
      await this.#writeStatus(key, deployment, observedStatus(deployment, sets, now));
      return;
    }
    const pause = pauseConditions(deployment, now);
    if (pause) {
      await this.#writeStatus(key, deployment, { ...deployment.status, conditions: pause });
      return; // its own update brings us back with the conditions in place
    }
    if (deployment.spec?.paused || isScalingEvent(deployment, sets)) await this.#scale(key, deployment, sets);
    else if (deployment.spec?.strategy?.type === "Recreate") await this.#recreate(key, deployment, sets);
    else await this.#roll(key, deployment, sets);
  }

  async #scale(key: string, deployment: Stored<Deployment>, sets: ReplicaSets): Promise<void> {
    const { current } = sets;
    const synced = current
      ? { ...sets, current: await this.#raiseRevision(key, deployment, sets, current) }
      : sets;
    const changed = await this.#resize(key, deployment, planScale(deployment, synced));
    if (deployment.spec?.paused) await this.#cleanUp(key, deployment, synced);
    const after = withResized(synced, changed);
    await this.#writeStatus(key, deployment, observedStatus(deployment, after, this.#context.now()));
  }

  async #roll(key: string, deployment: Stored<Deployment>, found: ReplicaSets): Promise<void> {
    const sets = await this.#withCurrent(key, deployment, found);
    if (!sets) return;
    const changed = await this.#resize(key, deployment, planRollingUpdate(deployment, sets));
    await this.#finish(key, deployment, sets, changed);
  }

  async #recreate(key: string, deployment: Stored<Deployment>, found: ReplicaSets): Promise<void> {
    const stopped = await this.#resize(key, deployment, planRecreate(found));
    if (stopped.length > 0 || this.#oldPodsRun(found)) {
      await this.#finish(key, deployment, found, stopped);
      return;
    }
    const sets = await this.#withCurrent(key, deployment, found);
    if (!sets?.current) return;
    const grow =
      sizeOf(sets.current) === sizeOf(deployment) ? [] : [{ rs: sets.current, replicas: sizeOf(deployment) }];
    await this.#finish(key, deployment, sets, await this.#resize(key, deployment, grow));
  }

  #oldPodsRun({ old }: ReplicaSets): boolean {
    return old.some(
      (rs) =>
        (rs.status?.replicas ?? 0) > 0 ||
        controlledBy(this.#pods, rs.metadata.uid).some((pod) => !isPodTerminal(pod)),
    );
  }

  /** Ends a step of a rollout: clean-up when all is done, status, and a look at the deadline. */
  async #finish(
    key: string,
    deployment: Stored<Deployment>,
    sets: ReplicaSets,
    changed: Stored<ReplicaSet>[],
  ) {
    if (changed.length === 0 && isComplete(deployment, deployment.status ?? {})) {
      await this.#cleanUp(key, deployment, sets);
    }
    const now = this.#context.now();
    const status = rolloutStatus(deployment, withResized(sets, changed), now);
    await this.#writeStatus(key, deployment, status);
    const checkIn = deadlineCheckIn(deployment, status, now);
    if (checkIn !== undefined) this.#queue.addAfter(key, checkIn);
  }

  /** The ReplicaSets with the current one present, made or raised to the newest revision; undefined: come again. */
  async #withCurrent(
    key: string,
    deployment: Stored<Deployment>,
    sets: ReplicaSets,
  ): Promise<ReplicaSets | undefined> {
    const { current } = sets;
    if (!current) {
      const created = await this.#create(key, deployment, sets);
      return created && { ...sets, current: created };
    }
    const raised = await this.#raiseRevision(key, deployment, sets, current);
    const message = `Found new replica set "${raised.metadata.name}"`;
    if (hasDeadline(deployment) && !findCondition(deployment.status, "Progressing")) {
      await this.#writeProgress(key, deployment, "True", "FoundNewReplicaSet", message);
      return undefined;
    }
    return { ...sets, current: raised };
  }

  /** A template that comes back (a rollback) makes its old ReplicaSet the newest revision. */
  async #raiseRevision(
    key: string,
    deployment: Stored<Deployment>,
    sets: ReplicaSets,
    current: Stored<ReplicaSet>,
  ) {
    const revision = maxRevision(sets.old) + 1;
    const annotations = annotationsForRevision(deployment, current.metadata.annotations, revision);
    const minReadySeconds = deployment.spec?.minReadySeconds ?? 0;
    let raised = current;
    if (
      !semanticallyEqual(annotations, current.metadata.annotations ?? {}) ||
      (current.spec?.minReadySeconds ?? 0) !== minReadySeconds
    ) {
      const draft = {
        ...current,
        metadata: { ...current.metadata, annotations },
        spec: { ...current.spec, minReadySeconds },
      } as ReplicaSet;
      raised = await this.#context.client.update(REPLICA_SETS, draft, namespaceOf(deployment));
      this.#writes.wrote(key, raised);
    }
    await this.#showRevision(key, deployment, raised);
    return raised;
  }

  async #showRevision(key: string, deployment: Stored<Deployment>, rs: Stored<ReplicaSet>): Promise<void> {
    const revision = rs.metadata.annotations?.[REVISION];
    if (revision === undefined || deployment.metadata.annotations?.[REVISION] === revision) return;
    const patch = { metadata: { annotations: { [REVISION]: revision } } };
    const { name } = deployment.metadata;
    const written = await this.#context.client.patch(
      DEPLOYMENTS,
      name,
      "merge",
      patch,
      namespaceOf(deployment),
    );
    this.#ownWrites.wrote(key, written);
  }

  async #create(key: string, deployment: Stored<Deployment>, sets: ReplicaSets) {
    const draft = newReplicaSet(deployment, sets);
    let created: Stored<ReplicaSet>;
    try {
      created = await this.#context.client.create(REPLICA_SETS, draft, namespaceOf(deployment));
    } catch (error) {
      if (isAlreadyExists(error)) return await this.#resolveCollision(key, deployment, draft);
      const message = `Failed to create new replica set "${draft.metadata?.name}": ${messageOf(error)}`;
      await this.#writeProgress(key, deployment, "False", "ReplicaSetCreateError", message);
      throw error;
    }
    this.#writes.wrote(key, created);
    if (sizeOf(created) > 0) this.#tellScaled(deployment, created, 0, sizeOf(created));
    await this.#showRevision(key, deployment, created);
    const message = `Created new replica set "${created.metadata.name}"`;
    if (hasDeadline(deployment)) {
      await this.#writeProgress(key, deployment, "True", "NewReplicaSetCreated", message);
    }
    // The next steps look at the cache, which has to know the new one first.
    return undefined;
  }

  /** The name is taken: by ourselves a moment ago (then it is the one), or by another template of the same hash. */
  async #resolveCollision(key: string, deployment: Stored<Deployment>, draft: ReplicaSet) {
    const name = draft.metadata?.name ?? "";
    const present = await this.#context.client.get(REPLICA_SETS, name, deployment.metadata.namespace);
    const ours = controllerOf(present)?.uid === deployment.metadata.uid;
    if (ours && sameTemplate(present.spec?.template, deployment.spec?.template)) {
      this.#writes.wrote(key, present);
      this.#queue.addAfter(key, STALE_RETRY_MS);
      return undefined;
    }
    const collisionCount = (deployment.status?.collisionCount ?? 0) + 1;
    this.#context.log.info({ deployment: key, replicaSet: name, collisionCount }, "template hash collision");
    await this.#writeStatus(key, deployment, { ...deployment.status, collisionCount });
    return undefined;
  }

  /** Applies sizes and the annotations that remember them; returns the ReplicaSets as written. */
  async #resize(key: string, deployment: Stored<Deployment>, wanted: readonly Resize[]) {
    const desired = sizeOf(deployment);
    const annotations = sizeAnnotations(desired, desired + fenceposts(deployment).maxSurge);
    const written: Stored<ReplicaSet>[] = [];
    for (const { rs, replicas } of wanted) {
      const before = sizeOf(rs);
      const merged = { ...rs.metadata.annotations, ...annotations };
      if (before === replicas && semanticallyEqual(merged, rs.metadata.annotations ?? {})) continue;
      const draft = {
        ...rs,
        metadata: { ...rs.metadata, annotations: merged },
        spec: { ...rs.spec, replicas },
      } as ReplicaSet;
      const updated = await this.#context.client.update(REPLICA_SETS, draft, namespaceOf(deployment));
      this.#writes.wrote(key, updated);
      written.push(updated);
      if (before !== replicas) this.#tellScaled(deployment, rs, before, replicas);
    }
    return written;
  }

  #tellScaled(deployment: Stored<Deployment>, rs: Stored<ReplicaSet>, from: number, to: number): void {
    const direction = to > from ? "up" : "down";
    const message = `Scaled ${direction} replica set ${rs.metadata.name} from ${from} to ${to}`;
    this.#recorder.event(deployment, "Normal", "ScalingReplicaSet", message);
  }

  async #cleanUp(key: string, deployment: Stored<Deployment>, sets: ReplicaSets): Promise<void> {
    for (const rs of expiredRevisions(deployment, sets.old)) {
      const { name, uid } = rs.metadata;
      const options = { ...namespaceOf(deployment), preconditions: { uid } };
      try {
        await this.#context.client.delete(REPLICA_SETS, name, options);
      } catch (error) {
        if (!isNotFound(error)) throw error;
      }
      this.#writes.deleted(key, rs);
    }
  }

  async #writeProgress(
    key: string,
    deployment: Stored<Deployment>,
    status: "True" | "False",
    reason: string,
    message: string,
  ): Promise<void> {
    const wanted = { type: "Progressing", status, reason, message };
    const conditions = withCondition(deployment.status?.conditions, wanted, this.#context.now());
    await this.#writeStatus(key, deployment, { ...deployment.status, conditions });
  }

  async #writeStatus(key: string, deployment: Stored<Deployment>, status: DeploymentStatus): Promise<void> {
    if (semanticallyEqual(status, deployment.status)) return;
    // A patch, since our own annotation patch may have changed the version a moment ago, and nobody else writes here.
    const { name } = deployment.metadata;
    const removed = Object.keys(deployment.status ?? {}).filter((field) => !(field in status));
    const patch = { status: { ...status, ...Object.fromEntries(removed.map((field) => [field, null])) } };
    const written = await this.#context.client.patch(DEPLOYMENTS, name, "merge", patch, {
      ...namespaceOf(deployment),
      subresource: "status",
    });
    this.#ownWrites.wrote(key, written);
  }
}
