// What may be created besides being valid, and with what filled in, as it depends on other objects: the admission
// plugins LimitRanger, ServiceAccount, Priority, DefaultIngressClass, DefaultStorageClass and
// StorageObjectInUseProtection of the real server, with their texts. Knows the store and those kinds; no HTTP.

import type { PodSpec } from "kubernetes-types/core/v1.js";
import type {
  Ingress,
  KubeObject,
  LimitRange,
  PersistentVolumeClaim,
  Pod,
  PriorityClass,
  ServiceAccount,
  StorageClass,
  Stored,
} from "../../common/k8s.js";
import { namesStorageClass } from "../resources/persistent-volume.js";
import { priorityClassOf } from "../resources/priority-class.js";
import { defaultStorageClass } from "../resources/storage-class.js";
import type { Engine, Kind, User } from "./engine.js";
import { beyondLimits, defaultLimits } from "./limit-ranger.js";
import { generatedName } from "./metadata.js";
import { admitNode } from "./node-restriction.js";
import { forbidden } from "./status.js";

/** An object that is to be created, before its defaults are filled in; an admission may write into it. */
export interface Admitted {
  engine: Engine;
  user: User;
  kind: Kind;
  namespace: string | undefined;
  /** As errors tell it: generateName when there is no name yet. */
  name: string;
  object: KubeObject;
}

/** @throws StatusError Forbidden when the object is refused. */
export type Admission = (request: Admitted) => Promise<void> | void;

const DEFAULT_ACCOUNT = "default";
/** A new namespace has no account yet: the controller that makes it gets about a second. */
const DEFAULT_ACCOUNT_ATTEMPTS = 10;
const ATTEMPT_INTERVAL_MS = 100;
/** Pods that a kubelet has made on its own, and only shows. */
const MIRROR = "kubernetes.io/config.mirror";
const TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount";
const TOKEN_VOLUME = "kube-api-access-";
const TOKEN_SOURCES = {
  sources: [
    { serviceAccountToken: { expirationSeconds: 3607, path: "token" } },
    { configMap: { name: "kube-root-ca.crt", items: [{ key: "ca.crt", path: "ca.crt" }] } },
    {
      downwardAPI: {
        items: [{ path: "namespace", fieldRef: { apiVersion: "v1", fieldPath: "metadata.namespace" } }],
      },
    },
  ],
  defaultMode: 0o644,
};

async function admitServiceAccount(request: Admitted): Promise<void> {
  const { kind, object } = request;
  if (!isPod(kind)) return;
  const { metadata, spec } = object as Pod;
  if (!spec || metadata?.annotations?.[MIRROR] !== undefined) return;
  const account = await serviceAccount(request, spec);
  if (spec.automountServiceAccountToken ?? account.automountServiceAccountToken ?? true) mountToken(spec);
  const secrets = account.imagePullSecrets;
  if (secrets?.length && !spec.imagePullSecrets?.length) spec.imagePullSecrets = structuredClone(secrets);
}

/** @throws StatusError Forbidden when there is no such account. */
async function serviceAccount(
  { engine, kind, namespace = "", name }: Admitted,
  spec: PodSpec,
): Promise<Stored<ServiceAccount>> {
  const account = spec.serviceAccountName || spec.serviceAccount || DEFAULT_ACCOUNT;
  const attempts = account === DEFAULT_ACCOUNT ? DEFAULT_ACCOUNT_ATTEMPTS : 1;
  for (let attempt = 1; ; attempt++) {
    const entry = await engine.store.get(`/registry/serviceaccounts/${namespace}/${account}`);
    if (entry) return entry.value as Stored<ServiceAccount>;
    if (attempt === attempts)
      throw forbidden(
        kind.resource,
        name,
        `error looking up service account ${namespace}/${account}: serviceaccount "${account}" not found`,
      );
    await new Promise((resolve) => setTimeout(resolve, ATTEMPT_INTERVAL_MS));
  }
}

/** @throws StatusError Forbidden naming all that the namespace's LimitRanges do not allow. */
async function admitLimits({ engine, kind, namespace = "", name, object }: Admitted): Promise<void> {
  if (!isPod(kind)) return;
  const { entries } = await engine.store.range(`/registry/limitranges/${namespace}/`);
  const ranges = entries.map(({ value }) => value as Stored<LimitRange>);
  for (const range of ranges) defaultLimits(object as Pod, range);
  const errors = ranges.flatMap((range) => beyondLimits(object as Pod, range));
  if (errors.length === 0) return;
  throw forbidden(kind.resource, name, errors.length === 1 ? (errors[0] ?? "") : `[${errors.join(", ")}]`);
}

