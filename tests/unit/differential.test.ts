// What a differential test against kube-apiserver showed to be different, over HTTP on the control plane's socket:
// each expectation is kube-apiserver's answer to the same request.

import { request } from "node:http";
import t from "tap";
import { controlFor } from "../helpers/control.js";
import { problems } from "./helpers/kinds.js";

type Json = ReturnType<typeof JSON.parse>;

const CORE = "/api/v1/namespaces/default";
const MERGE = "application/merge-patch+json";
const STRATEGIC = "application/strategic-merge-patch+json";
const JSON_PATCH = "application/json-patch+json";

const { socketPath } = await controlFor(t);

function ask(
  method: string,
  path: string,
  body?: unknown,
  type = "application/json",
): Promise<{ code: number; body: Json }> {
  return new Promise((resolve, reject) => {
    const payload = body === undefined ? "" : JSON.stringify(body);
    const headers = { "content-type": type, "content-length": Buffer.byteLength(payload) };
    const req = request({ socketPath, method, path, headers, agent: false }, async (res) => {
      let text = "";
      for await (const chunk of res.setEncoding("utf8")) text += chunk;
      const isJson = res.headers["content-type"] === "application/json";
      resolve({ code: res.statusCode ?? 0, body: isJson ? JSON.parse(text) : text });
    });
    req.on("error", reject);
    req.end(payload);
  });
}

const configMap = (name: string, metadata: object = {}) =>
  ask("POST", `${CORE}/configmaps`, { metadata: { name, ...metadata } });

t.test("a patch cannot make another kind of an object", async (t) => {
  await configMap("typed");
  const path = `${CORE}/configmaps/typed`;
  for (const patch of [{ kind: "Secret" }, { apiVersion: "v9" }]) {
    t.match(await ask("PATCH", path, patch, MERGE), { code: 422, body: { reason: "Invalid" } });
    t.match(await ask("PATCH", path, patch, STRATEGIC), { code: 200 });
  }
  const operation = { op: "replace", path: "/kind", value: "Secret" };
  t.match(await ask("PATCH", path, [operation], JSON_PATCH), { code: 422 });
  t.match((await ask("GET", path)).body, { kind: "ConfigMap", apiVersion: "v1" });
});

t.test("what an update or patch says of metadata that only the server decides", async (t) => {
  const { uid } = (await configMap("meta", { generateName: "m-" })).body.metadata;
  const path = `${CORE}/configmaps/meta`;
  const message = "the name of the object (meta based on URL) was undeterminable: name must be provided";
  t.match(await ask("PUT", path, { data: {} }), { code: 400, body: { message } });
  t.match(await ask("PATCH", path, { metadata: null }, MERGE), { code: 400, body: { message } });
  const wrong = await ask("PATCH", path, { metadata: { uid: "other" } }, MERGE);
  t.match(wrong.body, {
    code: 422,
    message: 'ConfigMap "meta" is invalid: metadata.uid: Invalid value: "other": field is immutable',
  });
  t.equal((await ask("PUT", path, { metadata: { name: "meta", uid: "other" } })).code, 409, "a precondition");
  for (const frozen of [{ deletionTimestamp: "2020-01-01T00:00:00Z" }, { deletionGracePeriodSeconds: 5 }]) {
    const refused = await ask("PUT", path, { metadata: { name: "meta", ...frozen } });
    t.match(refused.body.details?.causes, [
      { field: `metadata.${Object.keys(frozen)[0]}`, message: /: field is immutable$/ },
    ]);
  }
  const replaced = await ask("PUT", path, { metadata: { name: "meta", uid } });
  t.match(replaced, { code: 200 });
  t.notOk("generateName" in replaced.body.metadata, "a client's field like labels");
});

