// Which volume a claim gets, and what becomes of a volume without its claim: kube-controller-manager's binder, with its
// events. Pure; knows PersistentVolumes, PersistentVolumeClaims and StorageClasses.

import type { PersistentVolume, PersistentVolumeClaim, StorageClass, Stored } from "../../common/k8s.js";
import { matchLabels, selectorOf } from "../../common/selector.js";
import { storageClassOf } from "../resources/persistent-volume.js";
import { parseQuantity } from "../resources/validation/quantity.js";
import type { EventType } from "./events.js";

export const BIND_COMPLETED = "pv.kubernetes.io/bind-completed";
export const BOUND_BY_CONTROLLER = "pv.kubernetes.io/bound-by-controller";
export const PROVISIONED_BY = "pv.kubernetes.io/provisioned-by";
/** Where the scheduler has put the first pod that uses a claim of a class that waits for it. */
export const SELECTED_NODE = "volume.kubernetes.io/selected-node";
const NO_PROVISIONER = "kubernetes.io/no-provisioner";

/** The volume, kept for the claim. Where nobody has kept it by hand, that is noted: it is undone when the claim goes. */
export function keptFor(
  volume: Stored<PersistentVolume>,
  { metadata: { name, namespace = "", uid, resourceVersion } }: Stored<PersistentVolumeClaim>,
): PersistentVolume {
  const { metadata, spec } = volume;
  const annotations = { ...metadata.annotations, [BOUND_BY_CONTROLLER]: "yes" };
  const kind = "PersistentVolumeClaim";
  const claimRef = { apiVersion: "v1", kind, namespace, name, uid, resourceVersion };
  return {
    ...volume,
    metadata: spec?.claimRef ? metadata : { ...metadata, annotations },
    spec: { ...spec, claimRef },
  } as PersistentVolume;
}

export interface Told {
  type: EventType;
  reason: string;
  message: string;
}

export type ClaimPlan =
  | { type: "bind"; volume: Stored<PersistentVolume> }
  | { type: "lost"; event: Told }
  /** `provision`: somebody is asked to make a volume of that class. */
  | { type: "wait"; event?: Told; provision?: Stored<StorageClass> };

/** What of the cluster decides about a claim. */
export interface StorageView {
  volumes: readonly Stored<PersistentVolume>[];
  classOf(name: string): Stored<StorageClass> | undefined;
  /** Names of pods that use the claim and have no node yet. */
  waitingPods(claim: Stored<PersistentVolumeClaim>): string[];
}

const normal = (reason: string, message: string): Told => ({ type: "Normal", reason, message });
const warning = (reason: string, message: string): Told => ({ type: "Warning", reason, message });

function sizeOf(list: Record<string, string> | undefined): bigint {
  return parseQuantity(list?.storage ?? "0")?.nanos ?? 0n;
}

/** Whether a volume is kept for the claim: by name, and by uid once it is bound. */
export function isFor(
  volume: Stored<PersistentVolume>,
  { metadata }: Stored<PersistentVolumeClaim>,
): boolean {
  const reference = volume.spec?.claimRef;
  if (reference?.name !== metadata.name || reference.namespace !== metadata.namespace) return false;
  return !reference.uid || reference.uid === metadata.uid;
}

/** Why a volume cannot be the claim's; undefined when it can. */
function mismatch(
  claim: Stored<PersistentVolumeClaim>,
  volume: Stored<PersistentVolume>,
): string | undefined {
  const wanted = claim.spec ?? {};
  const { capacity, accessModes = [], volumeMode } = volume.spec ?? {};
  if (sizeOf(capacity) < sizeOf(wanted.resources?.requests)) return "requested PV is too small";
  if (storageClassOf(claim) !== storageClassOf(volume)) return "storageClassName does not match";
  if ((volumeMode ?? "Filesystem") !== (wanted.volumeMode ?? "Filesystem")) return "incompatible volumeMode";
  return (wanted.accessModes ?? []).every((mode) => accessModes.includes(mode))
    ? undefined
    : "incompatible accessMode";
}

/**
 * The volume for a claim that names none: one that is kept for it, else the smallest that fits, those with the fewest
 * access modes first.
 * @param fits Which of the free ones come into question; default all.
 */
export function findVolume(
  claim: Stored<PersistentVolumeClaim>,
  volumes: readonly Stored<PersistentVolume>[],
  fits: (volume: Stored<PersistentVolume>) => boolean = () => true,
): Stored<PersistentVolume> | undefined {
  const able = volumes.filter(
    (volume) => !volume.metadata.deletionTimestamp && mismatch(claim, volume) === undefined,
  );
  const kept = able.find((volume) => isFor(volume, claim));
  if (kept) return kept;
  const requirements = selectorOf(claim.spec?.selector);
  return able
    .filter(({ spec, status }) => !spec?.claimRef && status?.phase === "Available")
    .filter(
      ({ metadata }) => !claim.spec?.selector || (requirements && matchLabels(requirements, metadata.labels)),
    )
    .filter(fits)
    .sort((a, b) => {
      const modes = (a.spec?.accessModes?.length ?? 0) - (b.spec?.accessModes?.length ?? 0);
      return modes || Number(sizeOf(a.spec?.capacity) - sizeOf(b.spec?.capacity));
    })[0];
}

