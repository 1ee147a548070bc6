// Labs for tests of the lab's life, in state directories of their own, and all that such a test can leave on the
// machine. Loading this file sets the loopback of the network namespace up.

import { randomUUID } from "node:crypto";
import { chmodSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import t from "tap";
import { remoteCommand } from "../../client/remote-command.js";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { RtNetlink } from "../../dataplane/kernel/rtnetlink.js";
import { down, listClusters } from "../../lab/lifecycle.js";
import type { UpResult } from "../../lab/types.js";
import { machineSnapshot } from "./machine-snapshot.js";

const MARKER = `KUBEPLUMB_TEST=${randomUUID()}`;
process.env[MARKER.split("=")[0] as string] = MARKER.split("=")[1];

/** Where a state directory may lie: short enough for sockets, gone at the end. */
export const base = mkdtempSync(join(tmpdir(), "kpl-"));
chmodSync(base, 0o755);
t.teardown(() => rmSync(base, { recursive: true, force: true }));

// A new network namespace, as the runner makes one for this file, has its loopback down.
{
  const netlink = RtNetlink.open(NetNs.current());
  await netlink.setLink("lo", { up: true });
  netlink.close();
}

/** A new place for clusters; what a failed test leaves there is ended. */
export function freshHome(t: { teardown(fn: () => Promise<void>): void }, name: string): string {
  const home = join(base, name);
  mkdirSync(home);
  t.teardown(async () => {
    for (const cluster of await listClusters(home)) await down(cluster, { home });
  });
  return home;
}

/** All that a lab could leave on this machine. */
export const snapshot = () =>
  machineSnapshot({ marker: MARKER, directories: [base, "/run/netns", "/tmp/kubeplumb-cni"] });

/** Command in a host, stdout. */
export async function inHost(info: UpResult, host: string, ...argv: string[]): Promise<string> {
  const [stdout, stderr] = [new PassThrough(), new PassThrough()];
  const path = `/hosts/${host}/exec`;
  let text = "";
  stdout.on("data", (chunk) => {
    text += chunk;
  });
  stderr.on("data", (chunk) => {
    text += chunk;
  });
  const code = await remoteCommand({ socketPath: info.labSocket, path, command: argv, stdout, stderr });
  if (code !== 0) throw new Error(`${argv.join(" ")}: ${text}`);
  return text;
}

/** What is left of a list when it is empty, or after a minute. */
export async function waitGoneFor<T>(list: () => T[]): Promise<T[]> {
  for (let i = 0; i < 12_000 && list().length > 0; i++)
    await new Promise((resolve) => setTimeout(resolve, 5));
  return list();
}