t.test("names that are made up have to become valid ones; Events own nothing", async (t) => {
  for (const generateName of ["Bad_", "dot."]) {
    const refused = await ask("POST", `${CORE}/configmaps`, { metadata: { generateName } });
    t.match(refused.body.details?.causes[0], {
      field: "metadata.generateName",
      message: /^Invalid value: ".*": a lowercase RFC 1123 subdomain/,
    });
  }
  t.match(await ask("POST", `${CORE}/configmaps`, { metadata: { generateName: "good-" } }), { code: 201 });
  const owner = { apiVersion: "v1", kind: "Event", name: "e", uid: "u" };
  t.match((await configMap("owned", { ownerReferences: [owner] })).body.message, /Kind=Event is disallowed/);
  const nameless = await ask("POST", `${CORE}/configmaps`, { metadata: {} });
  t.notOk("name" in nameless.body.details, "an empty name is left out");
});

t.test("a collection is deleted in one namespace; namespaces one by one", async (t) => {
  await configMap("stays");
  for (const path of ["/api/v1/configmaps", "/api/v1/namespaces"])
    t.match(await ask("DELETE", path), { code: 405, body: { reason: "MethodNotAllowed" } });
  t.equal((await ask("GET", `${CORE}/configmaps/stays`)).code, 200);
  const { resources } = (await ask("GET", "/api/v1")).body;
  const verbs = (name: string) => resources.find((r: { name: string }) => r.name === name).verbs;
  t.notOk(verbs("namespaces").includes("deletecollection"));
  t.ok(verbs("nodes").includes("deletecollection"));
  t.equal((await ask("DELETE", `${CORE}/configmaps/stays`, { kind: "Pod", apiVersion: "v1" })).code, 400);
  t.equal((await ask("GET", `${CORE}/configmaps/stays`)).code, 200, "those were no DeleteOptions");
});

t.test("the name of a subresource's object is that of the URL", async (t) => {
  const template = {
    metadata: { labels: { a: "b" } },
    spec: { containers: [{ name: "c", image: "x" }] },
  };
  const spec = { selector: { matchLabels: { a: "b" } }, template };
  const path = "/apis/apps/v1/namespaces/default/deployments";
  await ask("POST", path, { metadata: { name: "scaled" }, spec });
  const scale = (metadata: object) => ask("PUT", `${path}/scaled/scale`, { metadata, spec: { replicas: 0 } });
  t.match(await scale({}), { code: 400, body: { message: /was undeterminable: name must be provided$/ } });
  t.equal((await scale({ name: "other" })).code, 400);
  t.equal((await scale({ name: "scaled" })).code, 200);
  const binding = { metadata: { name: "other" }, target: { kind: "Node", name: "n" } };
  t.match((await ask("POST", `${CORE}/pods/p/binding`, binding)).body, {
    code: 400,
    message: "name in URL does not match name in Binding object",
  });
});

t.test("what a strategic merge patch adds comes first", async (t) => {
  const finalizers = ["a.b/1", "a.b/2"];
  await configMap("ordered", { finalizers });
  const patch = async (metadata: object) =>
    (await ask("PATCH", `${CORE}/configmaps/ordered`, { metadata }, STRATEGIC)).body.metadata.finalizers;
  t.same(await patch({ finalizers: ["a.b/3", "a.b/1"] }), ["a.b/3", "a.b/1", "a.b/2"]);
  const order = ["a.b/4", "a.b/2"];
  t.same(await patch({ finalizers: ["a.b/4"], "$setElementOrder/finalizers": order }), [
    "a.b/4",
    "a.b/3",
    "a.b/1",
    "a.b/2",
  ]);
  const pod = { spec: { containers: [{ name: "c", image: "x", env: [{ name: "A" }, { name: "B" }] }] } };
  const deployment = {
    metadata: { name: "ordered" },
    spec: {
      selector: { matchLabels: { a: "b" } },
      template: { metadata: { labels: { a: "b" } }, ...pod },
    },
  };
  const path = "/apis/apps/v1/namespaces/default/deployments";
  await ask("POST", path, deployment);
  const env = [{ name: "C" }, { name: "B" }, { name: "C", value: "2" }];
  const template = { spec: { containers: [{ name: "c", env }] } };
  const patched = await ask("PATCH", `${path}/ordered`, { spec: { template } }, STRATEGIC);
  t.same(
    patched.body.spec.template.spec.containers[0].env,
    [{ name: "C", value: "2" }, { name: "A" }, { name: "B" }],
    "what the list holds twice, the result holds once",
  );
});

