// ControllerRevision: the declaration of the kind to the API engine. What its data means is its controller's business.

import { CONTROLLER_REVISIONS } from "../../common/client.js";
import type { ControllerRevision } from "../../common/k8s.js";
import { ageColumn, column, nameColumn } from "./object.js";
import type { ResourceDefinition } from "./types.js";
import { immutable, required } from "./validation/field.js";
import { nonNegative } from "./validation/values.js";

/** "statefulset.apps/web", as kubectl names an object; "<none>" without a controller. */
function controllerCell({ metadata }: Pick<ControllerRevision, "metadata">): string {
  const controller = metadata?.ownerReferences?.find((reference) => reference.controller);
  if (!controller) return "<none>";
  const [group] = controller.apiVersion.includes("/") ? controller.apiVersion.split("/") : [""];
  const kind = controller.kind.toLowerCase();
  return `${group ? `${kind}.${group}` : kind}/${controller.name}`;
}

export const controllerRevisionDefinition: ResourceDefinition<ControllerRevision> = {
  resource: CONTROLLER_REVISIONS,
  singular: "controllerrevision",
  schema: "io.k8s.api.apps.v1.ControllerRevision",
  hasStatus: false,
  columns: [
    nameColumn(),
    column("Controller", controllerCell),
    column("Revision", ({ revision }) => String(revision)),
    ageColumn(),
  ],
  validate({ data, revision }, old) {
    return [
      ...(data === undefined || data === null ? [required("data", "data is mandatory")] : []),
      ...nonNegative("revision", revision),
      ...(old ? immutable("data", data, old.data) : []),
    ];
  },
};
