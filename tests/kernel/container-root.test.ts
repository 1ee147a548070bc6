// The root of a container for real: what a process in it sees, changes and cannot change, and that the machine's files
// stay as they are.

import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { runToEnd } from "../../node/pods/run.js";
import { ContainerRoot, type ContainerRootOptions } from "../../node/process/container-root.js";
import { launch } from "../../node/process/launch.js";
import { DEFAULT_CAPABILITIES, type Privileges } from "../../node/process/privileges.js";
import { mapsOneUser } from "../../node/process/user-ns.js";
import { until } from "../helpers/until.js";

// A name with what the options of overlayfs take for their own.
const scratch = mkdtempSync(join(tmpdir(), "kubeplumb-root,lowerdir=:"));
const ns = NetNs.create("root");
const PROOF = "kubeplumb-container-root-test";
const warnings: string[] = [];
let count = 0;

function container(options: Partial<ContainerRootOptions> = {}): ContainerRoot {
  return ContainerRoot.create({
    ns,
    scratch: join(scratch, String(count++)),
    mounts: [],
    files: {},
    warn: (message) => warnings.push(message),
    ...options,
  });
}

const ROOT: Privileges = {
  uid: 0,
  gid: 0,
  groups: [],
  capabilities: DEFAULT_CAPABILITIES,
  noNewPrivileges: false,
};