t.test("a path that names nothing: a Status within the API, text elsewhere", async (t) => {
  for (const path of [
    "/api/v2",
    "/api/v1/foos",
    `${CORE}/foos/x`,
    `${CORE}/pods/p/nope`,
    "/apis/apps/v9/deployments",
    "/apis/apps/v1/nope",
  ])
    t.match(await ask("GET", path), {
      code: 404,
      body: { reason: "NotFound", message: "the server could not find the requested resource", details: {} },
    });
  t.same(await ask("GET", "/apis/nope/v1"), { code: 404, body: "404 page not found\n" });
});

t.test("selectors that cannot be read, in the real server's words", async (t) => {
  const message = async (query: string, plural = "configmaps") =>
    (await ask("GET", `${CORE}/${plural}?${query}`)).body.message;
  t.equal(await message("labelSelector=("), "found '(', expected: !, identifier, or 'end of string'");
  t.equal(
    await message("fieldSelector=spec.x%3D1"),
    '"spec.x" is not a known field selector: only "metadata.name", "metadata.namespace"',
  );
  t.equal(await message("fieldSelector=spec.x%3D1", "pods"), "field label not supported: spec.x");
});

t.test("flannel writes the annotations of a Node by its status", async (t) => {
  await ask("POST", "/api/v1/nodes", { metadata: { name: "n1", labels: { a: "b" } } });
  const annotations = { "flannel.alpha.coreos.com/public-ip": "192.0.2.1" };
  const patch = { metadata: { annotations, labels: { a: "c" } } };
  t.equal((await ask("PATCH", "/api/v1/nodes/n1/status", patch, STRATEGIC)).code, 200);
  t.match((await ask("GET", "/api/v1/nodes/n1")).body.metadata, { annotations, labels: { a: "b" } });
});

t.test("namespaces: finalizers and phase", async (t) => {
  const text = "name is neither a standard finalizer name nor is it fully qualified";
  const make = (name: string, spec: object) =>
    ask("POST", "/api/v1/namespaces", { metadata: { name }, spec });
  t.match((await make("bad", { finalizers: ["x"] })).body.message, new RegExp(text));
  t.equal((await make("good", { finalizers: ["a.b/c"] })).code, 201);
  const finalize = { metadata: { name: "good" }, spec: { finalizers: ["x"] } };
  t.match((await ask("PUT", "/api/v1/namespaces/good/finalize", finalize)).body.message, new RegExp(text));
  const status = { status: { phase: "Terminating" } };
  t.match((await ask("PATCH", "/api/v1/namespaces/good/status", status, MERGE)).body.details?.causes, [
    { field: "status.Phase", message: /may only be 'Active' if `deletionTimestamp` is empty$/ },
  ]);
});

t.test("a CronJob's template keeps what a Job's own defaults are out", async (t) => {
  const template = { spec: { restartPolicy: "Never", containers: [{ name: "c", image: "x" }] } };
  const spec = { schedule: "* * * * *", suspend: true, jobTemplate: { spec: { template } } };
  const made = await ask("POST", "/apis/batch/v1/namespaces/default/cronjobs", {
    metadata: { name: "c" },
    spec,
  });
  t.equal(made.code, 201);
  t.same(Object.keys(made.body.spec.jobTemplate.spec), ["template"]);
});

