// Server-side apply and managed fields over HTTP: answers, texts and stored objects as a real server has them.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ManagedFieldsEntry } from "kubernetes-types/meta/v1.js";
import t, { type Test } from "tap";
import { Client } from "undici";
import { CONFIG_MAPS, DEPLOYMENTS, NAMESPACES, PODS, SERVICE_ACCOUNTS } from "../../common/client.js";
import type { ConfigMap, Deployment, KubeObject, Status, Stored } from "../../common/k8s.js";
import { silentLogger } from "../../common/log.js";
import { ADMISSION } from "../../control/api/admission.js";
import { objectCodec } from "../../control/api/codec.js";
import type { KubeletConnector } from "../../control/api/http/kubelet.js";
import { ApiServer } from "../../control/api/http/server.js";
import { LocalClient } from "../../control/api/local.js";
import { Registry } from "../../control/api/registry.js";
import { Schema } from "../../control/api/schema.js";
import { isUnchanged } from "../../control/api/tracking.js";
import { closeServer, listenSocket } from "../../control/listeners.js";
import { pathTexts } from "../../control/patch/field-set.js";
import { readManagers } from "../../control/patch/managers.js";
import { createResources } from "../../control/resources/index.js";
import { LmdbStore } from "../../control/store/lmdb.js";

const schema = Schema.load();
const noKubelet = {} as KubeletConnector;

interface Answer {
  code: number;
  warnings: string[];
  object: Stored<Deployment & { data?: Record<string, string> }>;
  status: Status;
}

interface Harness {
  client: LocalClient;
  send(method: "GET" | "POST" | "PUT" | "PATCH", path: string, options?: SendOptions): Promise<Answer>;
}

interface SendOptions {
  body?: unknown;
  type?: string;
  query?: Record<string, string>;
  userAgent?: string;
}

async function serve(test: Test): Promise<Harness> {
  const dir = mkdtempSync(join(tmpdir(), "kubeplumb-apply-"));
  const store = await LmdbStore.open<Stored>({ path: join(dir, "store"), codec: objectCodec });
  const definitions = createResources({
    serviceCIDRs: ["10.96.0.0/16"],
    nodePortRange: [30000, 32767],
    defaultTolerationSeconds: 300,
  });
  const log = silentLogger;
  const registry = await Registry.open({ store, schema, definitions, admission: ADMISSION, log });
  const client = new LocalClient(registry);
  await client.create(NAMESPACES, { metadata: { name: "default" } });
  await client.create(SERVICE_ACCOUNTS, { metadata: { name: "default", namespace: "default" } });
  const api = new ApiServer({ registry, kubelet: noKubelet, address: () => "127.0.0.1:1", log });
  const socketPath = join(dir, "api.sock");
  const server = await listenSocket(api, socketPath, log);
  const http = new Client("http://localhost", { connect: { socketPath } });
  test.teardown(async () => {
    await http.close();
    api.close();
    await closeServer(server);
    await store.close();
    rmSync(dir, { recursive: true, force: true });
  });
  return {
    client,
    async send(method, path, { body, type = "application/json", query = {}, userAgent = "curl/8.0" } = {}) {
      const answer = await http.request({
        method,
        path,
        query,
        headers: { "content-type": type, "user-agent": userAgent },
        body: body === undefined ? null : typeof body === "string" ? body : JSON.stringify(body),
      });
      const object = (await answer.body.json()) as Answer["object"];
      const warnings = [answer.headers.warning ?? []].flat();
      return { code: answer.statusCode, warnings, object, status: object as unknown as Status };
    },
  };
}

const MAPS = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENT = "/apis/apps/v1/namespaces/default/deployments";
const APPLY = "application/apply-patch+yaml";

const configMap = (name: string, data?: Record<string, string>, metadata: object = {}) => ({
  apiVersion: "v1",
  kind: "ConfigMap",
  metadata: { name, ...metadata },
  ...(data ? { data } : {}),
});

function deployment(name: string, spec: object = {}): object {
  return {
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: { name },
    spec: {
      selector: { matchLabels: { app: name } },
      template: {
        metadata: { labels: { app: name } },
        spec: { containers: [{ name: "c", image: "nginx" }] },
      },
      ...spec,
    },
  };
}

