// The volumes of one pod through its life: made before its containers, brought up to date now and then. Knows when;
// what a volume is, is volumes.ts's business.

import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import type { Volume } from "kubernetes-types/core/v1.js";
import type { Pod, Stored } from "../../common/k8s.js";
import type { PodEnvironment } from "./environment.js";
import { payloadKind } from "./payload.js";
import { PodTokens } from "./pod-tokens.js";
import { podDirectory } from "./sandbox.js";
import { isApiAccess, prepareVolumes, refreshVolumes, type VolumeSources, type Volumes } from "./volumes.js";

export class VolumeKeeper {
  volumes: Volumes | undefined;
  readonly #environment: PodEnvironment;
  /** Epoch milliseconds. */
  #refreshAt = 0;
  readonly #tokens: PodTokens;
  /** The filling of what nobody has read before; set when somebody wants to. */
  #completing: Promise<void> | undefined;
  #complete = false;

  constructor(environment: PodEnvironment) {
    this.#environment = environment;
    this.#tokens = new PodTokens(environment.client);
  }

  #directory(pod: Stored<Pod>): string {
    return join(podDirectory(this.#environment.rootDir, pod.metadata.uid), "volumes");
  }

  /** No field of a volume tells of addresses: the API server refuses it. */
  get #sources(): VolumeSources {
    return { ...this.#environment, tokens: this.#tokens, hostIPs: [], podIPs: [] };
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

  /**
   * Fills what waited for its first reader; called before a process of the pod starts. True the first time.
   * @throws VolumeError; the next call tries again.
   */
  async complete(pod: Stored<Pod>): Promise<boolean> {
    if (this.#complete || !pod.spec?.volumes?.some(isApiAccess)) return false;
    this.#completing ??= refreshVolumes(pod, this.#directory(pod), this.#sources, isApiAccess);
    try {
      await this.#completing;
    } finally {
      this.#completing = undefined;
    }
    const first = !this.#complete;
    this.#complete = true;
    if (first) this.#later();
    return first;
  }

  /** Whether a volume is kept up to date. */
  #isKept(volume: Volume): boolean {
    return payloadKind(volume) !== undefined && (this.#complete || !isApiAccess(volume));
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
    const isKept = (volume: Volume) => this.#isKept(volume);
    if (!this.volumes || !pod.spec?.volumes?.some(isKept)) return undefined;
    if (this.#refreshAt <= Date.now()) {
      this.#later();
      await refreshVolumes(pod, this.#directory(pod), this.#sources, isKept);
    }
    return this.#refreshAt - Date.now();
  }
}
