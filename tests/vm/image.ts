// The disk of a VM: a small Debian 12 with the kernel of clouds, as root, from Debian's packages. Made once and kept in
// .cache/vm until what it is made of changes. As a program: makes it, outside of the tests' namespaces.

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

/** What the compiler has made: dist, of which this file is tests/vm/image.js. */
export const DIST = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
export const ROOT = checkout(DIST);
const CACHE = join(ROOT, ".cache/vm");
const GIB = 2 ** 30;
const SUITE = "bookworm";

const PACKAGES = [
  "systemd-sysv",
  "udev",
  "dbus",
  "openssh-server",
  "sudo",
  "iproute2",
  "iptables",
  "kmod",
  "procps",
  "iputils-ping",
  "rsync",
  "ca-certificates",
  "curl",
  "initramfs-tools",
  "linux-image-cloud-amd64",
  "libstdc++6",
  // For the lab's tests of DNS and of jobs.
  "bind9-dnsutils",
  "wget",
  // For the test of real containers; the second has the plugin that the first calls.
  "containerd",
  "containernetworking-plugins",
];

/** What the initial RAM disk has to find the disk with; some of it is built in. */
const BOOT_MODULES = ["virtio_pci", "virtio_blk", "ext4", "crc32c_generic"];

/** Of Debian 11, whose kernel is the oldest that is supported. Its updates end in 2026, and so does its signature. */
const OLD_SOURCE =
  "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg check-valid-until=no] http://deb.debian.org/debian-security bullseye-security main";
const INSTALL_OLD = `apt-get update -qq
name=$(apt-cache pkgnames linux-image-5.10.0- | grep -- '[0-9]-cloud-amd64$' | sort -V | tail -n 1)
apt-get install -y -qq --no-install-recommends $name`;

const NETWORK = `[Match]
Name=eth0

[Network]
DHCP=ipv4

[DHCPv4]
ClientIdentifier=mac
`;
/** What takes time under software emulation and is of no use here. */
const MASKED = [
  "apt-daily.timer",
  "apt-daily-upgrade.timer",
  "dpkg-db-backup.timer",
  "e2scrub_all.timer",
  "e2scrub_reap.service",
  "fstrim.timer",
  "systemd-logind.service",
  "getty@tty1.service",
  "serial-getty@ttyS0.service",
];

const PRIVATE = ["unshare", "--mount", "--propagation", "private"] as const;

export interface Kernel {
  kernel: string;
  initrd: string;
}

export interface Image extends Kernel {
  /** qcow2, with the modules of both kernels; a VM writes into an overlay of its own. */
  disk: string;
  /** Linux 5.10; undefined when its package could not be had. */
  old: Kernel | undefined;
  /** Of user vagrant, who may sudo. */
  key: string;
}

/**
 * Of the kernel, for both: QEMU alone, and the box of Vagrant. Emulated on a busy machine its timer may come too late for
 * the kernel's check of it, which is a panic.
 */
export const COMMAND_LINE =
  "root=/dev/vda rw net.ifnames=0 console=ttyS0 quiet mitigations=off no_timer_check panic=-1";

const kernelIn = (directory: string): Kernel => ({
  kernel: join(directory, "vmlinuz"),
  initrd: join(directory, "initrd.img"),
});
const OLD = kernelIn(join(CACHE, "old"));
const image = {
  ...kernelIn(CACHE),
  disk: join(CACHE, "disk.qcow2"),
  key: join(CACHE, "id_ed25519"),
  get old() {
    return existsSync(OLD.kernel) ? OLD : undefined;
  },
} satisfies Image;

function checkout(from: string): string {
  return existsSync(join(from, "package.json")) ? from : checkout(resolve(from, ".."));
}

/** @throws Error when it has not been made. */
export function builtImage(): Image {
  if (readStamp() === undefined) throw new Error("there is no image yet: npm run test:vm makes it");
  return image;
}

function readStamp(): string | undefined {
  const path = join(CACHE, "made-of");
  return existsSync(path) ? readFileSync(path, "utf8") : undefined;
}

