// VMs under QEMU, for tests in network, mount and pid namespaces of their own: each has the NAT interface that Vagrant's
// have (10.0.2.15 on every one) and one on a wire that the test is on, too. They end with the namespaces.

import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { createWriteStream, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type Ran, runToEnd } from "../helpers/machines.js";
import { builtImage, COMMAND_LINE, DIST, type Image, type Kernel, ROOT } from "./image.js";

const BRIDGE = "kpbr0";
export const OUTSIDE = "192.168.56.1";
const PREFIX = 21;
const PATH = `${process.env.PATH}:/usr/local/sbin:/usr/sbin:/sbin`;
process.env.PATH = PATH;
/** The test's processes are many, and a VM is one: the rest of the machine goes first. */
const NICE = ["nice", "-n", "5"];
/** A machine with software emulation and other work takes minutes to boot. */
const BOOT_MS = 600_000;
const SSH_PORTS = 2200;

const tool = (command: string, ...args: string[]): string =>
  execFileSync(command, args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
const ip = (words: string): string => tool("ip", ...words.split(" "));

/** The wire of the VMs, and what they have in common. */
export class Rack {
  readonly image: Image;
  readonly accelerator: string;
  /** Read-only: the checkout as Vagrant synchronizes it. */
  readonly source: string;
  readonly directory: string;
  readonly #machines: VirtualMachine[] = [];

  private constructor(image: Image, accelerator: string, directory: string) {
    this.image = image;
    this.accelerator = accelerator;
    this.directory = directory;
    this.source = join(directory, "source.img");
  }

  static async create(): Promise<Rack> {
    const image = builtImage();
    // What VMs write is in memory, and goes with the mount namespace.
    const directory = "/mnt";
    tool("mount", "-t", "tmpfs", "-o", "mode=0755", "none", directory);
    ip("link set lo up");
    ip(`link add ${BRIDGE} type bridge`);
    ip(`addr add ${OUTSIDE}/${PREFIX} dev ${BRIDGE}`);
    ip(`link set ${BRIDGE} up`);
    const rack = new Rack(image, await findAccelerator(image), directory);
    makeSource(rack.source);
    return rack;
  }

  /** Makes a VM and waits until it can be used. @param kernel default: the image's own. */
  async boot(name: string, address: string, kernel: Kernel = this.image): Promise<VirtualMachine> {
    const machine = new VirtualMachine(this, name, address, { number: this.#machines.length + 1, kernel });
    this.#machines.push(machine);
    await machine.powerOn();
    await machine.configure();
    return machine;
  }

  /** Ends all VMs: a test's process does not end before its children. */
  async close(): Promise<void> {
    await Promise.all(this.#machines.map((machine) => machine.cutPower()));
  }
}

/** KVM where a guest really runs with it: the device may be there and not work. */
export async function findAccelerator({ kernel }: Image): Promise<string> {
  // Without a disk the kernel panics, and ends QEMU by its restart.
  const guest = ["-kernel", kernel, "-append", "panic=-1", "-no-reboot", "-display", "none", "-m", "128"];
  const argv = ["-k", "1", "20", "qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", ...guest];
  const { code } = await runToEnd("timeout", argv);
  return code === 0 ? "kvm" : "tcg";
}

/** What Vagrant copies to /vagrant (see Vagrantfile), on a disk: quicker than ssh under emulation. */
function makeSource(path: string): void {
  const work = mkdtempSync(join(tmpdir(), "kubeplumb-source-"));
  try {
    stageSource(work, ["vagrant", "package.json"]);
    tool("mke2fs", "-q", "-t", "ext4", "-d", work, "-E", "root_owner=0:0", path, "400M");
  } finally {
    rmSync(work, { recursive: true });
  }
}

/** A copy of the program, and of these files of the checkout, without what only developers need. */
export function stageSource(directory: string, files: readonly string[]): void {
  const only = ["bin", "node_modules", ...files].map((one) => `--include=/${one}`);
  const leave = (...patterns: string[]) => patterns.map((one) => `--exclude=${one}`);
  const without = leave(...developerPackages(), "*.ts", "*.map");
  tool("rsync", "-a", ...without, ...only, "--exclude=/*", `${ROOT}/`, `${directory}/`);
  tool("rsync", "-a", ...leave("/tests", "/bench", "*.ts", "*.map"), `${DIST}/`, `${directory}/dist/`);
}

function developerPackages(): string[] {
  const lock = JSON.parse(readFileSync(join(ROOT, "package-lock.json"), "utf8")) as {
    packages: Record<string, { dev?: boolean }>;
  };
  return Object.entries(lock.packages).flatMap(([path, { dev }]) => (dev ? [`/${path}`] : []));
}

export class VirtualMachine {
  readonly name: string;
  readonly address: string;
  readonly #rack: Rack;
  readonly #number: number;
  readonly #kernel: Kernel;
  readonly #disk: string;
  #process: ChildProcess | undefined;

  constructor(
    rack: Rack,
    name: string,
    address: string,
    { number, kernel }: { number: number; kernel: Kernel },
  ) {
    this.name = name;
    this.address = address;
    this.#rack = rack;
    this.#number = number;
    this.#kernel = kernel;
    this.#disk = join(rack.directory, `${name}.qcow2`);
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", rack.image.disk, this.#disk);
    ip(`tuntap add ${this.#tap} mode tap`);
    ip(`link set ${this.#tap} master ${BRIDGE} up`);
  }

  get #tap(): string {
    return `tap${this.#number}`;
  }

  /** Starts it, and waits until ssh answers. */
  async powerOn(): Promise<void> {
    const { accelerator, source, directory } = this.#rack;
    const { kernel, initrd } = this.#kernel;
    const port = SSH_PORTS + this.#number;
    const mac = (kind: string) => `mac=52:54:00:${kind}:56:${String(this.#number).padStart(2, "0")}`;
    const qemu = [
      ...["qemu-system-x86_64", "-accel", accelerator, "-cpu", accelerator === "kvm" ? "host" : "qemu64"],
      ...["-m", "768", "-display", "none", "-monitor", "none", "-serial", "stdio"],
      ...["-kernel", kernel, "-initrd", initrd, "-append", COMMAND_LINE],
      ...["-drive", `file=${this.#disk},if=virtio,format=qcow2`],
      ...["-drive", `file=${source},if=virtio,format=raw,readonly=on`],
      ...["-netdev", `user,id=nat,hostfwd=tcp:127.0.0.1:${port}-:22`],
      ...["-device", `virtio-net-pci,netdev=nat,${mac("aa")}`],
      ...["-netdev", `tap,id=lan,ifname=${this.#tap},script=no,downscript=no`],
      ...["-device", `virtio-net-pci,netdev=lan,${mac("bb")}`],
    ];
    const [command = "", ...args] = [...NICE, ...qemu];
    const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] });
    const console_ = createWriteStream(join(directory, `${this.name}.console`), { flags: "a" });
    child.stdout.pipe(console_, { end: false });
    child.stderr.pipe(console_, { end: false });
    this.#process = child;
    await this.reachable();
  }

  /** As Vagrant does for `hostname` and `private_network`, and its synced folder. */
  async configure(): Promise<void> {
    const network = `[Match]\nName=eth1\n[Network]\nDHCP=no\nAddress=${this.address}/${PREFIX}\n`;
    await this.must(`
      echo ${this.name} > /etc/hostname; hostname ${this.name}; echo 127.0.1.1 ${this.name} >> /etc/hosts
      printf '${network.replaceAll("\n", "\\n")}' > /etc/systemd/network/50-vagrant-eth1.network
      systemctl restart systemd-networkd
      mkdir -p /vagrant; echo '/dev/vdb /vagrant ext4 ro 0 0' >> /etc/fstab; mount /vagrant
    `);
  }

  /** Waits until ssh answers, of a boot that is not `before`. */
  async reachable(before?: string): Promise<void> {
    for (const deadline = Date.now() + BOOT_MS; ; await sleep(1000)) {
      const boot = await this.bootId();
      if (boot !== "" && boot !== before) return;
      if (this.#process?.exitCode !== null || Date.now() > deadline)
        throw new Error(`${this.name} cannot be reached:\n${this.console()}`);
    }
  }

  /** Another after each boot; "" while it is not to be reached. */
  async bootId(): Promise<string> {
    const { code, out } = await this.run("cat /proc/sys/kernel/random/boot_id");
    return code === 0 ? out.trim() : "";
  }

  console(): string {
    return readFileSync(join(this.#rack.directory, `${this.name}.console`), "utf8").slice(-4000);
  }

  /** A script as root. */
  run(script: string): Promise<Ran> {
    return this.#ssh("sudo sh -e", script);
  }

  /** A file of root's, in a directory that is there. @throws Error when it is not. */
  async write(path: string, data: string | Buffer): Promise<void> {
    const { code, err } = await this.#ssh(`sudo tee ${path} > /dev/null`, data);
    if (code !== 0) throw new Error(`${this.name}: ${path} was not written: ${err}`);
  }

  #ssh(command: string, input: string | Buffer): Promise<Ran> {
    const options = {
      Port: SSH_PORTS + this.#number,
      IdentityFile: this.#rack.image.key,
      ConnectTimeout: 20,
      ServerAliveInterval: 10,
      BatchMode: "yes",
      StrictHostKeyChecking: "no",
      UserKnownHostsFile: "/dev/null",
      LogLevel: "ERROR",
    };
    const flags = Object.entries(options).flatMap(([name, value]) => ["-o", `${name}=${value}`]);
    return runToEnd("ssh", ["-F", "none", ...flags, "vagrant@127.0.0.1", command], input);
  }

  /** @returns its output. @throws Error when it fails. */
  async must(script: string): Promise<string> {
    const { code, out, err } = await this.run(script);
    if (code !== 0) throw new Error(`${this.name}: ${script}\nended with ${code}:\n${out}${err}`);
    return out;
  }

  /** vagrant/provision.sh as Vagrant runs it; its output. */
  provision(...words: string[]): Promise<string> {
    return this.must(`sh /vagrant/vagrant/provision.sh ${words.join(" ")} 2>&1`);
  }

  /** A restart in order; resolves when it is back. */
  async reboot(): Promise<void> {
    const before = await this.bootId();
    await this.run("systemctl reboot");
    await this.reachable(before);
  }

  async halt(): Promise<void> {
    await this.run("systemctl poweroff");
    await this.#ended();
  }

  /** From one moment to the next, whatever it was about to write. */
  async cutPower(): Promise<void> {
    this.#process?.kill("SIGKILL");
    await this.#ended();
  }

  async #ended(): Promise<void> {
    const child = this.#process;
    if (child && child.exitCode === null && child.signalCode === null)
      await new Promise((resolve) => child.once("exit", resolve));
  }
}
