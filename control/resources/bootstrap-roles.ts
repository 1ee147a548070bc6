// The ClusterRoles and ClusterRoleBindings that every cluster has: those that people bind (cluster-admin, admin, edit,
// view), what everybody may ask the server about itself, and what the cluster's own programs need. Data only.

import type { ClusterRole, ClusterRoleBinding, PolicyRule } from "../../common/k8s.js";
import { RBAC_GROUP } from "./rbac.js";

const READ = ["get", "list", "watch"];
const WRITE = ["create", "delete", "deletecollection", "patch", "update"];
const LABELS = { "kubernetes.io/bootstrapping": "rbac-defaults" };
const AGGREGATE = `${RBAC_GROUP}/aggregate-to-`;

const on = (apiGroup: string, verbs: string[], ...resources: string[]): PolicyRule => ({
  apiGroups: [apiGroup],
  resources,
  verbs,
});
const paths = (...nonResourceURLs: string[]): PolicyRule => ({ nonResourceURLs, verbs: ["get"] });

function role(name: string, rules: PolicyRule[], labels: Record<string, string> = {}): ClusterRole {
  const metadata = { name, labels: { ...LABELS, ...labels } };
  return { apiVersion: `${RBAC_GROUP}/v1`, kind: "ClusterRole", metadata, rules };
}

function aggregated(name: string, labels: Record<string, string> = {}): ClusterRole {
  const matchLabels = { [`${AGGREGATE}${name}`]: "true" };
  return { ...role(name, [], labels), aggregationRule: { clusterRoleSelectors: [{ matchLabels }] } };
}

const toEdit = { [`${AGGREGATE}edit`]: "true" };
const toAdmin = { [`${AGGREGATE}admin`]: "true" };
const toView = { [`${AGGREGATE}view`]: "true" };
const SCALED = ["deployments", "replicasets", "statefulsets"].flatMap((name) => [name, `${name}/scale`]);
const HEALTH = ["/healthz", "/livez", "/readyz", "/version", "/version/"];

