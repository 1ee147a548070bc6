// The files of the volumes that are made from the API: configMap, secret, downwardAPI, projected. Reads objects,
// writes nothing.

import type { DownwardAPIVolumeFile, KeyToPath, Volume, VolumeProjection } from "kubernetes-types/core/v1.js";
import type { KubeClient } from "../../common/client.js";
import type { Pod, Stored } from "../../common/k8s.js";
import type { Payload } from "./atomic-files.js";
import { type FieldSources, fieldValue } from "./env.js";
import { configMapData, type ObjectData, secretData } from "./objects.js";
import type { PodTokens } from "./pod-tokens.js";
import { resourceValue } from "./resource-field.js";

/** What files may be made from, beside the pod. */
export interface PayloadSources extends FieldSources {
  client: KubeClient;
  tokens: PodTokens;
}

type Files = Map<string, { data: Buffer; mode: number }>;

/** The kind of a volume made of files from the API; undefined of any other. */
export function payloadKind(
  volume: Volume,
): "configmap" | "secret" | "downward-api" | "projected" | undefined {
  if (volume.configMap) return "configmap";
  if (volume.secret) return "secret";
  if (volume.downwardAPI) return "downward-api";
  return volume.projected ? "projected" : undefined;
}

/** @throws Error worded as the kubelet's: an object or a key is not there, or the source is none that we have. */
export async function volumePayload(
  pod: Stored<Pod>,
  { configMap, secret, downwardAPI, projected }: Volume,
  sources: PayloadSources,
): Promise<Payload> {
  const { defaultMode = 0o644 } = configMap ?? secret ?? downwardAPI ?? projected ?? {};
  const parts: VolumeProjection[] =
    projected?.sources ??
    (secret
      ? [{ secret: { ...secret, name: secret.secretName ?? "" } }]
      : [{ ...(configMap && { configMap }), ...(downwardAPI && { downwardAPI }) }]);
  const files: Files = new Map();
  for (const part of parts) {
    for (const [path, file] of await projection(pod, part, defaultMode, sources)) files.set(path, file);
  }
  return files;
}

async function projection(
  pod: Stored<Pod>,
  { configMap, secret, downwardAPI, serviceAccountToken, ...other }: VolumeProjection,
  defaultMode: number,
  sources: PayloadSources,
): Promise<Files> {
  const namespace = pod.metadata.namespace ?? "";
  if (configMap) {
    const { name = "" } = configMap;
    const data = await configMapData(sources.client, namespace, name);
    return keys(`configmap "${name}"`, data, configMap, defaultMode);
  }
  if (secret) {
    const { name = "" } = secret;
    const data = await secretData(sources.client, namespace, name);
    return keys(`secret "${name}"`, data, secret, defaultMode);
  }
  if (downwardAPI) return downward(pod, downwardAPI.items ?? [], defaultMode, sources);
  if (serviceAccountToken) {
    const data = Buffer.from(await sources.tokens.get(pod, serviceAccountToken));
    return new Map([[checked(serviceAccountToken.path), { data, mode: defaultMode }]]);
  }
  const [kind = "none"] = Object.keys(other);
  throw new Error(
    `kubeplumb has no projected source ${kind}; supported: configMap, secret, downwardAPI, serviceAccountToken`,
  );
}

function keys(
  what: string,
  data: ObjectData,
  { items: chosen, optional = false }: { items?: KeyToPath[]; optional?: boolean },
  defaultMode: number,
): Files {
  if (!data && !optional) throw new Error(`${what} not found`);
  const items: KeyToPath[] = chosen ?? Object.keys(data ?? {}).map((key) => ({ key, path: key }));
  const files: Files = new Map();
  for (const { key, path, mode = defaultMode } of items) {
    const value = data?.[key];
    if (value) files.set(checked(path), { data: value, mode });
    else if (!optional) throw new Error(`${what} references non-existent key: ${key}`);
  }
  return files;
}

function downward(
  pod: Stored<Pod>,
  items: readonly DownwardAPIVolumeFile[],
  defaultMode: number,
  sources: FieldSources,
): Files {
  const { containers = [], initContainers = [] } = pod.spec ?? {};
  const value = ({ fieldRef, resourceFieldRef: ref }: DownwardAPIVolumeFile): string => {
    if (fieldRef) return fieldValue(pod, fieldRef, sources);
    const container = [...containers, ...initContainers].find(({ name }) => name === ref?.containerName);
    if (!ref || !container) throw new Error(`container ${ref?.containerName} not found`);
    return resourceValue(container, ref, sources.allocatable);
  };
  return new Map(
    items.map((item) => [
      checked(item.path),
      { data: Buffer.from(value(item)), mode: item.mode ?? defaultMode },
    ]),
  );
}

/** @throws Error when the path would leave the volume. */
function checked(path: string): string {
  if (path.startsWith("/") || path.split("/").includes(".."))
    throw new Error(`path "${path}" leaves the volume`);
  return path;
}
