// Validation of Ingresses and IngressClasses: field paths and texts are those of the real server
// (pkg/apis/networking/validation).

import type { HTTPIngressPath, IngressRule, IngressTLS } from "kubernetes-types/networking/v1.js";
import { ipFamily } from "../../../common/ip.js";
import type { Ingress, IngressBackend, IngressClass, Stored } from "../../../common/k8s.js";
import type { FieldError } from "../types.js";
import { forbidden, immutable, invalid, invalids, notSupported, required, tooLong } from "./field.js";
import { dns1035Label, dns1123Label, dns1123Subdomain, pathSegment, regexText } from "./meta.js";
import { portName, portNumber } from "./values.js";

/** How an Ingress named its class before spec.ingressClassName. */
export const CLASS_ANNOTATION = "kubernetes.io/ingress.class";

const PATH_TYPES = ["Exact", "ImplementationSpecific", "Prefix"];
const INVALID_SEQUENCES = ["//", "/./", "/../", "%2f", "%2F"];
const INVALID_ENDINGS = ["/..", "/."];
const LONGEST_CONTROLLER = 250;
const SUBDOMAIN = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const HTTP_PATH = "[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+";

export function validateIngress(ingress: Ingress, old: Stored<Ingress> | undefined): FieldError[] {
  const { metadata, spec = {}, status } = ingress;
  const errors: FieldError[] = [];
  if (!spec.rules?.length && !spec.defaultBackend) {
    errors.push(invalid("spec", spec.rules ?? null, "either `defaultBackend` or `rules` must be specified"));
  }
  if (spec.defaultBackend) errors.push(...validateBackend(spec.defaultBackend, "spec.defaultBackend"));
  for (const [i, rule] of (spec.rules ?? []).entries())
    errors.push(...validateRule(rule, `spec.rules[${i}]`));
  for (const [i, tls] of (spec.tls ?? []).entries()) errors.push(...validateTls(tls, `spec.tls[${i}]`));
  const { ingressClassName: name } = spec;
  if (name !== undefined) errors.push(...invalids("spec.ingressClassName", name, dns1123Subdomain(name)));
  const annotation = metadata?.annotations?.[CLASS_ANNOTATION];
  if (!old && annotation !== undefined && name !== undefined && annotation !== name) {
    const text = "must match `ingressClassName` when both are specified";
    errors.push(invalid(`annotations.${CLASS_ANNOTATION}`, annotation, text));
  }
  for (const [i, { ip, hostname }] of (status?.loadBalancer?.ingress ?? []).entries()) {
    const at = `status.loadBalancer.ingress[${i}]`;
    if (ip && !ipFamily(ip)) errors.push(invalid(`${at}.ip`, ip, "must be a valid IP address"));
    if (!hostname) continue;
    errors.push(...invalids(`${at}.hostname`, hostname, dns1123Subdomain(hostname)));
    if (ipFamily(hostname))
      errors.push(invalid(`${at}.hostname`, hostname, "must be a DNS name, not an IP address"));
  }
  return errors;
}

/** What is wrong with a DNS name whose first label may be "*". */
function dnsName(name: string): string[] {
  if (!name.includes("*")) return dns1123Subdomain(name);
  if (new RegExp(`^\\*\\.${SUBDOMAIN}$`).test(name)) return [];
  const text =
    "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character";
  return [regexText(text, `\\*\\.${SUBDOMAIN}`, "*.example.com")];
}

function validateRule({ host, http }: IngressRule, at: string): FieldError[] {
  const errors: FieldError[] = [];
  if (host) {
    if (ipFamily(host)) errors.push(invalid(`${at}.host`, host, "must be a DNS name, not an IP address"));
    errors.push(...invalids(`${at}.host`, host, dnsName(host)));
  }
  if (!http) return errors;
  if (!http.paths?.length) errors.push(required(`${at}.http.paths`));
  const paths = (http.paths ?? []).flatMap((path, i) => validatePath(path, `${at}.http.paths[${i}]`));
  return [...errors, ...paths];
}

