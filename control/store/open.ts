// Which store is meant by a text: lmdb:DIRECTORY or etcd:URL,URL…. Knows the stores there are, not who asks.

import { EtcdStore } from "./etcd.js";
import type { EtcdTls } from "./etcd-client.js";
import { LmdbStore } from "./lmdb.js";
import type { Codec, Store } from "./store.js";

export type StoreSpec = { type: "lmdb"; path: string } | { type: "etcd"; endpoints: string[] };

export interface OpenStoreOptions<V> {
  codec: Codec<V>;
  /** For https:// endpoints of etcd. */
  tls?: EtcdTls | undefined;
  /** Of all keys in etcd; see EtcdStoreOptions. */
  prefix?: string | undefined;
}

/** @throws Error that says what is wrong with it */
export function parseStoreSpec(text: string): StoreSpec {
  const [, type, rest = ""] = /^(lmdb|etcd):(.+)$/.exec(text) ?? [];
  if (type === "lmdb") return { type, path: rest };
  if (type === "etcd") return { type, endpoints: rest.split(",").map(endpointOf) };
  throw new Error(`${JSON.stringify(text)} is not a store: lmdb:DIRECTORY or etcd:URL,URL…`);
}

function endpointOf(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  const plain = url && url.pathname === "/" && !url.search && !url.hash && !url.username;
  if (!plain || !/^https?:$/.test(url.protocol))
    throw new Error(
      `${JSON.stringify(text)} is not an endpoint of etcd: https://HOST:PORT or http://HOST:PORT`,
    );
  return url.origin;
}

/** A store whose writes survive a power cut. @throws Error as the store that is opened, and for a text that names none */
export async function openStore<V>(spec: string, options: OpenStoreOptions<V>): Promise<Store<V>> {
  const parsed = parseStoreSpec(spec);
  const { codec, tls, prefix } = options;
  if (parsed.type === "lmdb") return await LmdbStore.open({ path: parsed.path, codec, sync: true });
  return await EtcdStore.open({ endpoints: parsed.endpoints, tls, prefix, codec });
}
