// ComponentStatus: the declaration of the kind to the API engine. Answered from how the parts of the control plane are
// at the moment, kept nowhere. Deprecated since 1.19, but older texts begin with it.

import { COMPONENT_STATUSES } from "../../common/client.js";
import type { ComponentStatus, Stored } from "../../common/k8s.js";
import { notFound } from "../api/status.js";
import { column, nameColumn } from "./object.js";
import type { ResourceDefinition } from "./types.js";

export interface Component {
  name: string;
  /** Why it does not work; undefined when it does. */
  failure: string | undefined;
}

function statusOf({ name, failure }: Component): Stored<ComponentStatus> {
  const health =
    failure === undefined ? { status: "True", message: "ok" } : { status: "False", error: failure };
  return {
    apiVersion: "v1",
    kind: "ComponentStatus",
    metadata: { name } as Stored["metadata"],
    conditions: [{ type: "Healthy", ...health }],
  };
}

function healthOf({ conditions = [] }: Stored<ComponentStatus>): {
  status: string;
  message: string;
  error: string;
} {
  const {
    status = "Unknown",
    message = "",
    error = "",
  } = conditions.find(({ type }) => type === "Healthy") ?? {};
  return { status: status === "True" ? "Healthy" : "Unhealthy", message, error };
}

export function componentStatusDefinition(components: () => Promise<Component[]>): ResourceDefinition {
  const definition: ResourceDefinition<ComponentStatus> = {
    resource: COMPONENT_STATUSES,
    singular: "componentstatus",
    shortNames: ["cs"],
    schema: "io.k8s.api.core.v1.ComponentStatus",
    deprecation: "v1 ComponentStatus is deprecated in v1.19+",
    hasStatus: false,
    validate: () => [],
    columns: [
      nameColumn(),
      column("Status", (object) => healthOf(object).status),
      column("Message", (object) => healthOf(object).message),
      column("Error", (object) => healthOf(object).error),
    ],
    answers: {
      list: async () => (await components()).map(statusOf),
      async get(name) {
        const found = (await components()).find((component) => component.name === name);
        if (!found) throw notFound(COMPONENT_STATUSES, name);
        return statusOf(found);
      },
    },
  };
  return definition as unknown as ResourceDefinition;
}
