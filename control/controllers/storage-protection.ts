// Lets volumes and claims that are marked for deletion go once nobody uses them (the controllers pv-protection and
// pvc-protection). Knows PersistentVolumes, PersistentVolumeClaims and Pods; the finalizers come by admission.

import { PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS, type Resource } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import {
  type KubeObject,
  keyOf,
  type PersistentVolume,
  type PersistentVolumeClaim,
  type Pod,
  type Stored,
} from "../../common/k8s.js";
import type { WorkQueue } from "../../common/workqueue.js";
import { claimsOf } from "./claims.js";
import type { ControllerContext } from "./context.js";
import { namespaceOf } from "./objects.js";
import { onChange, onSight, type Reconciler } from "./reconcile.js";

export const CLAIM_PROTECTION = "kubernetes.io/pvc-protection";
export const VOLUME_PROTECTION = "kubernetes.io/pv-protection";

const isHeldBy = ({ metadata }: Stored, finalizer: string): boolean =>
  metadata.deletionTimestamp !== undefined && (metadata.finalizers ?? []).includes(finalizer);

async function release<T extends KubeObject>(
  { client }: ControllerContext,
  resource: Resource<T>,
  object: Stored<T>,
  finalizer: string,
): Promise<void> {
  const finalizers = (object.metadata.finalizers ?? []).filter((one) => one !== finalizer);
  const freed = { ...object, metadata: { ...object.metadata, finalizers } };
  await client.update(resource, freed as unknown as T, namespaceOf(object));
}

export class ClaimProtectionController implements Reconciler {
  readonly #context: ControllerContext;
  readonly #claims: Informer<PersistentVolumeClaim>;
  readonly #pods: Informer<Pod>;
  readonly #queue: WorkQueue;

  constructor(context: ControllerContext, queue: WorkQueue) {
    this.#context = context;
    this.#claims = context.informers.get(PERSISTENT_VOLUME_CLAIMS);
    this.#pods = context.informers.get(PODS);
    this.#queue = queue;
  }

  watch(): void {
    this.#claims.subscribe(
      onSight((claim) => {
        if (isHeldBy(claim, CLAIM_PROTECTION)) this.#queue.add(keyOf(claim));
      }),
    );
    this.#pods.subscribe({
      delete: (pod) => {
        for (const name of claimsOf(pod)) this.#queue.add(`${pod.metadata.namespace}/${name}`);
      },
    });
  }

  async reconcile(key: string): Promise<void> {
    const claim = this.#claims.get(key);
    if (!claim || !isHeldBy(claim, CLAIM_PROTECTION)) return;
    const { name, namespace } = claim.metadata;
    // A pod without a node does not use it yet, and no kubelet starts one whose claim is going.
    const used = this.#pods.list(namespace).some((pod) => pod.spec?.nodeName && claimsOf(pod).includes(name));
    if (!used) await release(this.#context, PERSISTENT_VOLUME_CLAIMS, claim, CLAIM_PROTECTION);
  }
}

export class VolumeProtectionController implements Reconciler {
  readonly #context: ControllerContext;
  readonly #volumes: Informer<PersistentVolume>;
  readonly #queue: WorkQueue;

  constructor(context: ControllerContext, queue: WorkQueue) {
    this.#context = context;
    this.#volumes = context.informers.get(PERSISTENT_VOLUMES);
    this.#queue = queue;
  }

  watch(): void {
    this.#volumes.subscribe(onChange(({ metadata }) => this.#queue.add(metadata.name)));
  }

  async reconcile(name: string): Promise<void> {
    const volume = this.#volumes.get(name);
    if (!volume || !isHeldBy(volume, VOLUME_PROTECTION) || volume.status?.phase === "Bound") return;
    await release(this.#context, PERSISTENT_VOLUMES, volume, VOLUME_PROTECTION);
  }
}
