// What has become of sandboxes and containers: asked of the runtime every second, as the kubelet's pod lifecycle event
// generator does, for CRI tells nothing by itself before 1.7 of containerd. Knows states, decides nothing.

import type { Logger } from "../../common/log.js";
import type { CriClient } from "./client.js";
import { LABEL } from "./config.js";
import { CONTAINER_STATE, SANDBOX_READY } from "./messages.js";

const LOOK_MS = 1000;
/** Beyond that a runtime that does not answer makes the node NotReady (kubelet's maxWaitForContainerRuntime). */
const PATIENCE_MS = 30_000;
/** The kubelet looks at the runtime's own conditions that often. */
const CONDITIONS_MS = 5000;

export class CriWatcher {
  readonly #client: CriClient;
  readonly #labels: Record<string, string>;
  readonly #log: Logger;
  /** By the id of a container that was running, or of a sandbox that was ready, when somebody began to watch it. */
  readonly #watched = new Map<string, () => void>();
  #lastAnswer = Date.now();
  #conditionsAt = 0;
  /** The runtime's own reason. */
  #problem: string | undefined;
  #looking: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #wasAway = false;

  constructor(client: CriClient, node: string, log: Logger) {
    this.#client = client;
    this.#labels = { [LABEL.node]: node };
    this.#log = log;
  }

  start(): void {
    this.#timer = setInterval(() => void this.look(), LOOK_MS);
  }

  /** Calls `ended` once, when it is seen not to be running any more. */
  watch(id: string, ended: () => void): void {
    this.#watched.set(id, ended);
  }

  forget(id: string): void {
    this.#watched.delete(id);
  }

  /** Why no pod can be started; undefined when it can. */
  notReady(): string | undefined {
    const quiet = Date.now() - this.#lastAnswer;
    return quiet > PATIENCE_MS ? "container runtime is down" : this.#problem;
  }

  /** Now. Never rejects. */
  look(): Promise<void> {
    this.#looking ??= this.#look()
      .catch((error: Error) => {
        if (!this.#wasAway) this.#log.warn({ err: error }, "the container runtime does not answer");
        this.#wasAway = true;
      })
      .finally(() => {
        this.#looking = undefined;
      });
    return this.#looking;
  }

  async #look(): Promise<void> {
    // What comes while the answers are on their way is not in them.
    const asked = [...this.#watched.keys()];
    const [sandboxes, containers] = await Promise.all([
      this.#client.listSandboxes(this.#labels),
      this.#client.listContainers(this.#labels),
    ]);
    if (Date.now() - this.#conditionsAt > CONDITIONS_MS) await this.#lookAtConditions();
    this.#lastAnswer = Date.now();
    if (this.#wasAway) this.#log.info("the container runtime answers again");
    this.#wasAway = false;
    const alive = new Set([
      ...sandboxes.filter(({ state }) => state === SANDBOX_READY).map(({ id }) => id),
      ...containers.filter(({ state }) => state === CONTAINER_STATE.running).map(({ id }) => id),
    ]);
    for (const id of asked) {
      if (alive.has(id)) continue;
      const ended = this.#watched.get(id);
      this.#watched.delete(id);
      ended?.();
    }
  }

  async #lookAtConditions(): Promise<void> {
    const { status } = await this.#client.status();
    this.#conditionsAt = Date.now();
    const failed = (status?.conditions ?? []).find(
      (one) => !one.status && (one.type === "RuntimeReady" || one.type === "NetworkReady"),
    );
    const what = failed?.type === "NetworkReady" ? "container runtime network" : "container runtime";
    this.#problem =
      failed && `${what} not ready: ${failed.type}=false reason:${failed.reason} message:${failed.message}`;
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#watched.clear();
  }
}
