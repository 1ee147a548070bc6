// Brings claims and volumes together, has volumes made, and sees to those whose claims have gone. The decisions are in
// persistent-volume-plan.ts. Knows PersistentVolumes, PersistentVolumeClaims, StorageClasses and Pods.

import {
  isAlreadyExists,
  isConflict,
  PERSISTENT_VOLUME_CLAIMS,
  PERSISTENT_VOLUMES,
  PODS,
  STORAGE_CLASSES,
} from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import {
  keyOf,
  type PersistentVolume,
  type PersistentVolumeClaim,
  type Pod,
  type StorageClass,
  type Stored,
} from "../../common/k8s.js";
import type { WorkQueue } from "../../common/workqueue.js";
import { storageClassOf } from "../resources/persistent-volume.js";
import { semanticallyEqual } from "./canonical.js";
import { claimsOf } from "./claims.js";
import type { ControllerContext } from "./context.js";
import type { EventRecorder } from "./events.js";
import {
  ensureStandardClass,
  makeVolume,
  PROVISIONER,
  refusal,
  removeVolume,
} from "./host-path-provisioner.js";
import { deleteIfPresent, messageOf, namespaceOf } from "./objects.js";
import {
  BIND_COMPLETED,
  BOUND_BY_CONTROLLER,
  keptFor,
  PROVISIONED_BY,
  planClaim,
  planVolume,
  SELECTED_NODE,
  type StorageView,
  type Told,
} from "./persistent-volume-plan.js";
import { onChange, type Reconciler } from "./reconcile.js";

const PROVISIONER_ANNOTATIONS = [
  "volume.beta.kubernetes.io/storage-provisioner",
  "volume.kubernetes.io/storage-provisioner",
];
const CLAIM = "claim:";
const VOLUME = "volume:";
const CLASS = "class:";
/** Somebody else wrote: what it was comes by the informer. */
const CONFLICT_RETRY_MS = 20;
/** A claim that waits is told why, and again after this time. */
const RETELL_MS = 15_000;

export interface PersistentVolumeOptions {
  /** Where volumes of the default class are made; without it there is no such class, and nobody makes volumes. */
  volumesDir?: string | undefined;
}

export class PersistentVolumeController implements Reconciler {
  readonly #context: ControllerContext;
  readonly #volumesDir: string | undefined;
  readonly #recorder: EventRecorder;
  readonly #provisioner: EventRecorder;
  readonly #volumes: Informer<PersistentVolume>;
  readonly #claims: Informer<PersistentVolumeClaim>;
  readonly #classes: Informer<StorageClass>;
  readonly #pods: Informer<Pod>;
  /** uid of a claim → what was told of it last, and when (milliseconds since the epoch). */
  readonly #told = new Map<string, { message: string; at: number }>();
  readonly #queue: WorkQueue;

  constructor(context: ControllerContext, queue: WorkQueue, { volumesDir }: PersistentVolumeOptions) {
    this.#context = context;
    this.#volumesDir = volumesDir;
    this.#recorder = context.events.recorder("persistentvolume-controller");
    this.#provisioner = context.events.recorder(PROVISIONER);
    this.#volumes = context.informers.get(PERSISTENT_VOLUMES);
    this.#claims = context.informers.get(PERSISTENT_VOLUME_CLAIMS);
    this.#classes = context.informers.get(STORAGE_CLASSES);
    this.#pods = context.informers.get(PODS);
    this.#queue = queue;
  }

