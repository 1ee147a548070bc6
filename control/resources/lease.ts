// Lease: the declaration of the kind to the API engine.

import { LEASES } from "../../common/client.js";
import type { Lease } from "../../common/k8s.js";
import { ageColumn, column, nameColumn } from "./object.js";
import type { ResourceDefinition } from "./types.js";
import { invalid } from "./validation/field.js";
import { nonNegative } from "./validation/values.js";

export const leaseDefinition: ResourceDefinition<Lease> = {
  resource: LEASES,
  singular: "lease",
  schema: "io.k8s.api.coordination.v1.Lease",
  hasStatus: false,
  columns: [nameColumn(), column("Holder", (lease) => lease.spec?.holderIdentity ?? ""), ageColumn()],
  validate({ spec }) {
    const errors = nonNegative("spec.leaseTransitions", spec?.leaseTransitions);
    const seconds = spec?.leaseDurationSeconds;
    if (seconds !== undefined && seconds <= 0) {
      errors.push(invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0"));
    }
    return errors;
  },
};
