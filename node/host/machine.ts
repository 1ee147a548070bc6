// What this machine is: the facts of a Node's status. Reads files of /etc and /proc, writes nothing.

import { randomUUID } from "node:crypto";
import { existsSync, readFileSync, statfsSync } from "node:fs";
import { arch, cpus, release, totalmem } from "node:os";
import type { NodeSystemInfo } from "kubernetes-types/core/v1.js";

export const KUBELET_VERSION = "v1.36.0+kubeplumb";
export const RUNTIME_VERSION = "kubeplumb://0.1.0";

function readLine(path: string): string | undefined {
  if (!existsSync(path)) return undefined;
  try {
    return readFileSync(path, "utf8").trim() || undefined;
  } catch (error) {
    // product_uuid is for root only.
    if (["EACCES", "EPERM"].includes((error as NodeJS.ErrnoException).code ?? "")) return undefined;
    throw error;
  }
}

/** Node.js names of architectures as Go has them (kubernetes.io/arch). */
export function goArch(name: string = arch()): string {
  const names: Record<string, string> = { x64: "amd64", ia32: "386", arm64: "arm64", ppc64: "ppc64le" };
  return names[name] ?? name;
}

/** PRETTY_NAME of an os-release file. Pure. */
export function prettyName(osRelease: string): string {
  return /^PRETTY_NAME=(?:"([^"]*)"|(.*))$/m.exec(osRelease)?.slice(1).find(Boolean) ?? "Linux";
}

let unknownMachine: string | undefined;

/** status.nodeInfo. */
export function nodeInfo(containerRuntimeVersion: string): NodeSystemInfo {
  unknownMachine ??= randomUUID();
  const machineID = readLine("/etc/machine-id") ?? readLine("/var/lib/dbus/machine-id") ?? unknownMachine;
  return {
    architecture: goArch(),
    bootID: readLine("/proc/sys/kernel/random/boot_id") ?? "",
    containerRuntimeVersion,
    kernelVersion: release(),
    // Deprecated by Kubernetes, still required: the kubelet leaves it empty.
    kubeProxyVersion: "",
    kubeletVersion: KUBELET_VERSION,
    machineID,
    operatingSystem: "linux",
    osImage: prettyName(readLine("/etc/os-release") ?? readLine("/usr/lib/os-release") ?? ""),
    systemUUID: readLine("/sys/class/dmi/id/product_uuid") ?? machineID,
  };
}

/** status.capacity: the whole machine, whatever many hosts share it; `directory` says which disk. */
export function capacity(maxPods: number, directory: string): Record<string, string> {
  const disk = statfsSync(directory);
  return {
    cpu: String(cpus().length || 1),
    memory: `${Math.floor(totalmem() / 1024)}Ki`,
    "ephemeral-storage": `${Math.floor((disk.blocks * disk.bsize) / 1024)}Ki`,
    pods: String(maxPods),
  };
}
