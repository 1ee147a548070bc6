// Makes a fresh clone ready to run: Node version, system packages, npm packages, build. Does only what is missing
// and says nothing when nothing is. Plain Node without dependencies: it runs before they are there.

import { spawnSync } from "node:child_process";
import {
  accessSync,
  constants,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { delimiter, isAbsolute, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

export const root = resolve(fileURLToPath(new URL("..", import.meta.url)));

const NODE_MINIMUM = [20, 19];

/** Programs that a cluster and its users start, and the Debian package of each. */
const PROGRAMS = [
  ["iptables", "iptables"],
  ["ip", "iproute2"],
  ["ping", "iputils-ping"],
  ["curl", "curl"],
  ["unshare", "util-linux"],
  ["nsenter", "util-linux"],
];

/** What only tests start: without it they skip what needs it, and say so. */
const TEST_PROGRAMS = [
  ["dig", "bind9-dnsutils"],
  ["etcd", "etcd-server"],
  ["/usr/lib/cni/bridge", "containernetworking-plugins"],
  ["containerd", "containerd"],
  ["podman", "podman"],
  ["crun", "crun"],
  ["busybox", "busybox-static"],
  ["dnsmasq", "dnsmasq-base"],
  ["nft", "nftables"],
];

/**
 * Firewalls that tests run in namespaces of their own, with what firewalld is written in. Never installed: their
 * packages start them, and then they change this machine's rules.
 */
const FIREWALLS = [
  "ufw",
  "firewalld",
  "python3-firewall",
  "python3-nftables",
  "python3-dbus",
  "python3-gi",
  "gir1.2-glib-2.0",
  "libgirepository-1.0-1",
  "dbus-daemon",
];

/** What VMs are made and run with (npm run test:vm). */
const VM_PROGRAMS = [
  ["debootstrap", "debootstrap"],
  ["qemu-system-x86_64", "qemu-system-x86"],
  ["qemu-img", "qemu-utils"],
  ["mke2fs", "e2fsprogs"],
  ["rsync", "rsync"],
  ["ssh", "openssh-client"],
  ["vagrant", "vagrant-libvirt"],
  ["libvirtd", "libvirt-daemon-system"],
  ["libvirtd", "libvirt-daemon-driver-qemu"],
  ["virsh", "libvirt-clients"],
  ["dnsmasq", "dnsmasq-base"],
];

/** What the compiler reads, and what decides how. */
const SOURCES = [
  "index.ts",
  "common",
  "control",
  "dataplane",
  "cni",
  "node",
  "lab",
  "client",
  "cli",
  "tests",
  "bench",
  "tsconfig.json",
  "package-lock.json",
  "scripts/generate-schema.mjs",
];

/** Of a failed command's output. */
const MESSAGE_LINES = 40;

const STAMP = join(root, "dist", ".built");

class SetupError extends Error {}

const say = (text) => process.stderr.write(`${text}\n`);

/** Runs a command; its output is shown only when it fails. */
function run(command, args, options = {}) {
  const { status, error, stdout, stderr } = spawnSync(command, args, {
    cwd: root,
    encoding: "utf8",
    maxBuffer: 64 << 20,
    ...options,
  });
  if (status === 0) return;
  const lines = [stdout, stderr, error?.message].filter(Boolean).join("\n").trim().split("\n");
  const more = lines.length > MESSAGE_LINES ? `\n(and ${lines.length - MESSAGE_LINES} more lines)` : "";
  throw new SetupError(
    `${[command, ...args].join(" ")} failed:\n${lines.slice(0, MESSAGE_LINES).join("\n")}${more}`,
  );
}

function checkNode() {
  const [major, minor] = process.versions.node.split(".").map(Number);
  const [wantMajor, wantMinor] = NODE_MINIMUM;
  if (major > wantMajor || (major === wantMajor && minor >= wantMinor)) return;
  throw new SetupError(
    `Node.js ${NODE_MINIMUM.join(".")} or newer is needed, this is ${process.versions.node}; see https://nodejs.org`,
  );
}

/** Whether a program is installed; sbin counts, though it is not on everybody's PATH. */
function isInstalled(program) {
  const path = (process.env.PATH ?? "").split(delimiter).concat("/usr/local/sbin", "/usr/sbin", "/sbin");
  const folders = isAbsolute(program) ? ["/"] : path.filter(Boolean);
  return folders.some((folder) => {
    try {
      accessSync(join(folder, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

function installPrograms(programs, { optional = false } = {}) {
  const missing = programs.filter(([program]) => !isInstalled(program));
  if (missing.length === 0) return;
  const names = [...new Set(missing.map(([program]) => program))].join(", ");
  const packages = [...new Set(missing.map(([, name]) => name))];
  const isRoot = process.getuid?.() === 0;
  if (!isRoot || !isInstalled("apt-get")) {
    if (optional) return;
    throw new SetupError(
      `missing: ${names}. Install them and try again:\n\n  sudo apt-get install -y ${packages.join(" ")}\n`,
    );
  }
  say(`Installing ${packages.join(", ")} (for ${names})`);
  // Offline: the service that a package brings is not to run here.
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive", SYSTEMD_OFFLINE: "1" };
  // Nothing may leave for it: Docker's own containerd would have to for Debian's.
  const options = ["-y", "-qq", "--no-install-recommends", "--no-remove"];
  try {
    run("apt-get", ["update", "-qq"], { env });
    run("apt-get", ["install", ...options, ...packages], { env });
  } catch (error) {
    if (!optional) throw error;
    say(`Not installed: ${error.message}; tests that need ${names} are left out`);
  }
}

/** Into .cache/firewalls: files as they would be below /. */
function unpackFirewalls() {
  const dir = join(root, ".cache", "firewalls");
  if (existsSync(dir) || process.getuid?.() !== 0 || !isInstalled("apt-get")) return;
  say(`Unpacking ${FIREWALLS.join(", ")} for tests`);
  const fresh = `${dir}.${process.pid}`;
  try {
    mkdirSync(fresh, { recursive: true });
    run("apt-get", ["update", "-qq"]);
    run("apt-get", ["download", "-qq", "-o", "APT::Sandbox::User=root", ...FIREWALLS], { cwd: fresh });
    for (const name of readdirSync(fresh)) {
      run("dpkg-deb", ["-x", name, "."], { cwd: fresh });
      rmSync(join(fresh, name));
    }
    // Debian 12's packages still have some of their files there.
    if (existsSync(join(fresh, "lib")))
      cpSync(join(fresh, "lib"), join(fresh, "usr", "lib"), { recursive: true });
    renameSync(fresh, dir);
  } catch (error) {
    rmSync(fresh, { recursive: true, force: true });
    say(`Not unpacked: ${error.message}; tests of firewalls are left out`);
  }
}

function modified(path) {
  try {
    return statSync(path).mtimeMs;
  } catch {
    return undefined;
  }
}

function installPackages() {
  // npm writes this file at the end of an install.
  const installed = modified(join(root, "node_modules", ".package-lock.json"));
  if (installed !== undefined && installed >= modified(join(root, "package-lock.json"))) return;
  say("Installing npm packages");
  const quiet = ["--include=dev", "--no-audit", "--no-fund", "--loglevel=error"];
  try {
    run("npm", ["ci", ...quiet]);
  } catch (error) {
    // A lock file that was written behind a registry without the packages of other platforms: `npm ci` takes no such
    // thing, though nothing of this platform is missing. `npm install` keeps to the versions in it all the same.
    if (!/EUSAGE/.test(error.message)) throw error;
    run("npm", ["install", "--no-save", ...quiet]);
  }
}

/** Time of the newest file below `path`, directories included: a deleted file changes its directory. */
function newest(path) {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (!stat) return 0;
  if (!stat.isDirectory()) return stat.mtimeMs;
  const children = readdirSync(path)
    .filter((name) => !name.endsWith(".generated.json") && name !== "node_modules")
    .map((name) => newest(join(path, name)));
  return Math.max(0, ...children);
}

function build() {
  const built = modified(STAMP);
  const changed = Math.max(...SOURCES.map((source) => newest(join(root, source))));
  if (built !== undefined && built >= changed) return;
  say("Building");
  // The compiler's own record of what it has written would make it skip files that are gone.
  if (!existsSync(STAMP)) rmSync(join(root, "node_modules", ".cache", "tsbuildinfo"), { force: true });
  const started = new Date();
  run("npm", ["run", "build", "--silent"]);
  writeFileSync(STAMP, `${started.toISOString()}\n`);
}

/** Everything, in order; with `tests` what they need too, with `vms` what tests of VMs need. Ends the process with 1 and a message when something cannot be done. */
export function setup({ tests = false, vms = false } = {}) {
  try {
    checkNode();
    installPrograms(PROGRAMS);
    if (tests) installPrograms(TEST_PROGRAMS, { optional: true });
    if (tests) unpackFirewalls();
    if (vms) installPrograms(VM_PROGRAMS);
    installPackages();
    build();
  } catch (error) {
    if (!(error instanceof SetupError) && error.code !== "EACCES" && error.code !== "EROFS") throw error;
    say(`setup: ${error.message}`);
    process.exit(1);
  }
}

if (process.argv[1] && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) setup();
