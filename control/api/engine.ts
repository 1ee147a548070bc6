// What every verb works with: the store, the schema, the kinds that are served. Knows no HTTP.

import { apiVersionOf, type Resource } from "../../common/client.js";
import type { KubeObject, Stored } from "../../common/k8s.js";
import type { Logger } from "../../common/log.js";
import { copyJson } from "../patch/copy.js";
import type { RequestContext, ResourceDefinition } from "../resources/types.js";
import type { Store } from "../store/store.js";
import type { Admission } from "./admission.js";
import { ConvertingStore, type KindStore } from "./converting-store.js";
import { Decoders } from "./decode.js";
import { ProtobufReader } from "./protobuf.js";
import type { Schema } from "./schema.js";

export type User = RequestContext["user"];

/** A kind as it is served: its definition, and where its objects are kept. */
export class Kind {
  readonly definition: ResourceDefinition;
  readonly resource: Resource;
  readonly apiVersion: string;
  /** Key prefix of all its objects. */
  readonly prefix: string;
  readonly store: KindStore;

  constructor(definition: ResourceDefinition, store: KindStore) {
    this.definition = definition;
    this.store = definition.conversion ? new ConvertingStore(store, definition.conversion) : store;
    this.resource = definition.resource;
    this.apiVersion = apiVersionOf(definition.resource);
    this.prefix = `/registry/${definition.resource.plural}/`;
  }

  key(namespace: string | undefined, name: string): string {
    return this.resource.namespaced ? `${this.prefix}${namespace}/${name}` : this.prefix + name;
  }

  /** Key prefix of one namespace, or of all. */
  range(namespace: string | undefined): string {
    return namespace ? `${this.prefix}${namespace}/` : this.prefix;
  }

  keyOf(object: Stored): string {
    return this.key(object.metadata.namespace, object.metadata.name);
  }
}

export interface EngineOptions {
  store: Store<Stored>;
  schema: Schema;
  definitions: readonly ResourceDefinition[];
  /** Asked for each object that is to be created; default none. */
  admission?: readonly Admission[];
  log: Logger;
}

export class Engine {
  readonly store: Store<Stored>;
  readonly schema: Schema;
  readonly decoders: Decoders;
  readonly protobuf: ProtobufReader;
  readonly log: Logger;
  readonly admission: readonly Admission[];
  readonly kinds: readonly Kind[];
  readonly #byResource = new Map<string, Kind>();

  constructor({ store, schema, definitions, admission = [], log }: EngineOptions) {
    this.store = store;
    this.schema = schema;
    this.decoders = new Decoders(schema);
    this.protobuf = new ProtobufReader(schema);
    this.admission = admission;
    this.log = log;
    this.kinds = definitions.map((definition) => new Kind(definition, store));
    for (const kind of this.kinds) {
      const { group, version, plural } = kind.resource;
      this.#byResource.set(`${group}/${version}/${plural}`, kind);
    }
  }

  kind(group: string, version: string, plural: string): Kind | undefined {
    return this.#byResource.get(`${group}/${version}/${plural}`);
  }

  /** @throws Error for a resource that is not served: a mistake of the program, not of a user. */
  kindOf(r: Resource): Kind {
    const kind = this.kind(r.group, r.version, r.plural);
    if (!kind) throw new Error(`resource ${apiVersionOf(r)} ${r.plural} is not served`);
    return kind;
  }

  /** Lets the allocators of the kinds rebuild themselves from what is stored, and follow what others store. */
  async restore(): Promise<void> {
    let ended = false;
    const end = (error?: Error): void => {
      // They end together: events are missing, so that only what is stored tells.
      if (!error || ended) return;
      ended = true;
      this.restore().catch((err: unknown) => this.log.error({ err }, "allocations were not restored"));
    };
    for (const { definition, prefix } of this.kinds) {
      if (!definition.restore) continue;
      const { entries, revision } = await this.store.range(prefix);
      definition.restore(entries.map((entry) => entry.value));
      if (!this.store.shared || !definition.observed) continue;
      await this.store.watch(prefix, revision, {
        event: ({ type, value, previous }) =>
          definition.observed?.(type === "put" ? value : undefined, previous),
        end,
      });
    }
  }

  context(user: User, dryRun: boolean): RequestContext {
    return { user, dryRun, now: timestamp() };
  }
}

let lastTimestamp = { second: Number.NaN, text: "" };

/** RFC 3339, whole seconds: metav1.Time. */
export function timestamp(milliseconds = Date.now()): string {
  const second = Math.floor(milliseconds / 1000);
  if (second !== lastTimestamp.second)
    lastTimestamp = { second, text: `${new Date(milliseconds).toISOString().slice(0, 19)}Z` };
  return lastTimestamp.text;
}

/** A copy that may be changed. */
export function draftOf(object: Stored): KubeObject & { metadata: Stored["metadata"] } {
  return copyJson(object) as KubeObject & { metadata: Stored["metadata"] };
}
