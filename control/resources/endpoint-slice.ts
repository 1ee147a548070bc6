// EndpointSlice: the declaration of the kind to the API engine.

import { ENDPOINT_SLICES } from "../../common/client.js";
import { ipFamily } from "../../common/ip.js";
import type { Endpoint, EndpointHints, EndpointPort, EndpointSlice, Stored } from "../../common/k8s.js";
import { ageColumn, column, firstGeneration, firstThree, nameColumn, nextGeneration } from "./object.js";
import type { FieldError, ResourceDefinition } from "./types.js";
import {
  duplicate,
  immutable,
  invalid,
  invalids,
  oneOf,
  required,
  same,
  tooMany,
} from "./validation/field.js";
import { dns1123Label, dns1123Subdomain, labelValue } from "./validation/meta.js";
import { label, nonSpecialIp, portNumber, protocol, qualified, subdomain } from "./validation/values.js";

const ADDRESS_TYPES = ["FQDN", "IPv4", "IPv6"];
const MAX_ENDPOINTS = 1000;
const MAX_ADDRESSES = 100;
const MAX_PORTS = 100;
const MAX_HINTS = 8;

function portsText(slice: Stored<EndpointSlice>): string {
  const list = (slice.ports ?? []).map((p) => (p.port === undefined ? p.name || "*" : `${p.port}`));
  return firstThree(list) || "<unset>";
}

function endpointsText(slice: Stored<EndpointSlice>): string {
  return firstThree((slice.endpoints ?? []).flatMap((e) => e.addresses ?? [])) || "<unset>";
}

function validateAddress(type: string | undefined, address: string, at: string): FieldError[] {
  if (type === "IPv4" || type === "IPv6") {
    if (`IPv${ipFamily(address)}` !== type) return [invalid(at, address, `must be an ${type} address`)];
    return nonSpecialIp(at, address);
  }
  if (type !== "FQDN") return [];
  const name = address.replace(/\.$/, "");
  if (name === "") return [required(at)];
  const wrong = dns1123Subdomain(name);
  if (wrong.length > 0) return [invalid(at, address, wrong.join(","))];
  if (!name.includes("."))
    return [invalid(at, address, "should be a domain with at least two segments separated by dots")];
  return name.split(".").flatMap((part) => invalids(at, part, dns1123Label(part)));
}

function validateEndpoint(endpoint: Endpoint, type: string | undefined, at: string): FieldError[] {
  const errors: FieldError[] = [];
  const addresses = endpoint.addresses ?? [];
  if (addresses.length === 0) errors.push(required(`${at}.addresses`, "must contain at least 1 address"));
  if (addresses.length > MAX_ADDRESSES) {
    errors.push(tooMany(`${at}.addresses`, addresses.length, MAX_ADDRESSES));
  }
  for (const [i, address] of addresses.entries()) {
    errors.push(...validateAddress(type, address, `${at}.addresses[${i}]`));
  }
  if (endpoint.nodeName !== undefined) errors.push(...subdomain(`${at}.nodeName`, endpoint.nodeName));
  if (endpoint.hostname !== undefined) errors.push(...label(`${at}.hostname`, endpoint.hostname));
  const { forZones = [], forNodes = [] }: EndpointHints = endpoint.hints ?? {};
  errors.push(...validateHints(forZones, `${at}.hints.forZones`, labelValue));
  return [...errors, ...validateHints(forNodes, `${at}.hints.forNodes`, dns1123Subdomain)];
}

function validateHints(
  hints: readonly { name: string }[],
  at: string,
  check: (name: string) => string[],
): FieldError[] {
  if (hints.length > MAX_HINTS) return [tooMany(at, hints.length, MAX_HINTS)];
  const errors: FieldError[] = [];
  const names = new Set<string>();
  for (const [i, { name }] of hints.entries()) {
    const nameAt = `${at}[${i}].name`;
    if (names.has(name)) errors.push(duplicate(nameAt, name));
    names.add(name);
    errors.push(...invalids(nameAt, name, check(name)));
  }
  return errors;
}

function validatePorts(ports: readonly EndpointPort[]): FieldError[] {
  if (ports.length > MAX_PORTS) return [tooMany("ports", ports.length, MAX_PORTS)];
  const errors: FieldError[] = [];
  const names = new Set<string>();
  for (const [i, port] of ports.entries()) {
    const at = `ports[${i}]`;
    const name = port.name ?? "";
    if (name) errors.push(...label(`${at}.name`, name));
    if (names.has(name)) errors.push(duplicate(`${at}.name`, name));
    names.add(name);
    errors.push(...protocol(`${at}.protocol`, port.protocol));
    if (port.port !== undefined) errors.push(...portNumber(`${at}.port`, port.port));
    if (port.appProtocol !== undefined) errors.push(...qualified(`${at}.appProtocol`, port.appProtocol));
  }
  return errors;
}

function validate(slice: EndpointSlice, old?: Stored<EndpointSlice>): FieldError[] {
  const errors = oneOf("addressType", slice.addressType, ADDRESS_TYPES);
  const endpoints = slice.endpoints ?? [];
  if (endpoints.length > MAX_ENDPOINTS) errors.push(tooMany("endpoints", endpoints.length, MAX_ENDPOINTS));
  else {
    for (const [i, e] of endpoints.entries()) {
      errors.push(...validateEndpoint(e, slice.addressType, `endpoints[${i}]`));
    }
  }
  errors.push(...validatePorts(slice.ports ?? []));
  if (old) errors.push(...immutable("addressType", slice.addressType, old.addressType));
  return errors;
}

export const endpointSliceDefinition: ResourceDefinition<EndpointSlice> = {
  resource: ENDPOINT_SLICES,
  singular: "endpointslice",
  schema: "io.k8s.api.discovery.v1.EndpointSlice",
  hasStatus: false,
  columns: [
    nameColumn(),
    column("AddressType", (slice) => slice.addressType ?? ""),
    column("Ports", portsText),
    column("Endpoints", endpointsText),
    ageColumn(),
  ],
  setDefaults(draft) {
    // Of the beta API; v1 takes it and ignores it.
    for (const endpoint of draft.endpoints ?? []) delete endpoint.deprecatedTopology;
    for (const port of draft.ports ?? []) {
      port.name ??= "";
      port.protocol ||= "TCP";
    }
  },
  prepareForCreate: firstGeneration,
  prepareForUpdate(draft, old) {
    const changed =
      !same(draft.endpoints, old.endpoints) ||
      !same(draft.ports, old.ports) ||
      draft.addressType !== old.addressType ||
      !same(draft.metadata?.labels, old.metadata.labels);
    nextGeneration(draft, old, changed);
  },
  validate,
};
