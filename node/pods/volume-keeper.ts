// The volumes of one pod through its life: made before its containers, brought up to date now and then. Knows when;
// what a volume is, is volumes.ts's business.

import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import type { Pod, Stored } from "../../common/k8s.js";
import type { PodEnvironment } from "./environment.js";
import type { PayloadSources } from "./payload.js";
import { podDirectory } from "./sandbox.js";
import { hasPayload, prepareVolumes, refreshVolumes, type Volumes } from "./volumes.js";

export class VolumeKeeper {
  volumes: Volumes | undefined;
  readonly #environment: PodEnvironment;
  /** Epoch milliseconds. */
  #refreshAt = 0;

  constructor(environment: PodEnvironment) {
    this.#environment = environment;
  }

  #directory(pod: Stored<Pod>): string {
    return join(podDirectory(this.#environment.rootDir, pod.metadata.uid), "volumes");
  }

  /** No field of a volume tells of addresses: the API server refuses it. */
  get #sources(): PayloadSources {
    return { ...this.#environment, hostIPs: [], podIPs: [] };
  }

  #later(): void {
    this.#refreshAt = Date.now() + this.#environment.timing.volumesMs;
  }

  /** @throws VolumeError. */
  async prepare(pod: Stored<Pod>): Promise<void> {
    if (this.volumes) return;
    this.volumes = await prepareVolumes(pod, this.#directory(pod), this.#sources);
    this.#later();
  }

  /** The pod's own labels and annotations are to be seen at once. */
  update({ metadata: old }: Stored<Pod>, { metadata: now }: Stored<Pod>): void {
    if (!isDeepStrictEqual([old.labels, old.annotations], [now.labels, now.annotations])) this.#refreshAt = 0;
  }

  /**
   * Brings what is made from the API up to date when it is time: nobody tells of changes of ConfigMaps and Secrets.
   * Returns the milliseconds until it will be again, if ever.
   * @throws VolumeError; the next time is set all the same.
   */
  async refresh(pod: Stored<Pod>): Promise<number | undefined> {
    if (!this.volumes || !hasPayload(pod)) return undefined;
    if (this.#refreshAt <= Date.now()) {
      this.#later();
      await refreshVolumes(pod, this.#directory(pod), this.#sources);
    }
    return this.#refreshAt - Date.now();
  }
}
