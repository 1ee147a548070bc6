// Node: the declaration of the kind to the API engine.

import { NODES } from "../../common/client.js";
import { ipFamily } from "../../common/ip.js";
import type { Node, Stored } from "../../common/k8s.js";
import { ageColumn, column, keepStatus, nameColumn, wideColumn } from "./object.js";
import type { FieldError, ResourceDefinition } from "./types.js";
import { validateQuantity } from "./validation/container.js";
import { duplicate, forbidden, invalid, same } from "./validation/field.js";
import { canonicalResourceList } from "./validation/quantity.js";
import { validateTaints } from "./validation/scheduling.js";
import { cidr } from "./validation/values.js";

const ROLE_PREFIX = "node-role.kubernetes.io/";

function statusText(node: Stored<Node>): string {
  const ready = (node.status?.conditions ?? []).find((c) => c.type === "Ready");
  const text = ready ? (ready.status === "True" ? "Ready" : "NotReady") : "Unknown";
  return node.spec?.unschedulable ? `${text},SchedulingDisabled` : text;
}

function rolesText(node: Stored<Node>): string {
  const roles = new Set<string>();
  for (const [key, value] of Object.entries(node.metadata.labels ?? {})) {
    if (key.startsWith(ROLE_PREFIX) && key.length > ROLE_PREFIX.length)
      roles.add(key.slice(ROLE_PREFIX.length));
    else if (key === "kubernetes.io/role" && value) roles.add(value);
  }
  return [...roles].sort().join(",") || "<none>";
}

function address(node: Stored<Node>, type: string): string {
  return (node.status?.addresses ?? []).find((a) => a.type === type)?.address ?? "<none>";
}

/** podCIDR and podCIDRs say the same; podCIDR wins, as in the real conversion. */
function setDefaults(draft: Node): void {
  draft.spec ??= {};
  const { spec, status } = draft;
  if (spec.podCIDR && spec.podCIDRs?.[0] !== spec.podCIDR) spec.podCIDRs = [spec.podCIDR];
  else if (!spec.podCIDR && spec.podCIDRs?.[0]) spec.podCIDR = spec.podCIDRs[0];
  if (!status) return;
  canonicalResourceList(status.capacity);
  canonicalResourceList(status.allocatable);
  if (!status.allocatable && status.capacity) status.allocatable = { ...status.capacity };
}

function validate(node: Node, old?: Stored<Node>): FieldError[] {
  const errors = validateTaints(node.spec?.taints, "metadata.taints");
  for (const list of ["capacity", "allocatable"] as const) {
    for (const [name, text] of Object.entries(node.status?.[list] ?? {})) {
      errors.push(...validateQuantity(`status.${list}.${name}`, text));
    }
  }
  const cidrs = node.spec?.podCIDRs ?? [];
  for (const [i, value] of cidrs.entries()) errors.push(...cidr(`spec.podCIDRs[${i}]`, value));
  if (cidrs.length > 1) {
    const families = new Set(cidrs.map((c) => ipFamily(c.split("/")[0] ?? "")));
    if (families.size < cidrs.length) {
      errors.push(invalid("spec.podCIDRs", cidrs, "may specify no more than one CIDR for each IP family"));
    }
  }
  const seen = new Set<string>();
  for (const [i, a] of (node.status?.addresses ?? []).entries()) {
    const key = `${a.type}/${a.address}`;
    if (seen.has(key)) errors.push(duplicate(`status.addresses[${i}]`, a));
    seen.add(key);
  }
  return old ? [...errors, ...validateUpdate(node, old)] : errors;
}

function validateUpdate(node: Node, old: Stored<Node>): FieldError[] {
  const errors: FieldError[] = [];
  const before = old.spec ?? {};
  if ((before.podCIDRs ?? []).length > 0 && !same(node.spec?.podCIDRs, before.podCIDRs)) {
    errors.push(forbidden("spec.podCIDRs", 'node updates may not change podCIDR except from "" to valid'));
  }
  if (before.providerID && node.spec?.providerID !== before.providerID) {
    errors.push(
      forbidden("spec.providerID", 'node updates may not change providerID except from "" to valid'),
    );
  }
  return errors;
}

export const nodeDefinition: ResourceDefinition<Node> = {
  resource: NODES,
  singular: "node",
  shortNames: ["no"],
  schema: "io.k8s.api.core.v1.Node",
  hasStatus: true,
  // flannel keeps its lease in annotations, and writes them by the status.
  statusCarriesAnnotations: true,
  columns: [
    nameColumn(),
    column("Status", statusText),
    column("Roles", rolesText),
    ageColumn(),
    column("Version", (node) => node.status?.nodeInfo?.kubeletVersion ?? ""),
    wideColumn("Internal-IP", (node) => address(node, "InternalIP")),
    wideColumn("External-IP", (node) => address(node, "ExternalIP")),
    wideColumn("OS-Image", (node) => node.status?.nodeInfo?.osImage || "<unknown>"),
    wideColumn("Kernel-Version", (node) => node.status?.nodeInfo?.kernelVersion || "<unknown>"),
    wideColumn("Container-Runtime", (node) => node.status?.nodeInfo?.containerRuntimeVersion || "<unknown>"),
  ],
  selectableFields: (node) => ({ "spec.unschedulable": String(node.spec?.unschedulable ?? false) }),
  setDefaults,
  // A kubelet registers with its whole status, so creation keeps it.
  prepareForUpdate: keepStatus,
  validate,
};