t.test("what is wrong with a container, and was not noticed", async (t) => {
  const wrong = (container: object, spec: object = {}) =>
    problems("Pod", { spec: { ...spec, containers: [{ name: "c", image: "x", ...container }] } });
  const at = "spec.containers[0]";
  t.same(wrong({ resources: { requests: { "a.b/c": "1" } } }), [
    `${at}.resources.limits: Required value: Limit must be set for non overcommitable resources`,
  ]);
  t.same(wrong({ resources: { limits: { "a.b/c": "1.5" } } }), [
    `${at}.resources.limits[a.b/c]: Invalid value: "1500m": must be an integer`,
    `${at}.resources.requests[a.b/c]: Invalid value: "1500m": must be an integer`,
  ]);
  t.same(wrong({ resources: { limits: { "hugepages-2Mi": "2Mi" } } }), [
    `${at}.resources: Forbidden: HugePages require cpu or memory`,
  ]);
  t.same(wrong({ resources: { limits: { "a.b/c": "1", "kubernetes.io/x": "0.5", cpu: "500m" } } }), []);
  t.match(wrong({ securityContext: { privileged: true, allowPrivilegeEscalation: false } }), [
    /^spec\.containers\[0\]\.securityContext: .*: cannot set `allowPrivilegeEscalation` to false and `privileged` to true$/,
  ]);
  const env = (valueFrom: object) => wrong({ env: [{ name: "A", valueFrom }] });
  t.same(env({ fieldRef: { apiVersion: "v2", fieldPath: "metadata.name" } }), [
    `${at}.env[0].valueFrom.fieldRef.fieldPath: Invalid value: "metadata.name": error converting fieldPath: unsupported pod version: v2`,
  ]);
  t.match(env({ configMapKeyRef: { name: "A_", key: "k" } }), [
    /configMapKeyRef\.name: Invalid value: "A_": a low/,
  ]);
  t.match(wrong({ envFrom: [{ secretRef: { name: "A_" } }] }), [
    /envFrom\[0\]\.secretRef\.name: Invalid value/,
  ]);
  const volume = (source: object) => wrong({}, { volumes: [{ name: "v", ...source }] });
  t.match(volume({ downwardAPI: { items: [{ path: "p", fieldRef: { fieldPath: "spec.x" } }] } }), [
    /^spec\.volumes\[0\]\.downwardAPI\.fieldRef\.fieldPath: Unsupported value: "spec.x"/,
  ]);
  const serviceAccountToken = { path: "t", expirationSeconds: 5 };
  t.same(volume({ projected: { sources: [{ serviceAccountToken }] } }), [
    "spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes",
  ]);
  t.same(wrong({}, { securityContext: { supplementalGroups: [1, -1] } }), [
    "spec.securityContext.supplementalGroups[1]: Invalid value: -1: must be between 0 and 2147483647, inclusive",
  ]);
});

t.test("what is wrong with autoscalers, ingresses and their classes, and was not noticed", async (t) => {
  const scaleTargetRef = { kind: "Deployment", name: "x" };
  const target = { type: "Value", value: "10", averageValue: "5" };
  const metrics = [{ type: "External", external: { metric: { name: "q" }, target } }];
  t.same(problems("HorizontalPodAutoscaler", { spec: { maxReplicas: 3, scaleTargetRef, metrics } }), [
    "spec.metrics[0].external.target.value: Forbidden: may not set both a target value for metric and a per-pod target",
  ]);
  const parameters = { apiGroup: "A_", kind: "a/b", name: "..", scope: "Cluster" };
  t.match(problems("IngressClass", { spec: { controller: "a.b/c", parameters } }), [
    /^spec\.parameters\.apiGroup: Invalid value: "A_"/,
    "spec.parameters.kind: Invalid value: \"a/b\": may not contain '/'",
    "spec.parameters.name: Invalid value: \"..\": may not be '..'",
  ]);
  const spec = { defaultBackend: { service: { name: "s", port: { number: 80 } } } };
  const status = { loadBalancer: { ingress: [{ hostname: "192.0.2.1" }] } };
  const name = "lb";
  await ask("POST", "/apis/networking.k8s.io/v1/namespaces/default/ingresses", { metadata: { name }, spec });
  const refused = await ask(
    "PATCH",
    `/apis/networking.k8s.io/v1/namespaces/default/ingresses/${name}/status`,
    { status },
    MERGE,
  );
  t.match(
    refused.body.message,
    /hostname: Invalid value: "192.0.2.1": must be a DNS name, not an IP address$/,
  );
});
