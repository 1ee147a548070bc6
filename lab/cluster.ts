// The public test API: a cluster as an object. Everything a user does at a terminal, as a method; gone with its
// scope, or with the process that made it. Knows lifecycle and clients, nothing of what runs inside.

import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable, Writable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { ApiClient } from "../client/api-client.js";
import { remoteCommand } from "../client/remote-command.js";
import { isAlreadyExists, isNotFound, type KubeClient, type Resource } from "../common/client.js";
import type { KubeObject, Stored } from "../common/k8s.js";
import { parseSave, type Ruleset } from "../dataplane/iptables/index.js";
import { checkConfig, parseConfig } from "./config.js";
import { findCommand } from "./doctor.js";
import { ClusterError } from "./errors.js";
import { signal, waitGone } from "./identity.js";
import { runningProcess } from "./launch.js";
import { down, publish, up } from "./lifecycle.js";
import { type Manifest, readManifest } from "./manifests.js";
import { clusterPaths, removeIfEmpty } from "./state.js";
import type { ClusterConfig, ClusterInfo, ProcessRole, Publish, StepEvent } from "./types.js";
import { requestJson } from "./unix-http.js";
import { DEFAULT_TIMEOUT_MS, type WaitCondition, type WaitOptions, waitForObject } from "./wait.js";

/** What {@link createCluster} makes. */
export interface CreateClusterOptions {
  /** How many hosts; default 3, or what the configuration says. */
  nodes?: number;
  /** DNS label; default a random one. */
  name?: string;
  /** A cluster configuration, as an object or as YAML text. */
  config?: ClusterConfig | string;
  publish?: Publish[];
  /**
   * Directory for the state, made when it is not there; default a new one under the system's temporary directory. At
   * the end the cluster's part of it is removed, and the directory too if nothing else is in it.
   */
  home?: string;
  /** Called for each step of the start. */
  onStep?: (event: StepEvent) => void;
}

/** What a command did. */
export interface ExecResult {
  stdout: string;
  stderr: string;
  /** 128 + the signal's number when a signal ended it. */
  exitCode: number;
}

export interface ExecOptions {
  /** Written to standard input; without it there is none. */
  input?: string | Uint8Array;
  /** Of a pod with several. */
  container?: string;
  signal?: AbortSignal;
}

/** What a server answered to {@link Cluster.curl}. */
export interface CurlResult {
  /** HTTP status code, 0 when there was no answer. */
  status: number;
  body: string;
  /** curl's: 0, 7 (refused), 28 (timed out), … */
  exitCode: number;
  stderr: string;
}

/**
 * Starts a cluster of its own: a temporary state directory, a random name, no kubeconfig of the user touched.
 * Resolves when every node is Ready. It ends with {@link Cluster.stop}, at the end of an `await using` scope (in
 * TypeScript, or Node.js 24 and newer), and in any case with this process, even when that is killed.
 *
 *     await using cluster = await createCluster({ nodes: 3 });
 *     await cluster.apply(yaml);
 *     await cluster.waitFor(DEPLOYMENTS, "web", "Available");
 *     const { stdout } = await cluster.exec("node-1", ["curl", "-s", "http://10.96.0.80"]);
 *
 * @throws ConfigError for a configuration that cannot be used; ClusterError START_FAILED with the end of the log.
 */
export async function createCluster(options: CreateClusterOptions = {}): Promise<Cluster> {
  const config = typeof options.config === "string" ? parseConfig(options.config) : options.config;
  if (config) checkConfig(config);
  const home = options.home ?? mkdtempSync(join(tmpdir(), "kubeplumb-"));
  const name = options.name ?? config?.name ?? `test-${randomBytes(3).toString("hex")}`;
  const { nodes, publish: published, onStep } = options;
  const request = { name, home, config, nodes, publish: published, onStep, ephemeral: true };
  try {
    return new Cluster(await up(request), home);
  } catch (error) {
    // What `up` had begun it has removed itself.
    removeIfEmpty(home);
    throw error;
  }
}

/** A running cluster; made by {@link createCluster}. */
export class Cluster implements AsyncDisposable {
  /** How to reach it from other programs. */
  readonly info: ClusterInfo;
  /** The API, as administrator. Survives a restart of control. */
  readonly client: KubeClient;
  readonly #client: ApiClient;
  readonly #home: string;
  #stopped: Promise<void> | undefined;

  /** @internal */
  constructor(info: ClusterInfo, home: string) {
    this.info = info;
    this.#home = home;
    this.#client = new ApiClient({ socketPath: info.controlSocket, userAgent: "kubeplumb-test" });
    this.client = this.#client;
  }

  get name(): string {
    return this.info.name;
  }

