// The volumes of a pod as directories and files of this machine, under the host's rootDir. Knows files and the
// objects they come from; mounts nothing.

import { mkdirSync, statSync, writeFileSync } from "node:fs";
import { join, normalize } from "node:path";
import type {
  ConfigMapVolumeSource,
  HostPathVolumeSource,
  KeyToPath,
  Volume,
} from "kubernetes-types/core/v1.js";
import type { KubeClient } from "../../common/client.js";
import type { Container, Pod, Stored } from "../../common/k8s.js";
import type { BindMount } from "../process/mounts.js";
import { type Env, expand } from "./env.js";
import { configMapData, type ObjectData, secretData } from "./objects.js";

/** A volume that cannot be set up: event FailedMount, and another try later. */
export class VolumeError extends Error {
  override readonly name = "VolumeError";
}

/** Volume name → where it is on this machine. */
export type Volumes = ReadonlyMap<string, { path: string; file: boolean }>;

/**
 * Makes all volumes of a pod under `directory`. Idempotent.
 * @throws VolumeError worded as the kubelet's FailedMount events.
 */
export async function prepareVolumes(
  pod: Stored<Pod>,
  directory: string,
  client: KubeClient,
): Promise<Volumes> {
  const out = new Map<string, { path: string; file: boolean }>();
  for (const volume of pod.spec?.volumes ?? []) {
    try {
      out.set(volume.name, await prepareVolume(pod, volume, directory, client));
    } catch (error) {
      if (!(error instanceof Error)) throw error;
      throw new VolumeError(`MountVolume.SetUp failed for volume "${volume.name}" : ${error.message}`, {
        cause: error,
      });
    }
  }
  return out;
}

async function prepareVolume(
  pod: Stored<Pod>,
  volume: Volume,
  directory: string,
  client: KubeClient,
): Promise<{ path: string; file: boolean }> {
  const namespace = pod.metadata.namespace ?? "";
  const place = (kind: string) => join(directory, `kubernetes.io~${kind}`, volume.name);
  if (volume.emptyDir) return made(place("empty-dir"), 0o777);
  if (volume.hostPath) return hostPath(volume.hostPath);
  if (volume.configMap) {
    const { name = "", optional = false } = volume.configMap;
    const data = await configMapData(client, namespace, name);
    return keys(place("configmap"), `configmap "${name}"`, data, { ...volume.configMap, optional });
  }
  if (volume.secret) {
    const { secretName: name = "", optional = false, items, defaultMode } = volume.secret;
    const data = await secretData(client, namespace, name);
    return keys(place("secret"), `secret "${name}"`, data, { items, defaultMode, optional });
  }
  const kind = Object.keys(volume).find((key) => key !== "name") ?? "none";
  throw new Error(
    `kubeplumb has no volumes of kind ${kind}; supported: emptyDir, configMap, secret, hostPath`,
  );
}

function made(path: string, mode: number): { path: string; file: boolean } {
  mkdirSync(path, { recursive: true, mode });
  return { path, file: false };
}

function hostPath({ path, type = "" }: HostPathVolumeSource): { path: string; file: boolean } {
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
  return { path, file: !directory };
}

/** The keys of an object as files. */
function keys(
  path: string,
  what: string,
  data: ObjectData,
  source: Pick<ConfigMapVolumeSource, "items" | "defaultMode" | "optional">,
): { path: string; file: boolean } {
  if (!data && !source.optional) throw new Error(`${what} not found`);
  made(path, 0o755);
  const items: KeyToPath[] = source.items ?? Object.keys(data ?? {}).map((key) => ({ key, path: key }));
  for (const { key, path: name, mode } of items) {
    const value = data?.[key];
    if (value === undefined) {
      if (source.optional) continue;
      throw new Error(`${what} references non-existent key: ${key}`);
    }
    const file = inside(path, name);
    mkdirSync(join(file, ".."), { recursive: true });
    writeFileSync(file, value, { mode: mode ?? source.defaultMode ?? 0o644 });
  }
  return { path, file: false };
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
      readOnly: mount.readOnly ?? false,
      file: !facts.isDirectory(),
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
