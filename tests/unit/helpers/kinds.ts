// The declarations of the kinds as the API engine drives them, for tests: create, update, what is wrong, table cells.

import { StatusError } from "../../../common/client.js";
import type { KubeObject, Stored } from "../../../common/k8s.js";
import { createResources } from "../../../control/resources/index.js";
import type { ResourceDefinition } from "../../../control/resources/types.js";
import { errorText } from "../../../control/resources/validation/field.js";

export const NOW = Date.parse("2026-01-01T12:00:00Z");
export const CONTEXT = { user: { name: "tester", groups: [] }, dryRun: false, now: "2026-01-01T12:00:00Z" };

export type Kinds = ReadonlyMap<string, ResourceDefinition>;

/** The kinds of a cluster with these ranges of ClusterIPs. */
export function kinds(...serviceCIDRs: string[]): Kinds {
  const all = createResources({ serviceCIDRs, nodePortRange: [30000, 32767], defaultTolerationSeconds: 300 });
  const isSecond = (d: ResourceDefinition) => all.find((e) => e.resource.kind === d.resource.kind) !== d;
  return new Map(
    all.map((d) => [isSecond(d) ? `${d.resource.kind}.${d.resource.group}` : d.resource.kind, d]),
  );
}
export const KINDS = kinds("10.96.0.0/16");

export function kind(name: string, from = KINDS): ResourceDefinition {
  const found = from.get(name);
  if (!found) throw new Error(`no kind ${name}`);
  return found;
}

/** A copy of `object` with metadata, as a client would send it. */
export function make<T>(name: string, object: T): T & KubeObject {
  const metadata = { name: "x", namespace: "ns" };
  return structuredClone({ kind: name, metadata, ...object }) as T & KubeObject;
}

/** As the engine creates: defaults, prepareForCreate; without validation. */
export function created<T>(name: string, object: T, from = KINDS): Stored & T {
  const d = kind(name, from);
  const draft = make(name, object);
  d.setDefaults?.(draft);
  d.prepareForCreate?.(draft, CONTEXT);
  return draft as Stored & T;
}

/** Texts of the causes of an Invalid that `run` throws, or what it returns. */
export function causes(run: () => string[]): string[] {
  try {
    return run();
  } catch (error) {
    if (!(error instanceof StatusError) || error.code !== 422) throw error;
    return (error.status.details?.causes ?? []).map(({ field, message }) => `${field}: ${message}`);
  }
}

/** Texts of what is wrong with a new object. */
export function problems(name: string, object: object, from = KINDS): string[] {
  return causes(() =>
    kind(name, from)
      .validate(created(name, object, from))
      .map(errorText),
  );
}

/** The object after an update, and what is wrong with it. */
export function updated<T>(
  name: string,
  old: Stored & T,
  change: (draft: T & KubeObject) => void,
  from = KINDS,
) {
  const d = kind(name, from);
  const draft = structuredClone(old) as unknown as T & KubeObject;
  change(draft);
  const wrong = causes(() => {
    d.setDefaults?.(draft);
    d.prepareForUpdate?.(draft, old, CONTEXT);
    return d.validate(draft, old).map(errorText);
  });
  return { draft: draft as Stored & T, problems: wrong };
}

export function cells(name: string, object: object, from = KINDS): Record<string, unknown> {
  const stored = { kind: name, apiVersion: "v1", metadata: { name: "x" }, ...object } as Stored;
  return Object.fromEntries(kind(name, from).columns.map((c) => [c.name, c.value(stored, NOW)]));
}
