// Who may come in and as whom: tokens of service accounts through the real server, reviews, what admission mounts, and
// the controllers that publish the CA and fill token Secrets.

import { createPrivateKey, createSign, generateKeyPairSync } from "node:crypto";
import { readFileSync } from "node:fs";
import { connect } from "node:net";
import { connect as tlsConnect } from "node:tls";
import t, { type Test } from "tap";
import { ApiClient } from "../../client/api-client.js";
import {
  CLUSTER_ROLE_BINDINGS,
  CONFIG_MAPS,
  type KubeClient,
  NAMESPACES,
  NODES,
  PODS,
  type Resource,
  SECRETS,
  SERVICE_ACCOUNTS,
  StatusError,
} from "../../common/client.js";
import type { KubeObject, Pod } from "../../common/k8s.js";
import type { Control } from "../../control/server.js";
import { controlFor } from "../helpers/control.js";

// biome-ignore lint/suspicious/noExplicitAny: answers of the API as a test reads them.
type Json = any;

function withToken(test: Test, control: Control, token: string): ApiClient {
  const client = new ApiClient({ server: control.url, ca: control.caCert, token });
  test.teardown(() => client.close());
  return client;
}

const TOKEN_PATH = "/api/v1/namespaces/default/serviceaccounts/default/token";

async function request(admin: ApiClient, spec: object, path = TOKEN_PATH): Promise<Json> {
  return await admin.json<Json>("POST", path, {
    body: { apiVersion: "authentication.k8s.io/v1", kind: "TokenRequest", spec },
  });
}

async function refused(promise: Promise<unknown>): Promise<{ code: number; message: string | undefined }> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof StatusError) return { code: error.status.code, message: error.status.message };
    throw error;
  }
  throw new Error("was not refused");
}

async function eventually<T>(look: () => Promise<T | undefined>): Promise<T> {
  for (let attempt = 0; attempt < 3000; attempt++) {
    const found = await look().catch((error: unknown) => {
      if (error instanceof StatusError && error.status.code === 404) return undefined;
      throw error;
    });
    if (found !== undefined) return found;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error("did not come about");
}

const account = (admin: KubeClient, name = "default", namespace = "default") =>
  eventually(() => admin.get(SERVICE_ACCOUNTS, name, namespace));

/** Service accounts may do nothing of themselves. */
const letAccountsIn = (admin: KubeClient) =>
  admin.create(CLUSTER_ROLE_BINDINGS, {
    metadata: { name: "accounts" },
    roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name: "cluster-admin" },
    subjects: [{ apiGroup: "rbac.authorization.k8s.io", kind: "Group", name: "system:serviceaccounts" }],
  });

const whoami = async (client: ApiClient): Promise<Json> =>
  (
    await client.json<Json>("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {
      body: { apiVersion: "authentication.k8s.io/v1", kind: "SelfSubjectReview" },
    })
  ).status.userInfo;

const claims = (token: string): Json =>
  JSON.parse(Buffer.from(token.split(".")[1] ?? "", "base64url").toString());

t.test("a token of a service account opens the door, as that account", async (t) => {
  const { control, admin } = await controlFor(t);
  const { metadata } = await account(admin);
  await letAccountsIn(admin);
  const answer = await request(admin, { expirationSeconds: 7200 });
  t.match(answer, {
    kind: "TokenRequest",
    apiVersion: "authentication.k8s.io/v1",
    spec: { expirationSeconds: 7200 },
  });
  const life = Date.parse(answer.status.expirationTimestamp) - Date.now();
  t.ok(life > 7_190_000 && life <= 7_200_000, `${life} ms`);
  const said = claims(answer.status.token);
  t.match(said, {
    iss: "https://kubernetes.default.svc.cluster.local",
    sub: "system:serviceaccount:default:default",
    aud: ["https://kubernetes.default.svc.cluster.local"],
    "kubernetes.io": { namespace: "default", serviceaccount: { name: "default", uid: metadata.uid } },
  });
  const client = withToken(t, control, answer.status.token);
  t.ok((await client.list(NAMESPACES)).items.length >= 4);
  t.match(await whoami(client), {
    username: "system:serviceaccount:default:default",
    uid: metadata.uid,
    groups: ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"],
  });
  t.match(await whoami(admin), {
    username: "system:admin",
    groups: ["system:masters", "system:authenticated"],
  });
  await admin.create(NODES, { metadata: { name: "node-1" } });
  const made = await client.create(CONFIG_MAPS, { metadata: { name: "mine", namespace: "default" } });
  t.equal(made.metadata.name, "mine");
});

