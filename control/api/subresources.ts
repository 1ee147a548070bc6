// Subresources that are no plain part of an object: scale, pods/binding, pods/ephemeralcontainers, pods/eviction. Knows
// no HTTP.

import type { PatchType } from "../../common/client.js";
import type { KubeObject, Pod, Scale, Status, Stored } from "../../common/k8s.js";
import { invalid, invalidStatus } from "../resources/validation/field.js";
import { type Body, decodeBody, decodePatched, type Expected } from "./body.js";
import { draftOf, type Engine, type Kind, timestamp } from "./engine.js";
import { EVICTION, Evictor } from "./eviction.js";
import { applyPatch, patchChange } from "./patching.js";
import type { Reader } from "./read.js";
import type { Remover } from "./remove.js";
import * as status from "./status.js";
import { type Change, expectedOf, type WriteRequest, type Writer, type Written } from "./write.js";

export const SCALE: Expected = {
  apiVersion: "autoscaling/v1",
  kind: "Scale",
  schema: "io.k8s.api.autoscaling.v1.Scale",
};
export const BINDING: Expected = { apiVersion: "v1", kind: "Binding", schema: "io.k8s.api.core.v1.Binding" };
export { EVICTION };

const POD_BINDING = { group: "", plural: "pods/binding" };

interface BindingObject extends KubeObject {
  target?: { kind?: string; name?: string };
}

export class Subresources {
  readonly #engine: Engine;
  readonly #reader: Reader;
  readonly #writer: Writer;
  readonly #evictor: Evictor;

  constructor(engine: Engine, reader: Reader, writer: Writer, remover: Remover) {
    this.#engine = engine;
    this.#reader = reader;
    this.#writer = writer;
    this.#evictor = new Evictor(engine, writer, remover);
  }

