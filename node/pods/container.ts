// One container of a pod through all its runs: image, start, restarts with back-off, probes, hooks, graceful stop.
// Decides when by the restart policy; what runs is ContainerRun's business.

import type { ContainerStatus, LifecycleHandler } from "kubernetes-types/core/v1.js";
import type { Container } from "../../common/k8s.js";
import type { ResolvedImage } from "../images/index.js";
import { LaunchError } from "../process/launch.js";
import { Backoff, goDuration } from "./backoff.js";
import { buildRun, type ContainerKind, type ContainerOwner } from "./container-setup.js";
import { ContainerConfigError } from "./env.js";
import { ImagePull } from "./image-pull.js";
import type { ProbeKind } from "./probe-state.js";
import { Prober } from "./prober.js";
import { ContainerRecord } from "./record.js";
import type { Ending, LeftContainer, Run } from "./runtime.js";
import type { ContainerFacts } from "./status.js";
import { runHook, Stopping } from "./stopping.js";
import { VolumeError } from "./volumes.js";

/** How long the end of a run is what a status tells, before it says that the next one is waited for. */
const END_SHOWN_MS = 1000;

export class PodContainer {
  #spec: Container;
  readonly kind: ContainerKind;
  readonly #owner: ContainerOwner;
  readonly #restartBackoff: Backoff;
  readonly #imagePull: ImagePull;
  readonly #record: ContainerRecord;
  #starting = false;
  #run: Run | undefined;
  #prober: Prober | undefined;
  #hookRunning = false;
  #stopping: Stopping | undefined;
  /** The run that ends now, or ended last, was of an older spec: the next one needs no policy and no back-off. */
  #redefined = false;
  /** Epoch milliseconds of the next try after a failure that is no crash. */
  #notBefore = 0;