  watch(): void {
    this.#claims.subscribe(
      onChange((claim) => {
        this.#queue.add(CLAIM + keyOf(claim));
        for (const { metadata, spec } of this.#volumes.list())
          if (metadata.name === claim.spec?.volumeName || spec?.claimRef?.uid === claim.metadata.uid)
            this.#queue.add(VOLUME + metadata.name);
      }),
    );
    this.#claims.subscribe({ delete: ({ metadata }) => this.#told.delete(metadata.uid) });
    this.#volumes.subscribe(
      onChange((volume) => {
        this.#queue.add(VOLUME + volume.metadata.name);
        const { claimRef } = volume.spec ?? {};
        if (claimRef) this.#queue.add(`${CLAIM}${claimRef.namespace}/${claimRef.name}`);
        this.#lookAtClaims(({ spec, status }) =>
          status?.phase === "Bound" ? spec?.volumeName === volume.metadata.name : !claimRef,
        );
      }),
    );
    this.#classes.subscribe(
      onChange(({ metadata }) => this.#lookAtClaims((claim) => storageClassOf(claim) === metadata.name)),
    );
    if (this.#volumesDir !== undefined) this.#queue.add(CLASS);
  }

  #lookAtClaims(concerned: (claim: Stored<PersistentVolumeClaim>) => boolean): void {
    for (const claim of this.#claims.list()) if (concerned(claim)) this.#queue.add(CLAIM + keyOf(claim));
  }

  async reconcile(key: string): Promise<void> {
    if (key === CLASS) return await ensureStandardClass(this.#context.client);
    try {
      if (key.startsWith(CLAIM)) await this.#reconcileClaim(key);
      else await this.#reconcileVolume(key.slice(VOLUME.length));
    } catch (error) {
      if (!isConflict(error)) throw error;
      this.#queue.addAfter(key, CONFLICT_RETRY_MS);
    }
  }

  get #view(): StorageView {
    return {
      volumes: this.#volumes.list(),
      classOf: (name) => this.#classes.get(name),
      waitingPods: ({ metadata }) =>
        this.#pods
          .list(metadata.namespace)
          .filter((pod) => !pod.spec?.nodeName && claimsOf(pod).includes(metadata.name))
          .map((pod) => pod.metadata.name),
    };
  }

  async #reconcileClaim(key: string): Promise<void> {
    const claim = this.#claims.get(key.slice(CLAIM.length));
    if (!claim) return;
    const plan = planClaim(claim, this.#view);
    if (plan.type === "bind") return await this.#bind(plan.volume, claim);
    const phase = plan.type === "lost" ? "Lost" : "Pending";
    if (plan.event && (phase !== "Lost" || claim.status?.phase !== "Lost")) this.#tell(claim, plan.event);
    if (plan.type === "wait") {
      this.#queue.addAfter(key, RETELL_MS + 1);
      if (plan.provision) await this.#provision(claim, plan.provision);
    }
    if (claim.status?.phase !== phase) await this.#patchStatus(claim, { phase });
  }

  /** Everything that happens to volumes has waiting claims looked at: what was told just now is not told again. */
  #tell(subject: Stored, { type, reason, message }: Told): void {
    const { uid } = subject.metadata;
    const told = this.#told.get(uid);
    const now = this.#context.now();
    if (told?.message === message && now - told.at < RETELL_MS) return;
    this.#told.set(uid, { message, at: now });
    this.#recorder.event(subject, type, reason, message);
  }

  async #patchStatus(claim: Stored<PersistentVolumeClaim>, status: object): Promise<void> {
    const { name, uid } = claim.metadata;
    const patch = { metadata: { uid }, status };
    const options = { ...namespaceOf(claim), subresource: "status" as const };
    await this.#context.client.patch(PERSISTENT_VOLUME_CLAIMS, name, "merge", patch, options);
  }

  /** First the volume, then the claim: one that finds its volume taken looks for another. */
  async #bind(volume: Stored<PersistentVolume>, claim: Stored<PersistentVolumeClaim>): Promise<void> {
    const { client } = this.#context;
    const { namespace = "", uid } = claim.metadata;
    if (volume.spec?.claimRef?.uid !== uid) await client.update(PERSISTENT_VOLUMES, keptFor(volume, claim));
    await this.#setPhase(volume.metadata.name, "Bound");
    const { annotations = {} } = claim.metadata;
    if (annotations[BIND_COMPLETED] === undefined || claim.spec?.volumeName !== volume.metadata.name) {
      const ours: Record<string, string> = claim.spec?.volumeName ? {} : { [BOUND_BY_CONTROLLER]: "yes" };
      await client.update(
        PERSISTENT_VOLUME_CLAIMS,
        {
          ...claim,
          metadata: annotated(claim, { ...ours, [BIND_COMPLETED]: "yes" }),
          spec: { ...claim.spec, volumeName: volume.metadata.name },
        } as PersistentVolumeClaim,
        { namespace },
      );
    }
    const { accessModes, capacity } = volume.spec ?? {};
    const status = { phase: "Bound", accessModes, capacity };
    const { phase, accessModes: modes, capacity: size } = claim.status ?? {};
    if (semanticallyEqual({ phase, accessModes: modes, capacity: size }, status)) return;
    await this.#patchStatus(claim, status);
  }

  async #setPhase(name: string, phase: string, message?: string): Promise<void> {
    const present = this.#volumes.get(name)?.status;
    if (present?.phase === phase && (present.message ?? "") === (message ?? "")) return;
    const patch = { status: { phase, message: message ?? null } };
    await this.#context.client.patch(PERSISTENT_VOLUMES, name, "merge", patch, { subresource: "status" });
  }

  async #provision(claim: Stored<PersistentVolumeClaim>, storage: Stored<StorageClass>): Promise<void> {
    const { client } = this.#context;
    const { provisioner } = storage;
    const { name, namespace = "", annotations = {} } = claim.metadata;
    if (PROVISIONER_ANNOTATIONS.some((key) => annotations[key] !== provisioner)) {
      const noted = Object.fromEntries(PROVISIONER_ANNOTATIONS.map((key) => [key, provisioner]));
      await client.patch(
        PERSISTENT_VOLUME_CLAIMS,
        name,
        "merge",
        { metadata: { annotations: noted } },
        { namespace },
      );
      return;
    }
    if (provisioner !== PROVISIONER || this.#volumesDir === undefined) return;
    this.#provisioner.event(
      claim,
      "Normal",
      "Provisioning",
      `External provisioner is provisioning volume for claim "${namespace}/${name}"`,
    );
    const problem = refusal(claim);
    if (problem) {
      const text = `failed to provision volume with StorageClass "${storage.metadata.name}": ${problem}`;
      this.#provisioner.event(claim, "Warning", "ProvisioningFailed", text);
      if (annotations[SELECTED_NODE] === undefined) return;
      const forget = { metadata: { annotations: { [SELECTED_NODE]: null } } };
      await client.patch(PERSISTENT_VOLUME_CLAIMS, name, "merge", forget, { namespace });
      return;
    }
    try {
      const volume = await client.create(PERSISTENT_VOLUMES, makeVolume(this.#volumesDir, claim, storage));
      const text = `Successfully provisioned volume ${volume.metadata.name}`;
      this.#provisioner.event(claim, "Normal", "ProvisioningSucceeded", text);
    } catch (error) {
      if (!isAlreadyExists(error)) throw error;
    }
  }

  async #reconcileVolume(name: string): Promise<void> {
    const volume = this.#volumes.get(name);
    if (!volume) return;
    const { namespace, name: claimName } = volume.spec?.claimRef ?? {};
    const plan = planVolume(volume, this.#claims.get(`${namespace}/${claimName}`));
    if (plan?.type === "phase") return await this.#setPhase(name, plan.phase);
    if (plan?.type === "unbind") {
      const { [BOUND_BY_CONTROLLER]: _, ...annotations } = volume.metadata.annotations ?? {};
      const { claimRef: __, ...spec } = volume.spec ?? {};
      const free = { ...volume, metadata: { ...volume.metadata, annotations }, spec };
      await this.#context.client.update(PERSISTENT_VOLUMES, free as PersistentVolume);
      return;
    }
    if (plan?.type !== "release" || volume.status?.phase === "Failed") return;
    await this.#setPhase(name, "Released");
    if (volume.metadata.deletionTimestamp) return;
    if (plan.policy === "Recycle")
      await this.#fail(volume, "VolumeFailedRecycle", "No recycler plugin found for the volume!");
    if (plan.policy === "Delete") await this.#delete(volume);
  }

  async #delete(volume: Stored<PersistentVolume>): Promise<void> {
    const provisioner = volume.metadata.annotations?.[PROVISIONED_BY];
    const { hostPath } = volume.spec ?? {};
    if (provisioner === undefined) {
      // What the deleters in kube-controller-manager itself would say: the directory is not ours to remove.
      const text = hostPath
        ? `host_path deleter only supports /tmp/.+ but received provided ${hostPath.path}`
        : `error getting deleter volume plugin for volume "${volume.metadata.name}": no deletable volume plugin matched`;
      return await this.#fail(volume, "VolumeFailedDelete", text);
    }
    if (provisioner !== PROVISIONER || this.#volumesDir === undefined) return;
    try {
      await removeVolume(this.#volumesDir, volume);
    } catch (error) {
      return await this.#fail(volume, "VolumeFailedDelete", messageOf(error));
    }
    await deleteIfPresent(this.#context.client, PERSISTENT_VOLUMES, volume);
  }

  async #fail(volume: Stored<PersistentVolume>, reason: string, message: string): Promise<void> {
    this.#recorder.event(volume, "Warning", reason, message);
    await this.#setPhase(volume.metadata.name, "Failed", message);
  }
}

function annotated({ metadata }: Stored, more: Record<string, string>): Stored["metadata"] {
  return { ...metadata, annotations: { ...metadata.annotations, ...more } };
}
