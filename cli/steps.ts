// The list of steps that a person watches: a spinner while one runs (on a terminal), then a tick or a cross, its
// name and its time. Knows a stream; nothing of what the steps do.

import type { Output } from "./streams.js";
import { formatDuration, type Style } from "./style.js";
import { visibleLength } from "./table.js";

const FRAMES = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
const FRAME_MS = 80;
/** Where the times stand. */
const TITLE_WIDTH = 44;
/** ECMA-48: to the first column, erase to the end of the line. */
const CLEAR_LINE = "\r\x1b[K";

export interface StepsOptions {
  style: Style;
  /** May the line be redrawn? Else: one line a step, when it has ended. */
  interactive: boolean;
  /** Only failures are shown. */
  quiet?: boolean;
}

/** An event of lab/lifecycle's `up`. */
export interface StepEvent {
  id: string;
  title: string;
  state: "start" | "done" | "failed";
  ms?: number;
  detail?: string;
}

export class Steps {
  readonly #output: Output;
  readonly #options: StepsOptions;
  /** Running steps by id; the youngest is shown. */
  readonly #running = new Map<string, { title: string; since: number }>();
  #timer: NodeJS.Timeout | undefined;
  #frame = 0;
  #drawn = false;

  constructor(output: Output, options: StepsOptions) {
    this.#output = output;
    this.#options = options;
  }

  /** Takes over the events of `up`. */
  readonly handle = (event: StepEvent): void => {
    if (event.state === "start") this.start(event.title, event.id);
    else if (event.state === "done") this.done(event.id, event);
    else this.fail(event.id, event);
  };

  /** The same for a caller whose error is told afterwards: not twice. */
  readonly follow = (event: StepEvent): void => {
    this.handle({ ...event, detail: undefined });
  };

  start(title: string, id = title): void {
    this.#running.set(id, { title, since: performance.now() });
    this.resume();
  }

  /** @param facts what is known at the end: another title, the time it took (default: measured). */
  done(id: string, facts: { title?: string; ms?: number } = {}): void {
    const { title, ms } = this.#end(id, facts);
    if (!this.#options.quiet) this.#line(this.#options.style.green("✓"), title, ms);
  }

  /** @param facts detail is printed below, indented: what the failed command said. */
  fail(id: string, facts: { title?: string; ms?: number; detail?: string } = {}): void {
    const { title, ms } = this.#end(id, facts);
    this.#line(this.#options.style.red("✗"), title, ms);
    const detail = facts.detail?.trimEnd();
    if (!detail) return;
    for (const line of detail.split("\n")) this.#output.write(`   ${this.#options.style.dim(line)}\n`);
  }

  /** A step from begin to end; its failure is shown as such and thrown on, for the caller to tell. */
  async run<T>(title: string, work: () => Promise<T>): Promise<T> {
    this.start(title);
    try {
      const result = await work();
      this.done(title);
      return result;
    } catch (error) {
      this.fail(title);
      throw error;
    }
  }

  /** Takes the spinner away, so that something else can be written. */
  pause(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#clear();
  }

  /** Shows the spinner again after {@link pause}. */
  resume(): void {
    if (!this.#options.interactive || this.#options.quiet || this.#running.size === 0) return;
    this.#draw();
    this.#timer ??= setInterval(() => this.#draw(), FRAME_MS).unref();
  }

  /** No step remains open: what was still running has neither tick nor cross. */
  close(): void {
    this.#running.clear();
    this.pause();
  }

  #end(id: string, facts: { title?: string; ms?: number }): { title: string; ms: number } {
    const step = this.#running.get(id);
    this.#running.delete(id);
    if (this.#running.size === 0) this.pause();
    else this.#clear();
    const ms = facts.ms ?? (step ? performance.now() - step.since : 0);
    return { title: facts.title ?? step?.title ?? id, ms };
  }

  #line(mark: string, title: string, ms: number): void {
    const padding = " ".repeat(Math.max(1, TITLE_WIDTH - visibleLength(title)));
    this.#output.write(` ${mark} ${title}${padding}${this.#options.style.dim(formatDuration(ms))}\n`);
    if (this.#running.size > 0 && this.#timer) this.#draw();
  }

  #draw(): void {
    const step = [...this.#running.values()].at(-1);
    if (!step) return;
    const frame = FRAMES[this.#frame++ % FRAMES.length] ?? "";
    // A line that wraps could not be erased again.
    const room = (this.#output.columns || 80) - 4;
    const title = step.title.length > room ? `${step.title.slice(0, room - 1)}…` : step.title;
    this.#output.write(`${CLEAR_LINE} ${this.#options.style.cyan(frame)} ${title}`);
    this.#drawn = true;
  }

  #clear(): void {
    if (this.#drawn) this.#output.write(CLEAR_LINE);
    this.#drawn = false;
  }
}
