// Owner references and label selectors between a controller's object and the objects it manages: who owns what, who
// is an orphan, adopting and releasing. Knows metadata only.

import { isNotFound, type KubeClient, type Resource } from "../../common/client.js";
import type { Informer, InformerHandler } from "../../common/informer.js";
import type { KubeObject, LabelSelector, OwnerReference, Pod, Stored } from "../../common/k8s.js";
import { matchLabels, selectorOf } from "../../common/selector.js";
import { namespaceOf } from "./objects.js";
import { onChange } from "./reconcile.js";

/** The owner reference with `controller: true`, of which there is at most one. */
export function controllerOf(object: KubeObject): OwnerReference | undefined {
  return object.metadata?.ownerReferences?.find((reference) => reference.controller);
}

/** A subscriber to pods for a controller of theirs: what one owner gives to another is the business of both. */
export function onOwnedPod(
  look: (pod: Stored<Pod>) => void,
  matters: (old: Stored<Pod>, now: Stored<Pod>) => boolean,
): InformerHandler<Pod> {
  return {
    ...onChange(look),
    update: (old, now) => {
      if (!matters(old, now)) return;
      const before = controllerOf(old);
      if (before && before.uid !== controllerOf(now)?.uid) look(old);
      look(now);
    },
  };
}

/** A reference that makes `owner` the controller of an object and holds up its foreground deletion. */
export function controllerReference(owner: Stored): OwnerReference {
  const { apiVersion, kind, metadata } = owner;
  return {
    apiVersion,
    kind,
    name: metadata.name,
    uid: metadata.uid,
    controller: true,
    blockOwnerDeletion: true,
  };
}

const BY_CONTROLLER = "kubeplumb:controller";

/** Index of an informer: by the uid of the controller, or by namespace for objects without one. */
export function indexByController<T extends KubeObject>(informer: Informer<T>): void {
  informer.addIndex(BY_CONTROLLER, (object) => [
    controllerOf(object)?.uid ?? `orphan/${object.metadata.namespace ?? ""}`,
  ]);
}

/** Objects whose controller has this uid. Needs {@link indexByController}. */
export function controlledBy<T extends KubeObject>(informer: Informer<T>, uid: string): Stored<T>[] {
  return informer.byIndex(BY_CONTROLLER, uid);
}

const BY_SELECTOR = "kubeplumb:selector";

/**
 * Index of an informer of objects with a selector, so that those which select a pod are found without looking at
 * all: under one label that the selector demands, or under "*" when it demands none by name.
 */
export function indexBySelector<T extends KubeObject>(
  informer: Informer<T>,
  labelsOf: (object: Stored<T>) => Record<string, string> | undefined,
): void {
  informer.addIndex(BY_SELECTOR, (object) => {
    const labels = labelsOf(object);
    if (!labels) return [];
    const namespace = object.metadata.namespace ?? "";
    const first = Object.entries(labels)[0];
    return [first ? `${namespace}\0${first[0]}=${first[1]}` : `${namespace}\0*`];
  });
}

/** Objects whose selector may match these labels: a superset, each still to be checked. */
export function selectorCandidates<T extends KubeObject>(
  informer: Informer<T>,
  namespace: string,
  labels: Record<string, string> | undefined,
): Stored<T>[] {
  const found = informer.byIndex(BY_SELECTOR, `${namespace}\0*`);
  for (const [key, value] of Object.entries(labels ?? {})) {
    for (const object of informer.byIndex(BY_SELECTOR, `${namespace}\0${key}=${value}`)) found.push(object);
  }
  return found;
}

type Requirements = ReturnType<typeof selectorOf>;
const parsedSelectors = new WeakMap<LabelSelector, { requirements: Requirements }>();

/** Whether a LabelSelector matches; an absent one matches nothing. Selectors are parsed once an object. */
export function selects(
  selector: LabelSelector | undefined,
  labels: Record<string, string> | undefined,
): boolean {
  if (!selector) return false;
  let parsed = parsedSelectors.get(selector);
  if (!parsed) {
    parsed = { requirements: selectorOf(selector) };
    parsedSelectors.set(selector, parsed);
  }
  return parsed.requirements !== null && matchLabels(parsed.requirements, labels ?? {});
}

/**
 * The objects of a kind that a change of `object` concerns: its controller, or, of an orphan, those that select it.
 * `owners` needs {@link indexBySelector}.
 */