export function waitsForConsumer(
  claim: Stored<PersistentVolumeClaim>,
  view: Pick<StorageView, "classOf">,
): boolean {
  return view.classOf(storageClassOf(claim))?.volumeBindingMode === "WaitForFirstConsumer";
}

export function canProvision({ provisioner }: Pick<StorageClass, "provisioner">): boolean {
  return provisioner !== NO_PROVISIONER;
}

export function planClaim(claim: Stored<PersistentVolumeClaim>, view: StorageView): ClaimPlan {
  if (claim.metadata.annotations?.[BIND_COMPLETED] !== undefined) return planBound(claim, view);
  const { volumeName } = claim.spec ?? {};
  return volumeName ? planNamed(claim, volumeName, view) : planFree(claim, view);
}

function planBound(claim: Stored<PersistentVolumeClaim>, { volumes }: StorageView): ClaimPlan {
  const lost = (reason: string, message: string): ClaimPlan => ({
    type: "lost",
    event: warning(reason, message),
  });
  const { volumeName } = claim.spec ?? {};
  if (!volumeName)
    return lost(
      "ClaimLost",
      "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
    );
  const volume = volumes.find(({ metadata }) => metadata.name === volumeName);
  if (!volume)
    return lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!");
  if (!volume.spec?.claimRef || isFor(volume, claim)) return { type: "bind", volume };
  return lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly");
}

function planNamed(claim: Stored<PersistentVolumeClaim>, name: string, { volumes }: StorageView): ClaimPlan {
  const volume = volumes.find(({ metadata }) => metadata.name === name);
  if (!volume) return { type: "wait" };
  if (volume.spec?.claimRef && !isFor(volume, claim))
    return {
      type: "wait",
      event: warning("FailedBinding", `volume "${name}" already bound to a different claim.`),
    };
  const problem = mismatch(claim, volume);
  if (!problem) return { type: "bind", volume };
  const text = `Cannot bind to requested volume "${name}": ${problem}`;
  return { type: "wait", event: warning("VolumeMismatch", text) };
}

function planFree(claim: Stored<PersistentVolumeClaim>, view: StorageView): ClaimPlan {
  const delayed = waitsForConsumer(claim, view);
  const chosen = claim.metadata.annotations?.[SELECTED_NODE] !== undefined;
  // Until a pod has come, such a claim takes only what is kept for it.
  const volume = findVolume(claim, view.volumes, () => !delayed || chosen);
  if (volume) return { type: "bind", volume };
  if (delayed && !chosen) {
    const pods = view.waitingPods(claim);
    const event =
      pods.length > 0
        ? normal("WaitForPodScheduled", `waiting for pod ${pods.join(",")} to be scheduled`)
        : normal("WaitForFirstConsumer", "waiting for first consumer to be created before binding");
    return { type: "wait", event };
  }
  const name = storageClassOf(claim);
  if (name === "") {
    const text = "no persistent volumes available for this claim and no storage class is set";
    return { type: "wait", event: normal("FailedBinding", text) };
  }
  const provision = view.classOf(name);
  if (!provision) {
    const text = `storageclass.storage.k8s.io "${name}" not found`;
    return { type: "wait", event: warning("ProvisioningFailed", text) };
  }
  if (!canProvision(provision)) return { type: "wait" };
  const { provisioner } = provision;
  const event = normal(
    "ExternalProvisioning",
    `Waiting for a volume to be created either by the external provisioner '${provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered.`,
  );
  return { type: "wait", event, provision };
}

export type VolumePlan =
  | { type: "phase"; phase: "Available" | "Bound" }
  /** Its claim is gone: Released, and then whatever the reclaim policy says. */
  | { type: "release"; policy: string }
  /** We gave it to a claim that has got another one. */
  | { type: "unbind" };

/** @param claim The one of that name, whatever its uid. */
export function planVolume(
  volume: Stored<PersistentVolume>,
  claim: Stored<PersistentVolumeClaim> | undefined,
): VolumePlan | undefined {
  const reference = volume.spec?.claimRef;
  if (!reference?.uid) return { type: "phase", phase: "Available" };
  const policy = volume.spec?.persistentVolumeReclaimPolicy ?? "Retain";
  if (!claim || claim.metadata.uid !== reference.uid) return { type: "release", policy };
  const { volumeName } = claim.spec ?? {};
  if (!volumeName) return undefined;
  if (volumeName === volume.metadata.name) return { type: "phase", phase: "Bound" };
  const { annotations = {} } = volume.metadata;
  if (annotations[PROVISIONED_BY] !== undefined && policy === "Delete") return { type: "release", policy };
  return annotations[BOUND_BY_CONTROLLER] === undefined ? undefined : { type: "unbind" };
}
