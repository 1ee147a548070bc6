// libvirt and Vagrant inside the test's namespaces: private copies of the directories they keep things in, so that the
// machine itself has nothing of them, and everything ends with the namespaces. Facts: libvirtd(8), vagrant-libvirt.

import { execFileSync, spawn } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type Ran, runToEnd } from "../helpers/machines.js";
import { builtImage, COMMAND_LINE } from "./image.js";
import { findAccelerator, stageSource } from "./machine.js";

const WORK = "/mnt";
const PROJECT = join(WORK, "project");
const BOX = "kubeplumb-test";
const OWN = ["/etc/libvirt", "/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt"];
const START_MS = 60_000;

/** As root, which nobody else is here; /dev/kvm is not probed again for each VM then. The /dev of here is a VM's, too. */
const QEMU_CONF = `user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
remember_owner = 0
`;

const ENVIRONMENT = {
  VAGRANT_HOME: join(WORK, "vagrant"),
  VAGRANT_DEFAULT_PROVIDER: "libvirt",
  VAGRANT_CHECKPOINT_DISABLE: "1",
  VAGRANT_NO_COLOR: "1",
  KUBEPLUMB_BOX: BOX,
};

const tool = (command: string, ...args: string[]): string =>
  execFileSync(command, args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });

/** Starts libvirt, and adds the box that is made of the tests' image. @throws Error of what failed. */
export async function startLibvirt(): Promise<void> {
  tool("mount", "-t", "tmpfs", "-o", "mode=0755", "none", WORK);
  for (const directory of OWN) {
    const copy = join(WORK, "own", directory);
    mkdirSync(copy, { recursive: true });
    if (existsSync(directory)) cpSync(directory, copy, { recursive: true });
    mkdirSync(directory, { recursive: true });
    tool("mount", "--bind", copy, directory);
  }
  tool("mount", "-t", "tmpfs", "none", "/run");
  tool("mount", "-t", "sysfs", "none", "/sys");
  if ((await findAccelerator(builtImage())) !== "kvm") hideKvm();
  writeFileSync("/etc/libvirt/qemu.conf", QEMU_CONF);
  tool("ip", "link", "set", "lo", "up");
  // They end with the namespaces, and the test's process does not wait for that.
  for (const daemon of ["virtlogd", "libvirtd"])
    spawn("nice", ["-n", "5", daemon], { stdio: "ignore" }).unref();
  for (const deadline = Date.now() + START_MS; ; await sleep(200)) {
    const { code, err } = await runToEnd("virsh", ["-c", "qemu:///system", "list"]);
    if (code === 0) break;
    if (Date.now() > deadline) throw new Error(`libvirtd does not answer: ${err}`);
  }
  mkdirSync(PROJECT);
  stageSource(PROJECT, ["vagrant", "Vagrantfile", "package.json", "package-lock.json"]);
  await addBox();
}

/** Where /dev/kvm does not work, as if there were none: the Vagrantfile looks for it. */
function hideKvm(): void {
  const devices = join(WORK, "dev");
  tool("rsync", "-a", "--exclude=/kvm", "--exclude=/pts/*", "--exclude=/shm/*", "/dev/", devices);
  for (const inner of ["pts", "shm"]) tool("mount", "--bind", `/dev/${inner}`, join(devices, inner));
  tool("mount", "--rbind", devices, "/dev");
}

async function addBox(): Promise<void> {
  const image = builtImage();
  const work = mkdtempSync(join(tmpdir(), "kubeplumb-box-"));
  try {
    const files = {
      "box.img": image.disk,
      vmlinuz: image.kernel,
      "initrd.img": image.initrd,
      key: image.key,
    };
    for (const [name, path] of Object.entries(files)) cpSync(path, join(work, name));
    const metadata = { provider: "libvirt", format: "qcow2", virtual_size: 4 };
    writeFileSync(join(work, "metadata.json"), JSON.stringify(metadata));
    writeFileSync(join(work, "Vagrantfile"), BOX_VAGRANTFILE);
    const path = join(WORK, "test.box");
    tool("tar", "-C", work, "-cf", path, "metadata.json", "Vagrantfile", ...Object.keys(files));
    const { code, out, err } = await vagrant(1, "box", "add", "--name", BOX, "--provider", "libvirt", path);
    if (code !== 0) throw new Error(`vagrant box add: ${out}${err}`);
    rmSync(path);
  } finally {
    rmSync(work, { recursive: true });
  }
}

/** The kernel stands beside the disk. */
const BOX_VAGRANTFILE = `Vagrant.configure("2") do |config|
  config.vm.guest = :debian
  config.ssh.insert_key = false
  config.ssh.private_key_path = File.join(__dir__, "key")
  config.ssh.connect_timeout = 120
  config.vm.boot_timeout = 900
  config.vm.provider :libvirt do |lv|
    lv.kernel = File.join(__dir__, "vmlinuz")
    lv.initrd = File.join(__dir__, "initrd.img")
    lv.cmd_line = "${COMMAND_LINE}"
    lv.graphics_type = "none"
  end
end
`;

/** A command in the project's directory, in the environment of its vagrant. */
export function inProject(...argv: string[]): Promise<Ran> {
  const variables = Object.entries(ENVIRONMENT).map(([name, value]) => `${name}=${value}`);
  return runToEnd("env", ["-C", PROJECT, ...variables, ...argv]);
}

/** vagrant, of a cluster with that many workers. */
export async function vagrant(nodes: number, ...words: string[]): Promise<Ran> {
  const ran = await inProject(`NODES=${nodes}`, "vagrant", ...words);
  return { ...ran, out: ran.out.replaceAll(/\s*\S*Progress: \d+%/g, "") };
}
