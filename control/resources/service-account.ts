// ServiceAccount: the declaration of the kind to the API engine.

import { SERVICE_ACCOUNTS } from "../../common/client.js";
import type { ServiceAccount } from "../../common/k8s.js";
import { ageColumn, column, nameColumn } from "./object.js";
import type { ResourceDefinition } from "./types.js";

export const serviceAccountDefinition: ResourceDefinition<ServiceAccount> = {
  resource: SERVICE_ACCOUNTS,
  singular: "serviceaccount",
  shortNames: ["sa"],
  schema: "io.k8s.api.core.v1.ServiceAccount",
  hasStatus: false,
  returnsDeleted: true,
  columns: [
    nameColumn(),
    column("Secrets", (account) => (account.secrets ?? []).length, { type: "integer" }),
    ageColumn(),
  ],
  // The real server checks nothing beyond metadata either.
  validate: () => [],
};
