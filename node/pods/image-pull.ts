// The image of one container: there, or asked for again and again with the kubelet's back-off, states and events.
// Knows images and the clock, nothing of what runs.

import type { ResolvedImage } from "../images/index.js";
import { Backoff, type BackoffOptions, goDuration } from "./backoff.js";
import type { ImageSource } from "./runtime.js";

/** After ErrImagePull, how long until it shows as ImagePullBackOff. */
const PULL_ERROR_SHOWN_MS = 1000;

export interface ImagePullHandlers {
  /** The container waits for its image. Returns whether that is news. */
  waitFor(reason: string, message: string): boolean;
  event(type: "Normal" | "Warning", reason: string, message: string): void;
  /** A pull has ended, one way or the other: to be asked again. */
  done(): void;
}

type Pulled = { image: ResolvedImage; bytes: number; tookMs: number } | { why: string };

export class ImagePull {
  readonly #backoff: Backoff;
  readonly #images: ImageSource;
  readonly #handlers: ImagePullHandlers;
  #failedAt: number | undefined;
  /** Why, in the words of whoever was to give it. */
  #why = "";
  /** One that is under way, or whose outcome nobody has looked at; of which image. */
  #pulling: { reference: string; outcome?: Pulled } | undefined;

  constructor(images: ImageSource, backoff: BackoffOptions, handlers: ImagePullHandlers) {
    this.#images = images;
    this.#backoff = new Backoff(backoff);
    this.#handlers = handlers;
  }

  /** Another image is wanted: nothing of the past counts. */
  reset(): void {
    this.#failedAt = undefined;
    this.#pulling = undefined;
    this.#backoff.reset();
  }

  /** The image, or the milliseconds after which to ask again, or undefined: when there is news, if ever. */
  async pull(
    reference: string,
    { hasCommand, policy }: { hasCommand: boolean; policy: string | undefined },
  ): Promise<ResolvedImage | number | undefined> {
    const { waitFor, event } = this.#handlers;
    const outcome = this.#pulling?.outcome;
    if (this.#pulling && !outcome) return undefined;
    this.#pulling = undefined;
    if (outcome) return "why" in outcome ? this.#failed(reference, outcome.why) : this.#pulled(outcome);
    const here = await this.#images.find(reference, hasCommand);
    if (here === "invalid") {
      const message = `Failed to apply default image tag "${reference}": couldn't parse image name "${reference}": invalid reference format`;
      if (waitFor("InvalidImageName", message)) event("Warning", "InspectFailed", message);
      return undefined;
    }
    if (here && policy !== "Always") {
      const message = `Container image "${reference}" already present on machine and can be accessed by the pod`;
      event("Normal", "Pulled", message);
      return here;
    }
    if (!here && policy === "Never") {
      const message = `Container image "${reference}" is not present with pull policy of Never`;
      if (waitFor("ErrImageNeverPull", message)) {
        event("Warning", "ErrImageNeverPull", message);
        event("Warning", "Failed", "Error: ErrImageNeverPull");
      }
      return undefined;
    }
    return this.#backingOff(reference) ?? this.#begin(reference, hasCommand);
  }

  /** Not waited for, unless nothing has to be brought: it may take minutes, in which the pod may be deleted. */
  async #begin(reference: string, hasCommand: boolean): Promise<ResolvedImage | number | undefined> {
    const pulling: { reference: string; outcome?: Pulled } = { reference };
    this.#pulling = pulling;
    const begun = Date.now();
    this.#handlers.event("Normal", "Pulling", `Pulling image "${reference}"`);
    const ended = this.#images.pull(reference, hasCommand).then(
      (found) => ({ ...found, tookMs: Date.now() - begun }),
      (error: Error) => ({ why: error.message }),
    );
    const soon = new Promise<undefined>((resolve) => setImmediate(resolve, undefined));
    const atOnce = await Promise.race([ended, soon]);
    if (atOnce) {
      this.#pulling = undefined;
      return "why" in atOnce ? this.#failed(reference, atOnce.why) : this.#pulled(atOnce);
    }
    void ended.then((outcome) => {
      if (this.#pulling !== pulling) return;
      pulling.outcome = outcome;
      this.#handlers.done();
    });
    return undefined;
  }

  #pulled({ image, bytes, tookMs }: Exclude<Pulled, { why: string }>): ResolvedImage {
    const took = goDuration(tookMs);
    const message = `Successfully pulled image "${image.reference}" in ${took} (${took} including waiting). Image size: ${bytes} bytes.`;
    this.#handlers.event("Normal", "Pulled", message);
    this.#failedAt = undefined;
    return image;
  }

  /** Milliseconds to wait before the next try; undefined when it may be made. */
  #backingOff(reference: string): number | undefined {
    const { waitFor, event } = this.#handlers;
    if (this.#failedAt === undefined) return undefined;
    const now = Date.now();
    const wait = this.#backoff.remaining(this.#failedAt, now);
    if (wait <= 0) return undefined;
    const shown = Math.min(PULL_ERROR_SHOWN_MS, this.#backoff.delayMs) - (now - this.#failedAt);
    if (shown > 0) return shown;
    if (waitFor("ImagePullBackOff", `Back-off pulling image "${reference}": ErrImagePull: ${this.#why}`)) {
      event("Normal", "BackOff", `Back-off pulling image "${reference}"`);
      event("Warning", "Failed", "Error: ImagePullBackOff");
    }
    return wait;
  }

  #failed(reference: string, why: string): number {
    const { waitFor, event } = this.#handlers;
    const now = Date.now();
    this.#backoff.next(this.#failedAt ?? now, now);
    this.#failedAt = now;
    this.#why = why;
    const message = `Failed to pull image "${reference}": ${why}`;
    waitFor("ErrImagePull", message);
    event("Warning", "Failed", message);
    event("Warning", "Failed", "Error: ErrImagePull");
    return Math.min(PULL_ERROR_SHOWN_MS, this.#backoff.delayMs);
  }
}
