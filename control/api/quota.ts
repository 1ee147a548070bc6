// The admission plugin ResourceQuota: what a new object takes is written down in the namespace's quotas before the
// object is stored, and refused when it is too much. Runs last, when the object is valid, so that nothing is taken for
// one that is not. Knows the store and quotas; no HTTP.

import type { KubeObject, Pod, ResourceQuota, Stored } from "../../common/k8s.js";
import {
  amountsOf,
  amountsText,
  isScoped,
  limitedKinds,
  plus,
  type Usage,
  unsaid,
  usageOf,
  usedBy,
} from "../resources/quota-usage.js";
import { formatQuantity } from "../resources/validation/quantity.js";
import { type Entry, RevisionMismatch } from "../store/store.js";
import type { Engine, Kind } from "./engine.js";
import { forbidden } from "./status.js";

const PREFIX = "/registry/resourcequotas/";
const MAX_ATTEMPTS = 100;
/** Objects that nobody counts. */
const FREE = new Set(["events", "leases"]);

interface Asked {
  engine: Engine;
  kind: Kind;
  namespace: string | undefined;
  object: KubeObject;
  dryRun: boolean;
}

/** Stores the object by `write` when the quotas allow it. @throws StatusError Forbidden, and what `write` throws. */
export async function withinQuotas<T>(asked: Asked, write: () => Promise<T>): Promise<T> {
  const { engine, kind, namespace, object, dryRun } = asked;
  if (namespace === undefined || !kind.resource.namespaced || FREE.has(kind.resource.plural))
    return await write();
  const { entries } = await engine.store.range(`${PREFIX}${namespace}/`);
  if (entries.length === 0) return await write();
  const usage = usageOf(kind.resource, object);
  const charged: string[] = [];
  const refund = async (): Promise<void> => {
    for (const key of charged) await change(engine, key, (quota) => added(quota, negative(usage)));
  };
  try {
    for (const { key } of entries) {
      const taken = await change(engine, key, (quota) => charge(asked, quota, usage), dryRun);
      if (taken && !dryRun) charged.push(key);
    }
    return await write();
  } catch (error) {
    await refund();
    throw error;
  }
}

/** Changes a quota as it is now; `make` returns undefined for nothing to do. False: nothing was done. */
async function change(
  { store }: Engine,
  key: string,
  make: (quota: Stored<ResourceQuota>) => Stored | undefined | Promise<Stored | undefined>,
  dryRun = false,
): Promise<boolean> {
  for (let attempt = 1; ; attempt++) {
    const entry = (await store.get(key)) as Entry<Stored<ResourceQuota>> | undefined;
    const changed = entry && (await make(entry.value));
    if (!entry || !changed) return false;
    if (dryRun) return true;
    try {
      await store.put(key, changed, entry.revision);
      return true;
    } catch (error) {
      if (!(error instanceof RevisionMismatch) || attempt >= MAX_ATTEMPTS) throw error;
    }
  }
}

/** The quota with what the object takes; undefined when it takes nothing of it. @throws StatusError Forbidden */
async function charge(
  { engine, kind, object }: Asked,
  stored: Stored<ResourceQuota>,
  usage: Usage,
): Promise<Stored | undefined> {
  const { spec = {} } = stored;
  const hard = amountsOf(stored.status?.hard ?? spec.hard);
  const concerned = [...hard.keys()].filter((name) => usage.has(name));
  const { plural, group } = kind.resource;
  if (!isScoped(spec, kind.resource, object)) return undefined;
  const quotaName = stored.metadata.name;
  const { name = "" } = object.metadata ?? {};
  const silence = group === "" && plural === "pods" ? unsaid(object as Pod, { hard: spec.hard }) : undefined;
  if (silence) throw forbidden(kind.resource, name, `failed quota: ${quotaName}: ${silence}`);
  if (concerned.length === 0) return undefined;
  // A new quota has not been counted yet: that is done here and now.
  const quota = stored.status?.used ? stored : await counted(engine, stored);
  const used = amountsOf(quota.status?.used);
  const exceeded = concerned.filter((one) => {
    const more = usage.get(one)?.nanos ?? 0n;
    return more > 0n && (used.get(one)?.nanos ?? 0n) + more > (hard.get(one)?.nanos ?? 0n);
  });
  if (exceeded.length > 0)
    throw forbidden(
      kind.resource,
      name,
      `exceeded quota: ${quotaName}, requested: ${amountsText(usage, exceeded)}, used: ${amountsText(used, exceeded)}, limited: ${amountsText(hard, exceeded)}`,
    );
  return added(quota, usage);
}

async function counted(engine: Engine, quota: Stored<ResourceQuota>): Promise<Stored<ResourceQuota>> {
  const { spec = {}, metadata } = quota;
  const served = engine.kinds.filter(({ definition }) => !definition.answers && !definition.conversion);
  const kinds = limitedKinds(
    spec.hard ?? {},
    served.map(({ resource }) => resource),
  );
  const objects: (readonly [Kind["resource"], KubeObject])[] = [];
  for (const resource of kinds) {
    const { entries } = await engine.store.range(`/registry/${resource.plural}/${metadata.namespace}/`);
    for (const { value } of entries) objects.push([resource, value as KubeObject]);
  }
  return { ...quota, status: { hard: spec.hard ?? {}, used: usedBy(spec, objects) } };
}

function added(quota: Stored<ResourceQuota>, usage: Usage): Stored {
  const used = amountsOf(quota.status?.used);
  for (const [name, amount] of used) {
    const more = usage.get(name);
    if (more) used.set(name, plus(amount, more));
  }
  const texts = Object.fromEntries([...used].map(([name, amount]) => [name, formatQuantity(amount)]));
  return { ...quota, status: { ...quota.status, used: texts } } as Stored;
}

function negative(usage: Usage): Usage {
  return new Map([...usage].map(([name, { nanos, format }]) => [name, { nanos: -nanos, format }]));
}
