// What the pods of a node and the node itself use. A host is no process: the agents of all hosts share one, and each
// counts an equal part of its CPU time beside that of emulated containers, and of its memory. Knows pods as numbers.

import { emulatedCpuNanoseconds, type Usage } from "../images/meter.js";
import type { PodManager } from "../pods/manager.js";

/** A figure is good for so long: two that ask at the same time get the same. */
const FRESH_MS = 500;

export interface ContainerSample extends Usage {
  name: string;
  /** Milliseconds since the epoch. */
  startedAt: number;
}

export interface PodSample {
  namespace: string;
  name: string;
  uid: string;
  startedAt: number;
  containers: ContainerSample[];
}

export interface NodeSample extends Usage {
  /** Milliseconds since the epoch. */
  at: number;
  startedAt: number;
  /** Of the host's own programs: kubelet, kube-proxy, overlay. */
  system: Usage;
  pods: PodSample[];
}

/** The agents in this process. */
const agents = new Set<NodeStats>();

export class NodeStats {
  readonly #pods: PodManager;
  readonly #startedAt = Date.now();
  /** CPU time of each run that is there, and of those that were. */
  readonly #seen = new Map<string, number>();
  #gone = 0;
  #system = 0;
  /** What this process and its emulated containers had used when last looked at. */
  #last = { process: 0, emulated: 0 };
  #sample: NodeSample | undefined;

  constructor(pods: PodManager) {
    this.#pods = pods;
  }

  /** The agent runs: from now on a part of the process is its own. */
  start(): void {
    this.#last = processCpu();
    agents.add(this);
  }

  stop(): void {
    agents.delete(this);
  }

  sample(): NodeSample {
    const at = Date.now();
    if (this.#sample && at - this.#sample.at < FRESH_MS) return this.#sample;
    const pods = this.#samplePods();
    const now = processCpu();
    const own = now.process - this.#last.process - (now.emulated - this.#last.emulated);
    this.#last = now;
    const parts = Math.max(1, agents.size);
    this.#system += Math.max(0, own) / parts;
    const containers = pods.flatMap((pod) => pod.containers);
    const memory = containers.reduce((sum, one) => sum + one.memoryBytes, 0);
    const system = { cpuNanoseconds: this.#system, memoryBytes: process.memoryUsage.rss() / parts };
    const counted = [...this.#seen.values()].reduce((sum, cpu) => sum + cpu, this.#gone);
    this.#sample = {
      at,
      startedAt: this.#startedAt,
      cpuNanoseconds: counted + system.cpuNanoseconds,
      memoryBytes: memory + system.memoryBytes,
      system,
      pods,
    };
    return this.#sample;
  }

  #samplePods(): PodSample[] {
    const before = new Set(this.#seen.keys());
    const pods: PodSample[] = [];
    for (const { pod, allContainers } of this.#pods.workers()) {
      const samples: ContainerSample[] = [];
      for (const { name, run } of allContainers) {
        if (!run) continue;
        const usage = run.usage.read();
        this.#seen.set(run.id, usage.cpuNanoseconds);
        before.delete(run.id);
        samples.push({ name, startedAt: run.startedAt, ...usage });
      }
      if (samples.length === 0) continue;
      const { namespace = "", name, uid } = pod.metadata;
      const startedAt =
        Date.parse(pod.status?.startTime ?? "") || Math.min(...samples.map((one) => one.startedAt));
      pods.push({ namespace, name, uid, startedAt, containers: samples });
    }
    for (const id of before) {
      this.#gone += this.#seen.get(id) ?? 0;
      this.#seen.delete(id);
    }
    return pods;
  }
}

function processCpu(): { process: number; emulated: number } {
  const { user, system } = process.cpuUsage();
  return { process: (user + system) * 1000, emulated: emulatedCpuNanoseconds() };
}