  /** The hosts with their addresses on the underlay: `node-1` 192.168.56.11, … */
  get hosts(): readonly { name: string; ip: string }[] {
    return this.info.nodes;
  }

  /** Path of a kubeconfig with this cluster as its only context. */
  get kubeconfigPath(): string {
    return this.info.kubeconfigPath;
  }

  /** The same as text (YAML). */
  get kubeconfig(): string {
    return readFileSync(this.info.kubeconfigPath, "utf8");
  }

  /**
   * Runs the real kubectl of this machine against the cluster; the exit code is for the caller to judge.
   * @throws ClusterError COMMAND_FAILED when there is no kubectl.
   */
  async kubectl(
    args: readonly string[],
    options: { input?: string; signal?: AbortSignal } = {},
  ): Promise<ExecResult> {
    const program = findCommand("kubectl");
    if (!program) throw new ClusterError("COMMAND_FAILED", "kubectl is not installed on this machine");
    const cache = join(this.info.dir, "kubectl-cache");
    const own = ["--kubeconfig", this.info.kubeconfigPath, "--cache-dir", cache];
    return runLocal([program, ...own, ...args], options);
  }

  /**
   * Creates each object or, when it exists, merges it into what is there (JSON merge patch, RFC 7386), in the order
   * of the manifest. Objects without namespace go into `options.namespace`, default `default`.
   * @throws StatusError with the server's answer for the first object that is refused; TypeError for a manifest that
   *   cannot be read, before anything is sent.
   */
  async apply(manifest: Manifest, options: { namespace?: string } = {}): Promise<Stored[]> {
    const out: Stored[] = [];
    for (const { resource, object, name, namespace } of readManifest(manifest, options.namespace)) {
      const where = { ...(namespace ? { namespace } : {}), fieldValidation: "Strict" as const };
      try {
        out.push(await this.client.create(resource, object, where));
      } catch (error) {
        if (!isAlreadyExists(error)) throw error;
        out.push(await this.client.patch(resource, name, "merge", object, where));
      }
    }
    return out;
  }

  /** Deletes the objects of a manifest; what is gone already is no error. Does not wait for finalisation. */
  async delete(manifest: Manifest, options: { namespace?: string } = {}): Promise<void> {
    for (const { resource, name, namespace } of readManifest(manifest, options.namespace).reverse()) {
      try {
        await this.client.delete(resource, name, namespace ? { namespace } : {});
      } catch (error) {
        if (!isNotFound(error)) throw error;
      }
    }
  }

  /**
   * Waits until an object fulfils a condition: the type of a status condition that is to be "True", "deleted", or a
   * predicate. Resolves with the object (undefined when it is gone).
   * @throws ClusterError WAIT_TIMEOUT, showing the object's last status.
   */
  waitFor<T extends KubeObject>(
    resource: Resource<T>,
    name: string,
    condition: WaitCondition<T>,
    options?: WaitOptions,
  ): Promise<Stored<T> | undefined> {
    return waitForObject(this.client, resource, name, condition, options);
  }

