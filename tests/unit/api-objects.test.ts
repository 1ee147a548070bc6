// The API over a unix socket: discovery, and objects created, read and written, with their error texts.

import t from "tap";
import type { Status } from "../../common/k8s.js";
import { envelope, field, messages } from "../helpers/protobuf.js";
import { CM, configMap, DEPLOYS, deployment, startHarness } from "./helpers/api-server.js";

t.test("discovery, version, health, OpenAPI", async (t) => {
  const { call } = await startHarness(t);
  t.match((await call("GET", "/version")).body, { major: "1", minor: "36", gitVersion: "v1.36.0+kubeplumb" });
  t.equal((await call("GET", "/healthz")).text, "ok");
  t.match((await call("GET", "/readyz?verbose")).text, /\[\+\]store ok\n[\s\S]*readyz check passed/);
  t.match((await call("GET", "/api")).body, { kind: "APIVersions", versions: ["v1"] });
  const groups = (await call("GET", "/apis")).body.groups.map((g: { name: string }) => g.name);
  t.same(groups, [
    "apps",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
  ]);
  t.match((await call("GET", "/apis/apps")).body, {
    kind: "APIGroup",
    name: "apps",
    preferredVersion: { groupVersion: "apps/v1" },
  });
  const core = (await call("GET", "/api/v1")).body.resources as {
    name: string;
    shortNames?: string[];
    verbs: string[];
  }[];
  t.match(
    core.find((r) => r.name === "pods"),
    { shortNames: ["po"], namespaced: true, singularName: "pod", kind: "Pod" },
  );
  for (const name of [
    "pods/log",
    "pods/exec",
    "pods/binding",
    "pods/status",
    "nodes/proxy",
    "namespaces/finalize",
  ])
    t.ok(
      core.some((r) => r.name === name),
      name,
    );
  const scale = (await call("GET", "/apis/apps/v1")).body.resources.find(
    (r: { name: string }) => r.name === "deployments/scale",
  );
  t.match(scale, { group: "autoscaling", version: "v1", kind: "Scale", verbs: ["get", "patch", "update"] });
  const accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
  const all = await call("GET", "/apis", { accept });
  t.equal(
    all.headers["content-type"],
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
  );
  t.match(all.body.items[0], {
    metadata: { name: "apps" },
    versions: [{ version: "v1", freshness: "Current" }],
  });
  const index = (await call("GET", "/openapi/v3")).body.paths;
  const document = (await call("GET", index["apis/apps/v1"].serverRelativeURL)).body;
  const { patch } = document.paths["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
  t.ok(
    patch.parameters.some((p: { name: string }) => p.name === "fieldValidation"),
    "kubectl looks for it before it sends it",
  );
  t.same(patch["x-kubernetes-group-version-kind"], { group: "apps", version: "v1", kind: "Deployment" });
  const podSpec = document.components.schemas["io.k8s.api.core.v1.PodSpec"].properties;
  t.match(podSpec.containers, {
    "x-kubernetes-patch-merge-key": "name",
    "x-kubernetes-patch-strategy": "merge",
    description: /containers/,
  });
  t.notOk("x-kubernetes-patch-strategy" in podSpec.tolerations);
  t.ok((await call("GET", "/openapi/v2")).body.definitions["io.k8s.api.core.v1.Pod"]);
  const protobuf = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
  for (const accept of [protobuf, protobuf.replace("v2.v1", "v2@v1")]) {
    const swagger = await call("GET", "/openapi/v2", { accept });
    t.equal(swagger.headers["content-type"], protobuf);
    t.ok(swagger.text.startsWith("\n\x032.0\x12"), "field 1 is swagger, field 2 is info");
  }
  for (const path of ["/apis/nope/v1/pods", "/nope"]) {
    const { code, text } = await call("GET", path);
    t.same([code, text], [404, "404 page not found\n"], path);
  }
});

t.test("create, get, update, delete: shapes and error texts", async (t) => {
  const { call } = await startHarness(t);
  const created = await call("POST", CM, { body: configMap("a", { k: "v" }) });
  t.equal(created.code, 201);
  const { metadata } = created.body;
  t.match(metadata, {
    name: "a",
    namespace: "default",
    uid: /^[0-9a-f-]{36}$/,
    creationTimestamp: /Z$/,
    resourceVersion: /^\d+$/,
  });
  t.notOk("labels" in metadata, "empty maps are not stored");
  const error = async (
    code: number,
    reason: string,
    message: string | RegExp,
    method: string,
    path: string,
    body?: unknown,
    type?: string,
  ) => {
    const answer = await call(method, path, { body, ...(type ? { type } : {}) });
    t.equal(answer.code, code, `${method} ${path}: ${code}`);
    t.match(
      answer.body,
      { kind: "Status", apiVersion: "v1", status: "Failure", reason, message, code },
      `${reason}`,
    );
    return answer.body as Status;
  };
  t.match(await error(409, "AlreadyExists", 'configmaps "a" already exists', "POST", CM, configMap("a")), {
    details: { name: "a", kind: "configmaps" },
  });
  t.match(await error(404, "NotFound", 'deployments.apps "x" not found', "GET", `${DEPLOYS}/x`), {
    details: { name: "x", group: "apps", kind: "deployments" },
  });
  await error(
    404,
    "NotFound",
    'namespaces "no" not found',
    "POST",
    "/api/v1/namespaces/no/configmaps",
    configMap("a"),
  );
  await error(
    400,
    "BadRequest",
    "the namespace of the provided object does not match the namespace sent on the request",
    "POST",
    CM,
    { ...configMap("b"), metadata: { name: "b", namespace: "other" } },
  );
  const invalid = await error(
    422,
    "Invalid",
    /^ConfigMap "B_" is invalid: metadata.name: Invalid value: "B_": a lowercase RFC 1123 subdomain/,
    "POST",
    CM,
    configMap("B_"),
  );
  t.match(invalid.details, {
    name: "B_",
    kind: "ConfigMap",
    causes: [{ reason: "FieldValueInvalid", field: "metadata.name", message: /^Invalid value: "B_"/ }],
  });
  await error(
    422,
    "Invalid",
    'ConfigMap "" is invalid: metadata.name: Required value: name or generateName is required',
    "POST",
    CM,
    { metadata: {} },
  );
  await error(
    422,
    "Invalid",
    /metadata.labels: Invalid value: "-x"/,
    "POST",
    CM,
    configMap("b", {}, { a: "-x" }),
  );
  await error(400, "BadRequest", /does not match the expected API version \(v1\)/, "POST", CM, {
    ...configMap("b"),
    apiVersion: "v2",
  });
  await error(400, "BadRequest", /cannot be handled as a ConfigMap/, "POST", CM, {
    ...configMap("b"),
    kind: "Secret",
  });
  await error(400, "BadRequest", /json parse error/, "POST", CM, "{");
  await error(415, "UnsupportedMediaType", /accepted media types include/, "POST", CM, "x", "text/plain");
  await error(
    413,
    "RequestEntityTooLarge",
    /limit is 3145728/,
    "POST",
    CM,
    configMap("b", { x: "x".repeat(4 << 20) }),
  );
  await error(405, "MethodNotAllowed", /does not allow this method/, "PUT", CM, {});
  await error(
    405,
    "MethodNotAllowed",
    /does not allow this method/,
    "POST",
    "/api/v1/configmaps",
    configMap("b"),
  );
  await error(400, "BadRequest", "resourceVersion should not be set on objects to be created", "POST", CM, {
    metadata: { name: "b", resourceVersion: "1" },
  });

  const draft = { ...created.body, data: { k: "w" } };
  const updated = await call("PUT", `${CM}/a`, { body: draft });
  t.equal(updated.code, 200);
  t.equal(updated.body.data.k, "w");
  t.equal(updated.body.metadata.uid, metadata.uid);
  await error(
    409,
    "Conflict",
    'Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes to the latest version and try again',
    "PUT",
    `${CM}/a`,
    draft,
  );
  const same = await call("PUT", `${CM}/a`, { body: updated.body });
  t.equal(
    same.body.metadata.resourceVersion,
    updated.body.metadata.resourceVersion,
    "an update that changes nothing writes nothing",
  );
  const forced = await call("PUT", `${CM}/a`, { body: configMap("a", { k: "z" }) });
  t.equal(
    forced.body.metadata.creationTimestamp,
    metadata.creationTimestamp,
    "without a resourceVersion the last writer wins",
  );
  await error(
    400,
    "BadRequest",
    "the name of the object (b) does not match the name on the URL (a)",
    "PUT",
    `${CM}/a`,
    configMap("b"),
  );
  await error(409, "Conflict", /UID in precondition: other/, "PUT", `${CM}/a`, {
    metadata: { name: "a", uid: "other" },
  });
  await error(404, "NotFound", 'configmaps "zz" not found', "PUT", `${CM}/zz`, configMap("zz"));

  await error(
    409,
    "Conflict",
    /the UID in the precondition \(nope\) does not match the UID in record/,
    "DELETE",
    `${CM}/a`,
    { preconditions: { uid: "nope" } },
  );
  const invalidDelete = 'DeleteOptions.meta.k8s.io "" is invalid: ';
  const maybe = await error(
    422,
    "Invalid",
    `${invalidDelete}propagationPolicy: Unsupported value: "Maybe": supported values: "Foreground", "Background", "Orphan", "nil"`,
    "DELETE",
    `${CM}/a?propagationPolicy=Maybe`,
  );
  t.match(maybe.details?.causes, [{ reason: "FieldValueNotSupported", field: "propagationPolicy" }]);
  for (const [query, body] of [
    ["", { propagationPolicy: "Orphan", orphanDependents: true }],
    ["?propagationPolicy=Orphan&orphanDependents=false", undefined],
  ] as const)
    await error(
      422,
      "Invalid",
      `${invalidDelete}propagationPolicy: Invalid value: "Orphan": orphanDependents and deletionPropagation cannot be both set`,
      "DELETE",
      `${CM}/a${query}`,
      body,
    );
  for (const body of [undefined, { dryRun: ["Some"] }])
    await error(
      422,
      "Invalid",
      `${invalidDelete}dryRun: Unsupported value: ["Some"]: supported values: "All"`,
      "DELETE",
      body ? `${CM}/a` : `${CM}/a?dryRun=Some`,
      body,
    );
  await error(
    422,
    "Invalid",
    'ConfigMap "big" is invalid: []: Too long: may not be more than 1048576 bytes',
    "POST",
    CM,
    configMap("big", { key: "x".repeat(1024 * 1024 + 1) }),
  );
  const deleted = await call("DELETE", `${CM}/a`);
  t.match(deleted.body, {
    kind: "Status",
    status: "Success",
    details: { name: "a", kind: "configmaps", uid: metadata.uid },
  });
  const accounts = "/api/v1/namespaces/default/serviceaccounts";
  await call("POST", accounts, { body: { metadata: { name: "robot", labels: { of: "mine" } } } });
  const account = await call("DELETE", `${accounts}/robot`);
  t.match(account.body, { kind: "ServiceAccount", metadata: { name: "robot", labels: { of: "mine" } } });
  await error(404, "NotFound", 'configmaps "a" not found', "DELETE", `${CM}/a`);
  await error(
    403,
    "Forbidden",
    'namespaces "default" is forbidden: this namespace may not be deleted',
    "DELETE",
    "/api/v1/namespaces/default",
  );
});

t.test("fieldValidation, dryRun, YAML, generateName", async (t) => {
  const { call } = await startHarness(t);
  const bad = { ...configMap("a"), dota: { k: "v" } };
  const strict = await call("POST", `${CM}?fieldValidation=Strict`, { body: bad });
  t.equal(strict.code, 400);
  t.equal(
    strict.body.message,
    'ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: unknown field "dota"',
  );
  const twice = await call("POST", `${CM}?fieldValidation=Strict`, {
    body: '{"metadata":{"name":"a","name":"b"}}',
  });
  t.match(twice.body.message, /strict decoding error: duplicate field "metadata.name"/);
  const warned = await call("POST", `${CM}?dryRun=All`, { body: bad });
  t.equal(warned.code, 201);
  t.equal(warned.headers.warning, '299 - "unknown field \\"dota\\""');
  t.notOk("dota" in warned.body);
  t.equal((await call("GET", `${CM}/a`)).code, 404, "a dry run keeps nothing");
  t.equal((await call("POST", `${CM}?fieldValidation=Ignore`, { body: bad })).headers.warning, undefined);
  const dry = 'dryRun: Unsupported value: ["Some"]: supported values: "All"';
  const sure = 'fieldValidation: Unsupported value: "Sure": supported values: "", "Ignore", "Strict", "Warn"';
  for (const [method, query, options, what] of [
    ["POST", "?dryRun=Some", "CreateOptions", dry],
    ["POST", "?fieldValidation=Sure", "CreateOptions", sure],
    ["PUT", "/a?dryRun=Some&fieldValidation=Sure", "UpdateOptions", `[${dry}, ${sure}]`],
    ["PATCH", "/a?dryRun=Some", "PatchOptions", dry],
  ] as const) {
    const message = `${options}.meta.k8s.io "" is invalid: ${what}`;
    t.match(await call(method, `${CM}${query}`, { body: bad }), {
      code: 422,
      body: { reason: "Invalid", message },
    });
  }
  const wrong = await call("POST", DEPLOYS, {
    body: { ...deployment("d"), spec: { ...deployment("d").spec, replicas: "3" } },
  });
  t.equal(
    wrong.body.message,
    'Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32',
  );
  const yaml = await call("POST", CM, {
    body: "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: y\ndata: {a: 'b'}\n",
    type: "application/yaml",
  });
  t.equal(yaml.body.data.a, "b");
  const asYaml = await call("GET", `${CM}/y`, { accept: "application/yaml" });
  t.match(asYaml.text, /^apiVersion: v1\nkind: ConfigMap\n/);
  const generated = await call("POST", CM, { body: { metadata: { generateName: "gen-" } } });
  t.match(generated.body.metadata.name, /^gen-[a-z0-9]{5}$/);
  const typeMeta = messages(
    field(1, messages(field(1, "proto"), field(3, ""))),
    field(2, messages(field(1, "k"), field(2, "v"))),
  );
  const body = envelope("v1", "ConfigMap", typeMeta);
  const proto = await call("POST", CM, {
    body,
    type: "application/vnd.kubernetes.protobuf",
    accept: "application/vnd.kubernetes.protobuf,application/json",
  });
  t.equal(proto.code, 201);
  t.equal(proto.body.data.k, "v");
  t.equal((await call("GET", CM, { accept: "application/vnd.kubernetes.protobuf" })).code, 406);
  t.match(
    (await call("POST", CM, { body: "k8s", type: "application/vnd.kubernetes.protobuf" })).body.message,
    /protobuf/,
  );
});
