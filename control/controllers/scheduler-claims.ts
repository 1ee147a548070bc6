// The scheduler's part in giving claims that wait for their first consumer a volume: what it looks up, and what it
// writes once a node is chosen. Knows claims, volumes and classes.

import {
  type KubeClient,
  PERSISTENT_VOLUME_CLAIMS,
  PERSISTENT_VOLUMES,
  STORAGE_CLASSES,
} from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import type { PersistentVolume, PersistentVolumeClaim, Pod, StorageClass, Stored } from "../../common/k8s.js";
import { claimsOf } from "./claims.js";
import type { ControllerContext } from "./context.js";
import { keptFor, SELECTED_NODE } from "./persistent-volume-plan.js";
import { onChange } from "./reconcile.js";
import type { NodeInfo } from "./scheduler-node.js";
import { type StorageLookup, type VolumeNeeds, volumeNeeds, volumesFor } from "./scheduler-volumes.js";

export class SchedulerClaims {
  readonly #client: KubeClient;
  readonly #claims: Informer<PersistentVolumeClaim>;
  readonly #volumes: Informer<PersistentVolume>;
  readonly #classes: Informer<StorageClass>;

  constructor({ client, informers }: ControllerContext) {
    this.#client = client;
    this.#claims = informers.get(PERSISTENT_VOLUME_CLAIMS);
    this.#volumes = informers.get(PERSISTENT_VOLUMES);
    this.#classes = informers.get(STORAGE_CLASSES);
  }

  /** @param changed Waiting pods of which this is true may be better off now. */
  watch(changed: (concerned: (pod: Stored<Pod>) => boolean) => void): void {
    this.#claims.subscribe(
      onChange(({ metadata: { name, namespace } }) =>
        changed((pod) => pod.metadata.namespace === namespace && claimsOf(pod).includes(name)),
      ),
    );
    const anyOne = (pod: Stored<Pod>) => claimsOf(pod).length > 0;
    this.#volumes.subscribe(
      onChange(({ spec, status }) => {
        if (!spec?.claimRef && status?.phase === "Available") changed(anyOne);
      }),
    );
    this.#classes.subscribe(onChange(() => changed(anyOne)));
  }

  get #lookup(): StorageLookup {
    return {
      claim: (key) => this.#claims.get(key),
      volume: (name) => this.#volumes.get(name),
      volumes: () => this.#volumes.list(),
      storageClass: (name) => this.#classes.get(name),
    };
  }

  needsOf(pod: Stored<Pod>): VolumeNeeds {
    return volumeNeeds(pod, this.#lookup);
  }

  /**
   * Keeps a volume that is there for each claim, and asks for one on that node for the others; the binder does the
   * rest, and the pod is looked at again when its claims are bound. @throws StatusError
   */
  async choose({ unbound }: VolumeNeeds, info: NodeInfo): Promise<void> {
    const { found, missing } = volumesFor(unbound, this.#lookup, info);
    for (const [claim, volume] of found)
      if (!volume.spec?.claimRef) await this.#client.update(PERSISTENT_VOLUMES, keptFor(volume, claim));
    for (const { metadata } of missing) {
      if (metadata.annotations?.[SELECTED_NODE] !== undefined) continue;
      const annotations = { [SELECTED_NODE]: info.node?.metadata.name };
      const options = metadata.namespace ? { namespace: metadata.namespace } : {};
      const patch = { metadata: { uid: metadata.uid, annotations } };
      await this.#client.patch(PERSISTENT_VOLUME_CLAIMS, metadata.name, "merge", patch, options);
    }
  }
}
