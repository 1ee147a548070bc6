// Roles and bindings: what is refused, what they allow whom, and that nobody gives away what he has not got.

import { request as httpRequest, type IncomingMessage } from "node:http";
import { request as httpsRequest } from "node:https";
import { text } from "node:stream/consumers";
import t, { type Test } from "tap";
import { ApiClient } from "../../client/api-client.js";
import {
  CLUSTER_ROLE_BINDINGS,
  CLUSTER_ROLES,
  CONFIG_MAPS,
  PERSISTENT_VOLUME_CLAIMS,
  PERSISTENT_VOLUMES,
  PODS,
  ROLE_BINDINGS,
  ROLES,
  SERVICE_ACCOUNTS,
} from "../../common/client.js";
import type { ClusterRole, PolicyRule, Role, RoleBinding, Stored } from "../../common/k8s.js";
import { ruleAllows } from "../../control/api/rbac.js";
import { aggregatedRules } from "../../control/controllers/clusterrole-aggregation.js";
import { caught } from "../helpers/caught.js";
import { controlFor } from "../helpers/control.js";
import { eventually } from "./helpers/local-cluster.js";

const GROUP = "rbac.authorization.k8s.io";
const DEFAULT = { namespace: "default" };

const refusal = async (promise: Promise<unknown>) => ((await caught(promise)) as Error).message;
const readPods = { apiGroups: [""], resources: ["pods"], verbs: ["get", "list"] };

function role(name: string, ...rules: PolicyRule[]): Role {
  return { metadata: { name, ...DEFAULT }, rules };
}

function binding(name: string, kind: "ClusterRole" | "Role", to: string, user: string): RoleBinding {
  return {
    metadata: { name, ...DEFAULT },
    roleRef: { apiGroup: GROUP, kind, name: to },
    subjects: [{ kind: "User", name: user }],
  };
}

/** The API as the administrator, and as others. */
async function start(t: Test) {
  const { control, admin } = await controlFor(t);
  await eventually("the account", () =>
    admin.get(SERVICE_ACCOUNTS, "default", "default").catch(() => undefined),
  );
  const tokenOf = async (name: string): Promise<string> => {
    const path = `/api/v1/namespaces/default/serviceaccounts/${name}/token`;
    await admin.create(SERVICE_ACCOUNTS, { metadata: { name, ...DEFAULT } });
    const { status } = await admin.json<{ status: { token: string } }>("POST", path, {
      body: { apiVersion: "authentication.k8s.io/v1", kind: "TokenRequest", spec: {} },
    });
    return status.token;
  };
  const account = async (name: string): Promise<ApiClient> => {
    const token = await tokenOf(name);
    const client = new ApiClient({ server: control.url, ca: control.caCert, token });
    t.teardown(() => client.close());
    return client;
  };
  return { admin, account, control, tokenOf };
}

t.test("single rules", (t) => {
  const asked = (verb: string, what: string, name?: string, group = "") => {
    const [plural = "", subresource] = what.split("/");
    return { verb, path: "", resource: { group, plural, subresource, namespace: "default", name } };
  };
  const rule = (resources: string[], verbs = ["get"], more: Partial<PolicyRule> = {}): PolicyRule => ({
    apiGroups: [""],
    resources,
    verbs,
    ...more,
  });
  const cases: [PolicyRule, ReturnType<typeof asked>, boolean][] = [
    [rule(["pods"]), asked("get", "pods"), true],
    [rule(["pods"]), asked("list", "pods"), false],
    [rule(["pods"]), asked("get", "pods/log"), false],
    [rule(["pods/log"]), asked("get", "pods/log"), true],
    [rule(["*/log"]), asked("get", "pods/log"), true],
    [rule(["*/log"]), asked("get", "pods"), false],
    [rule(["*"]), asked("get", "pods/log"), true],
    [rule(["pods"], ["*"]), asked("delete", "pods"), true],
    [rule(["deployments"]), asked("get", "deployments", "a", "apps"), false],
    [rule(["deployments"], ["get"], { apiGroups: ["*"] }), asked("get", "deployments", "a", "apps"), true],
    [rule(["pods"], ["get"], { resourceNames: ["a"] }), asked("get", "pods", "a"), true],
    [rule(["pods"], ["get"], { resourceNames: ["a"] }), asked("get", "pods", "b"), false],
    [rule(["pods"], ["list"], { resourceNames: ["a"] }), asked("list", "pods"), false],
  ];
  for (const [one, what, wanted] of cases)
    t.equal(ruleAllows(one, what), wanted, JSON.stringify([one, what]));
  const url = (nonResourceURLs: string[], path: string) =>
    ruleAllows({ nonResourceURLs, verbs: ["get"] }, { verb: "get", path });
  t.same(
    [url(["/a"], "/a"), url(["/a/*"], "/a/b"), url(["/a/*"], "/a"), url(["*"], "/x")],
    [true, true, false, true],
  );

  const made = (name: string, labels: object, ...rules: PolicyRule[]) =>
    ({ metadata: { name, labels }, rules }) as unknown as Stored<ClusterRole>;
  const sum = {
    ...made("sum", {}),
    aggregationRule: { clusterRoleSelectors: [{ matchLabels: { to: "sum" } }] },
  };
  const all = [
    made("b", { to: "sum" }, rule(["b"]), rule(["a"])),
    made("a", { to: "sum" }, rule(["a"])),
    made("c", {}, rule(["c"])),
  ];
  t.same(aggregatedRules(sum, all), [rule(["a"]), rule(["b"])], "each once, by name of the role");
  t.end();
});

