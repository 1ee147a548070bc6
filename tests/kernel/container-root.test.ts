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

async function sh(root: ContainerRoot, script: string, tty = false): Promise<string> {
  const env = { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" };
  const argv = ["sh", "-c", script];
  const process = launch({
    ns,
    root,
    hostname: "box",
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
  t.match(await sh(root, "tty; echo typed > /dev/tty", true), /^\/dev\/pts\/\d+\ntyped$/);
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
    return (await runToEnd(launch({ ns, root, hostname: "box", argv, env, stdin: false, warn: () => {} })))
      .output;
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
