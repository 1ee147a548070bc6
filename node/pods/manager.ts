// All pods of one node: a worker for each, kept in step with the API through two work queues (doing and reporting).

import { readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { Informer } from "../../common/informer.js";
import { type Pod, RUNTIME_ANNOTATION, type Stored } from "../../common/k8s.js";
import { WorkQueue } from "../../common/workqueue.js";
import { podLogDirectory } from "./container-setup.js";
import type { PodEnvironment } from "./environment.js";
import { PodWorker } from "./worker.js";

/** Pods worked on at the same time: a start waits for the kernel and for child processes now and then. */
const CONCURRENCY = 8;

export class PodManager {
  readonly #environment: PodEnvironment;
  readonly #informer: Informer<Pod>;
  readonly #workers = new Map<string, PodWorker>();
  readonly #work: WorkQueue;
  readonly #reports: WorkQueue;
  #unsubscribe: (() => void) | undefined;

  constructor(environment: PodEnvironment, informer: Informer<Pod>) {
    this.#environment = environment;
    this.#informer = informer;
    const { log, nodeName } = environment;
    this.#work = new WorkQueue({
      name: `pods of ${nodeName}`,
      concurrency: CONCURRENCY,
      maxDelayMs: environment.timing.retryMs,
      log,
      worker: async (uid) => this.#workers.get(uid)?.sync(),
    });
    this.#reports = new WorkQueue({
      name: `pod status of ${nodeName}`,
      concurrency: CONCURRENCY,
      maxDelayMs: environment.timing.retryMs,
      log,
      worker: async (uid) => this.#workers.get(uid)?.report(),
    });
  }

  get size(): number {
    return this.#workers.size;
  }

  /** Takes up the pods bound to this node, after what a former life left has been given back. */
  async start(): Promise<void> {
    await this.#informer.synced;
    await this.#takeOver();
    this.#work.start();
    this.#reports.start();
    this.#unsubscribe = this.#informer.subscribe({
      add: (pod) => this.#isHere(pod) && this.#take(pod),
      update: (_old, pod) => this.#isHere(pod) && this.#take(pod),
      delete: (pod) => this.#workers.get(pod.metadata.uid)?.remove(),
    });
  }

  /** The cluster's own programs are emulated everywhere: no registry has their images. */
  #environmentOf({ metadata }: Stored<Pod>): PodEnvironment {
    const environment = this.#environment;
    const isEmulated = metadata.annotations?.[RUNTIME_ANNOTATION] === "emulated";
    return isEmulated ? { ...environment, runtime: environment.emulated } : environment;
  }

  #isHere(pod: Stored<Pod>): boolean {
    return pod.spec?.nodeName === this.#environment.nodeName;
  }

  #take(pod: Stored<Pod>): void {
    const { uid } = pod.metadata;
    const present = this.#workers.get(uid);
    if (present) {
      present.update(pod);
      return;
    }
    const worker = new PodWorker(pod, this.#environmentOf(pod), {
      again: (key, ms) => (ms === undefined ? this.#work.add(key) : this.#work.addAfter(key, ms)),
      report: (key, ms) => (ms === undefined ? this.#reports.add(key) : this.#reports.addAfter(key, ms)),
      gone: (key) => this.#workers.delete(key),
    });
    this.#workers.set(uid, worker);
    this.#work.add(uid);
  }

  /** The living worker of a pod; of two with one name the one that is not ending. */
  find(namespace: string, name: string): PodWorker | undefined {
    const object = this.#informer.get(`${namespace}/${name}`);
    const worker = object ? this.#workers.get(object.metadata.uid) : undefined;
    return worker ?? [...this.#workers.values()].find((one) => one.key === `${namespace}/${name}`);
  }

  workers(): Iterable<PodWorker> {
    return this.#workers.values();
  }

  pods(): Stored<Pod>[] {
    return [...this.#workers.values()].map((worker) => worker.pod);
  }

  /** What a former life of the agent has left: what is of no pod of this node is given back, the rest is gone on with. */
  async #takeOver(): Promise<void> {
    const { rootDir, runtime } = this.#environment;
    const here = this.#informer.list().filter((pod) => this.#isHere(pod));
    const own = here.filter((pod) => this.#environmentOf(pod).runtime === runtime);
    await runtime.takeOver(own, this.#environment);
    const logs = join(rootDir, "log", "pods");
    const known = new Set(this.#informer.list().map((pod) => podLogDirectory(rootDir, pod)));
    for (const name of entries(logs)) {
      if (!known.has(join(logs, name))) rmSync(join(logs, name), { recursive: true, force: true });
    }
  }

  /** Ends all pods: within `graceMs`, leaving the network properly, or, without it, at once. */
  async stop(graceMs: number | undefined): Promise<void> {
    this.#unsubscribe?.();
    await Promise.all([this.#work.stop(), this.#reports.stop()]);
    const { log } = this.#environment;
    await Promise.all(
      [...this.#workers.values()].map(async (worker) => {
        try {
          await (graceMs === undefined ? worker.kill() : worker.shutDown(graceMs));
        } catch (error) {
          log.warn({ err: error, pod: worker.key }, "a pod did not end cleanly");
        }
      }),
    );
    this.#workers.clear();
  }
}

function entries(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}
