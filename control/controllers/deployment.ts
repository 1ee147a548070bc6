// Rolls a Deployment out over ReplicaSets: which step comes next. What each step should come to is decided in
// deployment-{plan,revision,status}.ts, and deployment-writer.ts writes it. Knows Deployments, ReplicaSets and (for
// Recreate) Pods.

import { DEPLOYMENTS, PODS, REPLICA_SETS } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import { type Deployment, keyOf, type Pod, type ReplicaSet, type Stored } from "../../common/k8s.js";
import type { WorkQueue } from "../../common/workqueue.js";
import type { ControllerContext } from "./context.js";
import {
  isScalingEvent,
  planRecreate,
  planRollingUpdate,
  planScale,
  type ReplicaSets,
  sizeOf,
} from "./deployment-plan.js";
import { withResized } from "./deployment-replicaset.js";
import { splitReplicaSets } from "./deployment-revision.js";
import {
  deadlineCheckIn,
  findCondition,
  hasDeadline,
  isComplete,
  observedStatus,
  pauseConditions,
  rolloutStatus,
} from "./deployment-status.js";
import { DeploymentWriter, type WriterContext } from "./deployment-writer.js";
import { Freshness, STALE_RETRY_MS } from "./freshness.js";
import { claim, controlledBy, controllerOf, indexByController, indexBySelector, ownersOf } from "./owners.js";
import { isPodTerminal } from "./pod-state.js";
import { onChange, type Reconciler } from "./reconcile.js";

/** One look at a Deployment. */
interface Look {
  deployment: Stored<Deployment>;
  writer: DeploymentWriter;
  sets: ReplicaSets;
}

export class DeploymentController implements Reconciler {
  readonly #queue: WorkQueue;
  readonly #deployments: Informer<Deployment>;
  readonly #replicaSets: Informer<ReplicaSet>;
  readonly #pods: Informer<Pod>;
  readonly #writing: WriterContext;

