// Ingress and IngressClass: the declarations of the kinds to the API engine.

import { INGRESS_CLASSES, INGRESSES } from "../../common/client.js";
import type { Ingress, IngressClass, Stored } from "../../common/k8s.js";
import { ageColumn, column, draftOf, firstThree, keepStatus, nameColumn, nextGeneration } from "./object.js";
import type { ResourceDefinition } from "./types.js";
import { same } from "./validation/field.js";
import { CLASS_ANNOTATION, validateIngress, validateIngressClass } from "./validation/ingress.js";

function hosts({ spec }: Stored<Ingress>): string {
  const named = (spec?.rules ?? []).flatMap(({ host }) => (host ? [host] : []));
  return firstThree(named) || "*";
}

function addresses({ status }: Stored<Ingress>): string {
  return (status?.loadBalancer?.ingress ?? []).map(({ ip, hostname }) => ip || hostname || "").join(",");
}

export const ingressDefinition: ResourceDefinition<Ingress> = {
  resource: INGRESSES,
  singular: "ingress",
  shortNames: ["ing"],
  schema: "io.k8s.api.networking.v1.Ingress",
  hasStatus: true,
  columns: [
    nameColumn(),
    column("Class", (i) => i.spec?.ingressClassName ?? "<none>"),
    column("Hosts", hosts),
    column("Address", addresses),
    column("Ports", (i) => (i.spec?.tls?.length ? "80, 443" : "80")),
    ageColumn(),
  ],
  prepareForCreate(draft) {
    draft.metadata = { ...draft.metadata, generation: 1 };
    draftOf(draft).status = { loadBalancer: {} };
  },
  prepareForUpdate(draft, old) {
    keepStatus(draft, old);
    nextGeneration(draft, old, !same(draft.spec, old.spec));
  },
  validate: (ingress, old) => validateIngress(ingress, old),
  warnings: ({ metadata }) =>
    metadata?.annotations?.[CLASS_ANNOTATION] === undefined
      ? []
      : [`annotation "${CLASS_ANNOTATION}" is deprecated, please use 'spec.ingressClassName' instead`],
};

function parameters({ spec }: Stored<IngressClass>): string {
  const reference = spec?.parameters;
  if (!reference) return "<none>";
  const kind = reference.apiGroup ? `${reference.kind}.${reference.apiGroup}` : reference.kind;
  return `${kind}/${reference.name}`;
}

export const ingressClassDefinition: ResourceDefinition<IngressClass> = {
  resource: INGRESS_CLASSES,
  singular: "ingressclass",
  schema: "io.k8s.api.networking.v1.IngressClass",
  hasStatus: false,
  columns: [
    nameColumn(),
    column("Controller", (c) => c.spec?.controller ?? ""),
    column("Parameters", parameters),
    ageColumn(),
  ],
  setDefaults({ spec }) {
    if (spec?.parameters) spec.parameters.scope ??= "Cluster";
  },
  prepareForCreate(draft) {
    draft.metadata = { ...draft.metadata, generation: 1 };
  },
  prepareForUpdate(draft, old) {
    nextGeneration(draft, old, !same(draft.spec, old.spec));
  },
  validate: (ingressClass, old) => validateIngressClass(ingressClass, old),
};
