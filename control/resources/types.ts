// What a kind is to the API engine: a declaration. The engine (control/api) knows verbs and HTTP, a definition
// (one file a kind in this folder) knows the fields of its objects; neither knows the other's inside.

import type { Resource } from "../../common/client.js";
import type { KubeObject, Stored } from "../../common/k8s.js";

/** One problem with one field: apimachinery's field.Error. Rendered into Status causes by the engine. */
export interface FieldError {
  type:
    | "FieldValueRequired"
    | "FieldValueInvalid"
    | "FieldValueNotSupported"
    | "FieldValueDuplicate"
    | "FieldValueForbidden"
    | "FieldValueNotFound"
    | "FieldValueTooLong"
    | "FieldValueTooMany"
    | "FieldValueTypeInvalid"
    | "InternalError";
  /** spec.ports[0].nodePort */
  field: string;
  /** The offending value; omitted for Required and Forbidden. */
  value?: unknown;
  detail?: string;
}

/** Who asks, and how. */
export interface RequestContext {
  user: {
    name: string;
    uid?: string;
    groups: readonly string[];
    extra?: Readonly<Record<string, readonly string[]>>;
  };
  dryRun: boolean;
  /** RFC 3339 time of the request, seconds precision: creationTimestamp and the like. */
  now: string;
}

/** A column of the server-side Table (meta.k8s.io/v1), as kubectl prints it. */
export interface Column<T> {
  name: string;
  type: "string" | "integer" | "date" | "boolean";
  format?: "name" | "";
  description?: string;
  /** 0 always shown; 1 only with -o wide. */
  priority: 0 | 1;
  /** `now` in milliseconds since the epoch, for ages. */
  value(object: T, now: number): string | number | boolean;
}

/** A reservation taken by {@link ResourceDefinition.allocate}. */
export interface Reservation {
  /** The write went through: what the old object held and the new one does not is given back. */
  commit(): void;
  /** The write failed or was a dry run: everything is as before. */
  rollback(): void;
}

/** A kind that is stored as another version of itself: there and back. The plural is the same. */
export interface Conversion {
  toStored(object: Stored): Stored;
  fromStored(object: Stored): Stored;
}

/** How `scale` maps to a kind (autoscaling/v1 Scale). */
export interface ScaleMapping<T> {
  get(object: T): { specReplicas: number; statusReplicas: number; selector: string };
  /** Sets spec.replicas on a draft. */
  set(draft: T, replicas: number): void;
}

/** A request that {@link Answers} answer. */
export interface Asked {
  user: RequestContext["user"];
  /** Of the path; undefined for all of them, or for a kind without namespaces. */
  namespace: string | undefined;
}

/**
 * The verbs of a kind whose objects are made for whoever asks and kept nowhere: reviews of who may do what,
 * measurements. The verbs that are there are the ones that are served. All throw StatusError.
 */
export interface Answers<T extends KubeObject = KubeObject> {
  create?(object: T, asked: Asked): Promise<T> | T;
  get?(name: string, asked: Asked): Promise<Stored<T>> | Stored<T>;
  /** Everything in the namespace; label and field selectors are the engine's business. */
  list?(asked: Asked): Promise<Stored<T>[]> | Stored<T>[];
}

/**
 * A kind. All hooks that take a `draft` may change it; everything else is read-only. Order on create:
 * decode (unknown fields) → setDefaults → prepareForCreate → validate → allocate → write → commit;
 * on update: decode → setDefaults → prepareForUpdate → validate(new, old) → allocate → write → commit.
 */
export interface ResourceDefinition<T extends KubeObject = KubeObject> {
  readonly resource: Resource<T>;
  readonly singular: string;
  readonly shortNames?: readonly string[];
  readonly categories?: readonly string[];
  /** Name in the generated OpenAPI schema: "io.k8s.api.core.v1.Pod". */
  readonly schema: string;
  readonly columns: readonly Column<Stored<T>>[];
  /** Has a status subresource: then a plain update leaves status alone, and an update of status only status. */
  readonly hasStatus: boolean;
  /** An update of status may change annotations too: the controller notes the revision with it. */
  readonly statusCarriesAnnotations?: true;
  /** A DELETE is answered with the object that is gone, not with a Status (ReturnDeletedObject of the real registries). */
  readonly returnsDeleted?: true;
  readonly scale?: ScaleMapping<T>;
  readonly conversion?: Conversion;
  /** Of a kind that is not stored. */
  readonly answers?: Answers<T>;
  /** Of a kind that should not be used any more: the warning that goes with every answer about it. */
  readonly deprecation?: string;
  /** Values that a field selector may name, beside metadata.name and metadata.namespace. */
  selectableFields?(object: Stored<T>): Record<string, string>;
  setDefaults?(draft: T): void;
  /** @throws StatusError Invalid when the request is such that nothing can be made of it. */
  prepareForCreate?(draft: T, context: RequestContext): void;
  /** Keep what an update may not touch; raise metadata.generation when the spec changed. Throws the same. */
  prepareForUpdate?(draft: T, old: Stored<T>, context: RequestContext): void;
  /** The same for PUT/PATCH …/status; the engine has already taken everything but status from `old`. */
  prepareForStatusUpdate?(draft: T, old: Stored<T>): void;
  /** The object is marked for deletion and waits for finalizers: metadata is the engine's, the rest may be set. */
  prepareForDelete?(draft: T): void;
  /**
   * Everything about this kind's own fields; name, namespace, labels and annotations are the engine's. `subresource`
   * is the one by which an update came, when there are other rules for it.
   */
  validate(object: T, old?: Stored<T>, subresource?: string): FieldError[];
  /** What to tell who creates or updates such an object, though it is valid. */
  warnings?(object: T): string[];
  /** Whether metadata.name is a valid one; default DNS-1123 subdomain. Returns what is wrong, one a line. */
  validateName?(name: string): string[];
  /**
   * Reserves what is unique in the cluster (ClusterIPs, node ports) and writes it into the draft.
   * @throws StatusError Invalid with the field named, when it cannot be had.
   */
  allocate?(draft: T, old: Stored<T> | undefined): Reservation;
  /** Called once at start with every stored object: allocators rebuild themselves from the truth. */
  restore?(objects: readonly Stored<T>[]): void;
  /** The object is gone from the store. */
  released?(object: Stored<T>): void;
  /** Somebody, another process or this one, has written or (`now` is absent) deleted it: allocators follow. */
  observed?(now: Stored<T> | undefined, before: Stored<T> | undefined): void;
  /**
   * Seconds a delete waits for somebody (the kubelet) to finish it; 0 deletes now. Undefined: now.
   * `requested` is DeleteOptions.gracePeriodSeconds.
   */
  gracePeriod?(object: Stored<T>, requested: number | undefined): number;
}