/** Manager, operation and subresource → paths. */
function owners(entries: readonly ManagedFieldsEntry[] | undefined): Record<string, string[]> {
  return Object.fromEntries(
    readManagers(entries).map(({ manager, operation, subresource, fields }) => [
      [manager, operation, ...(subresource ? [subresource] : [])].join(" "),
      pathTexts(fields),
    ]),
  );
}

const ownersOf = ({ object }: Answer) => owners(object.metadata.managedFields);

function applier({ send }: Harness, collection = MAPS) {
  return (manager: string, object: unknown, query: Record<string, string> = {}): Promise<Answer> => {
    const { name } = (object as KubeObject).metadata ?? {};
    return send("PATCH", `${collection}/${name}`, {
      body: object,
      type: APPLY,
      query: { fieldManager: manager, ...query },
    });
  };
}

t.test("apply: creates, changes nothing when nothing is new, shares, refuses and forces", async (t) => {
  const h = await serve(t);
  const apply = applier(h);
  const first = await apply("a", configMap("m", { x: "1", y: "1" }));
  t.equal(first.code, 201);
  t.same(first.object.data, { x: "1", y: "1" });
  t.same(ownersOf(first), { "a Apply": [".data.x", ".data.y"] });
  const again = await apply("a", configMap("m", { y: "1", x: "1" }));
  t.equal(again.code, 200);
  t.same(again.object, first.object, "the same resourceVersion, the same times");
  const [entry] = first.object.metadata.managedFields ?? [];
  const at = (time: string, data = first.object.data) => ({
    ...first.object,
    data,
    metadata: { ...first.object.metadata, managedFields: [{ ...entry, time }] },
  });
  t.ok(isUnchanged(at("2030-01-01T00:00:00Z"), first.object), "a later time alone is no change");
  t.notOk(isUnchanged(at("2030-01-01T00:00:00Z", {}), first.object));
  t.same(ownersOf(await apply("b", configMap("m", { x: "1" }))), {
    "a Apply": [".data.x", ".data.y"],
    "b Apply": [".data.x"],
  });
  const refused = await apply("b", configMap("m", { x: "2" }));
  t.same(refused.status, {
    kind: "Status",
    apiVersion: "v1",
    metadata: {},
    status: "Failure",
    message: 'Apply failed with 1 conflict: conflict with "a": .data.x',
    reason: "Conflict",
    details: {
      causes: [{ reason: "FieldManagerConflict", message: 'conflict with "a"', field: ".data.x" }],
    },
    code: 409,
  });
  const tried = await apply("b", configMap("m", { x: "2" }), { force: "true", dryRun: "All" });
  t.same(tried.object.data, { x: "2", y: "1" });
  t.same((await h.send("GET", `${MAPS}/m`)).object.data, { x: "1", y: "1" }, "a dry run writes nothing");
  const forced = await apply("b", configMap("m", { x: "2" }), { force: "true" });
  t.same(ownersOf(forced), { "a Apply": [".data.y"], "b Apply": [".data.x"] });
  t.same((await apply("b", configMap("m"))).object.data, { y: "1" }, "given up, and nobody else's");
  const bare = await apply("a", configMap("bare"));
  t.equal(bare.code, 201, "nothing but a name");
  t.equal(bare.object.metadata.managedFields, undefined);
  const dry = await apply("a", configMap("new", { x: "1" }), { dryRun: "All" });
  t.equal(dry.code, 201);
  t.equal((await h.send("GET", `${MAPS}/new`)).code, 404);
});

t.test("apply: defaults are nobody's, and what is left out goes back to them", async (t) => {
  const h = await serve(t);
  const apply = applier(h, DEPLOYMENT);
  const first = await apply("a", deployment("web", { replicas: 3 }));
  t.same(ownersOf(first)["a Apply"], [
    ".spec.replicas",
    ".spec.selector",
    ".spec.template.metadata.labels.app",
    '.spec.template.spec.containers[name="c"]',
    '.spec.template.spec.containers[name="c"].image',
    '.spec.template.spec.containers[name="c"].name',
  ]);
  t.equal(first.object.spec?.strategy?.type, "RollingUpdate");
  const without = await apply("a", deployment("web"));
  t.equal(without.object.spec?.replicas, 1);
  t.equal(without.object.metadata.generation, 2);
});

