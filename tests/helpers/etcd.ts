// A real etcd server for tests and benchmarks, in a folder and on ports of its own: started, stopped, killed, held still.

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { openSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Agent, request } from "undici";
import { freePort } from "./free-port.js";

const START_MS = 30_000;

/** False where etcd is not installed, or when it cannot be run; else true. */
export const hasEtcd = spawnSync("etcd", ["--version"], { stdio: "ignore" }).status === 0;

/** For tap: why tests of etcd are left out here, or false. */
export const withoutEtcd: string | false = hasEtcd ? false : "etcd is not installed (Debian: etcd-server)";

/** Files with PEM text: what clients are checked against, and what etcd shows to them. */
export interface EtcdFiles {
  ca: string;
  cert: string;
  key: string;
}

interface Member {
  name: string;
  client: number;
  peer: number;
}

export class EtcdServer {
  readonly url: string;
  readonly #dir: string;
  readonly #me: Member;
  readonly #members: readonly Member[];
  readonly #tls: EtcdFiles | undefined;
  #child: ChildProcess | undefined;

  private constructor(dir: string, me: Member, members: readonly Member[], tls?: EtcdFiles) {
    this.#dir = dir;
    this.#me = me;
    this.#members = members;
    this.#tls = tls;
    this.url = `${tls ? "https" : "http"}://127.0.0.1:${me.client}`;
  }

  /** Servers of one cluster that are not running yet. */
  static async cluster(dir: string, size: number, tls?: EtcdFiles): Promise<EtcdServer[]> {
    const members: Member[] = [];
    for (let n = 0; n < size; n++)
      members.push({ name: `m${n}`, client: await freePort(), peer: await freePort() });
    return members.map((me) => new EtcdServer(dir, me, members, tls));
  }

  /** A cluster of one, running. */
  static async start(dir: string, tls?: EtcdFiles): Promise<EtcdServer> {
    const [server] = (await EtcdServer.cluster(dir, 1, tls)) as [EtcdServer];
    server.start();
    await server.ready();
    return server;
  }

  get pid(): number {
    return this.#child?.pid ?? 0;
  }

  /** Starts it on what it has kept; NAME.log in its folder says how that went. */
  start(more: readonly string[] = []): void {
    const { name, peer } = this.#me;
    const log = openSync(join(this.#dir, `${name}.log`), "a");
    const tls = this.#tls;
    const peerUrl = (port: number) => `http://127.0.0.1:${port}`;
    this.#child = spawn(
      "etcd",
      [
        `--name=${name}`,
        `--data-dir=${join(this.#dir, name)}`,
        `--listen-client-urls=${this.url}`,
        `--advertise-client-urls=${this.url}`,
        `--listen-peer-urls=${peerUrl(peer)}`,
        `--initial-advertise-peer-urls=${peerUrl(peer)}`,
        `--initial-cluster=${this.#members.map((other) => `${other.name}=${peerUrl(other.peer)}`).join(",")}`,
        ...(tls
          ? [
              "--client-cert-auth",
              `--trusted-ca-file=${tls.ca}`,
              `--cert-file=${tls.cert}`,
              `--key-file=${tls.key}`,
            ]
          : []),
        ...more,
      ],
      { stdio: ["ignore", log, log] },
    );
  }

  /** Until it takes writes; a member of a larger cluster does only when most are there. */
  async ready(): Promise<void> {
    const tls = this.#tls && {
      ca: readFileSync(this.#tls.ca),
      cert: readFileSync(this.#tls.cert),
      key: readFileSync(this.#tls.key),
    };
    const dispatcher = new Agent({ connect: { ...tls } });
    try {
      for (const end = Date.now() + START_MS; Date.now() < end; await sleep(50)) {
        if (this.#child?.exitCode !== null) break;
        const answer = await request(`${this.url}/health`, { dispatcher }).catch(() => undefined);
        if ((await answer?.body.text())?.includes('"true"')) return;
      }
    } finally {
      await dispatcher.close();
    }
    throw new Error(`etcd did not become ready, see ${this.#dir}`);
  }

  /** Holds it still. Resolves when all of its threads are: one that is awake answers what comes until then. */
  async freeze(): Promise<void> {
    this.#child?.kill("SIGSTOP");
    const tasks = `/proc/${this.#child?.pid}/task`;
    const isStill = (task: string) => {
      try {
        return /\) T /.test(readFileSync(join(tasks, task, "stat"), "utf8"));
      } catch {
        // It has ended meanwhile.
        return false;
      }
    };
    while (!readdirSync(tasks).every(isStill)) await sleep(1);
  }

  thaw(): void {
    this.#child?.kill("SIGCONT");
  }

  /** Resolves when it is gone. */
  async stop(signal: NodeJS.Signals = "SIGTERM"): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const gone = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGCONT");
    child.kill(signal);
    await gone;
  }
}
