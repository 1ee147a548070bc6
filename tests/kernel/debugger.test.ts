// A debugger that begins to listen (SIGUSR1) at the worst moment: while the process is inside a host's namespaces. A file
// of its own, because a process that cannot come home ends itself.

import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { url } from "node:inspector";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { CLONE_NEWUTS, unshare } from "../../dataplane/kernel/libc.js";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { RtNetlink } from "../../dataplane/kernel/rtnetlink.js";
import { HostShell } from "../../lab/host-process.js";

/** Milliseconds that Node gets to start its thread inside, if it were to. */
const CHANCE_MS = 500;

// To come home to, as a lab has one: without root the machine's own may not be entered again.
unshare(CLONE_NEWUTS);
const directory = mkdtempSync(join(tmpdir(), "kp-debugger-"));
const home = RtNetlink.open(NetNs.current());
await home.setLink("lo", { up: true });
home.close();
const ns = NetNs.create("node-1");
const shell = new HostShell(ns, "node-1", { runDir: directory, files: {} });
t.teardown(() => {
  shell[Symbol.dispose]();
  ns.close();
  rmSync(directory, { recursive: true, force: true });
});

async function hostname(cwd: () => string): Promise<string> {
  const options = {
    // Read inside the host, before the fork.
    get cwd() {
      return cwd();
    },
    stdio: ["ignore" as const, "pipe" as const, "inherit" as const],
  };
  const child = shell.spawn("hostname", [], options);
  return child.stdout ? text(child.stdout) : "";
}

t.test("SIGUSR1 inside a host", async (t) => {
  process.debugPort = 0;
  let inside: string | undefined;
  const said = await hostname(() => {
    process.kill(process.pid, "SIGUSR1");
    for (const end = performance.now() + CHANCE_MS; !url() && performance.now() < end; );
    inside = url();
    return "/";
  });
  t.equal(said, "node-1\n", "the process came home");
  t.equal(inside, undefined, "no thread was started inside");
  while (!url()) await sleep(5);
  const socket = connect(Number(new URL(url() ?? "").port), "127.0.0.1");
  await once(socket, "connect");
  socket.destroy();
  t.pass("the debugger listens at home");
  t.equal(await hostname(() => "/"), "node-1\n", "hosts are entered beside its thread");
  process.kill(process.pid, "SIGUSR1");
  t.equal(await hostname(() => "/"), "node-1\n", "a second signal changes nothing");
});
