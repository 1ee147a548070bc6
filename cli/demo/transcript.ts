// What a person sees of the demo: command lines and their output on stdout, ticks and times on stderr. Knows the
// terminal, not what is demonstrated.

import { setTimeout as sleep } from "node:timers/promises";
import type { Context } from "../command.js";
import type { Steps } from "../steps.js";
import type { Action, Outcome } from "./action.js";

/** How long one command may take, and how long it is repeated until its result is right. */
const ACTION_TIMEOUT_MS = 60_000;
/**
 * The first of several attempts gets little time, each further one the double: a connection begun before a rule is in
 * place is remembered by conntrack without translation and hangs for good, a new one works at once.
 */
const FIRST_ATTEMPT_MS = 500;
const LONGEST_ATTEMPT_MS = 5000;
const RETRY_PAUSE_MS = 100;
const RETRY_FOR_MS = 15_000;

/** A step whose result is not what it has to be. */
export class DemoFailure extends Error {
  override readonly name = "DemoFailure";
}

/** What is wrong with an outcome, undefined when nothing is. */
export type Check = (outcome: Outcome) => string | undefined;

export const succeeded: Check = ({ exitCode }) => (exitCode === 0 ? undefined : `exit code ${exitCode}`);

export class Transcript {
  readonly #context: Context;
  readonly #steps: Steps;

  constructor(context: Context) {
    this.#context = context;
    this.#steps = context.steps();
  }

  /** One thing to show: what `work` does, then a tick with the title that it returns. */
  async step(title: string, work: () => Promise<string | undefined>): Promise<void> {
    this.#context.note("");
    this.#steps.start(title);
    try {
      const better = await work();
      this.#steps.done(title, better ? { title: better } : {});
    } catch (error) {
      this.#steps.fail(title);
      throw error;
    } finally {
      this.#steps.close();
    }
  }

  /** Shows and runs a command. @throws DemoFailure when `check` finds its result wrong. */
  async run(action: Action, check: Check = succeeded): Promise<Outcome> {
    const outcome = await this.#shown(action, () => this.#attempt(action, ACTION_TIMEOUT_MS));
    judge(action, outcome, check);
    return outcome;
  }

  /**
   * The same for what takes a moment to become true (a rule on its way into the kernel of a host): repeats the command
   * until its result is right, for at most 15 s, and shows the last result.
   */
  async runUntil(action: Action, check: Check): Promise<Outcome> {
    const deadline = performance.now() + RETRY_FOR_MS;
    const outcome = await this.#shown(action, async () => {
      for (let timeout = FIRST_ATTEMPT_MS; ; timeout = Math.min(timeout * 2, LONGEST_ATTEMPT_MS)) {
        const latest = await this.#attempt(action, timeout);
        if (check(latest) === undefined || performance.now() > deadline) return latest;
        await sleep(RETRY_PAUSE_MS, undefined, { signal: this.#context.signal });
      }
    });
    judge(action, outcome, check);
    return outcome;
  }

  async #shown(action: Action, run: () => Promise<Outcome>): Promise<Outcome> {
    const { style } = this.#context;
    this.#steps.pause();
    this.#context.print(`${style.dim("$")} ${style.bold(action.line)}`);
    this.#steps.resume();
    const outcome = await run();
    this.#steps.pause();
    if (outcome.output) this.#context.print(outcome.output);
    return outcome;
  }

  /** Slow is a wrong result of its own, told like any other. */
  async #attempt(action: Action, timeoutMs: number): Promise<Outcome> {
    const { signal } = this.#context;
    const attempt = new AbortController();
    const end = () => attempt.abort(signal.reason);
    signal.addEventListener("abort", end);
    const timer = setTimeout(() => attempt.abort(), timeoutMs);
    try {
      signal.throwIfAborted();
      return await action.run(attempt.signal);
    } catch (error) {
      if (signal.aborted || !attempt.signal.aborted) throw error;
      return { exitCode: 124, output: `no answer within ${timeoutMs / 1000} s\n` };
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
    }
  }
}

function judge(action: Action, outcome: Outcome, check: Check): void {
  const problem = check(outcome);
  if (problem !== undefined) throw new DemoFailure(`${action.line}: ${problem}`);
}
