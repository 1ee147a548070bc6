// ConfigMaps and Secrets that pods refer to, fetched when a container is made. Knows the client, no pods.

import { CONFIG_MAPS, isNotFound, type KubeClient, SECRETS } from "../../common/client.js";

/** Contents by key, as bytes; undefined when there is no such object. */
export type ObjectData = Record<string, Buffer> | undefined;

export async function configMapData(
  client: KubeClient,
  namespace: string,
  name: string,
): Promise<ObjectData> {
  try {
    const { data = {}, binaryData = {} } = await client.get(CONFIG_MAPS, name, namespace);
    return {
      ...mapValues(data, (value) => Buffer.from(value)),
      ...mapValues(binaryData, (value) => Buffer.from(value, "base64")),
    };
  } catch (error) {
    if (isNotFound(error)) return undefined;
    throw error;
  }
}

export async function secretData(client: KubeClient, namespace: string, name: string): Promise<ObjectData> {
  try {
    const { data = {} } = await client.get(SECRETS, name, namespace);
    return mapValues(data, (value) => Buffer.from(value, "base64"));
  } catch (error) {
    if (isNotFound(error)) return undefined;
    throw error;
  }
}

function mapValues<A, B>(record: Record<string, A>, fn: (value: A) => B): Record<string, B> {
  return Object.fromEntries(Object.entries(record).map(([key, value]) => [key, fn(value)]));
}

/** All objects of one kind by name, as text: what env references are resolved with. */
export async function fetchTexts(
  names: Iterable<string>,
  fetch: (name: string) => Promise<ObjectData>,
): Promise<Map<string, Record<string, string> | undefined>> {
  const out = new Map<string, Record<string, string> | undefined>();
  for (const name of names) {
    const data = await fetch(name);
    out.set(name, data && mapValues(data, (value) => value.toString()));
  }
  return out;
}