export function ownersOf<T extends KubeObject>(
  object: Stored,
  kind: string,
  owners: Informer<T>,
  selector: (owner: Stored<T>) => LabelSelector | undefined,
): Stored<T>[] {
  const { namespace = "", labels } = object.metadata;
  const reference = controllerOf(object);
  if (!reference) {
    return selectorCandidates(owners, namespace, labels).filter((owner) => selects(selector(owner), labels));
  }
  const owner = owners.get(`${namespace}/${reference.name}`);
  return reference.kind === kind && owner?.metadata.uid === reference.uid ? [owner] : [];
}

/** Whether a plain map selector (Service.spec.selector) matches. */
export function selectsMap(
  selector: Record<string, string>,
  labels: Record<string, string> | undefined,
): boolean {
  for (const key in selector) if (labels?.[key] !== selector[key]) return false;
  return true;
}

export interface ClaimOptions<O extends KubeObject, T extends KubeObject> {
  client: KubeClient;
  ownerResource: Resource<O>;
  owner: Stored<O>;
  selector: LabelSelector | undefined;
  resource: Resource<T>;
  informer: Informer<T>;
  /** Objects that are looked at at all; default all. */
  eligible?(object: Stored<T>): boolean;
}

/**
 * The objects a controller manages: its own that match its selector, plus orphans that match, which it adopts. Its
 * own that no longer match are released. Orphans that are being deleted are left alone. (The rules are those of
 * ControllerRefManager in Kubernetes.)
 */
export async function claim<O extends KubeObject, T extends KubeObject>(
  options: ClaimOptions<O, T>,
): Promise<Stored<T>[]> {
  const { owner, selector, informer } = options;
  const claimed: Stored<T>[] = [];
  const eligible = options.eligible ?? (() => true);
  for (const object of controlledBy(informer, owner.metadata.uid)) {
    if (!eligible(object)) continue;
    if (selects(selector, object.metadata.labels)) claimed.push(object);
    else if (!owner.metadata.deletionTimestamp) await release(options, object);
  }
  if (owner.metadata.deletionTimestamp) return claimed;
  let checked = false;
  for (const object of informer.byIndex(BY_CONTROLLER, `orphan/${owner.metadata.namespace ?? ""}`)) {
    if (object.metadata.deletionTimestamp || !eligible(object)) continue;
    if (!selects(selector, object.metadata.labels)) continue;
    // The cache may lag behind a deletion of the owner, and adopting for a dead owner means deletion by the garbage
    // collector: ask the API first, once.
    if (!checked) await assertAlive(options);
    checked = true;
    const adopted = await adopt(options, object);
    if (adopted) claimed.push(adopted);
  }
  return claimed;
}

async function assertAlive<O extends KubeObject, T extends KubeObject>(options: ClaimOptions<O, T>) {
  const { client, owner, ownerResource } = options;
  const now = await client.get(ownerResource, owner.metadata.name, owner.metadata.namespace);
  if (now.metadata.uid !== owner.metadata.uid || now.metadata.deletionTimestamp) {
    throw new Error(`${owner.kind} ${owner.metadata.namespace}/${owner.metadata.name} is being replaced`);
  }
}

function adopt<O extends KubeObject, T extends KubeObject>(options: ClaimOptions<O, T>, object: Stored<T>) {
  const references = [...(object.metadata.ownerReferences ?? []), controllerReference(options.owner)];
  return setOwners(options.client, options.resource, object, references);
}

function release<O extends KubeObject, T extends KubeObject>(options: ClaimOptions<O, T>, object: Stored<T>) {
  const { uid } = options.owner.metadata;
  const references = (object.metadata.ownerReferences ?? []).filter((reference) => reference.uid !== uid);
  return setOwners(options.client, options.resource, object, references);
}

/** Writes the owner references, if the object is still as we saw it; undefined when it is gone. @throws StatusError */
export async function setOwners<T extends KubeObject>(
  client: KubeClient,
  resource: Resource<T>,
  object: Stored<T>,
  ownerReferences: OwnerReference[],
): Promise<Stored<T> | undefined> {
  const { name, uid, resourceVersion } = object.metadata;
  const patch = { metadata: { uid, resourceVersion, ownerReferences } };
  try {
    return await client.patch(resource, name, "merge", patch, namespaceOf(object));
  } catch (error) {
    if (isNotFound(error)) return undefined;
    throw error;
  }
}
