// Makes the claims that a StatefulSet's pods need, and sets whom they go with. What they are is statefulset-claims.ts's
// business.

import { isAlreadyExists, PERSISTENT_VOLUME_CLAIMS } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import type { PersistentVolumeClaim, Pod, StatefulSet, Stored } from "../../common/k8s.js";
import type { ControllerContext } from "./context.js";
import type { EventRecorder } from "./events.js";
import { messageOf, namespaceOf } from "./objects.js";
import { claimNames, claimOwners, claimsFor } from "./statefulset-claims.js";
import { ordinalOf } from "./statefulset-pod.js";

export class StatefulSetClaims {
  readonly #context: ControllerContext;
  readonly #recorder: EventRecorder;
  readonly #claims: Informer<PersistentVolumeClaim>;

  constructor(context: ControllerContext, recorder: EventRecorder) {
    this.#context = context;
    this.#recorder = recorder;
    this.#claims = context.informers.get(PERSISTENT_VOLUME_CLAIMS);
  }

  #get({ metadata }: Stored<StatefulSet>, name: string): Stored<PersistentVolumeClaim> | undefined {
    return this.#claims.get(`${metadata.namespace}/${name}`);
  }

  /** Makes what is missing for the pod with that ordinal. @throws StatusError; Error for a claim that is going. */
  async ensure(set: Stored<StatefulSet>, ordinal: number): Promise<void> {
    for (const claim of claimsFor(set, ordinal)) {
      const name = claim.metadata?.name ?? "";
      const present = this.#get(set, name);
      if (present?.metadata.deletionTimestamp) throw new Error(`pvc ${name} is being deleted`);
      if (present) continue;
      const text = `create Claim ${name} Pod ${set.metadata.name}-${ordinal} in StatefulSet ${set.metadata.name}`;
      try {
        await this.#context.client.create(PERSISTENT_VOLUME_CLAIMS, claim, namespaceOf(set));
        this.#recorder.event(set, "Normal", "SuccessfulCreate", `${text} success`);
      } catch (error) {
        if (isAlreadyExists(error)) continue;
        this.#recorder.event(set, "Warning", "FailedCreate", `${text} failed error: ${messageOf(error)}`);
        throw error;
      }
    }
  }

  /** Sets the owners of the pods' claims; `isSurplus` tells of ordinals that go. @throws StatusError */
  async own(
    set: Stored<StatefulSet>,
    pods: readonly Stored<Pod>[],
    isSurplus: (ordinal: number) => boolean,
  ): Promise<void> {
    if ((set.spec?.volumeClaimTemplates ?? []).length === 0) return;
    for (const pod of pods) {
      const ordinal = ordinalOf(set, pod);
      if (ordinal === undefined) continue;
      for (const name of claimNames(set, ordinal).values()) {
        const claim = this.#get(set, name);
        const ownerReferences = claim && claimOwners(set, claim, isSurplus(ordinal) ? pod : undefined);
        if (!ownerReferences) continue;
        const owned = { ...claim, metadata: { ...claim.metadata, ownerReferences } } as PersistentVolumeClaim;
        await this.#context.client.update(PERSISTENT_VOLUME_CLAIMS, owned, namespaceOf(set));
      }
    }
  }
}
