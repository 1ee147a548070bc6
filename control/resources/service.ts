// Service: the declaration of the kind to the API engine. Defaults, validation and allocation each have their
// own file; here they meet.

import { SERVICES } from "../../common/client.js";
import type { Service, Stored } from "../../common/k8s.js";
import { formatLabelSelector } from "../../common/selector.js";
import { ageColumn, column, draftOf, keepStatus, nameColumn, wideColumn } from "./object.js";
import type { ServiceAllocator } from "./service-allocation.js";
import { defaultService, dropTypeDependent, keepAllocated, normalizeClusterIPs } from "./service-defaults.js";
import { initFamilies } from "./service-families.js";
import type { ResourceDefinition } from "./types.js";
import { invalidStatus } from "./validation/field.js";
import { dns1035Label } from "./validation/meta.js";
import { validateService } from "./validation/service.js";
import { serviceWarnings } from "./warnings.js";

function externalIP({ spec, status }: Stored<Service>): string {
  if (spec?.type === "ExternalName") return spec.externalName ?? "";
  const addresses: string[] = [];
  if (spec?.type === "LoadBalancer") {
    const ingress = (status?.loadBalancer?.ingress ?? []).map((i) => i.ip || i.hostname || "");
    addresses.push(...[...new Set(ingress.filter((text) => text !== ""))].sort());
  }
  addresses.push(...(spec?.externalIPs ?? []));
  if (addresses.length > 0) return addresses.join(",");
  return spec?.type === "LoadBalancer" ? "<pending>" : "<none>";
}

function portsText({ spec }: Stored<Service>): string {
  const ports = (spec?.ports ?? []).map((p) =>
    p.nodePort ? `${p.port}:${p.nodePort}/${p.protocol}` : `${p.port}/${p.protocol}`,
  );
  return ports.join(",") || "<none>";
}

export function serviceDefinition(allocator: ServiceAllocator): ResourceDefinition<Service> {
  const settleFamilies = (draft: Service, old: Stored<Service> | undefined) => {
    const errors = initFamilies(draft, old, allocator.families);
    if (errors.length > 0) throw invalidStatus(SERVICES, draft.metadata?.name ?? "", errors);
  };
  return {
    resource: SERVICES,
    singular: "service",
    shortNames: ["svc"],
    categories: ["all"],
    schema: "io.k8s.api.core.v1.Service",
    hasStatus: true,
    returnsDeleted: true,
    columns: [
      nameColumn(),
      column("Type", (s) => s.spec?.type ?? ""),
      column("Cluster-IP", (s) => s.spec?.clusterIP || "<none>"),
      column("External-IP", externalIP),
      column("Port(s)", portsText),
      ageColumn(),
      wideColumn("Selector", (s) => formatLabelSelector({ matchLabels: s.spec?.selector })),
    ],
    selectableFields: (s) => ({ "spec.clusterIP": s.spec?.clusterIP ?? "", "spec.type": s.spec?.type ?? "" }),
    setDefaults: defaultService,
    prepareForCreate(draft) {
      draftOf(draft).status = { loadBalancer: {} };
      if (!draft.spec) return;
      normalizeClusterIPs(draft.spec, undefined);
      settleFamilies(draft, undefined);
    },
    prepareForUpdate(draft, old) {
      keepStatus(draft, old);
      if (!draft.spec) return;
      keepAllocated(draft, old as Service);
      normalizeClusterIPs(draft.spec, old.spec);
      dropTypeDependent(draft, old as Service);
      settleFamilies(draft, old as Stored<Service>);
      // An address that a load balancer gave is worth nothing without it.
      if (draft.spec.type !== "LoadBalancer") draftOf(draft).status = { loadBalancer: {} };
    },
    validate: validateService,
    warnings: serviceWarnings,
    validateName: dns1035Label,
    allocate: (draft, old) => allocator.allocate(draft, old),
    restore: (services) => allocator.restore(services),
    released: (service) => allocator.released(service),
    observed: (now, before) => allocator.observed(now, before),
  };
}
