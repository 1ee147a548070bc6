// create, update and patch: the order of hooks, optimistic concurrency, allocation around the write. Knows no HTTP.

import type { ManagedFieldsEntry } from "kubernetes-types/meta/v1.js";
import type { KubeObject, Namespace, Stored } from "../../common/k8s.js";
import { copyJson, shareEqual } from "../patch/copy.js";
import { invalidStatus } from "../resources/validation/field.js";
import { type Entry, RevisionMismatch, type Turn } from "../store/store.js";
import { type Body, decodeBody, type Expected, type FieldValidation } from "./body.js";
import type { Engine, Kind, User } from "./engine.js";
import {
  fillForCreate,
  frozenMetaErrors,
  generatedName,
  isHeld,
  keepForUpdate,
  validateMeta,
} from "./metadata.js";
import { checkPodSecurity } from "./pod-security-admission.js";
import { withinQuotas } from "./quota.js";
import { Roles } from "./rbac.js";
import * as status from "./status.js";
import {
  type FieldManager,
  isUnchanged,
  type Part,
  setManagedFields,
  trackCreate,
  trackUpdate,
} from "./tracking.js";

export interface WriteRequest {
  kind: Kind;
  namespace: string | undefined;
  user: User;
  dryRun: boolean;
  fieldValidation: FieldValidation;
  manager: FieldManager;
}

export interface Written {
  object: Stored;
  warnings: string[];
}

const MAX_NAME_ATTEMPTS = 8;
const MAX_CONFLICT_ATTEMPTS = 20;
/** Each lost turn is another server's allocation that was done. */
const MAX_TURNS = 100;
const NAMESPACE_PREFIX = "/registry/namespaces/";

export function expectedOf(kind: Kind): Expected {
  return { apiVersion: kind.apiVersion, kind: kind.resource.kind, schema: kind.definition.schema };
}

/** What an update makes of the stored object. */
export interface Change {
  /** May be changed: it shares nothing with the stored one, but managedFields, and where it is not checked anyway. */
  object: KubeObject;
  warnings: string[];
  /** What an apply has made of them; otherwise they follow from the difference. */
  managedFields?: ManagedFieldsEntry[];
  /** The uid of an update is a precondition; a patch would change it. */
  isPatch?: true;
}

export interface Modification {
  name: string;
  /** The part that may change: all but status, or one subresource. */
  part: Exclude<Part, "scale" | "ephemeralcontainers"> | "unchecked";
  /** Which subresource it came by, when that is not the part. */
  subresource?: "scale" | "ephemeralcontainers";
  /** Called again, with the newer object, when somebody else wrote in between. */
  change(old: Stored): Change;
}

export class Writer {
  readonly #engine: Engine;
  readonly #roles: Roles;
  /** Allocations of this server, one after the other, where other servers allocate too. */
  #turns: Promise<unknown> = Promise.resolve();

  constructor(engine: Engine) {
    this.#engine = engine;
    this.#roles = new Roles(engine.store);
  }

  /** @throws StatusError BadRequest, Invalid, AlreadyExists, Forbidden, NotFound (the namespace). */
  create(request: WriteRequest, body: Body): Promise<Written> {
    const { kind, fieldValidation } = request;
    return this.#create(request, () => decodeBody(this.#engine, body, expectedOf(kind), fieldValidation));
  }

  /** The same for an object that an apply has made, with its managers. */
  createApplied(request: WriteRequest, applied: Change): Promise<Written> {
    return this.#create(request, () => applied);
  }