t.test("apply: a value that its type cannot read", async (t) => {
  const h = await serve(t);
  const limits = { containers: [{ name: "c", image: "x", resources: { limits: { cpu: "many" } } }] };
  const { code, status } = await applier(h, DEPLOYMENT)(
    "a",
    deployment("web", { template: { spec: limits } }),
  );
  t.equal(code, 500);
  t.match(
    status.message,
    /^failed to convert new object \(\/web; apps\/v1, Kind=Deployment\) to proper version: unable to convert unstructured object to apps\/v1, Kind=Deployment: .*quantities must match the regular expression/,
  );
});

t.test("apply: requests that cannot be one", async (t) => {
  const h = await serve(t);
  const apply = applier(h);
  await apply("a", configMap("m", { x: "1" }));
  const options = 'PatchOptions.meta.k8s.io "" is invalid: ';
  const cases: [Promise<Answer>, number, string][] = [
    [apply("", configMap("m")), 422, `${options}fieldManager: Required value: is required for apply patch`],
    [
      apply("x".repeat(129), configMap("m")),
      422,
      `${options}fieldManager: Too long: may not be more than 128 bytes`,
    ],
    [
      apply("a\u0001", configMap("m")),
      422,
      `${options}fieldManager: Invalid value: "a\\u0001": invalid character U+0001 (at position 1)`,
    ],
    [
      h.send("PATCH", `${MAPS}/m`, {
        body: {},
        type: "application/merge-patch+json",
        query: { force: "true" },
      }),
      422,
      `${options}force: Forbidden: may not be specified for non-apply patch`,
    ],
    [apply("a", { ...configMap("m"), apiVersion: "v2" }), 400, "invalid object type: /v2, Kind=ConfigMap"],
    [apply("a", { ...configMap("m"), kind: "Secret" }), 400, "invalid object type: /v1, Kind=Secret"],
    [apply("a", configMap("m", {}, { managedFields: [] })), 400, "metadata.managedFields must be nil"],
    [
      apply("a", { ...configMap("m"), foo: 1 }, { fieldValidation: "Ignore" }),
      500,
      "failed to create typed patch object (/m; /v1, Kind=ConfigMap): .foo: field not declared in schema",
    ],
    [
      apply("a", configMap("m", { x: "2" }, { resourceVersion: "1" })),
      409,
      'Operation cannot be fulfilled on configmaps "m": the object has been modified; please apply your changes to the latest version and try again',
    ],
    [
      apply("a", configMap("other", {}, { uid: "u" })),
      409,
      'Operation cannot be fulfilled on configmaps "other": uid mismatch: the provided object specified uid u, and no existing object was found',
    ],
    [
      apply("a", configMap("m", {}, { uid: "u" })),
      409,
      `Operation cannot be fulfilled on configmaps "m": Precondition failed: UID in precondition: u, UID in object meta: ${(await h.send("GET", `${MAPS}/m`)).object.metadata.uid}`,
    ],
    [
      apply("a", configMap("m", {}, { namespace: "other" })),
      400,
      "the namespace of the provided object does not match the namespace sent on the request",
    ],
    [
      h.send("PATCH", `${MAPS}/n`, { body: configMap("m"), type: APPLY, query: { fieldManager: "a" } }),
      400,
      "the name of the object (m) does not match the name on the URL (n)",
    ],
  ];
  for (const [answer, code, message] of cases) {
    const { code: got, status } = await answer;
    t.equal(status.message, message);
    t.equal(got, code, message);
  }
  const wrong = await h.send("PATCH", `${MAPS}/m`, { body: {}, type: "application/x" });
  t.match(wrong.status.message, /strategic-merge-patch\+json, application\/apply-patch\+yaml$/);
});

t.test("apply: YAML, and keys that stand twice", async (t) => {
  const h = await serve(t);
  const text = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: m\ndata:\n  x: a\n  x: b\n";
  const send = (fieldValidation: string, body = text) =>
    h.send("PATCH", `${MAPS}/m`, { body, type: APPLY, query: { fieldManager: "a", fieldValidation } });
  const strict = await send("Strict");
  t.equal(strict.code, 400);
  t.equal(
    strict.status.message,
    'error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  line 7: key "x" already set in map',
  );
  const warned = await send("Warn");
  t.equal(warned.code, 201);
  t.same(warned.object.data, { x: "b" });
  t.same(warned.warnings, ['299 - "line 7: key \\"x\\" already set in map"']);
  t.same((await send("Ignore")).warnings, []);
  t.match((await send("", "a: [")).status.message, /^error decoding YAML: /);
});