function validatePath({ path = "", pathType, backend }: HTTPIngressPath, at: string): FieldError[] {
  if (!pathType) return [required(`${at}.pathType`, "pathType must be specified")];
  const errors: FieldError[] = [];
  const wrong = (text: string) => errors.push(invalid(`${at}.path`, path, text));
  if (!PATH_TYPES.includes(pathType)) errors.push(notSupported(`${at}.pathType`, pathType, PATH_TYPES));
  else if (pathType === "ImplementationSpecific") {
    if (path !== "" && !path.startsWith("/")) wrong("must be an absolute path");
  } else {
    if (!path.startsWith("/")) wrong("must be an absolute path");
    for (const sequence of INVALID_SEQUENCES)
      if (path.includes(sequence)) wrong(`must not contain '${sequence}'`);
    for (const ending of INVALID_ENDINGS) if (path.endsWith(ending)) wrong(`cannot end with '${ending}'`);
  }
  return [...errors, ...validateBackend(backend ?? {}, `${at}.backend`)];
}

function validateBackend({ service, resource }: IngressBackend, at: string): FieldError[] {
  if (resource && service) return [invalid(at, "", "cannot set both resource and service backends")];
  if (resource) {
    const errors: FieldError[] = [];
    if (!resource.kind) errors.push(required(`${at}.resource.kind`));
    if (!resource.name) errors.push(required(`${at}.resource.name`));
    return errors;
  }
  if (!service) return [invalid(at, "", "resource or service backend is required")];
  const errors = service.name
    ? invalids(`${at}.service.name`, service.name, dns1035Label(service.name))
    : [required(`${at}.service.name`)];
  const { name, number } = service.port ?? {};
  if (name && number) errors.push(invalid(at, "", "cannot set both port name & port number"));
  else if (name) errors.push(...invalids(`${at}.service.port.name`, name, portName(name)));
  else if (number) errors.push(...portNumber(`${at}.service.port.number`, number));
  else errors.push(required(at, "port name or number is required"));
  return errors;
}

function validateTls({ hosts = [], secretName }: IngressTLS, at: string): FieldError[] {
  const errors = hosts.flatMap((host, i) => invalids(`${at}.hosts[${i}]`, host, dnsName(host)));
  if (secretName) errors.push(...invalids(`${at}.secretName`, secretName, dns1123Subdomain(secretName)));
  return errors;
}

export function validateIngressClass(
  { spec = {} }: IngressClass,
  old: Stored<IngressClass> | undefined,
): FieldError[] {
  const errors = old ? immutable("spec.controller", spec.controller, old.spec?.controller) : [];
  const { controller = "", parameters } = spec;
  if (controller.length > LONGEST_CONTROLLER) errors.push(tooLong("spec.controller", LONGEST_CONTROLLER));
  if (!old) errors.push(...validateController(controller));
  if (!parameters) return errors;
  const at = "spec.parameters";
  const { apiGroup, scope, namespace } = parameters;
  if (apiGroup) errors.push(...invalids(`${at}.apiGroup`, apiGroup, dns1123Subdomain(apiGroup)));
  for (const field of ["kind", "name"] as const) {
    const value = parameters[field];
    if (!value) errors.push(required(`${at}.${field}`, `${field} is required`));
    else errors.push(...invalids(`${at}.${field}`, value, pathSegment(value)));
  }
  if (!scope) return [...errors, required(`${at}.scope`)];
  if (scope !== "Cluster" && scope !== "Namespace")
    errors.push(notSupported(`${at}.scope`, scope, ["Cluster", "Namespace"]));
  if (scope === "Namespace" && !namespace) {
    const text = "`parameters.scope` is set to 'Namespace'";
    errors.push(required(`${at}.namespace`, text));
  } else if (scope === "Namespace" && namespace) {
    errors.push(...invalids(`${at}.namespace`, namespace, dns1123Label(namespace)));
  }
  if (scope === "Cluster" && namespace !== undefined)
    errors.push(forbidden(`${at}.namespace`, "`parameters.scope` is set to 'Cluster'"));
  return errors;
}

/** apimachinery's IsDomainPrefixedPath: acme.io/foo. */
function validateController(controller: string): FieldError[] {
  if (controller === "") return [required("spec.controller")];
  const slash = controller.indexOf("/");
  const [domain, path] = [controller.slice(0, slash), controller.slice(slash + 1)];
  if (slash <= 0 || path === "") {
    const text = 'must be a domain-prefixed path (such as "acme.io/foo")';
    return [invalid("spec.controller", controller, text)];
  }
  const errors = invalids("spec.controller", domain, dns1123Subdomain(domain));
  if (!new RegExp(`^${HTTP_PATH}$`).test(path))
    errors.push(invalid("spec.controller", path, regexText("Invalid path", HTTP_PATH)));
  return errors;
}