  async getScale(kind: Kind, namespace: string | undefined, name: string): Promise<Stored<Scale>> {
    return scaleOf(kind, await this.#reader.get(kind, namespace, name));
  }

  /** Replaces or patches the scale of an object. @throws StatusError Invalid for negative replicas. */
  async setScale(request: WriteRequest, name: string, body: Body, patchType?: PatchType): Promise<Written> {
    const { kind, fieldValidation } = request;
    const change = (old: Stored): Change => {
      const current = scaleOf(kind, old);
      const { object, warnings } = patchType
        ? decodePatched(
            this.#engine,
            current,
            applyPatch(this.#engine, patchType, current, body.value, SCALE.schema),
            body,
            SCALE,
            fieldValidation,
          )
        : decodeBody(this.#engine, body, SCALE, fieldValidation);
      const replicas = (object as Scale).spec?.replicas ?? 0;
      if (replicas < 0)
        throw invalidStatus({ group: "autoscaling", kind: "Scale" }, name, [
          invalid("spec.replicas", replicas, "must be greater than or equal to 0"),
        ]);
      const draft = draftOf(old);
      kind.definition.scale?.set(draft, replicas);
      const { resourceVersion, uid, name: named = "" } = object.metadata ?? {};
      draft.metadata = {
        ...draft.metadata,
        name: named,
        ...(uid ? { uid } : {}),
        resourceVersion: resourceVersion ?? "",
      };
      return { object: draft, warnings };
    };
    const { object, warnings } = await this.#writer.modify(request, {
      name,
      part: "main",
      subresource: "scale",
      change,
    });
    return { object: scaleOf(kind, object), warnings };
  }

  /** Adds debug containers to a pod; of what is sent only those are read. @throws StatusError Invalid */
  async setEphemeralContainers(
    request: WriteRequest,
    name: string,
    body: Body,
    patchType?: PatchType,
  ): Promise<Written> {
    const { kind, fieldValidation } = request;
    const decode = patchType
      ? patchChange(this.#engine, kind, patchType, body, fieldValidation)
      : () => decodeBody(this.#engine, body, expectedOf(kind), fieldValidation);
    const change = (old: Stored): Change => {
      const { object, warnings } = decode(old);
      const draft = draftOf(old) as Pod;
      const { ephemeralContainers = [] } = (object as Pod).spec ?? {};
      draft.spec = { ...draft.spec, containers: draft.spec?.containers ?? [], ephemeralContainers };
      const { resourceVersion, uid, name = "" } = object.metadata ?? {};
      draft.metadata = {
        ...draft.metadata,
        name,
        ...(uid ? { uid } : {}),
        resourceVersion: resourceVersion ?? "",
      };
      return { object: draft, warnings };
    };
    return await this.#writer.modify(request, {
      name,
      part: "main",
      subresource: "ephemeralcontainers",
      change,
    });
  }

  /** Assigns a pod to a node, once. @throws StatusError Conflict when it has one, or is being deleted. */
  async bind(request: WriteRequest, name: string, body: Body): Promise<Status> {
    const { object } = decodeBody(this.#engine, body, BINDING, request.fieldValidation);
    const { target, metadata } = object as BindingObject;
    if (metadata?.name !== name) throw status.badRequest("name in URL does not match name in Binding object");
    const node = target?.name ?? "";
    if (node === "" || (target?.kind !== undefined && target.kind !== "Node"))
      throw invalidStatus({ group: "", kind: "Binding" }, name, [
        invalid("target", target ?? null, 'must name a node: {kind: "Node", name}'),
      ]);
    const change = (old: Stored): Change => {
      const pod = old as Stored<Pod>;
      if (metadata?.uid && metadata.uid !== pod.metadata.uid)
        throw status.conflict(
          request.kind.resource,
          name,
          `Precondition failed: UID in precondition: ${metadata.uid}, UID in object meta: ${pod.metadata.uid}`,
        );
      if (pod.metadata.deletionTimestamp)
        throw status.conflict(
          POD_BINDING,
          name,
          `pod ${name} is being deleted, cannot be assigned to a host`,
        );
      if (pod.spec?.nodeName)
        throw status.conflict(
          POD_BINDING,
          name,
          `pod ${name} is already assigned to node ${JSON.stringify(pod.spec.nodeName)}`,
        );
      return { object: bound(pod, node, metadata?.annotations), warnings: [] };
    };
    await this.#writer.modify(request, { name, part: "unchecked", change });
    return success(201);
  }

  /** See {@link Evictor.evict}. */
  async evict(request: WriteRequest, name: string, body: Body): Promise<Status> {
    return await this.#evictor.evict(request, name, body);
  }
}

function success(code: number): Status {
  return { kind: "Status", apiVersion: "v1", metadata: {}, status: "Success", code };
}

/** @throws StatusError NotFound for a kind without a scale. */
export function scaleOf(kind: Kind, object: Stored): Stored<Scale> {
  const mapping = kind.definition.scale;
  if (!mapping) throw status.notFound(kind.resource, object.metadata.name);
  const { specReplicas, statusReplicas, selector } = mapping.get(object);
  const { name, namespace, uid, resourceVersion, creationTimestamp } = object.metadata;
  return {
    kind: SCALE.kind,
    apiVersion: SCALE.apiVersion,
    metadata: { name, ...(namespace ? { namespace } : {}), uid, resourceVersion, creationTimestamp },
    spec: { replicas: specReplicas },
    status: { replicas: statusReplicas, selector },
  };
}

function bound(pod: Stored<Pod>, node: string, annotations: Record<string, string> | undefined): KubeObject {
  const conditions = (pod.status?.conditions ?? []).filter((c) => c.type !== "PodScheduled");
  const scheduled = { type: "PodScheduled", status: "True", lastTransitionTime: timestamp() };
  // It has the node now: the one that was kept for it is of no matter.
  const { nominatedNodeName: _, ...status } = pod.status ?? {};
  const draft = {
    ...pod,
    metadata: {
      ...pod.metadata,
      ...(annotations ? { annotations: { ...pod.metadata.annotations, ...annotations } } : {}),
    },
    spec: { ...pod.spec, nodeName: node },
    status: { ...status, conditions: [...conditions, scheduled] },
  };
  return draft as KubeObject;
}