async function sh(
  root: ContainerRoot,
  script: string,
  { tty = false, privileges = ROOT }: { tty?: boolean; privileges?: Privileges } = {},
): Promise<string> {
  const env = { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" };
  const argv = ["sh", "-c", script];
  const process = launch({
    ns,
    root,
    hostname: "box",
    privileges,
    argv,
    env,
    stdin: false,
    tty,
    warn: (message) => warnings.push(message),
  });
  const { exitCode, output } = await runToEnd(process);
  return `${output.replaceAll("\r", "").trim()}${exitCode ? ` (exit ${exitCode})` : ""}`;
}

t.teardown(() => {
  ns.close();
  rmSync(scratch, { recursive: true });
});

t.test("a container changes its own files, not the machine's", async (t) => {
  using root = container();
  const places = ["/usr/share", "/usr/bin", "/etc", "/opt", "/tmp", "/root", "/var/log", "/run", "/"];
  t.equal(await sh(root, `for d in ${places.join(" ")}; do echo hello > $d/${PROOF} || exit 1; done`), "");
  for (const place of places) t.notOk(existsSync(join(place, PROOF)), `nothing in ${place}`);
  t.equal(
    await sh(root, `cat /usr/share/${PROOF} /root/${PROOF}`),
    "hello\nhello",
    "the next process sees it",
  );
  t.equal(readFileSync(root.path(`/usr/share/${PROOF}`), "utf8"), "hello\n", "and so does the node");
  const programs = readdirSync("/usr/bin").length;
  t.equal(await sh(root, "rm /etc/services /usr/bin/tar && ls /usr/bin/tar 2>/dev/null"), " (exit 2)");
  t.ok(existsSync("/etc/services"));
  t.equal(readdirSync("/usr/bin").length, programs);
  using other = container();
  t.equal(
    await sh(other, `ls -d /etc/services /usr/bin/tar; ls /usr/share/${PROOF} 2>/dev/null`),
    "/etc/services\n/usr/bin/tar (exit 2)",
  );
  t.strictSame(warnings, []);
});

t.test("what of the machine is not the image's is not there", async (t) => {
  using root = container();
  const outside = join(scratch, "outside");
  writeFileSync(outside, "");
  t.equal(
    await sh(root, `ls '${outside}' 2>/dev/null; ls -A /tmp /home /var/lib /mnt`),
    "/home:\n\n/mnt:\n\n/tmp:\n\n/var/lib:",
  );
  t.equal(await sh(root, "hostname; cat /proc/1/comm; cd /var/run && pwd -P"), "box\nsh\n/run");
  t.equal(
    await sh(root, "ls /dev"),
    "fd\nfull\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero",
    "no disk to write to",
  );
  t.equal(await sh(root, "echo gone > /dev/null; head -c 3 /dev/zero | wc -c; : > /dev/shm/x"), "3");
  t.match(await sh(root, "tty; echo typed > /dev/tty", { tty: true }), /^\/dev\/pts\/\d+\ntyped$/);
  t.match(
    await sh(root, "awk '$5 == \"/\" || $5 ~ /machine/' /proc/self/mountinfo"),
    /^[^\n]* \/ [^\n]*$/,
    "one root",
  );
  t.match(await sh(root, ": > /sys/x"), /exit/);
});

t.test("mounts and files of the image", async (t) => {
  const source = join(scratch, "volume");
  mkdirSync(join(source, "below"), { recursive: true });
  writeFileSync(join(source, "a"), "a");
  writeFileSync(join(scratch, "names"), "names");
  using root = container({
    mounts: [
      { source: join(source, "below"), target: "/usr/share/one/html/below" },
      { source, target: "/usr/share/one/html", readOnly: true },
      { source, target: "/data" },
      { source: join(scratch, "names"), target: "/etc/not-on-this-machine", file: true },
      { source: join(scratch, "names"), target: "/etc/passwd", file: true },
      { source: "/bin/cat", target: "/bin/sh", file: true, readOnly: true },
    ],
    files: { "/usr/share/two/index.html": "welcome\n", "/srv/x": "x" },
  });
  const run = async (...argv: string[]) => {
    const env = { PATH: "/usr/bin:/bin" };
    return (
      await runToEnd(
        launch({ ns, root, hostname: "box", privileges: ROOT, argv, env, stdin: false, warn: () => {} }),
      )
    ).output;
  };
  // /bin/sh is cat here: with it no script can be started.
  t.match(await run("true"), /sh/);
  t.equal(readFileSync(root.path("/bin/sh")).compare(readFileSync("/bin/cat")), 0);
  t.equal(readFileSync(root.path("/usr/share/two/index.html"), "utf8"), "welcome\n");
  t.equal(readFileSync(root.path("/etc/not-on-this-machine"), "utf8"), "names");
  t.equal(readFileSync(root.path("/etc/passwd"), "utf8"), "names", "over a file of somebody else");
  t.strictSame(readdirSync(root.path("/usr/share/one/html")), ["a", "below"]);
  writeFileSync(root.path("/data/b"), "b");
  t.equal(readFileSync(join(source, "b"), "utf8"), "b", "a volume is the pod's own directory");
  t.throws(() => writeFileSync(root.path("/usr/share/one/html/c"), ""), { code: "EROFS" });
  writeFileSync(root.path("/usr/share/one/html/below/d"), "d");
  t.ok(existsSync(join(source, "below/d")), "a mount below a read-only one has its own say");
});

t.test("a read-only root", async (t) => {
  const source = join(scratch, "written");
  mkdirSync(source);
  using root = container({ readOnly: true, mounts: [{ source, target: "/data" }] });
  for (const place of ["/", "/etc", "/usr/share", "/tmp", "/root"])
    t.match(await sh(root, `: > ${place}/x`), /Read-only file system/, place);
  t.equal(await sh(root, ": > /data/x; : > /dev/shm/x; ls /data; cat /proc/self/comm"), "x\ncat");
});

t.test("links lead where they lead in the container", async (t) => {
  using root = container();
  await sh(
    root,
    "ln -s /root/x /tmp/abs; ln -s ../../../etc /tmp/up; ln -s loop /tmp/loop; echo in > /root/x",
  );
  t.equal(readFileSync(root.path("/tmp/abs"), "utf8"), "in\n");
  t.match(root.path("/tmp/up/../../../etc/hosts"), /^\/proc\/self\/fd\/\d+\/etc\/hosts$/);
  t.throws(() => readFileSync(root.path("/tmp/loop")), { code: "ELOOP" });
});

t.test("nothing is left when it cannot be made, or when it is closed", async (t) => {
  const before = readFileSync("/proc/self/mountinfo", "utf8");
  const mounts = [{ source: join(scratch, "volume"), target: "/etc/passwd/x" }];
  t.throws(() => container({ mounts }), { message: "/etc/passwd is not a directory" });
  t.equal(readFileSync("/proc/self/mountinfo", "utf8"), before);
  const root = container();
  root.close();
  t.throws(() => root.spawn("true", [], {}), { message: /closed/ });
  t.equal(readFileSync("/proc/self/mountinfo", "utf8"), before);
});

t.test("what a process is and may do", async (t) => {
  const volume = join(scratch, "volume");
  using root = container({ mounts: [{ source: volume, target: "/data" }] });
  const caps = (privileges?: Privileges) =>
    sh(root, "grep -E 'CapBnd|CapEff|NoNewPrivs' /proc/self/status", privileges ? { privileges } : {});
  // 0xa80425fb: what the pages of the Kubernetes documentation show of a container that asks for nothing.
  t.match(await caps(), /^CapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nNoNewPrivs:\t0$/);
  const bare = { ...ROOT, capabilities: ["NET_ADMIN"], noNewPrivileges: true };
  t.match(await caps(bare), /^CapEff:\t0000000000001000\nCapBnd:\t0000000000001000\nNoNewPrivs:\t1$/);
  const settings = ["kernel/hostname", "net/ipv4/ip_forward"].map((name) => `/proc/sys/${name}`);
  for (const path of settings)
    t.match(await sh(root, `cat ${path} > ${path}`), /Read-only file system/, path);
  t.match(await sh(root, "mount -t tmpfs none /mnt"), /permission denied|must be superuser/i);
  t.match(await sh(root, "unshare --mount true"), /Operation not permitted/);
  const all = { privileges: { ...ROOT, capabilities: "all" as const } };
  t.equal(await sh(root, `mount -t tmpfs none /mnt && cat ${settings[1]} > ${settings[1]}`, all), "");
  // A disk by another name, if it could be made: in a user namespace it cannot.
  for (const place of ["/tmp", "/dev", "/usr/share", "/data"])
    t.match(
      await sh(root, `mknod ${place}/zero2 c 1 5 && head -c 1 ${place}/zero2; rm -f ${place}/zero2`),
      /denied|not permitted/,
      place,
    );
});

t.test("another user", { skip: mapsOneUser() && "one user in this user namespace" }, async (t) => {
  using root = container();
  const privileges = { ...ROOT, uid: 1000, gid: 3000, groups: [2000] };
  t.match(await sh(root, "id -u; id -g; id -G", { privileges }), /^1000\n3000\n3000 2000$/);
  t.match(await sh(root, "touch /usr/share/x", { privileges }), /Permission denied/);
  t.equal(
    await sh(root, "touch /tmp/mine; rm /tmp/mine; tty > /dev/tty", { tty: true, privileges }),
    "/dev/pts/0",
  );
  const process = launch({
    ns,
    root,
    hostname: "box",
    privileges,
    argv: ["sleep", "1000"],
    env: { PATH: "/usr/bin:/bin" },
    stdin: false,
    warn: () => {},
  });
  await process.started;
  const pid = process.commandPid() ?? 0;
  const state = () => readFileSync(`/proc/${pid}/status`, { encoding: "utf8" });
  await until(() => /^Uid:\t1000\t/m.test(state()));
  process.signal("SIGKILL");
  await process.exited;
  await until(() => !existsSync(`/proc/${pid}`) || /^State:\tZ/m.test(state()));
  t.pass("it has ended with what started it");
});