t.test("what is refused", async (t) => {
  const { admin } = await start(t);
  t.equal(
    await refusal(admin.create(ROLES, role("r", { verbs: [], apiGroups: [], resources: ["pods"] }))),
    'Role.rbac.authorization.k8s.io "r" is invalid: [rules[0].verbs: Required value: verbs must contain at least one value, rules[0].apiGroups: Required value: resource rules must supply at least one api group]',
  );
  t.match(
    await refusal(admin.create(ROLES, role("r", { verbs: ["get"], nonResourceURLs: ["/x"] }))),
    /rules\[0\]\.nonResourceURLs: Invalid value: \["\/x"\]: namespaced rules cannot apply to non-resource URLs$/,
  );
  const wrong = binding("b", "Role", "", "eve");
  t.match(await refusal(admin.create(ROLE_BINDINGS, wrong)), /: roleRef\.name: Required value$/);
  const nobody = { ...binding("b", "Role", "r", "eve"), subjects: [{ kind: "ServiceAccount", name: "x" }] };
  t.match(await refusal(admin.create(ROLE_BINDINGS, nobody)), /: subjects\[0\]\.namespace: Required value$/);
  const made = await admin.create(ROLE_BINDINGS, binding("b", "Role", "r", "eve"));
  t.equal(made.subjects?.[0]?.apiGroup, GROUP);
  const moved = { ...made, roleRef: { ...made.roleRef, name: "other" } } as RoleBinding;
  t.match(
    await refusal(admin.update(ROLE_BINDINGS, moved, DEFAULT)),
    /roleRef: Invalid value: .*: cannot change roleRef$/,
  );
});

t.test("an account may do what roles allow, and may not give away more", async (t) => {
  const { admin, account } = await start(t);
  const robot = await account("robot");
  t.equal(
    await refusal(robot.list(PODS, DEFAULT)),
    'pods is forbidden: User "system:serviceaccount:default:robot" cannot list resource "pods" in API group "" in the namespace "default"',
  );
  t.match(await robot.json("GET", "/api"), { kind: "APIVersions" }, "everybody may ask what is served");
  t.equal(
    await refusal(robot.json("GET", "/metrics")),
    'forbidden: User "system:serviceaccount:default:robot" cannot get path "/metrics"',
  );
  await admin.create(ROLES, role("reader", readPods));
  const subjects = [{ kind: "ServiceAccount", name: "robot", ...DEFAULT }];
  await admin.create(ROLE_BINDINGS, { ...binding("reader", "Role", "reader", ""), subjects });
  t.same((await robot.list(PODS, DEFAULT)).items, []);
  t.match(
    await refusal(robot.list(PODS)),
    /cannot list resource "pods" in API group "" at the cluster scope$/,
  );
  t.match(await refusal(robot.list(PODS, { namespace: "kube-system" })), /in the namespace "kube-system"$/);
  await admin.create(ROLE_BINDINGS, { ...binding("lost", "Role", "absent", ""), subjects });
  t.match(
    await refusal(robot.list(CONFIG_MAPS, DEFAULT)),
    /in the namespace "default": RBAC: role\.rbac\.authorization\.k8s\.io "absent" not found$/,
  );

  await eventually("admin is put together", async () =>
    (await admin.get(CLUSTER_ROLES, "admin")).rules?.some(({ resources }) =>
      resources?.includes("configmaps"),
    ),
  );
  await admin.create(ROLE_BINDINGS, { ...binding("admin", "ClusterRole", "admin", ""), subjects });
  await robot.create(CONFIG_MAPS, { metadata: { name: "mine", ...DEFAULT } });
  await robot.create(ROLES, role("smaller", readPods));
  t.equal(
    await refusal(
      robot.create(ROLES, role("greater", { apiGroups: [""], resources: ["nodes", "pods"], verbs: ["get"] })),
    ),
    'roles.rbac.authorization.k8s.io "greater" is forbidden: user "system:serviceaccount:default:robot" (groups=["system:serviceaccounts" "system:serviceaccounts:default" "system:authenticated"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[""], Resources:["nodes"], Verbs:["get"]}',
  );
  const grown = { rules: [{ apiGroups: ["*"], resources: ["*"], verbs: ["*"] }] };
  t.match(await refusal(robot.patch(ROLES, "smaller", "merge", grown, DEFAULT)), /not currently held/);
  t.match(
    await refusal(robot.create(ROLE_BINDINGS, binding("up", "ClusterRole", "cluster-admin", "robot"))),
    /not currently held:\n\{APIGroups:\["\*"\], Resources:\["\*"\], Verbs:\["\*"\]\}/,
  );
  await robot.create(ROLE_BINDINGS, binding("share", "ClusterRole", "view", "eve"));
  t.match(
    await refusal(robot.create(CLUSTER_ROLE_BINDINGS, binding("up", "ClusterRole", "view", "eve") as never)),
    /cannot create resource "clusterrolebindings"/,
  );
  await admin.delete(ROLE_BINDINGS, "admin", DEFAULT);
  t.match(
    await refusal(robot.get(CONFIG_MAPS, "mine", "default")),
    /cannot get resource "configmaps"/,
    "at once",
  );
});

