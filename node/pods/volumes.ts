// The volumes of a pod as directories and files of this machine, under the host's rootDir. Knows files and the
// objects they come from; mounts nothing.

import { chmodSync, mkdirSync, statSync, writeFileSync } from "node:fs";
import { join, normalize } from "node:path";
import type { HostPathVolumeSource, Volume } from "kubernetes-types/core/v1.js";
import type { Container, Pod, Stored } from "../../common/k8s.js";
import type { BindMount } from "../process/root-plan.js";
import { mapsOneUser } from "../process/user-ns.js";
import { writeAtomically } from "./atomic-files.js";
import { type ClaimSources, claimedVolume } from "./claimed-volume.js";
import { type Env, expand } from "./env.js";
import { giveToGroup } from "./fs-group.js";
import { type PayloadSources, payloadKind, volumePayload } from "./payload.js";

/** A volume that cannot be set up: event FailedMount, and another try later. */
export class VolumeError extends Error {
  override readonly name = "VolumeError";
}

interface PodVolume {
  /** On this machine. */
  path: string;
  file: boolean;
  /** Whatever the mount says. */
  readOnly?: boolean;
  /** Whether its device files can be used. */
  devices?: boolean;
}

/** What volumes may be made from. */
export type VolumeSources = PayloadSources & ClaimSources;

/** By the volume's name. */
export type Volumes = ReadonlyMap<string, PodVolume>;

/**
 * The volume with the account's token, which admission gives to nearly every pod and nearly no emulated program reads:
 * it is filled for its first reader.
 */
export function isApiAccess({ name, projected }: Volume): boolean {
  return projected !== undefined && name.startsWith("kube-api-access-");
}

/**
 * Makes all volumes of a pod under `directory`; the one of {@link isApiAccess} stays empty. Idempotent.
 * @throws VolumeError worded as the kubelet's FailedMount events.
 */
export async function prepareVolumes(
  pod: Stored<Pod>,
  directory: string,
  sources: VolumeSources,
): Promise<Volumes> {
  const out = new Map<string, PodVolume>();
  for (const volume of pod.spec?.volumes ?? []) {
    await worded(volume, async () => {
      const made = isApiAccess(volume)
        ? payloadVolume(volume, directory, "projected")
        : await prepareVolume(pod, volume, directory, sources);
      out.set(volume.name, made);
    });
  }
  return out;
}

/**
 * Brings those volumes of a pod that are made from the API and `chosen` in line with what it says now.
 * @throws VolumeError as {@link prepareVolumes}; that volume stays as it was.
 */
export async function refreshVolumes(
  pod: Stored<Pod>,
  directory: string,
  sources: VolumeSources,
  chosen: (volume: Volume) => boolean,
): Promise<void> {
  for (const volume of pod.spec?.volumes ?? []) {
    if (payloadKind(volume) && chosen(volume))
      await worded(volume, () => prepareVolume(pod, volume, directory, sources));
  }
}

async function worded(volume: Volume, work: () => Promise<unknown>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    throw new VolumeError(`MountVolume.SetUp failed for volume "${volume.name}" : ${error.message}`, {
      cause: error,
    });
  }
}

async function prepareVolume(
  pod: Stored<Pod>,
  volume: Volume,
  directory: string,
  sources: VolumeSources,
): Promise<PodVolume> {
  const group = mapsOneUser() ? undefined : pod.spec?.securityContext?.fsGroup;
  if (volume.emptyDir) {
    const there = made(place(directory, "empty-dir", volume), 0o777);
    if (group !== undefined) giveToGroup(there.path, group, "readWrite");
    return there;
  }
  if (volume.hostPath) return hostPath(volume.hostPath);
  if (volume.persistentVolumeClaim) return await claimedVolume(pod, volume.persistentVolumeClaim, sources);
  const payload = payloadKind(volume);
  if (payload) {
    const files = await volumePayload(pod, volume, sources);
    const there = payloadVolume(volume, directory, payload);
    writeAtomically(there.path, files);
    if (group !== undefined) giveToGroup(there.path, group, "readOnly");
    return there;
  }
  const kind = Object.keys(volume).find((key) => key !== "name") ?? "none";
  throw new Error(
    `kubeplumb has no volumes of kind ${kind}; supported: emptyDir, configMap, secret, downwardAPI, projected, hostPath, persistentVolumeClaim`,
  );
}

const place = (directory: string, kind: string, { name }: Volume): string =>
  join(directory, `kubernetes.io~${kind}`, name);

function payloadVolume(volume: Volume, directory: string, kind: string): PodVolume {
  return { ...made(place(directory, kind, volume), 0o755), readOnly: true };
}

function made(path: string, mode: number): PodVolume {
  mkdirSync(path, { recursive: true });
  chmodSync(path, mode);
  return { path, file: false };
}

function hostPath({ path, type = "" }: HostPathVolumeSource): PodVolume {
  let facts = statSync(path, { throwIfNoEntry: false });
  if (!facts && type === "DirectoryOrCreate") mkdirSync(path, { recursive: true });
  else if (!facts && type === "FileOrCreate") writeFileSync(path, "");
  facts = statSync(path, { throwIfNoEntry: false });
  if (!facts) throw new Error(`hostPath type check failed: ${path} does not exist on this machine`);
  const directory = facts.isDirectory();
  if ((type.startsWith("Directory") && !directory) || (type.startsWith("File") && directory)) {
    throw new Error(
      `hostPath type check failed: ${path} is not a ${type.replace("OrCreate", "").toLowerCase()}`,
    );
  }
  return { path, file: !directory, devices: true };
}

/** `name` below `directory`. @throws Error when it would leave it. */
function inside(directory: string, name: string): string {
  const path = normalize(join(directory, name));
  if (path !== directory && !path.startsWith(`${directory}/`))
    throw new Error(`path "${name}" leaves the volume`);
  return path;
}

/** The volume mounts of one container. @throws VolumeError for a mount of a volume that the pod lacks. */
export function containerMounts(container: Container, volumes: Volumes, env: Env): BindMount[] {
  return (container.volumeMounts ?? []).map((mount) => {
    const volume = volumes.get(mount.name);
    if (!volume)
      throw new VolumeError(`container ${container.name} mounts volume "${mount.name}", which the pod lacks`);
    const sub = mount.subPathExpr ? expand(mount.subPathExpr, env) : mount.subPath;
    const source = sub ? inside(volume.path, sub) : volume.path;
    let facts = statSync(source, { throwIfNoEntry: false });
    if (!facts) {
      mkdirSync(source, { recursive: true });
      facts = statSync(source);
    }
    return {
      source,
      target: mount.mountPath,
      readOnly: volume.readOnly || (mount.readOnly ?? false),
      file: !facts.isDirectory(),
      devices: volume.devices ?? false,
    };
  });
}

/** Where `path` of a container is on this machine, when one of its mounts holds it. Pure. */
export function throughMounts(path: string, mounts: readonly BindMount[]): string | undefined {
  const holder = mounts
    .filter(({ target }) => path === target || path.startsWith(`${target.replace(/\/$/, "")}/`))
    .sort((a, b) => b.target.length - a.target.length)[0];
  if (!holder) return undefined;
  const rest = path.slice(holder.target.replace(/\/$/, "").length);
  const real = normalize(holder.source + rest);
  return real === holder.source || real.startsWith(`${holder.source}/`) ? real : undefined;
}
