// What is known of one container through all its runs: how it stands, how often it has run, how its runs ended.
// Keeps facts for the status; decides nothing and starts nothing.

import type { ContainerStateTerminated, ContainerStatus } from "kubernetes-types/core/v1.js";
import { apiTime } from "./environment.js";
import type { Ending, LeftContainer, Run } from "./runtime.js";
import type { ContainerFacts } from "./status.js";

interface PastRun {
  info: ContainerStateTerminated;
  /** Epoch milliseconds. */
  finishedAt: number;
}

export class ContainerRecord {
  #restartCount = 0;
  #everStarted = false;
  /** An empty reason: it waits for nothing, its end is the news. */
  #waiting: { reason: string; message?: string };
  /** The newest ended run, while no other one runs. */
  #ended: PastRun | undefined;
  #last: ContainerStateTerminated | undefined;
  #imageID = "";
  #containerID = "";

  /**
   * `former`: the status that a former life of the agent has left; `left`: the container itself, if that is still there.
   * Without it, it ended with the agent.
   */
  constructor(
    waitsFor: "ContainerCreating" | "PodInitializing",
    former: ContainerStatus | undefined,
    left: LeftContainer | undefined,
  ) {
    this.#waiting = { reason: waitsFor };
    if (left) this.#takeOver(left, former?.lastState?.terminated);
    else if (former?.containerID) this.#adopt(former, former.containerID);
  }

  #takeOver(
    { run, ended, restartCount, imageID }: LeftContainer,
    last: ContainerStateTerminated | undefined,
  ) {
    this.#restartCount = restartCount;
    this.#everStarted = true;
    this.#imageID = imageID;
    this.#containerID = run?.containerID ?? ended?.info.containerID ?? "";
    this.#ended = ended;
    this.#waiting = { reason: "" };
    const isSame = last?.containerID === ended?.info.containerID;
    if (last && !isSame) this.#last = last;
  }

  #adopt({ state = {}, lastState, restartCount, imageID }: ContainerStatus, containerID: string): void {
    const info: ContainerStateTerminated = state.terminated ??
      (state.running ? undefined : lastState?.terminated) ?? {
        exitCode: 255,
        reason: "Unknown",
        containerID,
        ...(state.running?.startedAt ? { startedAt: state.running.startedAt } : {}),
        finishedAt: apiTime(Date.now()),
      };
    this.#ended = { info, finishedAt: Date.now() };
    this.#restartCount = restartCount;
    this.#everStarted = true;
    this.#imageID = imageID;
    this.#containerID = containerID;
  }

  get restartCount(): number {
    return this.#restartCount;
  }

  /** The restart count that the next run will have. */
  get nextRun(): number {
    return this.#everStarted ? this.#restartCount + 1 : this.#restartCount;
  }

  /** The newest ended run, while no other one runs. */
  get ended(): Readonly<PastRun> | undefined {
    return this.#ended;
  }

  /** Returns whether that is news. */
  waitFor(reason: string, message?: string): boolean {
    if (this.#waiting.reason === reason && this.#waiting.message === message) return false;
    this.#waiting = { reason, ...(message === undefined ? {} : { message }) };
    return true;
  }

  /** Its end, if it has come, is what there is to say of it: nothing more will be started. */
  settle(): void {
    if (this.#ended) this.#waiting = { reason: "" };
  }

  /** To be run again however it had ended: its pod has got a new sandbox. */
  startOver(): void {
    if (!this.#ended) return;
    this.#last = this.#ended.info;
    this.#ended = undefined;
    this.#waiting = { reason: "PodInitializing" };
  }

  #countRun(containerID: string): void {
    this.#restartCount = this.nextRun;
    this.#last = this.#ended?.info ?? this.#last;
    this.#ended = undefined;
    this.#everStarted = true;
    this.#containerID = containerID;
    this.#waiting = { reason: "" };
  }

  began({ containerID, imageID }: Run): void {
    this.#countRun(containerID);
    this.#imageID = imageID;
  }

  /** The run that was to begin has ended before its first instruction. */
  startFailed(message: string, now: number): void {
    this.#countRun("");
    const startedAt = apiTime(0);
    const info = { exitCode: 128, reason: "StartError", message, startedAt, finishedAt: apiTime(now) };
    this.#ended = { info, finishedAt: now };
  }

  exited(run: Run, { exitCode, reason }: Ending, now: number): void {
    const message = run.terminationMessage(exitCode);
    this.#ended = {
      finishedAt: now,
      info: {
        exitCode,
        reason: reason ?? (exitCode === 0 ? "Completed" : "Error"),
        ...(message === undefined ? {} : { message }),
        startedAt: apiTime(run.startedAt),
        finishedAt: apiTime(now),
        containerID: run.containerID,
      },
    };
  }

  facts(
    run: Run | undefined,
  ): Pick<ContainerFacts, "imageID" | "containerID" | "restartCount" | "state" | "last"> {
    const state: ContainerFacts["state"] = run
      ? { running: { startedAt: apiTime(run.startedAt) } }
      : this.#ended && this.#waiting.reason === ""
        ? { terminated: this.#ended.info }
        : { waiting: this.#waiting };
    const last = "waiting" in state ? (this.#ended?.info ?? this.#last) : this.#last;
    return {
      imageID: this.#imageID,
      containerID: this.#containerID,
      restartCount: this.#restartCount,
      state,
      ...(last ? { last } : {}),
    };
  }
}