t.test("as somebody else", async (t) => {
  const { admin, control, tokenOf } = await start(t);
  const path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
  /** What the review says, asked on the socket, or with a token. */
  const ask = (headers: Record<string, string>, resource = "pods", token?: string) =>
    new Promise<string>((resolve, reject) => {
      const authorization = token ? { authorization: `Bearer ${token}` } : {};
      const options = {
        method: "POST",
        headers: { "content-type": "application/json", ...headers, ...authorization },
      };
      const told = (res: IncomingMessage) =>
        void text(res).then((body) => {
          const { status, message } = JSON.parse(body);
          resolve(typeof status === "string" ? message : String(status.allowed));
        }, reject);
      const req = token
        ? httpsRequest(control.url + path, { ...options, ca: control.caCert }, told)
        : httpRequest({ ...options, path, socketPath: control.socketPath }, told);
      req.on("error", reject);
      req.end(JSON.stringify({ spec: { resourceAttributes: { ...DEFAULT, verb: "get", resource } } }));
    });
  const eve = { "impersonate-user": "eve" };
  t.equal(await ask({}), "true");
  t.equal(await ask(eve), "false");
  await admin.create(ROLES, role("reader", readPods));
  await admin.create(ROLE_BINDINGS, binding("eve", "Role", "reader", "eve"));
  t.equal(await ask(eve), "true");
  t.equal(await ask(eve, "secrets"), "false");
  t.equal(await ask({ ...eve, "impersonate-group": "system:masters" }, "secrets"), "true");
  t.equal(
    await ask(eve, "pods", await tokenOf("robot")),
    'users "eve" is forbidden: User "system:serviceaccount:default:robot" cannot impersonate resource "users" in API group "" at the cluster scope',
  );
  t.match(await ask({ "impersonate-group": "x" }), /without impersonating a user/);
});

t.test("a node reads the claims of its pods, and the volumes of those claims", async (t) => {
  const { admin } = await start(t);
  const claim = { spec: { accessModes: ["ReadWriteOnce"], resources: { requests: { storage: "1Gi" } } } };
  for (const name of ["used", "other"]) {
    await admin.create(PERSISTENT_VOLUME_CLAIMS, { ...claim, metadata: { name, ...DEFAULT } });
    await admin.create(PERSISTENT_VOLUMES, {
      metadata: { name },
      spec: {
        capacity: { storage: "1Gi" },
        accessModes: ["ReadWriteOnce"],
        hostPath: { path: "/x" },
        claimRef: { name, ...DEFAULT },
      },
    });
  }
  await admin.create(PODS, {
    metadata: { name: "web", ...DEFAULT },
    spec: {
      nodeName: "node-1",
      volumes: [{ name: "v", persistentVolumeClaim: { claimName: "used" } }],
      containers: [{ name: "c", image: "nginx" }],
    },
  });
  const may = async (node: string, resource: string, name: string) => {
    const namespace = resource === "persistentvolumes" ? {} : DEFAULT;
    const spec = {
      user: `system:node:${node}`,
      groups: ["system:nodes", "system:authenticated"],
      resourceAttributes: { verb: "get", resource, name, ...namespace },
    };
    const path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    return (await admin.json<{ status: object }>("POST", path, { body: { spec } })).status;
  };
  for (const plural of ["persistentvolumeclaims", "persistentvolumes"]) {
    t.match(await may("node-1", plural, "used"), { allowed: true });
    t.match(await may("node-1", plural, "other"), { allowed: false });
    t.match(await may("node-2", plural, "used"), { allowed: false });
  }
});
