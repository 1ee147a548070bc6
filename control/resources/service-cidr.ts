// ServiceCIDR and IPAddress: the declarations of the kinds to the API engine. The allocator of Services is the truth:
// a ServiceCIDR tells it its ranges, and IPAddresses are read out of it, kept nowhere.

import { createHash } from "node:crypto";
import { IP_ADDRESSES, SERVICE_CIDRS } from "../../common/client.js";
import { ipFamily } from "../../common/ip.js";
import type { IPAddress, ServiceCIDR, Stored } from "../../common/k8s.js";
import { notFound } from "../api/status.js";
import { parseServiceCIDRs } from "./address-range.js";
import { ageColumn, column, keepStatus, nameColumn, nextGeneration } from "./object.js";
import type { AllocatedIP, ServiceAllocator } from "./service-allocation.js";
import type { FieldError, ResourceDefinition } from "./types.js";
import { immutable, invalid, required, same } from "./validation/field.js";
import { cidr } from "./validation/values.js";

function validate({ spec }: ServiceCIDR, old: Stored<ServiceCIDR> | undefined): FieldError[] {
  const cidrs = spec?.cidrs ?? [];
  const at = "spec.cidrs";
  if (old) return immutable(at, cidrs, old.spec?.cidrs);
  if (cidrs.length === 0) return [required(at, "at least one CIDR required")];
  const errors = cidrs.flatMap((text, i) => validateRange(`${at}[${i}]`, text));
  if (cidrs.length > 2) errors.push(invalid(at, cidrs, "may only hold up to 2 values"));
  else if (cidrs.length === 2 && isV6(cidrs[0]) === isV6(cidrs[1])) {
    const text = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
    errors.push(invalid(at, cidrs, text));
  }
  return errors;
}

function validateRange(at: string, text: string): FieldError[] {
  const errors = cidr(at, text);
  if (errors.length > 0) return errors;
  try {
    parseServiceCIDRs([text]);
    return [];
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    // A limit of ours: the real server takes any size.
    return [invalid(at, text, error.message)];
  }
}

const isV6 = (text = ""): boolean => text.includes(":");

export function serviceCidrDefinition(allocator: ServiceAllocator): ResourceDefinition<ServiceCIDR> {
  const use = ({ metadata, spec }: ServiceCIDR) => {
    const retired = metadata?.deletionTimestamp !== undefined;
    allocator.ranges.set(metadata?.name ?? "", spec?.cidrs ?? [], retired);
  };
  return {
    resource: SERVICE_CIDRS,
    singular: "servicecidr",
    schema: "io.k8s.api.networking.v1.ServiceCIDR",
    hasStatus: true,
    columns: [nameColumn(), column("CIDRs", (c) => (c.spec?.cidrs ?? []).join(",")), ageColumn()],
    prepareForCreate(draft) {
      draft.metadata = { ...draft.metadata, generation: 1 };
      Object.assign(draft, { status: {} });
    },
    prepareForUpdate(draft, old) {
      keepStatus(draft, old);
      nextGeneration(draft, old, !same(draft.spec, old.spec));
    },
    validate,
    // What is marked for deletion is written once more by its controller: from then on it gives no addresses.
    allocate: (draft) => ({ commit: () => use(draft), rollback: () => {} }),
    restore: (all) => {
      for (const one of all) use(one as ServiceCIDR);
    },
    released: ({ metadata }) => allocator.ranges.remove(metadata.name),
    observed: (now, before) => {
      if (now) use(now as ServiceCIDR);
      else if (before) allocator.ranges.remove(before.metadata.name);
    },
  };
}

/** An uid that stays the same as long as the Service has the address. */
function uidOf(uid: string, ip: string): string {
  const hex = createHash("sha1").update(`${uid}/${ip}`).digest("hex");
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-5${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

function addressOf({ ip, namespace, name, uid, creationTimestamp }: AllocatedIP): Stored<IPAddress> {
  return {
    apiVersion: "networking.k8s.io/v1",
    kind: "IPAddress",
    metadata: {
      name: ip,
      uid: uidOf(uid, ip),
      resourceVersion: "1",
      creationTimestamp,
      labels: {
        "ipaddress.kubernetes.io/ip-family": `IPv${ipFamily(ip)}`,
        "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
      },
    },
    spec: { parentRef: { group: "", resource: "services", namespace, name } },
  };
}

function parentText({ spec }: Stored<IPAddress>): string {
  const parent = spec?.parentRef;
  if (!parent) return "<none>";
  const resource = parent.group ? `${parent.resource}.${parent.group}` : parent.resource;
  return [resource, parent.namespace, parent.name].filter(Boolean).join("/");
}

export function ipAddressDefinition(allocator: ServiceAllocator): ResourceDefinition<IPAddress> {
  return {
    resource: IP_ADDRESSES,
    singular: "ipaddress",
    shortNames: ["ip"],
    schema: "io.k8s.api.networking.v1.IPAddress",
    hasStatus: false,
    columns: [nameColumn(), column("ParentRef", parentText), ageColumn()],
    validate: () => [],
    answers: {
      get(name) {
        const found = allocator.allocatedIP(name);
        if (!found || found.ip !== name) throw notFound(IP_ADDRESSES, name);
        return addressOf(found);
      },
      list: () => [...allocator.allocated()].map(addressOf).sort(byName),
    },
  };
}

function byName(a: Stored, b: Stored): number {
  return a.metadata.name < b.metadata.name ? -1 : 1;
}