  constructor(
    spec: Container,
    kind: ContainerKind,
    owner: ContainerOwner,
    former: ContainerStatus | undefined,
    left: LeftContainer | undefined,
  ) {
    this.#spec = spec;
    this.kind = kind;
    this.#owner = owner;
    this.#restartBackoff = new Backoff(owner.environment.timing.restartBackoff);
    const { runtime, timing } = owner.environment;
    this.#imagePull = new ImagePull(runtime.images, timing.imageBackoff, {
      waitFor: (reason, message) => this.#waitFor(reason, message),
      event: (type, reason, message) => this.#event(type, reason, message),
      done: () => owner.changed(),
    });
    // Init containers too: it is what kubectl's Init:1/3 is made of.
    this.#record = new ContainerRecord(owner.hasInit ? "PodInitializing" : "ContainerCreating", former, left);
    if (left?.run) this.#follow(left.run);
  }

  /** From the worker, when all that is of the pod is there: what was running before goes on being looked after. */
  resume(): void {
    if (this.#run) this.#probe(this.#run);
  }

  get spec(): Container {
    return this.#spec;
  }

  get name(): string {
    return this.spec.name;
  }

  /**
   * The pod's spec has changed. Of a container only its image can: one that runs is ended, to run again as it is
   * wanted, whatever the restart policy says.
   */
  update(spec: Container): void {
    const old = this.#spec;
    this.#spec = spec;
    if (old.image === spec.image) return;
    // Both back-offs are those of a definition, not of a name.
    this.#imagePull.reset();
    this.#restartBackoff.reset();
    if (!this.#run || this.#stopping || this.kind === "init") return;
    this.#redefined = true;
    const grace = this.#owner.pod.spec?.terminationGracePeriodSeconds ?? 30;
    void this.stop(Date.now() + grace * 1000, `Container ${this.name} definition changed, will be restarted`);
  }

  get run(): Run | undefined {
    return this.#run;
  }

  get restartCount(): number {
    return this.#record.restartCount;
  }

  /** Ended and never to run again under its restart policy. */
  get finished(): boolean {
    const { ended } = this.#record;
    return ended !== undefined && !this.#run && !this.#starting && !this.#mayRestart(ended.info.exitCode);
  }

  /** A probe's first result is about to come. */
  get resultDue(): boolean {
    return this.#prober?.firstResultDue ?? false;
  }

  facts(): ContainerFacts {
    const running = this.#run !== undefined;
    return {
      name: this.name,
      image: this.#run?.image ?? this.spec.image ?? "",
      ...this.#record.facts(this.#run),
      ...(this.#redefined && !running ? { replaced: true } : {}),
      ready: running ? !this.#hookRunning && (this.#prober?.ready ?? true) : this.kind === "init",
      started: running && !this.#hookRunning && (this.#prober?.started ?? true),
    };
  }

  #mayRestart(exitCode: number): boolean {
    if (this.kind === "sidecar" || this.#redefined) return true;
    if (this.kind === "ephemeral") return false;
    const policy = this.#owner.pod.spec?.restartPolicy ?? "Always";
    if (policy === "Never") return false;
    if (policy === "OnFailure" || this.kind === "init") return exitCode !== 0;
    return true;
  }

  /** An init container whose pod got a new sandbox starts over, however it had ended. */
  startOver(): void {
    if (!this.#run) this.#record.startOver();
  }

  /** Its end, if it has come, is what there is to say of it: nothing more will be started. */
  settle(): void {
    this.#record.settle();
  }

  /**
   * Starts the container when it is to run and may. Returns the milliseconds after which to come back, when there
   * is something to wait for.
   */
  async advance(): Promise<number | undefined> {
    if (this.#run || this.#starting || this.#stopping) return undefined;
    const failed = this.#record.ended;
    if (failed) {
      if (!this.#mayRestart(failed.info.exitCode)) {
        this.settle();
        return undefined;
      }
      const wait = this.#restartBackoff.remaining(failed.finishedAt, Date.now());
      // How it ended is seen for a moment, as the kubelet's status says it before the next look.
      const shown =
        Math.min(this.#restartBackoff.delayMs / 10, END_SHOWN_MS) + failed.finishedAt - Date.now();
      if (wait > 0) return shown > 0 ? shown : this.#crashLoop(wait);
    }
    if (this.#notBefore > Date.now()) return this.#notBefore - Date.now();
    const image = await this.#imagePull.pull(this.spec.image ?? "", {
      hasCommand: (this.spec.command?.length ?? 0) > 0,
      policy: this.spec.imagePullPolicy,
    });
    if (typeof image === "number" || image === undefined) return image;
    if (failed && !this.#redefined) this.#restartBackoff.next(failed.finishedAt, Date.now());
    return this.#start(image);
  }

  #crashLoop(wait: number): number {
    const { namespace, name, uid } = this.#owner.pod.metadata;
    const pod = `${name}_${namespace}(${uid})`;
    const delay = goDuration(this.#restartBackoff.delayMs);
    const message = `back-off ${delay} restarting failed container=${this.name} pod=${pod}`;
    if (this.#waitFor("CrashLoopBackOff", message)) {
      this.#event("Warning", "BackOff", `Back-off restarting failed container ${this.name} in pod ${pod}`);
    }
    return wait;
  }

  /** Returns whether that is news. */
  #waitFor(reason: string, message: string): boolean {
    const news = this.#record.waitFor(reason, message);
    if (news) this.#owner.changed();
    return news;
  }

  async #start(image: ResolvedImage): Promise<number | undefined> {
    this.#starting = true;
    try {
      const options = await buildRun(this.#owner, this.spec, image, this.#record.nextRun);
      // Before the start: a container whose program does not exist was created all the same.
      this.#event("Normal", "Created", "Container created");
      this.#began(await this.#owner.environment.runtime.start(options));
      return undefined;
    } catch (error) {
      return this.#notStarted(error);
    } finally {
      this.#starting = false;
    }
  }

  #began(run: Run): void {
    this.#event("Normal", "Started", "Container started");
    this.#record.began(run);
    this.#redefined = false;
    this.#follow(run);
    const postStart = this.spec.lifecycle?.postStart;
    this.#hookRunning = postStart !== undefined;
    if (postStart) void this.#postStart(postStart, run);
    else this.#probe(run);
    this.#owner.changed();
  }

  #follow(run: Run): void {
    this.#run = run;
    void run.exited.then((ending) => this.#exited(run, ending));
  }

  #notStarted(error: unknown): number {
    const message = error instanceof Error ? error.message : String(error);
    if (error instanceof ContainerConfigError || error instanceof VolumeError) {
      this.#event("Warning", "Failed", `Error: ${message}`);
      return this.#later("CreateContainerConfigError", message);
    }
    if (error instanceof LaunchError) {
      this.#event("Warning", "Failed", `Error: failed to start container "${this.name}": ${message}`);
      this.#record.startFailed(message, Date.now());
      this.#redefined = false;
      this.#owner.changed();
      // At once: the back-off decides when it may be tried again.
      return 0;
    }
    this.#owner.environment.log.error({ err: error, container: this.name }, "container not created");
    this.#event("Warning", "Failed", `Error: ${message}`);
    return this.#later("CreateContainerError", message);
  }

  /** Not before the retry interval is over, whatever else happens to the pod. */
  #later(reason: string, message: string): number {
    const { retryMs } = this.#owner.environment.timing;
    this.#notBefore = Date.now() + retryMs;
    this.#waitFor(reason, message);
    return retryMs;
  }

  /** Probes and hooks see the container through this. */
  #target(run: Run) {
    return {
      hostNs: this.#owner.environment.hostNs,
      podIP: run.podIP,
      container: this.spec,
      exec: (argv: string[], timeoutMs: number) => run.check(argv, timeoutMs),
    };
  }

  #probe(run: Run): void {
    if (this.#run !== run || this.#stopping || this.kind === "init") return;
    const { startupProbe, readinessProbe, livenessProbe } = this.spec;
    if (!startupProbe && !readinessProbe && !livenessProbe) return;
    this.#prober = new Prober(this.spec, this.#target(run), {
      changed: () => this.#owner.changed(),
      unhealthy: (_kind, message) => this.#event("Warning", "Unhealthy", message),
      restart: (kind) => this.#probeFailed(kind),
    });
  }

  #probeFailed(kind: ProbeKind): void {
    const own = kind === "liveness" ? this.spec.livenessProbe : this.spec.startupProbe;
    const seconds =
      own?.terminationGracePeriodSeconds ?? this.#owner.pod.spec?.terminationGracePeriodSeconds ?? 30;
    void this.stop(
      Date.now() + seconds * 1000,
      `Container ${this.name} failed ${kind} probe, will be restarted`,
    );
  }

  async #postStart(hook: LifecycleHandler, run: Run): Promise<void> {
    const { success, message } = await runHook(hook, this.#target(run), Number.POSITIVE_INFINITY);
    if (this.#run !== run) return;
    if (!success) {
      // What the hook said may be a secret: it is not for an Event.
      this.#owner.environment.log.warn({ container: this.name, message }, "PostStartHook failed");
      this.#event("Warning", "FailedPostStartHook", "PostStartHook failed");
      const grace = this.#owner.pod.spec?.terminationGracePeriodSeconds ?? 30;
      void this.stop(Date.now() + grace * 1000, "FailedPostStartHook");
      return;
    }
    this.#hookRunning = false;
    this.#probe(run);
    this.#owner.changed();
  }

  #exited(run: Run, ending: Ending): void {
    if (this.#run !== run) return;
    this.#prober?.stop();
    this.#prober = undefined;
    this.#run = undefined;
    this.#stopping = undefined;
    this.#hookRunning = false;
    this.#record.exited(run, ending, Date.now());
    this.#owner.changed();
  }

  /**
   * Ends the running container: preStop hook, stop signal, and SIGKILL at `deadline` (epoch milliseconds). Called
   * again it can only make the end come sooner. Resolves when nothing runs.
   */
  stop(deadline: number, message = `Stopping container ${this.name}`): Promise<void> {
    const run = this.#run;
    if (!run) return Promise.resolve();
    if (this.#stopping) {
      this.#stopping.noLaterThan(deadline);
      return this.#stopping.done;
    }
    this.#event("Normal", "Killing", message);
    this.#prober?.stopping();
    this.#stopping = new Stopping(run, deadline, {
      preStop: this.spec.lifecycle?.preStop,
      target: this.#target(run),
      hookFailed: (message) => {
        this.#owner.environment.log.warn({ container: this.name, message }, "PreStopHook failed");
        this.#event("Warning", "FailedPreStopHook", "PreStopHook failed");
      },
    });
    return this.#stopping.done;
  }

  /** Looks after it no more, and lets it run. */
  leave(): void {
    this.#prober?.stop();
  }

  /** Ends it without asking. */
  async kill(): Promise<void> {
    const run = this.#run;
    if (!run) return;
    this.#prober?.stop();
    run.signal("SIGKILL");
    await run.exited;
  }

  #event(type: "Normal" | "Warning", reason: string, message: string): void {
    this.#owner.event(this, type, reason, message);
  }
}
