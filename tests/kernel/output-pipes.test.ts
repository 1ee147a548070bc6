// What a process in a container says by way of /dev/stdout and of its descriptors' paths, as any user, and that nothing
// of it is lost when it ends.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { runToEnd } from "../../node/pods/run.js";
import { ContainerRoot } from "../../node/process/container-root.js";
import { launch } from "../../node/process/launch.js";
import { DEFAULT_CAPABILITIES, type Privileges } from "../../node/process/privileges.js";
import { mapsOneUser } from "../../node/process/user-ns.js";

const scratch = mkdtempSync(join(tmpdir(), "kubeplumb-output-"));
const ns = NetNs.create("output");
const warnings: string[] = [];
const warn = (message: string) => void warnings.push(message);
const root = ContainerRoot.create({ ns, scratch, mounts: [], files: {}, directories: ["/data"], warn });
const ROOT: Privileges = {
  uid: 0,
  gid: 0,
  groups: [],
  capabilities: DEFAULT_CAPABILITIES,
  noNewPrivileges: false,
};

t.teardown(() => {
  root.close();
  ns.close();
  rmSync(scratch, { recursive: true });
});

function start(script: string, privileges = ROOT) {
  const env = { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" };
  return launch({
    ns,
    root,
    hostname: "box",
    privileges,
    argv: ["sh", "-c", script],
    env,
    stdin: false,
    warn,
  });
}

async function sh(script: string, privileges = ROOT): Promise<string> {
  const { exitCode, output } = await runToEnd(start(script, privileges));
  return `${output.trim()} (${exitCode})`;
}

t.test("standard output and error can be opened by their names", async (t) => {
  const script = "echo one > /dev/stdout; echo two > /dev/stderr; echo three > /proc/1/fd/1";
  t.same((await sh(script)).split(/\s+/).sort(), ["(0)", "one", "three", "two"]);
  t.equal(
    await sh("ln -s /dev/stdout /tmp/log; echo four >> /tmp/log"),
    "four (0)",
    "a log file that is a link",
  );
  const user = { ...ROOT, uid: 1000, gid: 1000, capabilities: [] };
  if (mapsOneUser()) t.comment("only one user");
  else
    t.equal(await sh("echo five > /dev/stdout; id -u", user), "five\n1000 (0)", "of a user who is not root");
  t.same(warnings, []);
});

t.test("all that was said is there at the end, however much and in whichever way it ended", async (t) => {
  const { output, exitCode } = await runToEnd(start("seq 200000; seq 200000 >&2; exit 3"));
  t.equal(exitCode, 3);
  t.equal(output.split("\n").filter(Boolean).length, 400_000);
  const killed = start("echo before; exec sleep 1000");
  const ended = runToEnd(killed);
  killed.stdout.once("data", () => killed.signal("SIGKILL"));
  t.match(await ended, { exitCode: 137, output: "before\n" });
  const slow = start("seq 20000");
  let bytes = 0;
  slow.stdout.on("data", (chunk: Buffer) => {
    bytes += chunk.length;
    slow.stdout.pause();
    setTimeout(() => slow.stdout.resume(), 20);
  });
  await slow.exited;
  t.equal(bytes, 108_894, "it has ended when the last of it is read");
  const unread = start("seq 200");
  t.match(await unread.exited, { exitCode: 0 }, "nobody reads");
});

t.test("a directory of the image is there to work in", async (t) => {
  t.equal(await sh("cd /data && touch file && ls"), "file (0)");
});