t.test(
  "tracking: who, by option or User-Agent, of creates, updates and patches; not of machines",
  async (t) => {
    const h = await serve(t);
    const created = await h.send("POST", MAPS, {
      body: configMap("m", { x: "1" }),
      userAgent: "tool/1.0 (x)",
    });
    t.same(ownersOf(created), { "tool Update": [".data", ".data.x"] });
    t.match(created.object.metadata.managedFields, [
      { apiVersion: "v1", fieldsType: "FieldsV1", time: /Z$/ },
    ]);
    const put = await h.send("PUT", `${MAPS}/m`, {
      body: configMap("m", { x: "1", y: "1" }),
      query: { fieldManager: "putter" },
    });
    t.same(ownersOf(put), { "putter Update": [".data.y"], "tool Update": [".data", ".data.x"] });
    const patched = await h.send("PATCH", `${MAPS}/m`, {
      body: { data: { x: "2", y: null } },
      type: "application/merge-patch+json",
    });
    t.same(ownersOf(patched), { "curl Update": [".data.x"], "tool Update": [".data"] });
    const idle = await h.send("PUT", `${MAPS}/m`, { body: configMap("m", { x: "2" }), userAgent: "idle" });
    t.same(idle.object, patched.object, "nothing changed, nobody has written");

    const untracked = configMap("local", { x: "1" }, { namespace: "default" }) as ConfigMap;
    const local = await h.client.create(CONFIG_MAPS, untracked);
    t.equal(local.metadata.managedFields, undefined);
    const byUser = await h.send("PUT", `${MAPS}/local`, { body: configMap("local", { x: "2" }) });
    t.equal(byUser.object.metadata.managedFields, undefined, "untracked until the first apply");
    const apply = applier(h);
    t.same(ownersOf(await apply("a", configMap("local", { y: "1" }))), {
      "a Apply": [".data.y"],
      "before-first-apply Update": [".data", ".data.x"],
    });
    const controlled = await h.client.patch(
      CONFIG_MAPS,
      "local",
      "merge",
      { data: { x: "3" } },
      { namespace: "default" },
    );
    t.same(owners(controlled.metadata.managedFields), {
      "a Apply": [".data.y"],
      "before-first-apply Update": [".data"],
      "kube-controller-manager Update": [".data.x"],
    });
  },
);

t.test("tracking: defaults belong to the creator, what admission and the server add to nobody", async (t) => {
  const h = await serve(t);
  const spec = { containers: [{ name: "c", image: "nginx" }] };
  const pod = await h.send("POST", "/api/v1/namespaces/default/pods", {
    body: {
      apiVersion: "v1",
      kind: "Pod",
      metadata: { generateName: "p-" },
      spec,
      status: { phase: "Failed" },
    },
  });
  const paths = ownersOf(pod)["curl Update"] ?? [];
  t.ok(paths.includes(".spec.restartPolicy"), "a default");
  t.ok(paths.includes(".metadata.generateName"));
  for (const path of [
    ".spec.priority",
    ".spec.volumes",
    ".spec.serviceAccountName",
    ".metadata.name",
    ".status.phase",
  ])
    t.notOk(paths.includes(path), path);
  t.notOk(
    paths.some((path) => path.includes("volumeMounts")),
    "the token's mount",
  );
  const { name } = pod.object.metadata;
  const bind = { metadata: { name }, target: { kind: "Node", name: "n" } };
  await h.client.create(PODS, bind as KubeObject, { namespace: "default", subresource: "binding" });
  const bound = await h.send("GET", `/api/v1/namespaces/default/pods/${name}`);
  t.same(bound.object.metadata.managedFields, pod.object.metadata.managedFields, "binding is nobody's write");
});

