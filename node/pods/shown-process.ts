// What people in a container see of an emulated program: a process that stands for it, made when the first of them comes.
// Knows one run's program, and who may signal it.

import type { Workload } from "../images/index.js";
import type { LaunchedProcess } from "../process/launch.js";

/** Starts it; undefined where there is nothing to make it of. */
type Make = (signalled: (name: NodeJS.Signals) => void) => Promise<LaunchedProcess | undefined>;

export class ShownProcess {
  readonly #program: Workload;
  readonly #make: Make;
  #starting: Promise<void> | undefined;
  #process: LaunchedProcess | undefined;
  #over = false;

  constructor(program: Workload, make: Make) {
    this.#program = program;
    this.#make = make;
    void program.exited.then(() => {
      this.#over = true;
      this.#process?.signal("SIGKILL");
    });
  }

  /** Its id on this machine, if it is there. */
  get pid(): number | undefined {
    return this.#process?.commandPid();
  }

  /** Makes it, the first time, and tells its id. @throws LaunchError; the next call tries again then. */
  async show(): Promise<number | undefined> {
    this.#starting ??= this.#start();
    try {
      await this.#starting;
    } catch (error) {
      this.#starting = undefined;
      throw error;
    }
    return this.pid;
  }

  async #start(): Promise<void> {
    const process = await this.#make((name) => this.#program.signal(name));
    this.#process = process;
    if (this.#over) process?.signal("SIGKILL");
    // Whoever could kill it has killed the program.
    void process?.exited.then(() => this.#program.signal("SIGKILL"));
  }
}
