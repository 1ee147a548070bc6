// A host in a namespace of its own for a kernel test file of the CNI plugin, gone at its end: pods without anything in
// them, foreign plugins in shell, and what attachments leave behind.

import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { isIP } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { type AttachmentOptions, type CniResult, defaultConflist } from "../../cni/index.js";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { NetlinkError, RtNetlink } from "../../dataplane/kernel/rtnetlink.js";

export const dir = mkdtempSync(join(tmpdir(), "kubeplumb-cni-"));
export const stateDir = join(dir, "cni");
export const subnetFile = join(dir, "subnet.env");
export const binDir = join(dir, "bin");
export const host = NetNs.create("host");
export const rt = RtNetlink.open(host);
/** The configuration that a host of ours has. */
export const conflist = defaultConflist({ subnetFile });
let counter = 0;

t.teardown(() => {
  rt.close();
  rmSync(dir, { recursive: true, force: true });
});

/** Writes what the overlay tells the plugin once it is up. */
export function overlayUp(): void {
  writeFileSync(
    subnetFile,
    "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\n",
  );
}

export interface Pod {
  ns: NetNs;
  options: AttachmentOptions;
}

/** An empty namespace, and how libcni is called for it. */
export function newPod(ns = NetNs.create(`pod-${counter}`)): Pod {
  const containerId = `pod-${counter++}`;
  const base = { containerId, netns: ns.path, ifName: "eth0" };
  return { ns, options: { ...base, binDirs: [binDir], confPath: dir, stateDir, hostNs: host } };
}

/** The first address of a result, without its length. */
export const addressOf = (result: CniResult): string => result.ips?.[0]?.address.split("/")[0] ?? "";

/** Everything that an attachment leaves on the host: ports, reserved addresses, cached results. */
export async function traces(): Promise<{ ports: string[]; addresses: string[]; results: string[] }> {
  const names = (path: string) => (existsSync(path) ? readdirSync(path) : []);
  return {
    ports: (await rt.listLinks()).filter(({ master }) => master === "cni0").map(({ name }) => name),
    addresses: names(join(stateDir, "networks", "kubeplumb")).filter((name) => isIP(name) !== 0),
    results: names(join(stateDir, "results")),
  };
}

export const NOTHING = { ports: [], addresses: [], results: [] };

/** Looks into a pod. */
export const inside = async <T>(ns: NetNs, use: (rt: RtNetlink) => Promise<T>): Promise<T> => {
  using pod = RtNetlink.open(ns);
  return await use(pod);
};

/** Whether an address answers. */
export const pings = (from: NetNs, to: string) =>
  from.exec("ping", ["-c", "1", "-W", "10", to]).then(
    () => true,
    () => false,
  );

/** A foreign plugin: a shell script that speaks the protocol. */
export function plugin(name: string, body: string): void {
  mkdirSync(binDir, { recursive: true });
  writeFileSync(join(binDir, name), `#!/bin/sh\nconf=$(cat)\n${body}\n`);
  chmodSync(join(binDir, name), 0o755);
}

/** Runs cni/main.js of this build as the executable would. */
export async function runPlugin(verb: string, conf: string, options: AttachmentOptions): Promise<unknown> {
  const main = fileURLToPath(new URL("../../cni/main.js", import.meta.url));
  const script = `import { runProcess } from ${JSON.stringify(main)}; await runProcess();`;
  const env = {
    ...process.env,
    CNI_COMMAND: verb,
    CNI_CONTAINERID: options.containerId,
    CNI_NETNS: options.netns,
    CNI_IFNAME: options.ifName,
    CNI_PATH: binDir,
  };
  const args = ["--input-type=module", "--eval", script];
  // The configuration comes on stdin, which --eval leaves alone.
  const { stdout } = await host.exec(process.execPath, args, { input: conf, env });
  return stdout.trim() === "" ? undefined : JSON.parse(stdout);
}

export type FaultyMethod = "addVeth" | "setLink" | "addAddress" | "addRoute" | "getLink";

/** Makes the n-th call of a method of RtNetlink fail, whoever calls it, while `use` runs. */
export async function withFault<T>(method: FaultyMethod, n: number, use: () => Promise<T>): Promise<T> {
  const original = RtNetlink.prototype[method] as (...args: unknown[]) => Promise<void>;
  let calls = 0;
  const faulty = function (this: RtNetlink, ...args: unknown[]): Promise<void> {
    if (++calls === n) {
      const where = this.ns.name;
      return Promise.reject(
        new NetlinkError({ code: "ENOMEM", operation: method, detail: "injected", where }),
      );
    }
    return original.apply(this, args);
  };
  Object.defineProperty(RtNetlink.prototype, method, { value: faulty, configurable: true, writable: true });
  try {
    return await use();
  } finally {
    Object.defineProperty(RtNetlink.prototype, method, {
      value: original,
      configurable: true,
      writable: true,
    });
  }
}