t.test("tokens that are refused", async (t) => {
  const { control, admin, keyFile } = await controlFor(t);
  await account(admin);
  await letAccountsIn(admin);
  const good: string = (await request(admin, {})).status.token;
  const [head = "", body = "", signature = ""] = good.split(".");
  const forge = (change: object, key = createPrivateKey(readFileSync(keyFile))) => {
    const text = `${head}.${Buffer.from(JSON.stringify({ ...claims(good), ...change })).toString("base64url")}`;
    const signed = createSign("sha256").update(text).sign({ key, dsaEncoding: "ieee-p1363" });
    return `${text}.${signed.toString("base64url")}`;
  };
  const other = generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey;
  const none = Buffer.from('{"alg":"none","typ":"JWT"}').toString("base64url");
  const past = Math.floor(Date.now() / 1000) - 10;
  const foreign = (await request(admin, { audiences: ["vault"] })).status.token;
  const cases: Record<string, string> = {
    "no token at all": "abc",
    "a changed body": `${head}.${Buffer.from(body, "base64url").toString().replace("default", "kube-sy")}.${signature}`,
    "a changed signature": `${head}.${body}.${signature.slice(0, -4)}AAAA`,
    "another key": forge({}, other),
    "no signature": `${none}.${body}.`,
    "out of time": forge({ exp: past }),
    "not yet": forge({ nbf: past + 3600 }),
    "another issuer": forge({ iss: "https://evil" }),
    "for others": foreign,
    "another account than it says": forge({ sub: "system:serviceaccount:kube-system:admin" }),
  };
  for (const [what, token] of Object.entries(cases)) {
    const answer = await refused(withToken(t, control, token).list(NAMESPACES));
    t.same(answer, { code: 401, message: "Unauthorized" }, what);
  }
  t.ok(
    await withToken(t, control, forge({})).list(NAMESPACES),
    "the forger's work is good but for the change",
  );
  t.ok(await withToken(t, control, good).list(NAMESPACES));
});