/** Makes the image unless the one that is there was made of the same. @throws Error of the tool that failed. */
export function buildImage(say: (line: string) => void): Image {
  const recipe = readFileSync(fileURLToPath(import.meta.url));
  const madeOf = createHash("sha256").update(recipe).update(process.version).digest("hex");
  if (readStamp() === madeOf) return image;
  if (process.getuid?.() !== 0) throw new Error("the disk of the VMs is made as root");
  const began = Date.now();
  say("Building the disk of the VMs (debootstrap)");
  rmSync(CACHE, { recursive: true, force: true });
  mkdirSync(CACHE, { recursive: true });
  const work = mkdtempSync(join(workRoom(), "kubeplumb-image-"));
  try {
    makeRoot(join(work, "root"), say);
    makeDisk(join(work, "root"), join(work, "disk.raw"));
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  writeFileSync(join(CACHE, "made-of"), madeOf);
  say(`Built in ${Math.round((Date.now() - began) / 1000)} s: ${image.disk}`);
  return image;
}

/** In memory where there is room: debootstrap writes some ten thousand small files. */
function workRoom(): string {
  const { bavail, bsize } = statfsSync("/dev/shm");
  return bavail * bsize > 3 * GIB ? "/dev/shm" : tmpdir();
}

const run = (command: string, ...args: string[]): string =>
  execFileSync(command, args, {
    encoding: "utf8",
    maxBuffer: 64 << 20,
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin`, DEBIAN_FRONTEND: "noninteractive" },
  });

function makeRoot(root: string, say: (line: string) => void): void {
  // debootstrap leaves /proc mounted in there: in a namespace of its own it goes with it.
  run(...PRIVATE, "debootstrap", "--variant=minbase", `--include=${PACKAGES.join(",")}`, SUITE, root);
  const write = (path: string, text: string, mode = 0o644): void => {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text, { mode });
  };
  const mounted = 'mount -t proc proc "$1/proc" && exec chroot "$1" sh -ec "$2"';
  const inside = (script: string) => run(...PRIVATE, "sh", "-ec", mounted, "sh", root, script);

  write("etc/systemd/network/10-eth0.network", NETWORK);
  write("etc/hostname", "debian\n");
  write("etc/hosts", "127.0.0.1 localhost\n");
  write("etc/fstab", "");
  // Each VM makes one of its own.
  write("etc/machine-id", "");
  write("etc/initramfs-tools/conf.d/modules", "MODULES=list\n");
  write("etc/initramfs-tools/modules", `${BOOT_MODULES.join("\n")}\n`);
  write("etc/ssh/sshd_config.d/vm.conf", "UseDNS no\nHostKey /etc/ssh/ssh_host_ed25519_key\n");
  write("etc/sudoers.d/vagrant", "vagrant ALL=(ALL) NOPASSWD: ALL\n", 0o440);
  run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "vagrant", "-f", image.key);
  inside("useradd --create-home --shell /bin/bash vagrant");
  write("home/vagrant/.ssh/authorized_keys", readFileSync(`${image.key}.pub`, "utf8"), 0o600);
  inside("chown -R vagrant:vagrant /home/vagrant/.ssh && chmod 700 /home/vagrant/.ssh");
  inside("systemctl enable systemd-networkd ssh");
  inside(`systemctl mask ${MASKED.join(" ")}`);
  // A node that is told to use it has it started.
  inside("systemctl disable containerd");
  copyFileSync(realpathSync(process.execPath), join(root, "usr/local/bin/node"));
  chmodSync(join(root, "usr/local/bin/node"), 0o755);
  inside("update-initramfs -u");
  copyKernel(root, "6.1.", image);
  try {
    write("etc/apt/sources.list.d/old.list", `${OLD_SOURCE}\n`);
    inside(INSTALL_OLD);
    copyKernel(root, "5.10.", OLD);
  } catch (error) {
    say(`Without Linux 5.10: ${(error as Error).message}`);
  }
  rmSync(join(root, "etc/apt/sources.list.d/old.list"));
  inside(
    "rm -rf /boot/* /var/cache/apt/archives/*.deb /var/lib/apt/lists/* /usr/share/doc/* /usr/share/locale/* /usr/share/man/*",
  );
}

/** From /boot to where QEMU takes it from. */
function copyKernel(root: string, version: string, to: Kernel): void {
  const boot = join(root, "boot");
  const find = (prefix: string): string => {
    const name = readdirSync(boot).find((one) => one.startsWith(prefix));
    if (!name) throw new Error(`there is no ${prefix}… in /boot of the image`);
    return join(boot, name);
  };
  mkdirSync(dirname(to.kernel), { recursive: true });
  copyFileSync(find(`vmlinuz-${version}`), to.kernel);
  copyFileSync(find(`initrd.img-${version}`), to.initrd);
}

/** No boot loader and no loop device: the kernel stands beside the disk. */
function makeDisk(root: string, raw: string): void {
  run("mke2fs", "-q", "-t", "ext4", "-d", root, "-E", "root_owner=0:0", raw, "4G");
  run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image.disk);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) buildImage((line) => console.error(line));