/** The account's token, the cluster's CA and the namespace, where client-go's InClusterConfig looks for them. */
function mountToken(spec: PodSpec): void {
  const containers = [...(spec.initContainers ?? []), ...(spec.containers ?? [])].filter(
    ({ volumeMounts = [] }) => !volumeMounts.some(({ mountPath }) => mountPath === TOKEN_PATH),
  );
  if (containers.length === 0) return;
  let name = spec.volumes?.find((volume) => volume.name.startsWith(TOKEN_VOLUME))?.name;
  if (name === undefined) {
    name = generatedName(TOKEN_VOLUME);
    spec.volumes = [...(spec.volumes ?? []), { name, projected: structuredClone(TOKEN_SOURCES) }];
  }
  for (const container of containers)
    container.volumeMounts = [
      ...(container.volumeMounts ?? []),
      { name, readOnly: true, mountPath: TOKEN_PATH },
    ];
}

async function admitPriority(request: Admitted): Promise<void> {
  const { engine, kind, name, object } = request;
  if (kind.resource.plural === "priorityclasses") return await admitPriorityClass(request);
  const { spec } = object as Pod;
  if (!isPod(kind) || !spec) return;
  const { priorityClassName = "", priority, preemptionPolicy } = spec;
  const { entries } = await engine.store.range("/registry/priorityclasses/");
  const found = priorityClassOf(
    priorityClassName,
    entries.map(({ value }) => value as Stored<PriorityClass>),
  );
  if (!found)
    throw forbidden(kind.resource, name, `no PriorityClass with name ${priorityClassName} was found`);
  const { value, preemptionPolicy: policy } = found;
  const computed = (what: string, given: unknown, ours: unknown): Error =>
    forbidden(
      kind.resource,
      name,
      `the ${what} (${given}) must not be provided in pod spec; priority admission controller computed ${ours} from the given PriorityClass name`,
    );
  if (priority !== undefined && priority !== value)
    throw computed("integer value of priority", priority, value);
  if (preemptionPolicy !== undefined && preemptionPolicy !== policy)
    throw computed("string value of PreemptionPolicy", preemptionPolicy, policy);
  if (found.name) spec.priorityClassName = found.name;
  spec.priority = value;
  spec.preemptionPolicy = policy;
}

/** There is one default at most. */
async function admitPriorityClass({ engine, kind, name, object }: Admitted): Promise<void> {
  if (!(object as PriorityClass).globalDefault) return;
  const { entries } = await engine.store.range("/registry/priorityclasses/");
  const other = entries.find(({ value }) => (value as Stored<PriorityClass>).globalDefault)?.value.metadata;
  if (!other) return;
  const text = `PriorityClass ${other.name} is already marked as default. Only one default can exist`;
  throw forbidden(kind.resource, name, text);
}

function isPod({ resource }: Kind): boolean {
  return resource.group === "" && resource.plural === "pods";
}

const DEFAULT_CLASS = "ingressclass.kubernetes.io/is-default-class";

/** The newest of the classes that call themselves the default one (DefaultIngressClass). */
async function admitIngress({ engine, kind, object }: Admitted): Promise<void> {
  if (kind.resource.group !== "networking.k8s.io" || kind.resource.plural !== "ingresses") return;
  const { metadata, spec } = object as Ingress;
  if (!spec || spec.ingressClassName !== undefined) return;
  if (metadata?.annotations?.["kubernetes.io/ingress.class"] !== undefined) return;
  const { entries } = await engine.store.range("/registry/ingressclasses/");
  const defaults = entries
    .map(({ value }) => value.metadata)
    .filter(({ annotations }) => annotations?.[DEFAULT_CLASS] === "true");
  const newest = defaults.sort((a, b) =>
    a.creationTimestamp === b.creationTimestamp
      ? a.name.localeCompare(b.name)
      : b.creationTimestamp.localeCompare(a.creationTimestamp),
  )[0];
  if (newest) spec.ingressClassName = newest.name;
}

/** What keeps volumes and claims from going while they are used; the controllers that take it away know it too. */
const IN_USE: Readonly<Record<string, string>> = {
  persistentvolumes: "kubernetes.io/pv-protection",
  persistentvolumeclaims: "kubernetes.io/pvc-protection",
};

async function admitStorage({ engine, kind, object }: Admitted): Promise<void> {
  const { group, plural } = kind.resource;
  const finalizer = group === "" ? IN_USE[plural] : undefined;
  if (finalizer === undefined) return;
  const { finalizers = [] } = object.metadata ?? {};
  if (!finalizers.includes(finalizer))
    object.metadata = { ...object.metadata, finalizers: [...finalizers, finalizer] };
  const claim = object as PersistentVolumeClaim;
  if (plural !== "persistentvolumeclaims" || namesStorageClass(claim)) return;
  const { entries } = await engine.store.range("/registry/storageclasses/");
  const chosen = defaultStorageClass(entries.map(({ value }) => value as Stored<StorageClass>));
  if (chosen) claim.spec = { ...claim.spec, storageClassName: chosen.metadata.name };
}

/** In the order in which the real server asks them. */
export const ADMISSION: readonly Admission[] = [
  admitLimits,
  admitServiceAccount,
  admitNode,
  admitPriority,
  admitStorage,
  admitIngress,
];