  async #create(request: WriteRequest, read: () => Change): Promise<Written> {
    const { object, warnings, managedFields } = read();
    const { kind, namespace, user, dryRun } = request;
    checkNamespace(kind, object, namespace);
    if (object.metadata?.resourceVersion)
      throw status.badRequest("resourceVersion should not be set on objects to be created");
    const generate = object.metadata?.name ? undefined : object.metadata?.generateName;
    const told = object.metadata?.name || generate || "";
    const labels = await this.#checkNamespaceOpen(kind, namespace, told);
    // Defaults belong to whoever creates, what admission adds to nobody; it may add what needs defaults again.
    kind.definition.setDefaults?.(object);
    const tracked = managedFields ?? trackCreate(this.#engine, kind, request.manager, object);
    for (const admit of this.#engine.admission)
      await admit({ engine: this.#engine, user, kind, namespace, name: told, object });
    const context = this.#engine.context(user, dryRun);
    const name = object.metadata?.name || (generate ? await freeName(kind, namespace, generate) : "");
    fillForCreate(object, name, kind.resource.namespaced ? (namespace ?? "") : "", context);
    if (tracked) setManagedFields(object, tracked);
    kind.definition.setDefaults?.(object);
    kind.definition.prepareForCreate?.(object, context);
    this.#validate(kind, object, undefined);
    await this.#roles.checkEscalation(kind, user, object);
    const key = kind.key(namespace, name);
    if (await kind.store.get(key)) throw status.alreadyExists(kind.resource, name);
    const security = await checkPodSecurity({ engine: this.#engine, kind, namespace, object, labels });
    const written = await withinQuotas({ engine: this.#engine, kind, namespace, object, dryRun }, () =>
      this.#write(kind, key, object, undefined, dryRun),
    );
    const own = kind.definition.warnings?.(written) ?? [];
    return { object: written, warnings: [...warnings, ...own, ...security] };
  }

  /**
   * Reads, changes and writes. A change that names a resourceVersion fails with Conflict when it is not the
   * current one; one that does not is tried again on what somebody else wrote.
   */
  async modify(request: Omit<WriteRequest, "fieldValidation">, modification: Modification): Promise<Written> {
    const { kind, namespace, dryRun } = request;
    const { name } = modification;
    const key = kind.key(namespace, name);
    for (let attempt = 1; ; attempt++) {
      const entry = await kind.store.get(key);
      if (!entry) throw status.notFound(kind.resource, name);
      const old = entry.value;
      const change = modification.change(old);
      const object = relevant(modification, change.object);
      checkIdentity(kind, change, old, namespace);
      const wanted = object.metadata?.resourceVersion;
      const pinned = wanted !== undefined && wanted !== "" && wanted !== "0";
      if (pinned && wanted !== old.metadata.resourceVersion) throw status.modified(kind.resource, name);
      try {
        const prepared = this.#prepare(request, modification, change, object, old);
        // Whoever allocates writes into the draft.
        const draft = kind.definition.allocate ? prepared : shareEqual(prepared, old);
        const warnings = [...change.warnings];
        if (modification.part === "main") {
          warnings.push(...(kind.definition.warnings?.(draft) ?? []));
          if (modification.subresource !== "scale")
            warnings.push(
              ...(await checkPodSecurity({ engine: this.#engine, kind, namespace, object: draft, old })),
            );
        }
        if (isUnchanged(draft, old)) return { object: old, warnings };
        await this.#roles.checkEscalation(kind, request.user, draft);
        return { object: await this.#write(kind, key, draft, entry, dryRun), warnings };
      } catch (error) {
        if (!(error instanceof RevisionMismatch)) throw error;
        if (attempt >= MAX_CONFLICT_ATTEMPTS) throw status.modified(kind.resource, name);
      }
    }
  }

  #prepare(
    { kind, user, dryRun, manager }: Omit<WriteRequest, "fieldValidation">,
    { part, subresource }: Modification,
    change: Change,
    object: KubeObject,
    old: Stored,
  ): KubeObject {
    const { definition } = kind;
    const kept = old.metadata.managedFields;
    if (part === "unchecked") {
      keepForUpdate(object, old);
      setManagedFields(object, kept);
      return object;
    }
    const sent = part === "main" ? change.object.metadata?.managedFields : undefined;
    const track = (draft: KubeObject): void => {
      const entries =
        change.managedFields ??
        trackUpdate(this.#engine, kind, subresource ?? part, manager, { old, draft, sent });
      setManagedFields(draft, entries);
    };
    if (part === "finalize") {
      const { spec, ...rest } = copyWithoutManagers(old) as KubeObject & { spec?: Record<string, unknown> };
      const { finalizers: _, ...others } = spec ?? {};
      const draft = {
        ...rest,
        spec: { ...others, ...pick((object as { spec?: object }).spec, "finalizers") },
      } as KubeObject;
      track(draft);
      this.#validate(kind, draft, old);
      return draft;
    }
    if (part === "status") {
      const { status: _, ...rest } = old as KubeObject & { status?: unknown };
      const draft = { ...copyWithoutManagers(rest), ...pick(object, "status") } as KubeObject;
      if (definition.statusCarriesAnnotations) {
        const { annotations: _, ...metadata } = old.metadata;
        draft.metadata = { ...metadata, ...pick(object.metadata, "annotations") };
      }
      definition.setDefaults?.(draft);
      track(draft);
      definition.prepareForStatusUpdate?.(draft, old);
      this.#validate(kind, draft, old, part);
      return draft;
    }
    const frozen = frozenMetaErrors(object.metadata ?? {}, old);
    if (frozen.length > 0) throw invalidStatus(kind.resource, old.metadata.name, frozen);
    keepForUpdate(object, old);
    if (definition.hasStatus) keepStatus(object, old);
    definition.setDefaults?.(object);
    track(object);
    definition.prepareForUpdate?.(object, old, this.#engine.context(user, dryRun));
    this.#validate(kind, object, old, subresource);
    return object;
  }

  #validate(kind: Kind, draft: KubeObject, old: Stored | undefined, subresource?: string): void {
    const errors = [...validateMeta(kind, draft, old), ...kind.definition.validate(draft, old, subresource)];
    if (errors.length > 0) throw invalidStatus(kind.resource, draft.metadata?.name ?? "", errors);
  }

  /** Reserves, writes, and gives back what was not used; an object nobody holds any more is deleted instead. */
  async #write(
    kind: Kind,
    key: string,
    draft: KubeObject,
    entry: Entry<Stored> | undefined,
    dryRun: boolean,
  ): Promise<Stored> {
    if (entry && isFinished(draft as Stored))
      return await this.#deleteFinished(kind, draft as Stored, entry, dryRun);
    const { shared } = this.#engine.store;
    if (!shared || !kind.definition.allocate || dryRun)
      return await this.#reserveAndPut(kind, key, draft, entry, dryRun);
    const written = this.#turns.then(async () => {
      for (let attempt = 1; ; attempt++) {
        const turn = await shared.turn("allocation");
        try {
          return await this.#reserveAndPut(kind, key, copyJson(draft), entry, false, turn);
        } catch (error) {
          // A write of the same object by another server may have what was given back here.
          kind.definition.observed?.((await this.#engine.store.get(key))?.value, undefined);
          const late = error instanceof RevisionMismatch && error.key === turn.key;
          if (!late || attempt >= MAX_TURNS) throw error;
        }
      }
    });
    this.#turns = written.catch(() => undefined);
    return await written;
  }

  async #reserveAndPut(
    kind: Kind,
    key: string,
    draft: KubeObject,
    entry: Entry<Stored> | undefined,
    dryRun: boolean,
    turn?: Turn,
  ): Promise<Stored> {
    const object = draft as Stored;
    const reservation = kind.definition.allocate?.(draft, entry?.value);
    if (dryRun) {
      reservation?.rollback();
      return object;
    }
    try {
      const written = await kind.store.put(key, object, entry?.revision ?? 0, turn);
      reservation?.commit();
      return written.value;
    } catch (error) {
      reservation?.rollback();
      if (!entry && error instanceof RevisionMismatch && error.key === key)
        throw status.alreadyExists(kind.resource, object.metadata.name);
      throw error;
    }
  }

  async #deleteFinished(kind: Kind, object: Stored, entry: Entry<Stored>, dryRun: boolean): Promise<Stored> {
    if (dryRun) return object;
    const { value } = await kind.store.delete(entry.key, entry.revision);
    kind.definition.released?.(value);
    const { resourceVersion } = value.metadata;
    return { ...object, metadata: { ...object.metadata, resourceVersion } };
  }

  /** The NamespaceLifecycle admission of the real server. The namespace's labels. */
  async #checkNamespaceOpen(
    kind: Kind,
    namespace: string | undefined,
    name: string,
  ): Promise<Readonly<Record<string, string>> | undefined> {
    if (!kind.resource.namespaced) return undefined;
    const namespaces = { group: "", plural: "namespaces" };
    const found = await this.#engine.store.get(NAMESPACE_PREFIX + namespace);
    if (!found) throw status.notFound(namespaces, namespace ?? "");
    if ((found.value as Stored<Namespace>).metadata.deletionTimestamp)
      throw status.forbidden(
        kind.resource,
        name,
        `unable to create new content in namespace ${namespace} because it is being terminated`,
        [
          {
            reason: "NamespaceTerminating",
            message: `namespace ${namespace} is being terminated`,
            field: "metadata.namespace",
          },
        ],
      );
    return found.value.metadata.labels;
  }
}

/** A generated name that nobody has; after some attempts the last one, for the write to refuse it. */
async function freeName(kind: Kind, namespace: string | undefined, prefix: string): Promise<string> {
  for (let attempt = 1; ; attempt++) {
    const name = generatedName(prefix);
    if (attempt === MAX_NAME_ATTEMPTS || !(await kind.store.get(kind.key(namespace, name)))) return name;
  }
}

function pick(object: object | undefined, field: string): object {
  const value = (object as Record<string, unknown> | undefined)?.[field];
  return value === undefined ? {} : { [field]: value };
}

function keepStatus(draft: KubeObject, old: Stored): void {
  const target = draft as { status?: unknown };
  delete target.status;
  Object.assign(draft, copyJson(pick(old, "status")));
}

/** What is read of a change: of a status update its status and whom it is for. */
function relevant({ part }: Modification, object: KubeObject): KubeObject {
  const { metadata = {} } = object;
  return part === "status" ? { metadata, ...pick(object, "status") } : object;
}

/** A copy that may be changed; managedFields are set later, and are long. */
function copyWithoutManagers(object: KubeObject): KubeObject {
  const { managedFields: _, ...metadata } = object.metadata ?? {};
  return copyJson({ ...object, metadata });
}

/** Marked for deletion, with nothing and nobody left to wait for. */
function isFinished(object: Stored): boolean {
  const { deletionTimestamp, deletionGracePeriodSeconds } = object.metadata;
  return deletionTimestamp !== undefined && !deletionGracePeriodSeconds && !isHeld(object);
}

function checkNamespace(kind: Kind, object: KubeObject, namespace: string | undefined): void {
  const own = object.metadata?.namespace;
  if (kind.resource.namespaced && own && own !== namespace)
    throw status.badRequest(
      `the namespace of the provided object does not match the namespace sent on the request`,
    );
}

function checkIdentity(
  kind: Kind,
  { object, isPatch }: Change,
  old: Stored,
  namespace: string | undefined,
): void {
  checkNamespace(kind, object, namespace);
  const { name, uid } = object.metadata ?? {};
  if (!name)
    throw status.badRequest(
      `the name of the object (${old.metadata.name} based on URL) was undeterminable: name must be provided`,
    );
  if (name !== old.metadata.name)
    throw status.badRequest(
      `the name of the object (${name}) does not match the name on the URL (${old.metadata.name})`,
    );
  if (uid && uid !== old.metadata.uid && !isPatch)
    throw status.conflict(
      kind.resource,
      old.metadata.name,
      `Precondition failed: UID in precondition: ${uid}, UID in object meta: ${old.metadata.uid}`,
    );
}