export const BOOTSTRAP_ROLES: readonly ClusterRole[] = [
  role("cluster-admin", [on("*", ["*"], "*"), { nonResourceURLs: ["*"], verbs: ["*"] }]),
  role("system:discovery", [
    paths(
      "/api",
      "/api/*",
      "/apis",
      "/apis/*",
      ...HEALTH.slice(0, 2),
      "/openapi",
      "/openapi/*",
      ...HEALTH.slice(2),
    ),
  ]),
  role("system:public-info-viewer", [paths(...HEALTH)]),
  role("system:basic-user", [
    on("authorization.k8s.io", ["create"], "selfsubjectaccessreviews", "selfsubjectrulesreviews"),
    on("authentication.k8s.io", ["create"], "selfsubjectreviews"),
  ]),
  role("system:auth-delegator", [
    on("authentication.k8s.io", ["create"], "tokenreviews"),
    on("authorization.k8s.io", ["create"], "subjectaccessreviews"),
  ]),
  aggregated("admin"),
  aggregated("edit", toAdmin),
  aggregated("view", toEdit),
  role(
    "system:aggregate-to-admin",
    [
      on("authorization.k8s.io", ["create"], "localsubjectaccessreviews"),
      on(RBAC_GROUP, [...READ, ...WRITE], "roles", "rolebindings"),
    ],
    toAdmin,
  ),
  role(
    "system:aggregate-to-edit",
    [
      on("", READ, "pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy"),
      on("", ["impersonate"], "serviceaccounts"),
      on("", WRITE, "pods", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy"),
      on("", ["create"], "pods/eviction", "serviceaccounts/token"),
      on(
        "",
        WRITE,
        "configmaps",
        "events",
        "persistentvolumeclaims",
        "replicationcontrollers",
        "replicationcontrollers/scale",
        "secrets",
        "serviceaccounts",
        "services",
        "services/proxy",
      ),
      on("apps", WRITE, "daemonsets", ...SCALED),
      on("autoscaling", WRITE, "horizontalpodautoscalers"),
      on("batch", WRITE, "cronjobs", "jobs"),
      on("networking.k8s.io", WRITE, "ingresses", "networkpolicies"),
      on("policy", WRITE, "poddisruptionbudgets"),
      on("coordination.k8s.io", [...READ, ...WRITE], "leases"),
    ],
    toEdit,
  ),
  role(
    "system:aggregate-to-view",
    [
      on(
        "",
        READ,
        "configmaps",
        "endpoints",
        "persistentvolumeclaims",
        "persistentvolumeclaims/status",
        "pods",
        "replicationcontrollers",
        "replicationcontrollers/scale",
        "serviceaccounts",
        "services",
        "services/status",
      ),
      on(
        "",
        READ,
        "bindings",
        "events",
        "limitranges",
        "namespaces/status",
        "pods/log",
        "pods/status",
        "replicationcontrollers/status",
        "resourcequotas",
        "resourcequotas/status",
      ),
      on("", READ, "namespaces"),
      on("discovery.k8s.io", READ, "endpointslices"),
      on(
        "apps",
        READ,
        "controllerrevisions",
        "daemonsets",
        "daemonsets/status",
        ...SCALED,
        "deployments/status",
        "replicasets/status",
        "statefulsets/status",
      ),
      on("autoscaling", READ, "horizontalpodautoscalers", "horizontalpodautoscalers/status"),
      on("batch", READ, "cronjobs", "cronjobs/status", "jobs", "jobs/status"),
      on("networking.k8s.io", READ, "ingresses", "ingresses/status", "networkpolicies"),
      on("policy", READ, "poddisruptionbudgets", "poddisruptionbudgets/status"),
      on("metrics.k8s.io", READ, "nodes", "pods"),
    ],
    toView,
  ),
  role("system:node-proxier", [
    on("", READ, "endpoints", "nodes", "services"),
    on("", ["create", "patch", "update"], "events"),
    on("events.k8s.io", ["create", "patch", "update"], "events"),
    on("discovery.k8s.io", READ, "endpointslices"),
    on("networking.k8s.io", ["list", "watch"], "servicecidrs"),
  ]),
  role("system:coredns", [
    on("", ["list", "watch"], "endpoints", "namespaces", "pods", "services"),
    on("discovery.k8s.io", ["list", "watch"], "endpointslices"),
  ]),
  role("ingress-kubeplumb", [
    on("", READ, "nodes", "pods", "secrets", "services"),
    on("discovery.k8s.io", READ, "endpointslices"),
    on("networking.k8s.io", READ, "ingressclasses", "ingresses"),
    on("networking.k8s.io", ["patch", "update"], "ingresses/status"),
    on("", ["create", "patch", "update"], "events"),
  ]),
];

function bound(
  role: string,
  kind: "Group" | "ServiceAccount" | "User",
  ...names: string[]
): ClusterRoleBinding {
  return {
    apiVersion: `${RBAC_GROUP}/v1`,
    kind: "ClusterRoleBinding",
    metadata: { name: role, labels: LABELS },
    roleRef: { apiGroup: RBAC_GROUP, kind: "ClusterRole", name: role },
    subjects: names.map((name) => {
      if (kind !== "ServiceAccount") return { apiGroup: RBAC_GROUP, kind, name };
      const [namespace = "", account = ""] = name.split("/");
      return { kind, name: account, namespace };
    }),
  };
}

export const BOOTSTRAP_BINDINGS: readonly ClusterRoleBinding[] = [
  bound("cluster-admin", "Group", "system:masters"),
  bound("system:discovery", "Group", "system:authenticated"),
  bound("system:basic-user", "Group", "system:authenticated"),
  bound("system:public-info-viewer", "Group", "system:authenticated", "system:unauthenticated"),
  bound("system:node-proxier", "User", "system:kube-proxy"),
  bound("system:coredns", "ServiceAccount", "kube-system/coredns"),
  bound("ingress-kubeplumb", "ServiceAccount", "ingress-kubeplumb/ingress-kubeplumb"),
];
