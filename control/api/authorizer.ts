// Who may do what: nodes what kube-apiserver's Node authorizer with NodeRestriction lets them, joining machines what they
// need, everybody else what roles allow (rbac.ts). Knows the store and users, no HTTP.

import type { PersistentVolume, Pod, Stored } from "../../common/k8s.js";
import type { Attributes } from "../resources/reviews.js";
import type { Store } from "../store/store.js";
import type { User } from "./engine.js";
import { isReferenced, type Referenced, references } from "./pod-references.js";
import { isSuperuser, Roles } from "./rbac.js";
import { failure, forbidden, qualifiedResource, StatusError } from "./status.js";

type Asked = NonNullable<Attributes["resource"]>;

/** Rules of RBAC's form: verbs on resources ("plural.group", "plural.group/subresource"). */
type Rules = Readonly<Record<string, readonly string[]>>;

const READ = ["get", "list", "watch"];
const UPDATE = ["update", "patch"];
const REVIEWS: Rules = {
  "selfsubjectreviews.authentication.k8s.io": ["create"],
  "selfsubjectaccessreviews.authorization.k8s.io": ["create"],
  "selfsubjectrulesreviews.authorization.k8s.io": ["create"],
};

/** The roles system:node, system:node-proxier and flannel's: kubelet, proxy and overlay are one program here. */
const NODE_RULES: Rules = {
  ...REVIEWS,
  "tokenreviews.authentication.k8s.io": ["create"],
  "subjectaccessreviews.authorization.k8s.io": ["create"],
  "localsubjectaccessreviews.authorization.k8s.io": ["create"],
  services: READ,
  endpoints: READ,
  "endpointslices.discovery.k8s.io": READ,
  "servicecidrs.networking.k8s.io": ["list", "watch"],
  nodes: ["create", ...READ, ...UPDATE],
  "nodes/status": UPDATE,
  events: ["create", ...UPDATE],
  "events.events.k8s.io": ["create", ...UPDATE],
  pods: [...READ, "delete"],
  "pods/status": UPDATE,
  "pods/eviction": ["create"],
  configmaps: READ,
  secrets: READ,
  persistentvolumeclaims: ["get"],
  persistentvolumes: ["get"],
  "serviceaccounts/token": ["create"],
  "certificatesigningrequests.certificates.k8s.io": ["create", ...READ],
  "leases.coordination.k8s.io": ["get", "create", ...UPDATE, "delete"],
};
/** The role system:node-bootstrapper. */
const BOOTSTRAP_RULES: Rules = {
  ...REVIEWS,
  "certificatesigningrequests.certificates.k8s.io": ["create", ...READ],
};

const NODE_PREFIX = "system:node:";
const LEASES = "kube-node-lease";
/** Published for everybody: how to reach the cluster, and by which CA to know it. */
const CLUSTER_INFO = { namespace: "kube-public", name: "cluster-info" };
/** What nodes are told about the cluster, beside what pods refer to. */
export const NODE_CONFIG = { namespace: "kube-system", name: "kubeplumb-node-config" };
const OPEN_PATHS = /^\/(?:|(?:api|apis|healthz|livez|openapi|readyz|version)(?:\/.*)?)$/;

/** The name of the node that a user is; "" for one whose name is no node's; undefined for others. */
export function nodeNameOf({ name, groups }: User): string | undefined {
  if (!groups.includes("system:nodes")) return undefined;
  return name.startsWith(NODE_PREFIX) ? name.slice(NODE_PREFIX.length) : "";
}

const isBootstrapper = ({ groups }: User) => groups.includes("system:bootstrappers");
const isAnonymous = ({ groups }: User) => groups.includes("system:unauthenticated");

export class Authorizer {
  readonly #store: Store<Stored>;
  readonly roles: Roles;

  constructor(store: Store<Stored>) {
    this.#store = store;
    this.roles = new Roles(store);
  }

  /** Whether {@link check} lets it through, and what roles say when they are the reason. */
  async review(user: User, attributes: Attributes): Promise<{ allowed: boolean; reason?: string }> {
    try {
      await this.check(user, attributes);
      return { allowed: true };
    } catch (error) {
      if (!(error instanceof StatusError) || error.reason !== "Forbidden") throw error;
      const reason = await this.roles.problem(user, attributes);
      return { allowed: false, ...(reason ? { reason } : {}) };
    }
  }

  /** @throws StatusError Forbidden in the real server's words. */
  async check(user: User, attributes: Attributes): Promise<void> {
    if (isSuperuser(user)) return;
    const node = nodeNameOf(user);
    const { resource, verb, path } = attributes;
    if (!resource) {
      const isOpen = node !== undefined || isBootstrapper(user) || isAnonymous(user);
      if (isOpen && verb === "get" && OPEN_PATHS.test(path)) return;
    } else {
      if (isClusterInfo(verb, resource)) return;
      if (node) return await this.#checkNode(user, node, verb, resource);
      if (isBootstrapper(user) && allows(BOOTSTRAP_RULES, verb, resource)) return;
    }
    const problem = await this.roles.problem(user, attributes);
    if (problem === undefined) return;
    if (resource) throw refused(user, verb, resource, problem);
    throw failure({
      code: 403,
      reason: "Forbidden",
      message: `forbidden: User ${JSON.stringify(user.name)} cannot ${verb} path ${JSON.stringify(path)}`,
      details: {},
    });
  }

