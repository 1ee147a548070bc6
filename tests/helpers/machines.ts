// Machines for tests of the daemons: network and mount namespaces on one bridge, each with its own /run, /var/lib and
// /etc, and with the NAT interface that VMs have. Everything goes with the namespaces of the test's process.

import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { mkdirSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const BRIDGE = "kpbr0";
export const OUTSIDE = "192.168.56.1";
const PATH = `${process.env.PATH}:/usr/sbin:/sbin`;
const env = { ...process.env, PATH };

/** The wire, in the namespace of the test itself. */
export function makeWire(): void {
  ip("link set lo up");
  ip(`link add ${BRIDGE} type bridge`);
  ip(`addr add ${OUTSIDE}/24 dev ${BRIDGE}`);
  ip(`link set ${BRIDGE} up`);
}

function ip(words: string): void {
  execFileSync("ip", words.split(" "), { env });
}

export interface Ran {
  code: number;
  out: string;
  err: string;
}

/** A long-running command on a machine. */
export interface Daemon {
  readonly child: ChildProcess;
  readonly exited: Promise<number>;
  /** What it has logged until now. */
  log(): string;
  /** Resolves when the log has it; rejects with the log when the command ends before, or after 60 s. */
  logged(pattern: RegExp): Promise<string>;
}

export class Machine {
  readonly name: string;
  readonly ip: string;
  readonly #pid: number;
  readonly #keeper: ChildProcess;
  readonly #directory: string;
  #logs = 0;

  private constructor(name: string, address: string, directory: string, keeper: ChildProcess) {
    this.name = name;
    this.ip = address;
    this.#directory = directory;
    this.#keeper = keeper;
    this.#pid = keeper.pid ?? 0;
  }

  static async create(name: string, address: string, directory: string): Promise<Machine> {
    const own = join(directory, name);
    for (const part of ["etc", "var", "run"]) mkdirSync(join(own, part), { recursive: true });
    const script = [
      // What cannot be read is nobody's business here.
      `cp -a /etc/. ${own}/etc 2>/dev/null; mkdir -p ${own}/etc/systemd/system`,
      // A configuration of a runtime of this machine (podman's) would be preferred to our own.
      `rm -rf ${own}/etc/cni`,
      `mount --bind ${own}/etc /etc && mount --bind ${own}/var /var/lib && mount -t tmpfs none /run`,
      "mount -t sysfs none /sys 2>/dev/null",
      "echo made; exec sleep 1000000",
    ].join("\n");
    const argv = ["-n", "-m", "-u", "--propagation", "private", "sh", "-c", script];
    const keeper = spawn("unshare", argv, { stdio: ["ignore", "pipe", "inherit"], env });
    await new Promise<void>((resolve, reject) => {
      keeper.stdout?.once("data", () => resolve());
      keeper.once("exit", (code) => reject(new Error(`the machine ${name} ended with ${code}`)));
    });
    const machine = new Machine(name, address, own, keeper);
    const wire = `w-${name}`;
    ip(`link add ${wire} type veth peer name eth1 netns ${keeper.pid}`);
    ip(`link set ${wire} master ${BRIDGE} up`);
    const setup = [
      "ip link set lo up",
      "ip link add eth0 type veth peer name nat",
      "ip addr add 10.0.2.15/24 dev eth0",
      "ip link set eth0 up && ip link set nat up",
      `ip addr add ${address}/24 dev eth1 && ip link set eth1 up && ip route add default via ${OUTSIDE}`,
      `hostname ${name}`,
    ];
    const { code, err } = await machine.run("sh", "-ec", setup.join("\n"));
    if (code !== 0) throw new Error(`machine ${name}: ${err}`);
    return machine;
  }

  #inside(argv: readonly string[]): string[] {
    return ["-t", String(this.#pid), "-n", "-m", "-u", "--", ...argv];
  }

  /** A command to its end. */
  run(...argv: string[]): Promise<Ran> {
    return runToEnd("nsenter", this.#inside(argv));
  }

  start(...argv: string[]): Daemon {
    const path = join(this.#directory, `log-${this.#logs++}`);
    const fd = openSync(path, "w");
    // exec: the process is the command itself, to be killed by its id.
    const child = spawn("nsenter", this.#inside(argv), { stdio: ["ignore", fd, fd], env });
    const exited = new Promise<number>((resolve) => {
      child.once("exit", (code, signal) => resolve(code ?? (signal === "SIGKILL" ? 137 : 128)));
    });
    const log = () => readFileSync(path, "utf8");
    const logged = async (pattern: RegExp): Promise<string> => {
      for (const deadline = Date.now() + 60_000; ; await sleep(50)) {
        const found = pattern.exec(log())?.[0];
        if (found !== undefined) return found;
        if (child.exitCode !== null || child.signalCode !== null || Date.now() > deadline)
          throw new Error(`${this.name}: ${argv.join(" ")} did not log ${pattern}:\n${log()}`);
      }
    };
    return { child, exited, log, logged };
  }

  close(): void {
    this.#keeper.kill("SIGKILL");
  }
}

/** A command in the namespace of the test: outside all machines. */
export function runToEnd(command: string, args: readonly string[], input?: string | Buffer): Promise<Ran> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ["pipe", "pipe", "pipe"], env });
    let out = "";
    let err = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      out += text;
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      err += text;
    });
    child.once("error", reject);
    child.once("close", (code) => resolve({ code: code ?? 128, out, err }));
    // EPIPE: it ended before it had read everything; its exit code tells the story.
    child.stdin.on("error", () => {});
    child.stdin.end(input ?? "");
  });
}
