// Discovery: which groups, versions and resources there are, plain (/api, /apis, …) and aggregated. Pure: the
// documents follow from the kinds.

import type { Kind } from "../engine.js";

const ALL_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const ANSWERED = ["create", "get", "list"] as const;
const PART_VERBS = ["get", "patch", "update"];
const PROXY_VERBS = ["create", "delete", "get", "patch", "update"];

interface ResponseKind {
  group: string;
  version: string;
  kind: string;
}

export interface Subresource {
  name: string;
  responseKind: ResponseKind;
  verbs: string[];
}

const core = (kind: string): ResponseKind => ({ group: "", version: "v1", kind });

/** Subresources of single kinds, which the API engine itself implements. */
const EXTRA: Readonly<Record<string, readonly Subresource[]>> = {
  pods: [
    { name: "attach", responseKind: core("PodAttachOptions"), verbs: ["create", "get"] },
    { name: "binding", responseKind: core("Binding"), verbs: ["create"] },
    { name: "ephemeralcontainers", responseKind: core("Pod"), verbs: PART_VERBS },
    {
      name: "eviction",
      responseKind: { group: "policy", version: "v1", kind: "Eviction" },
      verbs: ["create"],
    },
    { name: "exec", responseKind: core("PodExecOptions"), verbs: ["create", "get"] },
    { name: "log", responseKind: core("Pod"), verbs: ["get"] },
    { name: "portforward", responseKind: core("PodPortForwardOptions"), verbs: ["create", "get"] },
    { name: "proxy", responseKind: core("PodProxyOptions"), verbs: PROXY_VERBS },
  ],
  services: [{ name: "proxy", responseKind: core("ServiceProxyOptions"), verbs: PROXY_VERBS }],
  nodes: [{ name: "proxy", responseKind: core("NodeProxyOptions"), verbs: PROXY_VERBS }],
  namespaces: [{ name: "finalize", responseKind: core("Namespace"), verbs: ["update"] }],
  "certificatesigningrequests.certificates.k8s.io": [
    {
      name: "approval",
      responseKind: { group: "certificates.k8s.io", version: "v1", kind: "CertificateSigningRequest" },
      verbs: PART_VERBS,
    },
  ],
  serviceaccounts: [
    {
      name: "token",
      responseKind: { group: "authentication.k8s.io", version: "v1", kind: "TokenRequest" },
      verbs: ["create"],
    },
  ],
};

/** In the order of their names, as the real server lists them. */
export function verbsOf({ definition: { answers }, prefix }: Kind): readonly string[] {
  if (answers) return ANSWERED.filter((verb) => answers[verb]);
  return prefix === "/registry/namespaces/"
    ? ALL_VERBS.filter((verb) => verb !== "deletecollection")
    : ALL_VERBS;
}

export function subresourcesOf(kind: Kind): Subresource[] {
  const { group, version, plural, kind: name } = kind.resource;
  const out: Subresource[] = [...(EXTRA[group === "" ? plural : `${plural}.${group}`] ?? [])];
  const { scale, hasStatus } = kind.definition;
  if (scale)
    out.push({
      name: "scale",
      responseKind: { group: "autoscaling", version: "v1", kind: "Scale" },
      verbs: PART_VERBS,
    });
  if (hasStatus)
    out.push({ name: "status", responseKind: { group, version, kind: name }, verbs: PART_VERBS });
  return out.sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** Group versions in the order of their groups, the core group ("") first; of one group the preferred version first. */
export function groupVersions(kinds: readonly Kind[]): { group: string; version: string; kinds: Kind[] }[] {
  const found = new Map<string, { group: string; version: string; kinds: Kind[] }>();
  for (const kind of kinds) {
    const { group, version } = kind.resource;
    const entry = found.get(kind.apiVersion) ?? { group, version, kinds: [] };
    entry.kinds.push(kind);
    found.set(kind.apiVersion, entry);
  }
  return [...found.values()].sort((a, b) => (a.group < b.group ? -1 : 1));
}

const byPlural = (a: Kind, b: Kind): number => (a.resource.plural < b.resource.plural ? -1 : 1);

export function apiVersions(serverAddress: string): object {
  return {
    kind: "APIVersions",
    versions: ["v1"],
    serverAddressByClientCIDRs: [{ clientCIDR: "0.0.0.0/0", serverAddress }],
  };
}

export function apiGroup(group: string, kinds: readonly Kind[]): Record<string, unknown> {
  const versions = groupVersions(kinds)
    .filter((one) => one.group === group)
    .map(({ version }) => ({ groupVersion: `${group}/${version}`, version }));
  return { name: group, versions, preferredVersion: versions[0] };
}

export function apiGroupList(kinds: readonly Kind[]): object {
  const names = new Set(groupVersions(kinds).map(({ group }) => group));
  names.delete("");
  const groups = [...names].map((group) => apiGroup(group, kinds));
  return { kind: "APIGroupList", apiVersion: "v1", groups };
}

export function apiResourceList(groupVersion: string, kinds: readonly Kind[]): object {
  const resources = kinds.toSorted(byPlural).flatMap((kind) => {
    const { plural, namespaced, kind: name, group, version } = kind.resource;
    const { singular, shortNames, categories } = kind.definition;
    const main = {
      name: plural,
      singularName: singular,
      namespaced,
      kind: name,
      verbs: verbsOf(kind),
      ...(shortNames?.length ? { shortNames } : {}),
      ...(categories?.length ? { categories } : {}),
    };
    const parts = subresourcesOf(kind).map(({ name: part, responseKind, verbs }) => ({
      name: `${plural}/${part}`,
      singularName: "",
      namespaced,
      ...(responseKind.group !== group || responseKind.version !== version
        ? { group: responseKind.group, version: responseKind.version }
        : {}),
      kind: responseKind.kind,
      verbs,
    }));
    return [main, ...parts];
  });
  return { kind: "APIResourceList", apiVersion: "v1", groupVersion, resources };
}

/** apidiscovery.k8s.io: everything at once; `core` chooses between what /api and /apis hold. */
export function aggregatedDiscovery(
  kinds: readonly Kind[],
  core: boolean,
  apiVersion: "v2" | "v2beta1",
): object {
  const groups = new Map<string, object[]>();
  for (const { group, version, kinds: members } of groupVersions(kinds)) {
    if ((group === "") !== core) continue;
    const resources = members.toSorted(byPlural).map(aggregatedResource);
    groups.set(group, [...(groups.get(group) ?? []), { version, freshness: "Current", resources }]);
  }
  const items = [...groups].map(([group, versions]) => ({
    metadata: { ...(group ? { name: group } : {}), creationTimestamp: null },
    versions,
  }));
  return {
    kind: "APIGroupDiscoveryList",
    apiVersion: `apidiscovery.k8s.io/${apiVersion}`,
    metadata: {},
    items,
  };
}

function aggregatedResource(kind: Kind): object {
  const { group, version, plural, namespaced, kind: name } = kind.resource;
  const { singular, shortNames, categories } = kind.definition;
  return {
    resource: plural,
    responseKind: { group, version, kind: name },
    scope: namespaced ? "Namespaced" : "Cluster",
    singularResource: singular,
    verbs: verbsOf(kind),
    ...(shortNames?.length ? { shortNames } : {}),
    ...(categories?.length ? { categories } : {}),
    subresources: subresourcesOf(kind).map(({ name: subresource, responseKind, verbs }) => ({
      subresource,
      responseKind,
      verbs,
    })),
  };
}