t.test("a TLS session that is resumed without a certificate is nobody's", async (t) => {
  const { control } = await controlFor(t);
  const ask = (
    session?: Buffer,
    path = "/api/v1/namespaces",
  ): Promise<{ head: string; session: Buffer; resumed: boolean }> =>
    new Promise((resolve, reject) => {
      const socket = tlsConnect({ port: control.port, host: "127.0.0.1", ca: control.caCert, session });
      let kept: Buffer | undefined;
      socket.on("session", (one) => {
        kept = one;
      });
      socket.on("error", reject);
      socket.on("data", (data) => {
        const head = data.toString().split("\r\n")[0] ?? "";
        resolve({ head, session: kept ?? Buffer.alloc(0), resumed: socket.isSessionReused() });
        socket.destroy();
      });
      socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`);
    });
  const first = await ask();
  t.equal(first.head, "HTTP/1.1 401 Unauthorized");
  t.equal((await ask(undefined, "/healthz")).head, "HTTP/1.1 200 OK", "health is no secret");
  const second = await ask(first.session);
  t.ok(second.resumed);
  t.equal(second.head, "HTTP/1.1 401 Unauthorized");
});

t.test("a token ends with what it is bound to", async (t) => {
  const { control, admin } = await controlFor(t);
  await account(admin);
  await admin.create(SERVICE_ACCOUNTS, { metadata: { name: "robot", namespace: "default" } });
  const path = TOKEN_PATH.replace("/default/token", "/robot/token");
  const spec = { serviceAccountName: "robot", containers: [{ name: "c", image: "i" }] };
  const pod = await admin.create(PODS, { metadata: { name: "p", namespace: "default" }, spec });
  const reference = { kind: "Pod", apiVersion: "v1", name: "p" };
  const bound: string = (await request(admin, { boundObjectRef: reference }, path)).status.token;
  t.match(claims(bound)["kubernetes.io"].pod, { name: "p", uid: pod.metadata.uid });
  const client = withToken(t, control, bound);
  t.match((await whoami(client)).extra, { "authentication.kubernetes.io/pod-name": ["p"] });

  const ask = (ref: object, at = path) => refused(request(admin, { boundObjectRef: ref }, at));
  t.match(await ask({ ...reference, name: "q" }), { code: 404, message: 'pods "q" not found' });
  t.match(await ask({ ...reference, uid: "x" }), { code: 409, message: /does not match the UID in record/ });
  t.match(await ask(reference, TOKEN_PATH), { code: 400, message: /different serviceaccount name/ });
  t.match(await ask({ ...reference, kind: "Service" }), { code: 400, message: /cannot bind token/ });
  const short = await refused(request(admin, { expirationSeconds: 599 }, path));
  t.match(short, { code: 422, message: /may not specify a duration less than 10 minutes/ });
  const nobody = await refused(request(admin, {}, TOKEN_PATH.replace("/default/token", "/nobody/token")));
  t.match(nobody, { code: 404, message: 'serviceaccounts "nobody" not found' });

  const review = async (token: string, audiences?: string[]): Promise<Json> =>
    (
      await admin.json<Json>("POST", "/apis/authentication.k8s.io/v1/tokenreviews", {
        body: { spec: { token, ...(audiences ? { audiences } : {}) } },
      })
    ).status;
  t.match(await review(bound), {
    authenticated: true,
    user: { username: "system:serviceaccount:default:robot" },
  });
  t.match(await review(bound, ["vault"]), { error: /is invalid for the target audiences \[vault\]/ });
  await admin.delete(PODS, "p", { namespace: "default", gracePeriodSeconds: 0 });
  t.match(await review(bound, ["https://kubernetes.default.svc.cluster.local", "x"]), {
    error: /pod default\/p has been deleted/,
  });
  const robot: string = (await request(admin, {}, path)).status.token;
  await admin.delete(SERVICE_ACCOUNTS, "robot", { namespace: "default" });
  t.match(await refused(withToken(t, control, robot).list(NAMESPACES)), { code: 401 });
});

t.test("access reviews say what holds", async (t) => {
  const { admin } = await controlFor(t);
  const post = (plural: string, spec: object, namespace = "") =>
    admin.json<Json>("POST", `/apis/authorization.k8s.io/v1${namespace}/${plural}`, { body: { spec } });
  const attributes = { resourceAttributes: { verb: "delete", resource: "nodes" } };
  t.match(await post("selfsubjectaccessreviews", attributes), { status: { allowed: true } });
  t.match(await post("subjectaccessreviews", { ...attributes, user: "eve" }), { status: { allowed: false } });
  t.match(await refused(post("subjectaccessreviews", attributes)), { code: 422, message: /user or group/ });
  t.match(await refused(post("selfsubjectaccessreviews", {})), { code: 422 });
  t.match(await post("selfsubjectrulesreviews", { namespace: "default" }), {
    status: { resourceRules: [{ verbs: ["*"], apiGroups: ["*"], resources: ["*"] }] },
  });
  const local = { resourceAttributes: { namespace: "other", verb: "get", resource: "pods" }, user: "eve" };
  t.match(await refused(post("localsubjectaccessreviews", local, "/namespaces/default")), {
    code: 422,
    message: /must match metadata.namespace/,
  });
  const listed = await refused(admin.json("GET", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"));
  t.equal(listed.code, 405);
  const { resources } = await admin.json<Json>("GET", "/apis/authorization.k8s.io/v1");
  t.strictSame(
    resources.map(({ name, verbs }: Json) => [name, verbs]),
    [
      "localsubjectaccessreviews",
      "selfsubjectaccessreviews",
      "selfsubjectrulesreviews",
      "subjectaccessreviews",
    ].map((name) => [name, ["create"]]),
  );
});

const CA = {
  group: "",
  version: "v1",
  plural: "configmaps",
  kind: "ConfigMap",
  namespaced: true,
} as Resource;

t.test("the CA in every namespace, and put back", async (t) => {
  const { control, admin } = await controlFor(t);
  const get = (namespace: string) =>
    eventually(() => admin.get<KubeObject>(CA, "kube-root-ca.crt", namespace));
  for (const namespace of ["default", "kube-system"])
    t.match((await get(namespace)) as Json, { data: { "ca.crt": control.caCert } }, namespace);
  await admin.create(NAMESPACES, { metadata: { name: "shop" } });
  const { uid } = (await get("shop")).metadata;
  await admin.patch(CA, "kube-root-ca.crt", "merge", { data: { "ca.crt": "x" } }, { namespace: "shop" });
  await eventually(async () => ((await get("shop")) as Json).data["ca.crt"] === control.caCert || undefined);
  await admin.delete(CA, "kube-root-ca.crt", { namespace: "shop" });
  await eventually(async () => (await get("shop")).metadata.uid !== uid || undefined);
  t.pass("deleted and changed, it comes back");
});

t.test("a Secret for an account gets a lasting token, and goes with the account", async (t) => {
  const { control, admin } = await controlFor(t);
  const secret = {
    metadata: {
      name: "robot-token",
      namespace: "default",
      annotations: { "kubernetes.io/service-account.name": "robot" },
    },
    type: "kubernetes.io/service-account-token",
  };
  await admin.create(SECRETS, secret);
  const { metadata } = await admin.create(SERVICE_ACCOUNTS, {
    metadata: { name: "robot", namespace: "default" },
  });
  const filled = await eventually(async () => {
    const { data, ...rest } = await admin.get(SECRETS, "robot-token", "default");
    return data?.token ? { data, ...rest } : undefined;
  });
  const text = (key: string) => Buffer.from(filled.data[key] ?? "", "base64").toString();
  t.equal(text("namespace"), "default");
  t.equal(text("ca.crt"), control.caCert);
  t.equal(filled.metadata.annotations?.["kubernetes.io/service-account.uid"], metadata.uid);
  t.equal(claims(text("token")).exp, undefined);
  const client = withToken(t, control, text("token"));
  t.equal((await whoami(client)).username, "system:serviceaccount:default:robot");
  await admin.delete(SERVICE_ACCOUNTS, "robot", { namespace: "default" });
  await eventually(async () => {
    const { items } = await admin.list(SECRETS, { namespace: "default" });
    return items.length === 0 || undefined;
  });
  t.equal((await refused(client.list(NODES))).code, 401);
});

t.test("admission mounts the token, unless it is told not to", async (t) => {
  const { admin } = await controlFor(t);
  await account(admin);
  const container = { name: "c", image: "i" };
  const make = async (name: string, spec: object): Promise<Json> =>
    (await admin.create(PODS, { metadata: { name, namespace: "default" }, spec } as Pod)).spec;
  const plain = await make("plain", {
    containers: [container],
    initContainers: [{ ...container, name: "init" }],
  });
  const [volume] = plain.volumes;
  t.match(volume.name, /^kube-api-access-[a-z0-9]{5}$/);
  t.strictSame(volume.projected, {
    sources: [
      { serviceAccountToken: { expirationSeconds: 3607, path: "token" } },
      { configMap: { name: "kube-root-ca.crt", items: [{ key: "ca.crt", path: "ca.crt" }] } },
      {
        downwardAPI: {
          items: [{ path: "namespace", fieldRef: { apiVersion: "v1", fieldPath: "metadata.namespace" } }],
        },
      },
    ],
    defaultMode: 0o644,
  });
  const mount = {
    name: volume.name,
    readOnly: true,
    mountPath: "/var/run/secrets/kubernetes.io/serviceaccount",
  };
  for (const one of [...plain.containers, ...plain.initContainers]) t.match(one.volumeMounts, [mount]);

  const never = await make("never", { containers: [container], automountServiceAccountToken: false });
  t.equal(never.volumes, undefined);
  await admin.create(SERVICE_ACCOUNTS, {
    metadata: { name: "shy", namespace: "default" },
    automountServiceAccountToken: false,
    imagePullSecrets: [{ name: "registry" }],
  });
  const shy = await make("shy", { containers: [container], serviceAccountName: "shy" });
  t.equal(shy.volumes, undefined);
  t.strictSame(shy.imagePullSecrets, [{ name: "registry" }]);
  const asked = await make("asked", {
    containers: [container],
    serviceAccountName: "shy",
    automountServiceAccountToken: true,
  });
  t.equal(asked.volumes.length, 1, "the pod has the last word");
  const own = { name: "own", emptyDir: {} };
  const placed = { ...container, volumeMounts: [{ name: "own", mountPath: mount.mountPath }] };
  const elsewhere = await make("elsewhere", { containers: [placed], volumes: [own] });
  t.equal(elsewhere.volumes.length, 1, "who has something there keeps it");
});

t.test("the API client over connections that somebody else makes", async (t) => {
  const { control, admin } = await controlFor(t);
  await account(admin);
  await letAccountsIn(admin);
  const { token } = (await request(admin, {})).status;
  const dialled: string[] = [];
  const dial = ({ host, port }: { host: string; port: number }) => {
    dialled.push(`${host}:${port}`);
    return connect({ host: "127.0.0.1", port: control.port });
  };
  // The certificate names this address: it is the Service's own.
  const client = new ApiClient({ server: "https://10.96.0.1", ca: control.caCert, token, dial });
  t.ok((await client.list(NAMESPACES)).items.length >= 4);
  t.strictSame([...new Set(dialled)], ["10.96.0.1:443"]);
  await client.close();
  const nowhere = new ApiClient({
    server: "https://10.96.0.1",
    ca: control.caCert,
    token,
    dial: () => connect({ host: "127.0.0.1", port: 1 }),
  });
  await t.rejects(nowhere.list(NAMESPACES), { code: "ECONNREFUSED" });
  await nowhere.close();
});
