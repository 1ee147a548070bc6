// Reads and writes the history of templates that controller-revision-plan.ts decides about. Knows ControllerRevisions;
// their owners are StatefulSets or DaemonSets.

import {
  CONTROLLER_REVISIONS,
  isAlreadyExists,
  type KubeClient,
  type Resource,
} from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import type { ControllerRevision, KubeObject, LabelSelector } from "../../common/k8s.js";
import type { ControllerContext } from "./context.js";
import {
  byRevision,
  expiredHistory,
  newRevision,
  planRevision,
  type Revision,
  type RevisionOwner,
  templateOf,
} from "./controller-revision-plan.js";
import { sameTemplate } from "./deployment-revision.js";
import { deleteIfPresent, namespaceOf } from "./objects.js";
import { claim, controllerOf, indexByController } from "./owners.js";

/** Every method throws StatusError. */
export class RevisionHistory {
  readonly #client: KubeClient;
  readonly #revisions: Informer<ControllerRevision>;
  readonly #ownerResource: Resource<KubeObject>;
  readonly #hashLabel: string;

  constructor(
    { client, informers }: ControllerContext,
    options: { ownerResource: Resource<KubeObject>; hashLabel: string },
  ) {
    this.#client = client;
    this.#revisions = informers.get(CONTROLLER_REVISIONS);
    indexByController(this.#revisions);
    this.#ownerResource = options.ownerResource;
    this.#hashLabel = options.hashLabel;
  }

  /** The owner's revisions, oldest first; orphans that it selects are adopted. */
  async of(owner: RevisionOwner, selector: LabelSelector | undefined): Promise<Revision[]> {
    const claimed = await claim({
      client: this.#client,
      ownerResource: this.#ownerResource,
      owner,
      selector,
      resource: CONTROLLER_REVISIONS,
      informer: this.#revisions,
    });
    return claimed.sort(byRevision);
  }

  /** The revision of the present template, and how many names were taken by other templates until one was free. */
  async present(
    owner: RevisionOwner,
    revisions: readonly Revision[],
  ): Promise<{ revision: Revision; collisionCount: number }> {
    const collisionCount = owner.status?.collisionCount ?? 0;
    const plan = planRevision(owner.spec?.template, revisions);
    if (plan.type === "create") return await this.#create(owner, plan.number, collisionCount);
    if (plan.type === "present") return { revision: plan.revision, collisionCount };
    const { revision, to } = plan;
    const draft = { ...revision, revision: to } as ControllerRevision;
    const raised = await this.#client.update(CONTROLLER_REVISIONS, draft, namespaceOf(revision));
    return { revision: raised, collisionCount };
  }

  async #create(owner: RevisionOwner, number: number, collisionCount: number) {
    for (let count = collisionCount; ; count++) {
      const draft = newRevision(owner, number, count, this.#hashLabel);
      try {
        const revision = await this.#client.create(CONTROLLER_REVISIONS, draft, namespaceOf(owner));
        return { revision, collisionCount: count };
      } catch (error) {
        if (!isAlreadyExists(error)) throw error;
      }
      // Ours of a moment ago, that the cache does not show yet; or another template of the same hash.
      const { name = "" } = draft.metadata ?? {};
      const revision = await this.#client.get(CONTROLLER_REVISIONS, name, owner.metadata.namespace);
      const isOurs = controllerOf(revision)?.uid === owner.metadata.uid;
      if (isOurs && sameTemplate(templateOf(revision), owner.spec?.template)) {
        return { revision, collisionCount: count };
      }
    }
  }

  /** Removes what spec.revisionHistoryLimit does not keep. */
  async trim(owner: RevisionOwner, revisions: readonly Revision[], live: ReadonlySet<string>): Promise<void> {
    const limit = owner.spec?.revisionHistoryLimit ?? 10;
    for (const revision of expiredHistory(revisions, live, limit)) {
      await deleteIfPresent(this.#client, CONTROLLER_REVISIONS, revision);
    }
  }
}