t.test("subresources: status and scale have managers of their own", async (t) => {
  const h = await serve(t);
  const apply = applier(h, DEPLOYMENT);
  await apply("a", deployment("web", { replicas: 2 }));
  const item = `${DEPLOYMENT}/web`;
  const scaled = await h.send("PATCH", `${item}/scale`, {
    body: { spec: { replicas: 5 } },
    type: "application/merge-patch+json",
    query: { fieldManager: "scaler" },
  });
  t.equal(scaled.code, 200);
  const status = await h.client.patch(
    DEPLOYMENTS,
    "web",
    "merge",
    { status: { replicas: 5 }, metadata: { labels: { x: "y" } } },
    { namespace: "default", subresource: "status" },
  );
  const { "a Apply": own, ...others } = owners(status.metadata.managedFields);
  t.same(others, {
    "scaler Update scale": [".spec.replicas"],
    "kube-controller-manager Update status": [".status.replicas"],
  });
  t.notOk(own?.includes(".spec.replicas"));
  t.equal(
    (await apply("a", deployment("web", { replicas: 2 }))).status.message,
    'Apply failed with 1 conflict: conflict with "scaler" with subresource "scale" using apps/v1: .spec.replicas',
  );
  const applied = await h.send("PATCH", `${item}/status`, {
    body: { ...deployment("web"), status: { observedGeneration: 7 } },
    type: APPLY,
    query: { fieldManager: "a" },
  });
  t.equal(applied.code, 200);
  t.same(ownersOf(applied)["a Apply status"], [".status.observedGeneration"]);
  t.same(ownersOf(applied)["a Apply"], own, "the other entry of the same manager is untouched");
  t.equal(applied.object.status?.replicas, 5);
  const missing = await h.send("PATCH", `${DEPLOYMENT}/none/status`, {
    body: deployment("none"),
    type: APPLY,
    query: { fieldManager: "a" },
  });
  t.equal(missing.code, 404);
});

t.test(
  "managedFields in a request: rewritten, reset by [{}], ignored when they cannot be read",
  async (t) => {
    const h = await serve(t);
    const apply = applier(h);
    const first = await apply("a", configMap("m", { x: "1" }));
    const [entry] = first.object.metadata.managedFields ?? [];
    const patch = (managedFields: unknown) =>
      h.send("PATCH", `${MAPS}/m`, {
        body: { metadata: { managedFields } },
        type: "application/merge-patch+json",
      });
    t.same(ownersOf(await patch([{ ...entry, manager: "b" }])), { "b Apply": [".data.x"] });
    t.same(ownersOf(await patch([{ ...entry, fieldsV1: { data: {} } }])), { "b Apply": [".data.x"] });
    t.same(ownersOf(await patch([])), { "b Apply": [".data.x"] });
    t.equal((await patch([{}])).object.metadata.managedFields, undefined);
    t.equal(
      (await h.send("PUT", `${MAPS}/m`, { body: configMap("m") })).object.metadata.managedFields,
      undefined,
    );
  },
);

t.test("kubectl: takes over what its client-side apply set, and keeps its annotation true", async (t) => {
  const h = await serve(t);
  const apply = applier(h);
  const annotation = "kubectl.kubernetes.io/last-applied-configuration";
  const last = (data: Record<string, string>) => ({
    annotations: { [annotation]: JSON.stringify(configMap("m", data)) },
  });
  await h.send("POST", MAPS, {
    body: configMap("m", { x: "1", y: "1" }, last({ x: "1", y: "1" })),
    query: { fieldManager: "kubectl-client-side-apply" },
  });
  t.equal((await apply("other", configMap("m", { x: "2" }))).code, 409);
  const taken = await apply("kubectl", configMap("m", { x: "2" }));
  t.equal(taken.code, 200, "kubectl may");
  t.same(JSON.parse(taken.object.metadata.annotations?.[annotation] ?? ""), configMap("m", { x: "2" }));
  await h.send("PATCH", `${MAPS}/m`, {
    body: { data: { y: "3" } },
    type: "application/merge-patch+json",
    query: { fieldManager: "somebody" },
  });
  t.equal(
    (await apply("kubectl", configMap("m", { x: "2", y: "2" }))).status.message,
    'Apply failed with 1 conflict: conflict with "somebody" using v1: .data.y',
    "what somebody else has changed since is not kubectl's",
  );
});

