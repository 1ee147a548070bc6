// The image of one container: there, or asked for again and again with the kubelet's back-off, states and events.
// Knows images and the clock, nothing of what runs.

import { type ImageSpec, type ResolvedImage, resolveImage, unknownImageMessage } from "../images/index.js";
import { Backoff, type BackoffOptions } from "./backoff.js";

/** After ErrImagePull, how long until it shows as ImagePullBackOff. */
const PULL_ERROR_SHOWN_MS = 1000;

export interface ImagePullHandlers {
  /** The container waits for its image. Returns whether that is news. */
  waitFor(reason: string, message: string): boolean;
  event(type: "Normal" | "Warning", reason: string, message: string): void;
}

export class ImagePull {
  readonly #backoff: Backoff;
  readonly #handlers: ImagePullHandlers;
  #failedAt: number | undefined;

  constructor(backoff: BackoffOptions, handlers: ImagePullHandlers) {
    this.#backoff = new Backoff(backoff);
    this.#handlers = handlers;
  }

  /** Another image is wanted: nothing of the past counts. */
  reset(): void {
    this.#failedAt = undefined;
    this.#backoff.reset();
  }

  /** The image, or the milliseconds after which to ask again, or undefined: it can never be had. */
  pull(
    reference: string,
    options: { mapped: Readonly<Record<string, ImageSpec>>; hasCommand: boolean; policy: string | undefined },
  ): ResolvedImage | number | undefined {
    const { waitFor, event } = this.#handlers;
    const image = resolveImage(reference, options);
    if (image === "invalid") {
      const message = `Failed to apply default image tag "${reference}": couldn't parse image name "${reference}": invalid reference format`;
      if (waitFor("InvalidImageName", message)) event("Warning", "InspectFailed", message);
      return undefined;
    }
    if (!image && options.policy === "Never") {
      const message = `Container image "${reference}" is not present with pull policy of Never`;
      if (waitFor("ErrImageNeverPull", message)) {
        event("Warning", "ErrImageNeverPull", message);
        event("Warning", "Failed", "Error: ErrImageNeverPull");
      }
      return undefined;
    }
    if (!image) return this.#failed(reference, unknownImageMessage(reference, options.mapped));
    this.#pulled(reference, options.policy);
    return image;
  }

  /** Every image there is is here; a pull that is asked for transfers nothing. */
  #pulled(reference: string, policy: string | undefined): void {
    const { event } = this.#handlers;
    if (policy !== "Always") {
      const message = `Container image "${reference}" already present on machine and can be accessed by the pod`;
      event("Normal", "Pulled", message);
      return;
    }
    event("Normal", "Pulling", `Pulling image "${reference}"`);
    const took = "0s (0s including waiting). Image size: 0 bytes.";
    event("Normal", "Pulled", `Successfully pulled image "${reference}" in ${took}`);
  }

  #failed(reference: string, why: string): number {
    const { waitFor, event } = this.#handlers;
    const now = Date.now();
    const failedAt = this.#failedAt;
    const wait = failedAt === undefined ? 0 : this.#backoff.remaining(failedAt, now);
    if (failedAt !== undefined && wait > 0) {
      const shown = Math.min(PULL_ERROR_SHOWN_MS, this.#backoff.delayMs) - (now - failedAt);
      if (shown > 0) return shown;
      if (waitFor("ImagePullBackOff", `Back-off pulling image "${reference}": ErrImagePull: ${why}`)) {
        event("Normal", "BackOff", `Back-off pulling image "${reference}"`);
        event("Warning", "Failed", "Error: ImagePullBackOff");
      }
      return wait;
    }
    this.#backoff.next(failedAt ?? now, now);
    this.#failedAt = now;
    const message = `Failed to pull image "${reference}": ${why}`;
    waitFor("ErrImagePull", message);
    event("Normal", "Pulling", `Pulling image "${reference}"`);
    event("Warning", "Failed", message);
    event("Warning", "Failed", "Error: ErrImagePull");
    return Math.min(PULL_ERROR_SHOWN_MS, this.#backoff.delayMs);
  }
}