  constructor(context: ControllerContext, queue: WorkQueue) {
    const { client, informers, events, log, now } = context;
    this.#queue = queue;
    this.#deployments = informers.get(DEPLOYMENTS);
    this.#replicaSets = informers.get(REPLICA_SETS);
    this.#pods = informers.get(PODS);
    indexByController(this.#replicaSets);
    indexByController(this.#pods);
    indexBySelector(this.#deployments, (deployment) => deployment.spec?.selector.matchLabels ?? {});
    this.#writing = {
      client,
      recorder: events.recorder("deployment-controller"),
      log,
      now,
      replicaSetWrites: new Freshness(this.#replicaSets, now),
      deploymentWrites: new Freshness(this.#deployments, now),
    };
  }

  watch(): void {
    this.#deployments.subscribe(onChange((deployment) => this.#queue.add(keyOf(deployment))));
    this.#replicaSets.subscribe({
      ...onChange((rs) => this.#replicaSetChanged(rs)),
      update: (old, now) => {
        if (controllerOf(old)?.uid !== controllerOf(now)?.uid) this.#replicaSetChanged(old);
        this.#replicaSetChanged(now);
      },
    });
    this.#pods.subscribe({
      update: (old, now) => {
        if (isPodTerminal(now) !== isPodTerminal(old)) this.#podGone(now);
      },
      delete: (pod) => this.#podGone(pod),
    });
  }

  #replicaSetChanged(rs: Stored<ReplicaSet>): void {
    // An orphan that is being deleted will not be adopted.
    if (!controllerOf(rs) && rs.metadata.deletionTimestamp) return;
    const owners = ownersOf(rs, "Deployment", this.#deployments, (deployment) => deployment.spec?.selector);
    for (const deployment of owners) this.#queue.add(keyOf(deployment));
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

  async reconcile(key: string): Promise<void> {
    const deployment = this.#deployments.get(key);
    const { client, now, replicaSetWrites, deploymentWrites } = this.#writing;
    if (!deployment) {
      replicaSetWrites.forget(key);
      deploymentWrites.forget(key);
      return;
    }
    if (!replicaSetWrites.isFresh(key) || !deploymentWrites.isFresh(key)) {
      this.#queue.addAfter(key, STALE_RETRY_MS);
      return;
    }
    const owned = await claim({
      client,
      ownerResource: DEPLOYMENTS,
      owner: deployment,
      selector: deployment.spec?.selector,
      resource: REPLICA_SETS,
      informer: this.#replicaSets,
    });
    const writer = new DeploymentWriter(this.#writing, deployment);
    const sets = splitReplicaSets(deployment, owned);
    if (deployment.metadata.deletionTimestamp) {
      await writer.writeStatus(observedStatus(deployment, sets, now()));
      return;
    }
    const pause = pauseConditions(deployment, now());
    if (pause) {
      await writer.writeStatus({ ...deployment.status, conditions: pause });
      return; // its own update brings us back with the conditions in place
    }
    const look: Look = { deployment, writer, sets };
    if (deployment.spec?.paused || isScalingEvent(deployment, sets)) await this.#scale(look);
    else if (deployment.spec?.strategy?.type === "Recreate") await this.#recreate(look);
    else await this.#roll(look);
  }

  async #scale({ deployment, writer, sets: found }: Look): Promise<void> {
    const { current, old } = found;
    const sets = current ? { old, current: await writer.raiseRevision(old, current) } : found;
    const resized = await writer.resize(planScale(deployment, sets));
    if (deployment.spec?.paused) await writer.cleanUp(old);
    await writer.writeStatus(observedStatus(deployment, withResized(sets, resized), this.#writing.now()));
  }

  async #roll(look: Look): Promise<void> {
    const sets = await this.#withCurrent(look);
    if (!sets) return;
    const resized = await look.writer.resize(planRollingUpdate(look.deployment, sets));
    await this.#finish({ ...look, sets }, resized);
  }

  async #recreate(look: Look): Promise<void> {
    const { deployment, writer } = look;
    const stopped = await writer.resize(planRecreate(look.sets));
    if (stopped.length > 0 || this.#oldPodsRun(look.sets)) return await this.#finish(look, stopped);
    const sets = await this.#withCurrent(look);
    if (!sets) return;
    const rs = sets.current;
    const replicas = sizeOf(deployment);
    const resized = sizeOf(rs) === replicas ? [] : await writer.resize([{ rs, replicas }]);
    await this.#finish({ ...look, sets }, resized);
  }

  #oldPodsRun({ old }: ReplicaSets): boolean {
    return old.some(
      (rs) =>
        (rs.status?.replicas ?? 0) > 0 ||
        controlledBy(this.#pods, rs.metadata.uid).some((pod) => !isPodTerminal(pod)),
    );
  }

  /** The ReplicaSets with the current one at the newest revision; undefined: events of what was written bring us back. */
  async #withCurrent({ deployment, writer, sets: { current, old } }: Look) {
    if (!current) {
      await writer.create({ current, old });
      return undefined;
    }
    const raised = await writer.raiseRevision(old, current);
    if (hasDeadline(deployment) && !findCondition(deployment.status, "Progressing")) {
      const message = `Found new replica set "${raised.metadata.name}"`;
      await writer.writeProgress("True", "FoundNewReplicaSet", message);
      return undefined;
    }
    return { current: raised, old };
  }

  /** Ends a step of a rollout: clean-up when all is done, status, and a look at the deadline. */
  async #finish({ deployment, writer, sets }: Look, resized: readonly Stored<ReplicaSet>[]): Promise<void> {
    if (resized.length === 0 && isComplete(deployment, deployment.status ?? {}))
      await writer.cleanUp(sets.old);
    const now = this.#writing.now();
    const status = rolloutStatus(deployment, withResized(sets, resized), now);
    await writer.writeStatus(status);
    const checkIn = deadlineCheckIn(deployment, status, now);
    if (checkIn !== undefined) this.#queue.addAfter(keyOf(deployment), checkIn);
  }
}