  async #checkNode(user: User, node: string, verb: string, resource: Asked): Promise<void> {
    const reason = allows(NODE_RULES, verb, resource) ? await this.#problem(node, verb, resource) : "";
    if (reason !== undefined) throw refused(user, verb, resource, reason);
    const restriction = await this.#restriction(node, verb, resource);
    if (restriction) throw forbidden(resource, resource.name ?? "", restriction);
  }

  /** The Node authorizer: what the rules allow, but not of this object. */
  async #problem(
    node: string,
    verb: string,
    { plural, namespace, name }: Asked,
  ): Promise<string | undefined> {
    if (plural === "leases") {
      if (namespace !== LEASES) return `can only access leases in the "${LEASES}" system namespace`;
      if (verb !== "create" && name !== node)
        return "can only access node lease with the same name as the requesting node";
    }
    if (plural === "persistentvolumes") return await this.#volumeProblem(node, name);
    if (!isReferenced(plural)) return undefined;
    if (namespace === undefined) return "can only read namespaced object of this type";
    if (name === undefined) return "No Object name found";
    if (plural === "configmaps" && namespace === NODE_CONFIG.namespace && name === NODE_CONFIG.name)
      return undefined;
    const related = await this.#isReferenced(node, plural, namespace, name);
    return related ? undefined : `no relationship found between node '${node}' and this object`;
  }

  async #isReferenced(node: string, plural: Referenced, namespace: string, name: string): Promise<boolean> {
    const { entries } = await this.#store.range(`/registry/pods/${namespace}/`);
    return entries
      .map(({ value }) => value as Stored<Pod>)
      .some((pod) => pod.spec?.nodeName === node && references(pod, plural, name));
  }

  /** A volume is related to a node by its claim. */
  async #volumeProblem(node: string, name: string | undefined): Promise<string | undefined> {
    if (name === undefined) return "No Object name found";
    const volume = (await this.#store.get(`/registry/persistentvolumes/${name}`))?.value as
      | Stored<PersistentVolume>
      | undefined;
    const { namespace = "", name: claim = "" } = volume?.spec?.claimRef ?? {};
    const related = await this.#isReferenced(node, "persistentvolumeclaims", namespace, claim);
    return related ? undefined : `no relationship found between node '${node}' and this object`;
  }

  /** NodeRestriction, as far as the path tells; what is in a body is looked at by its admission. */
  async #restriction(
    node: string,
    verb: string,
    { group, plural, subresource, namespace, name }: Asked,
  ): Promise<string | undefined> {
    if (group !== "" || name === undefined) return undefined;
    const own = JSON.stringify(node);
    if (plural === "nodes" && verb !== "get" && name !== node)
      return `node ${own} is not allowed to modify node ${JSON.stringify(name)}`;
    if (plural !== "pods" || verb === "get" || verb === "list" || verb === "watch") return undefined;
    const pod = (await this.#store.get(`/registry/pods/${namespace}/${name}`))?.value as
      | Stored<Pod>
      | undefined;
    // That there is none is told by whoever looks for it.
    if (!pod || pod.spec?.nodeName === node) return undefined;
    if (subresource === "status")
      return `node ${own} can only update pod status for pods with spec.nodeName set to itself`;
    if (subresource === "eviction")
      return `node ${node} can only evict pods with spec.nodeName set to itself`;
    return `node ${own} can only delete pods with spec.nodeName set to itself`;
  }
}

function allows(rules: Rules, verb: string, { group, plural, subresource }: Asked): boolean {
  const resource = qualifiedResource({ group, plural });
  return rules[subresource === undefined ? resource : `${resource}/${subresource}`]?.includes(verb) ?? false;
}

function isClusterInfo(verb: string, { group, plural, subresource, namespace, name }: Asked): boolean {
  const isIt = namespace === CLUSTER_INFO.namespace && name === CLUSTER_INFO.name;
  return verb === "get" && group === "" && plural === "configmaps" && subresource === undefined && isIt;
}

function refused(user: User, verb: string, resource: Asked, reason = ""): Error {
  const { group, plural, subresource, namespace, name = "" } = resource;
  const what = subresource === undefined ? plural : `${plural}/${subresource}`;
  const where =
    namespace === undefined ? "at the cluster scope" : `in the namespace ${JSON.stringify(namespace)}`;
  const text = `User ${JSON.stringify(user.name)} cannot ${verb} resource ${JSON.stringify(what)} in API group ${JSON.stringify(group)} ${where}`;
  return forbidden(resource, name, reason ? `${text}: ${reason}` : text);
}
