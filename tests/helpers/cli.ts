// The kubeplumb command inside a test: a home of its own, its output as text, and clusters that are only a folder.
// Starts no process.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable, Writable } from "node:stream";
import t from "tap";
import { run } from "../../cli/main.js";
import type { Input, Output } from "../../cli/streams.js";

/** Of this test file, gone at its end. */
export const directory = mkdtempSync(join(tmpdir(), "kp-cli-"));
/** Where the commands look for clusters. */
export const home = join(directory, "home");
process.env.KUBEPLUMB_HOME = home;
t.teardown(() => rmSync(directory, { recursive: true, force: true }));

/** Writes the command, as this very code, into the folder; its path. */
export function installCommand(bin: string): string {
  mkdirSync(bin, { recursive: true });
  const main = new URL("../../cli/main.js", import.meta.url).href;
  writeFileSync(join(bin, "start.mjs"), `import { main } from ${JSON.stringify(main)};\nawait main();\n`);
  const path = join(bin, "kubeplumb");
  const script = `#!/bin/sh\nexec '${process.execPath}' '${join(bin, "start.mjs")}' "$@"\n`;
  writeFileSync(path, script, { mode: 0o755 });
  return path;
}

/** What a command writes; `isTTY` makes it a terminal. */
export class Sink extends Writable {
  text = "";
  isTTY?: boolean;
  columns?: number;
  onOutput: (() => void) | undefined;
  constructor(isTTY?: boolean) {
    super();
    if (isTTY) this.isTTY = true;
  }
  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.text += chunk.toString();
    this.onOutput?.();
    done();
  }
}

export interface Ran {
  code: number;
  out: string;
  err: string;
}

/** Runs a command line in this process. */
export async function kubeplumb(
  argv: readonly string[],
  options: { stdin?: string; env?: NodeJS.ProcessEnv; signal?: AbortSignal; onOutput?: () => void } = {},
): Promise<Ran> {
  const [stdout, stderr] = [new Sink(), new Sink()];
  stdout.onOutput = options.onOutput;
  const stdin: Input = Readable.from(options.stdin === undefined ? [] : [options.stdin]);
  const env = { PATH: process.env.PATH, HOME: directory, ...options.env };
  const code = await run(
    argv,
    { stdin, stdout: stdout as Output, stderr: stderr as Output, env },
    options.signal,
  );
  return { code, out: stdout.text, err: stderr.text };
}

/** A cluster as the commands find it: a configuration on disk, sockets that the test may serve. */
export function pretendCluster(name: string): { dir: string; labSocket: string; controlSocket: string } {
  const dir = join(home, name);
  mkdirSync(dir, { recursive: true });
  const nodes = ["node-1", "node-2"].map((node, index) => ({
    name: node,
    ip: `192.168.56.${11 + index}`,
    labels: {},
    taints: [],
  }));
  const networking = {
    podSubnet: "10.244.0.0/16",
    serviceSubnet: "10.96.0.0/16",
    nodeSubnet: "192.168.56.0/21",
    loadBalancerPool: "192.168.56.200-192.168.56.250",
    iptables: "auto",
    nodePortRange: [30000, 32767],
  };
  const controlPlane = { apiPort: 6443, nodeMonitorGracePeriodSeconds: 40, defaultTolerationSeconds: 300 };
  const publish = [{ hostPort: 8080, nodePort: 30080, address: "127.0.0.1" }];
  writeFileSync(
    join(dir, "cluster.json"),
    JSON.stringify({ name, networking, nodes, images: {}, publish, controlPlane }),
  );
  writeFileSync(join(dir, "kubeconfig"), clusterKubeconfig(`kubeplumb-${name}`));
  return { dir, labSocket: join(dir, "lab.sock"), controlSocket: join(dir, "control.sock") };
}

/** A kubeconfig with one context, cluster and user, of one name. */
export function clusterKubeconfig(name: string, server = "https://127.0.0.1:6443"): string {
  const data = Buffer.from("x".repeat(300)).toString("base64");
  return `apiVersion: v1
kind: Config
current-context: ${name}
clusters:
- name: ${name}
  cluster: { server: "${server}", certificate-authority-data: ${data} }
contexts:
- name: ${name}
  context: { cluster: ${name}, user: ${name} }
users:
- name: ${name}
  user: { client-certificate-data: ${data}, client-key-data: ${data} }
`;
}
