// From Ingresses to routes: which backend has a request's host and path, and what is to be done on the way. Pure.
// Hosts and paths as the Ingress API says; what it leaves open, and the annotations, as ingress-nginx has it.

import type { HTTPIngressPath } from "kubernetes-types/networking/v1.js";
import type { Ingress, IngressBackend, Stored } from "../../common/k8s.js";

const CLASS_ANNOTATION = "kubernetes.io/ingress.class";
/** Those of ingress-nginx, since every text about Ingress uses them. */
const PREFIX = "nginx.ingress.kubernetes.io/";

/** A port of a Service of a namespace. */
export interface Backend {
  namespace: string;
  service: string;
  port: string | number;
}

export interface Route {
  /** namespace/name of the Ingress. */
  ingress: string;
  path: string;
  /** Of two paths that are as long the lower one holds: exact, expression, elements, text. */
  order: number;
  /** Undefined for a backend that is no Service: nothing is served there. */
  backend: Backend | undefined;
  /** What the request's path becomes; $1, $2, … are groups of the route's own expression. */
  rewriteTarget?: string;
  /** Requests without TLS are sent to https when the host has a certificate (or in any case). */
  sslRedirect: boolean | "always";
  matches(path: string): boolean;
  rewrite(path: string): string;
}

export interface RoutingTable {
  /** By host, "*.suffix" for wildcards and "" for rules without a host; in each the first that matches holds. */
  hosts: Map<string, Route[]>;
  /** For what no rule matches, by host; under "" for all others. */
  defaults: Map<string, Route>;
  /** Key of the Secret with the certificate, by host or "*.suffix". */
  secrets: Map<string, string>;
}

/** Whether an Ingress is of one of these classes; the older annotation counts where the field is not set. */
export function isOfClass({ metadata, spec }: Stored<Ingress>, classes: ReadonlySet<string>): boolean {
  const name = spec?.ingressClassName ?? metadata.annotations?.[CLASS_ANNOTATION];
  return name !== undefined && classes.has(name);
}

/** The older Ingress has a host and path that two want, as ingress-nginx decides it. */
function byAge(a: Stored<Ingress>, b: Stored<Ingress>): number {
  const order = a.metadata.creationTimestamp.localeCompare(b.metadata.creationTimestamp);
  return order !== 0 ? order : keyOf(a).localeCompare(keyOf(b));
}

const keyOf = ({ metadata }: Stored<Ingress>): string => `${metadata.namespace}/${metadata.name}`;

export function buildTable(ingresses: readonly Stored<Ingress>[]): RoutingTable {
  const table: RoutingTable = { hosts: new Map(), defaults: new Map(), secrets: new Map() };
  const sorted = [...ingresses].sort(byAge);
  for (const ingress of sorted) addIngress(table, ingress);
  // For hosts that nobody names: the backend of an Ingress without rules, or else of the first that has one at all.
  const catchAll = [...sorted.filter((i) => !i.spec?.rules?.length), ...sorted].find(
    (i) => i.spec?.defaultBackend,
  );
  const backend = catchAll?.spec?.defaultBackend;
  if (catchAll && backend && !table.defaults.has("")) table.defaults.set("", defaultRoute(catchAll, backend));
  for (const routes of table.hosts.values()) routes.sort(bySpecificity);
  return table;
}

function addIngress(table: RoutingTable, ingress: Stored<Ingress>): void {
  const { rules = [], tls = [], defaultBackend } = ingress.spec ?? {};
  const hosts = rules.map(({ host }) => host ?? "");
  for (const { host = "", http } of rules) {
    const routes = table.hosts.get(host) ?? [];
    table.hosts.set(host, routes);
    for (const path of http?.paths ?? []) {
      const route = routeOf(ingress, path);
      if (!routes.some((r) => r.path === route.path && r.order === route.order)) routes.push(route);
    }
  }
  if (defaultBackend) {
    const route = defaultRoute(ingress, defaultBackend);
    for (const host of hosts) if (!table.defaults.has(host)) table.defaults.set(host, route);
  }
  for (const { hosts: named = [], secretName } of tls) {
    if (!secretName) continue;
    for (const host of named.length > 0 ? named : hosts.filter((h) => h !== ""))
      if (!table.secrets.has(host)) table.secrets.set(host, `${ingress.metadata.namespace}/${secretName}`);
  }
}

const EXACT = 0;
const EXPRESSION = 1;
const ELEMENTS = 2;
const TEXT = 3;

/** An exact path, then the longest one. */
function bySpecificity(a: Route, b: Route): number {
  if ((a.order === EXACT) !== (b.order === EXACT)) return a.order === EXACT ? -1 : 1;
  return b.path.length - a.path.length || a.order - b.order;
}