  /**
   * Calls `check` again and again until it returns something truthy, and resolves with that.
   * @throws ClusterError WAIT_TIMEOUT; what `check` throws.
   */
  async waitUntil<T>(
    check: () => T | Promise<T>,
    options: { timeoutMs?: number; intervalMs?: number; what?: string } = {},
  ): Promise<T> {
    const { timeoutMs = DEFAULT_TIMEOUT_MS, intervalMs = 50, what = "the condition" } = options;
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const value = await check();
      if (value) return value;
      if (Date.now() > deadline) {
        throw new ClusterError("WAIT_TIMEOUT", `${what} did not hold within ${timeoutMs} ms`);
      }
      await sleep(intervalMs);
    }
  }

  /**
   * Resolves when the rules of every host reflect what the API holds at the call: EndpointSlices name the pods that
   * are ready, and each proxy has written them into the kernel.
   * @throws ClusterError COMMAND_FAILED after 30 s, naming what is behind.
   */
  async waitForSync(): Promise<void> {
    await requestJson({ socketPath: this.info.labSocket, method: "POST", path: "/sync", timeoutMs: 40_000 });
  }

  /**
   * Runs a command on a host (`node-1`) or in a pod (`namespace/pod`) to its end.
   * @throws StatusError when there is no such host, pod or program.
   */
  async exec(target: string, argv: readonly string[], options: ExecOptions = {}): Promise<ExecResult> {
    const { input, container, signal: abort } = options;
    const [stdout, stderr] = [new Collector(), new Collector()];
    const exitCode = await remoteCommand({
      ...this.#execPath(target, container),
      command: argv,
      stdout,
      stderr,
      ...(input === undefined ? {} : { stdin: Readable.from([Buffer.from(input)]) }),
      ...(abort ? { signal: abort } : {}),
    });
    return { stdout: stdout.text, stderr: stderr.text, exitCode };
  }

  #execPath(target: string, container: string | undefined): { socketPath: string; path: string } {
    const [first = "", second] = target.split("/").map(encodeURIComponent);
    if (second === undefined) return { socketPath: this.info.labSocket, path: `/hosts/${first}/exec` };
    const query = container ? `?container=${encodeURIComponent(container)}` : "";
    const path = `/api/v1/namespaces/${first}/pods/${second}/exec${query}`;
    return { socketPath: this.info.controlSocket, path };
  }

  /** One HTTP request by curl, from a host or a pod. `args` go to curl before the URL. Throws as {@link exec}. */
  async curl(from: string, url: string, args: readonly string[] = []): Promise<CurlResult> {
    const own = ["-sS", "--max-time", "10", "-w", "\n%{http_code}"];
    const { stdout, stderr, exitCode } = await this.exec(from, ["curl", ...own, ...args, url]);
    const end = stdout.lastIndexOf("\n");
    return {
      status: Number(stdout.slice(end + 1)),
      body: stdout.slice(0, Math.max(end, 0)),
      exitCode,
      stderr,
    };
  }

  /**
   * What `iptables-save` prints on a host, of one table (`nat`, `filter`, `mangle`) or of all.
   * @throws ClusterError COMMAND_FAILED with what iptables-save says.
   */
  async rules(host: string, table?: string): Promise<string> {
    const result = await this.exec(host, ["iptables-save", ...(table ? ["-t", table] : [])]);
    if (result.exitCode !== 0) throw new ClusterError("COMMAND_FAILED", `iptables-save: ${result.stderr}`);
    return result.stdout;
  }

  /** The same, parsed. */
  async parsedRules(host: string, table?: string): Promise<Ruleset> {
    return parseSave(await this.rules(host, table));
  }

  /** Opens a NodePort on this machine's loopback. Throws as {@link publish} of lab/lifecycle. */
  async publish(one: Publish): Promise<void> {
    await publish(this.name, one, this.#home);
  }

  /**
   * Process ids of the two processes, as this machine counts.
   * @throws ClusterError NOT_RUNNING when one of them is dead.
   */
  pids(): Record<ProcessRole, number> {
    const paths = clusterPaths(this.name, this.#home);
    const [control, lab] = [runningProcess(paths, "control"), runningProcess(paths, "lab")];
    if (!control || !lab) {
      throw new ClusterError("NOT_RUNNING", `the ${control ? "lab" : "control"} process does not run`);
    }
    return { control: control.pid, lab: lab.pid };
  }

  /**
   * kill -9 of one of the two processes; resolves when it is gone. What it had made stays as after a crash:
   * {@link restart} starts it again.
   */
  async kill(role: ProcessRole): Promise<void> {
    const id = runningProcess(clusterPaths(this.name, this.#home), role);
    if (!id) return;
    signal(id, "SIGKILL");
    await waitGone([id], 10_000);
  }

  /** Starts what is not running, with the same state, names, addresses and ports. Resolves when all is Ready. */
  async restart(): Promise<ProcessRole[]> {
    const { started } = await up({ name: this.name, home: this.#home, ephemeral: true });
    return started;
  }

  /** Ends everything and removes the state. Idempotent. */
  stop(): Promise<void> {
    this.#stopped ??= (async () => {
      await this.#client.close();
      await down(this.name, { home: this.#home });
    })();
    return this.#stopped;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }
}

/** Keeps what is written to it. */
class Collector extends Writable {
  readonly #chunks: Buffer[] = [];

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.#chunks.push(chunk);
    done();
  }

  get text(): string {
    return Buffer.concat(this.#chunks).toString();
  }
}

function runLocal(
  [program = "", ...args]: readonly string[],
  { input, signal: abort }: { input?: string; signal?: AbortSignal },
): Promise<ExecResult> {
  return new Promise((resolve, reject) => {
    const stdin = input === undefined ? "ignore" : "pipe";
    const child = spawn(program, args, {
      stdio: [stdin, "pipe", "pipe"],
      ...(abort ? { signal: abort } : {}),
    });
    const [stdout, stderr] = [new Collector(), new Collector()];
    child.stdout?.pipe(stdout);
    child.stderr?.pipe(stderr);
    child.once("error", reject);
    child.once("close", (code) =>
      resolve({ stdout: stdout.text, stderr: stderr.text, exitCode: code ?? 128 }),
    );
    // EPIPE: it ended before it had read everything; its exit code tells the story.
    child.stdin?.on("error", () => {});
    child.stdin?.end(input);
  });
}
