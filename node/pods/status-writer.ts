// The status of one pod in the API, kept as what is so: one write at a time, none without news, and again when somebody
// else has written another one. Knows the client, nothing of containers.

import { isConflict, isNotFound, type KubeClient, PODS } from "../../common/client.js";
import type { Pod, PodStatus, Stored } from "../../common/k8s.js";
import { apiTime } from "./environment.js";
import { type PodFacts, podStatus, sameInEssence } from "./status.js";

export class StatusWriter {
  readonly #client: KubeClient;
  /** What there is to tell when it is written; undefined: nothing. */
  readonly #news: () => { pod: Stored<Pod>; facts: PodFacts } | undefined;
  #reported: PodStatus | undefined;
  /** Somebody else has written another status than {@link #reported}. */
  #contested = false;
  /** The newest report, whether under way or done: they go out one after another. */
  #reporting: Promise<void> = Promise.resolve();

  constructor(client: KubeClient, news: () => { pod: Stored<Pod>; facts: PodFacts } | undefined) {
    this.#client = client;
    this.#news = news;
  }

  /** Looks at what the API has now: whether it is to be corrected. */
  differs({ status }: Stored<Pod>): boolean {
    this.#contested = this.#reported !== undefined && !sameInEssence(status, this.#reported);
    return this.#contested;
  }

  /** Brings the API's status to what is so, in one patch; nothing when it says so already. @throws to be retried. */
  report(): Promise<void> {
    // An older status must not arrive after a newer one.
    const next = this.#reporting.then(() => this.#write());
    this.#reporting = next.catch(() => {});
    return next;
  }

  async #write(): Promise<void> {
    const news = this.#news();
    if (!news) return;
    const { pod, facts } = news;
    const status = podStatus(pod, facts, this.#reported ?? pod.status, apiTime(Date.now()));
    if (!this.#contested && JSON.stringify(status) === JSON.stringify(this.#reported)) return;
    const { name, namespace = "", uid } = pod.metadata;
    this.#contested = false;
    try {
      // The uid makes it a conflict when another pod of that name is there by now.
      const patch = { metadata: { uid }, status };
      await this.#client.patch(PODS, name, "merge", patch, { namespace, subresource: "status" });
      this.#reported = status;
    } catch (error) {
      this.#contested = true;
      if (!isNotFound(error) && !isConflict(error)) throw error;
    }
  }
}