function routeOf(ingress: Stored<Ingress>, { path = "", pathType, backend }: HTTPIngressPath): Route {
  const text = path === "" ? "/" : path;
  const annotations = annotationsOf(ingress);
  const expression = annotations.useRegex && pathType !== "Exact" ? compile(text) : undefined;
  const order =
    pathType === "Exact" ? EXACT : expression ? EXPRESSION : pathType === "Prefix" ? ELEMENTS : TEXT;
  const { rewriteTarget, sslRedirect } = annotations;
  return {
    ingress: keyOf(ingress),
    path: text,
    order,
    backend: backendOf(ingress, backend),
    sslRedirect,
    ...(rewriteTarget === undefined ? {} : { rewriteTarget }),
    matches: matcher(order, text, expression),
    rewrite: (requested) => rewritten(requested, rewriteTarget, expression),
  };
}

function defaultRoute(ingress: Stored<Ingress>, backend: IngressBackend): Route {
  return routeOf(ingress, { path: "/", pathType: "Prefix", backend });
}

function annotationsOf({ metadata }: Stored<Ingress>): {
  rewriteTarget?: string;
  useRegex: boolean;
  sslRedirect: boolean | "always";
} {
  const get = (name: string) => metadata.annotations?.[PREFIX + name];
  const rewriteTarget = get("rewrite-target");
  const always = get("force-ssl-redirect") === "true";
  return {
    ...(rewriteTarget ? { rewriteTarget } : {}),
    // A rewrite makes all paths expressions, so that their groups can be used.
    useRegex: get("use-regex") === "true" || Boolean(rewriteTarget),
    sslRedirect: always ? "always" : get("ssl-redirect") !== "false",
  };
}

/** Undefined for a text that is no expression: it is a prefix then. */
function compile(path: string): RegExp | undefined {
  try {
    return new RegExp(`^${path}`, "i");
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    return undefined;
  }
}

function matcher(order: number, path: string, expression: RegExp | undefined): (path: string) => boolean {
  if (order === EXACT) return (requested) => requested === path;
  if (expression) return (requested) => expression.test(requested);
  if (order === TEXT) return (requested) => requested.startsWith(path);
  // By elements: /foo has /foo, /foo/ and /foo/bar, not /foobar.
  const bare = path.replace(/\/+$/, "");
  return (requested) => requested === bare || requested.startsWith(`${bare}/`);
}

function rewritten(path: string, target: string | undefined, expression: RegExp | undefined): string {
  if (target === undefined) return path;
  const groups = expression?.exec(path) ?? [];
  return target.replace(/\$(\d)/g, (_all, n: string) => groups[Number(n)] ?? "");
}

function backendOf({ metadata }: Stored<Ingress>, { service }: IngressBackend): Backend | undefined {
  const port = service?.port?.name ?? service?.port?.number;
  if (!service || port === undefined) return undefined;
  return { namespace: metadata.namespace ?? "default", service: service.name, port };
}

/** The route of a request; undefined when nobody has it. `host` is lower case and without a port. */
export function findRoute(table: RoutingTable, host: string, path: string): Route | undefined {
  const name = [host, wildcardOf(host), ""].find((one) => table.hosts.has(one) || table.defaults.has(one));
  if (name === undefined) return undefined;
  const route = table.hosts.get(name)?.find((one) => one.matches(path));
  return route ?? table.defaults.get(name) ?? table.defaults.get("");
}

/** Key of the Secret with the host's certificate. */
export function secretFor(table: RoutingTable, host: string): string | undefined {
  return table.secrets.get(host) ?? table.secrets.get(wildcardOf(host));
}

/** "*.example.com" for a.example.com: a wildcard stands for one label. */
function wildcardOf(host: string): string {
  return `*${host.slice(host.indexOf(".") < 0 ? host.length : host.indexOf("."))}`;
}

/** The host of a request without its port, lower case. */
export function hostOf(header: string | undefined): string {
  return (header ?? "").replace(/:\d+$/, "").replace(/\.$/, "").toLowerCase();
}

/** The path that routes are matched with: decoded, dots resolved, slashes merged, as nginx does it. */
export function normalPath(url: string): string {
  const whole = url.startsWith("/") ? `http://host${url}` : url;
  if (!URL.canParse(whole, "http://host")) return url;
  const { pathname } = new URL(whole, "http://host");
  try {
    return decodeURIComponent(pathname).replace(/\/{2,}/g, "/");
  } catch {
    // No encoding at all: it is matched as it came.
    return pathname;
  }
}
