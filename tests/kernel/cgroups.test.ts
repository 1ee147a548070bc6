// Control groups on the machine's own hierarchies: made below or beside this process's group, with limits, and gone again
// after a life that ended without cleaning up.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import t from "tap";
import { Cgroups, removeRecorded } from "../../dataplane/kernel/cgroups.js";

const directory = mkdtempSync(join(tmpdir(), "kubeplumb-cgroups-"));
const record = join(directory, "cgroups");
t.teardown(() => rmSync(directory, { recursive: true }));
const recorded = () => readFileSync(record, "utf8").split("\n").filter(Boolean);

const first = new Cgroups(record);
const group = first.create("one", { memoryBytes: 64 << 20, cpuMillis: 500 });
const skip = group === undefined && "this user may make no control groups here";

t.test("a process in it is one that has written to what it was given", { skip }, async (t) => {
  const fds = group?.open() ?? [];
  const child = spawn("sh", ["-c", "for fd in $FDS; do echo 0 >&$fd; done; echo in; exec sleep 3600"], {
    stdio: ["ignore", "pipe", "inherit", ...fds],
    env: { ...process.env, FDS: fds.map((_, at) => at + 3).join(" ") },
  });
  fds.forEach(closeSync);
  await once(child.stdout as NonNullable<typeof child.stdout>, "data");
  const own = readFileSync(`/proc/${child.pid}/cgroup`, "utf8");
  const [name] = recorded().map((at) => basename(at));
  t.match(name, /^kubeplumb-[0-9a-f]{12}$/);
  t.match(own, `/${name}/one\n`);
  t.notOk(group?.oomKilled);
  child.kill("SIGKILL");
  await once(child, "exit");
});

t.test("what is left is found by the next life", { skip }, async (t) => {
  const bases = recorded().filter((at) => existsSync(at));
  t.ok(bases.length > 0);
  const parents = bases.map((at) => dirname(at));
  await new Cgroups(record).remove();
  t.same(
    bases.filter((at) => existsSync(at)),
    [],
  );
  t.notOk(existsSync(record));
  t.ok(
    parents.every((at) => existsSync(at)),
    "and nothing else is touched",
  );
  await removeRecorded(record);
});

t.test("a record that somebody has spoilt leads to nothing else", async (t) => {
  const other = mkdtempSync(join(directory, "other-"));
  writeFileSync(record, `${other}\n${directory}\n\n`);
  await removeRecorded(record);
  t.ok(existsSync(other));
});
