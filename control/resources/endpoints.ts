// Endpoints (core v1): the declaration of the kind to the API engine.

import { ENDPOINTS } from "../../common/client.js";
import type { EndpointAddress, Endpoints, EndpointsPort, Stored } from "../../common/k8s.js";
import { ageColumn, column, firstThree, nameColumn } from "./object.js";
import type { FieldError, ResourceDefinition } from "./types.js";
import { required } from "./validation/field.js";
import { ip, label, nonSpecialIp, portNumber, protocol, qualified, subdomain } from "./validation/values.js";
import { endpointsWarnings } from "./warnings.js";

function endpointsText(endpoints: Stored<Endpoints>): string {
  const subsets = endpoints.subsets ?? [];
  if (subsets.length === 0) return "<none>";
  const list = subsets.flatMap(({ addresses = [], ports = [] }) =>
    ports.length === 0
      ? addresses.map((a) => a.ip)
      : ports.flatMap(({ port }) => addresses.map((a) => hostPort(a.ip, port))),
  );
  return firstThree(list);
}

function hostPort(address: string, port: number): string {
  return address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`;
}

function validateAddress(address: EndpointAddress, at: string): FieldError[] {
  const errors = ip(`${at}.ip`, address.ip ?? "");
  if (errors.length === 0) errors.push(...nonSpecialIp(`${at}.ip`, address.ip));
  if (address.hostname) errors.push(...label(`${at}.hostname`, address.hostname));
  if (address.nodeName) errors.push(...subdomain(`${at}.nodeName`, address.nodeName));
  return errors;
}

function validatePort(port: EndpointsPort, needsName: boolean, at: string): FieldError[] {
  const errors: FieldError[] = [];
  if (port.name) errors.push(...label(`${at}.name`, port.name));
  else if (needsName) errors.push(required(`${at}.name`));
  errors.push(...portNumber(`${at}.port`, port.port), ...protocol(`${at}.protocol`, port.protocol));
  if (port.appProtocol !== undefined) errors.push(...qualified(`${at}.appProtocol`, port.appProtocol));
  return errors;
}

export const endpointsDefinition: ResourceDefinition<Endpoints> = {
  resource: ENDPOINTS,
  deprecation: "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
  warnings: endpointsWarnings,
  singular: "endpoints",
  shortNames: ["ep"],
  schema: "io.k8s.api.core.v1.Endpoints",
  hasStatus: false,
  columns: [nameColumn(), column("Endpoints", endpointsText), ageColumn()],
  setDefaults(draft) {
    for (const subset of draft.subsets ?? []) for (const port of subset.ports ?? []) port.protocol ||= "TCP";
  },
  validate(endpoints) {
    const errors: FieldError[] = [];
    for (const [i, { addresses = [], notReadyAddresses = [], ports = [] }] of (
      endpoints.subsets ?? []
    ).entries()) {
      const at = `subsets[${i}]`;
      if (addresses.length + notReadyAddresses.length === 0) {
        errors.push(required(at, "must specify `addresses` or `notReadyAddresses`"));
      }
      for (const [j, a] of addresses.entries()) errors.push(...validateAddress(a, `${at}.addresses[${j}]`));
      for (const [j, a] of notReadyAddresses.entries()) {
        errors.push(...validateAddress(a, `${at}.notReadyAddresses[${j}]`));
      }
      for (const [j, port] of ports.entries()) {
        errors.push(...validatePort(port, ports.length > 1, `${at}.ports[${j}]`));
      }
    }
    return errors;
  },
};