t.test("apply to a scale: owns the replicas of the object", async (t) => {
  const h = await serve(t);
  const apply = applier(h, DEPLOYMENT);
  await apply("a", deployment("web", { replicas: 2 }));
  const scale = (replicas: unknown, query: Record<string, string> = {}) =>
    h.send("PATCH", `${DEPLOYMENT}/web/scale`, {
      body: {
        apiVersion: "autoscaling/v1",
        kind: "Scale",
        metadata: { name: "web" },
        spec: { replicas },
      },
      type: APPLY,
      query: { fieldManager: "s", ...query },
    });
  t.equal((await scale(5)).status.message, 'Apply failed with 1 conflict: conflict with "a": .spec.replicas');
  const forced = await scale(5, { force: "true" });
  t.match(forced.object, { kind: "Scale", spec: { replicas: 5 } });
  const { object } = await h.send("GET", `${DEPLOYMENT}/web`);
  t.same(owners(object.metadata.managedFields)["s Apply scale"], [".spec.replicas"]);
  t.equal(object.spec?.template.spec?.containers.length, 1);
  t.match(
    (await scale("5")).status.message,
    /^failed to create typed patch object \(\/web; autoscaling\/v1, Kind=Scale\)/,
  );
  const wrong = await h.send("PATCH", `${DEPLOYMENT}/web/scale`, {
    body: deployment("web"),
    type: APPLY,
    query: { fieldManager: "s" },
  });
  t.equal(wrong.status.message, "invalid object type: apps/v1, Kind=Deployment");
});

t.test("two versions of a kind: each manager is compared in the version it wrote", async (t) => {
  const h = await serve(t);
  const path = (version: string) =>
    `/apis/autoscaling/${version}/namespaces/default/horizontalpodautoscalers/h`;
  const target = { apiVersion: "apps/v1", kind: "Deployment", name: "web" };
  const autoscaler = (version: string, spec: object) => ({
    apiVersion: `autoscaling/${version}`,
    kind: "HorizontalPodAutoscaler",
    metadata: { name: "h" },
    spec: { scaleTargetRef: target, maxReplicas: 3, ...spec },
  });
  const apply = (version: string, manager: string, spec: object) =>
    h.send("PATCH", path(version), {
      body: autoscaler(version, spec),
      type: APPLY,
      query: { fieldManager: manager },
    });
  t.equal((await apply("v1", "a", { targetCPUUtilizationPercentage: 50 })).code, 201);
  const own = [".spec.maxReplicas", ".spec.scaleTargetRef", ".spec.targetCPUUtilizationPercentage"];
  t.same(ownersOf(await h.send("GET", path("v2")))["a Apply"], own, "as it was written");
  const cpu = (averageUtilization: number) => ({
    metrics: [
      { type: "Resource", resource: { name: "cpu", target: { type: "Utilization", averageUtilization } } },
    ],
  });
  t.equal(
    (await apply("v2", "b", cpu(60))).status.message,
    'Apply failed with 1 conflict: conflict with "a": .spec.targetCPUUtilizationPercentage',
  );
  const shared = await apply("v2", "b", { ...cpu(50), minReplicas: 2 });
  t.same(ownersOf(shared), {
    "a Apply": own,
    "b Apply": [".spec.maxReplicas", ".spec.metrics", ".spec.minReplicas", ".spec.scaleTargetRef"],
  });
  const left = await apply("v2", "b", {});
  t.match(left.object.spec, cpu(50), "what a owns in v1 stays");
});

t.test("YAML of a create: repeated keys by line, as Go's reader says it", async (t) => {
  const h = await serve(t);
  const body =
    "kind: ConfigMap\napiVersion: v1\nmetadata:\n  name: m\n  name: n\nfoo: 1\ndata:\n  a: x\n  a: y\n";
  const send = (fieldValidation: string) =>
    h.send("POST", MAPS, { body, type: "application/yaml", query: { fieldValidation } });
  t.equal(
    (await send("Strict")).status.message,
    'ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: yaml: unmarshal errors:\n  line 5: key "name" already set in map\n  line 9: key "a" already set in map, unknown field "foo"',
  );
  const { code, warnings } = await send("Warn");
  t.equal(code, 201);
  t.same(warnings.join("; ").match(/"(?:[^"\\]|\\.)*"/g), [
    '"line 5: key \\"name\\" already set in map"',
    '"line 9: key \\"a\\" already set in map"',
    '"unknown field \\"foo\\""',
  ]);
});
