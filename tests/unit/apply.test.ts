// Server-side apply over HTTP: answers, texts and stored objects as a real server has them.

import t from "tap";
import { isUnchanged } from "../../control/api/tracking.js";
import { CM, DEPLOYS } from "./helpers/api-server.js";
import {
  type Answer,
  APPLY,
  applier,
  configMap,
  deployment,
  owners,
  ownersOf,
  serve,
} from "./helpers/apply-server.js";

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
  t.same((await h.send("GET", `${CM}/m`)).object.data, { x: "1", y: "1" }, "a dry run writes nothing");
  const forced = await apply("b", configMap("m", { x: "2" }), { force: "true" });
  t.same(ownersOf(forced), { "a Apply": [".data.y"], "b Apply": [".data.x"] });
  t.same((await apply("b", configMap("m"))).object.data, { y: "1" }, "given up, and nobody else's");
  const bare = await apply("a", configMap("bare"));
  t.equal(bare.code, 201, "nothing but a name");
  t.equal(bare.object.metadata.managedFields, undefined);
  const dry = await apply("a", configMap("new", { x: "1" }), { dryRun: "All" });
  t.equal(dry.code, 201);
  t.equal((await h.send("GET", `${CM}/new`)).code, 404);
});

t.test("apply: defaults are nobody's, and what is left out goes back to them", async (t) => {
  const h = await serve(t);
  const apply = applier(h, DEPLOYS);
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
  const { code, status } = await applier(h, DEPLOYS)("a", deployment("web", { template: { spec: limits } }));
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
      h.send("PATCH", `${CM}/m`, {
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
      `Operation cannot be fulfilled on configmaps "m": Precondition failed: UID in precondition: u, UID in object meta: ${(await h.send("GET", `${CM}/m`)).object.metadata.uid}`,
    ],
    [
      apply("a", configMap("m", {}, { namespace: "other" })),
      400,
      "the namespace of the provided object does not match the namespace sent on the request",
    ],
    [
      h.send("PATCH", `${CM}/n`, { body: configMap("m"), type: APPLY, query: { fieldManager: "a" } }),
      400,
      "the name of the object (m) does not match the name on the URL (n)",
    ],
  ];
  for (const [answer, code, message] of cases) {
    const { code: got, status } = await answer;
    t.equal(status.message, message);
    t.equal(got, code, message);
  }
  const wrong = await h.send("PATCH", `${CM}/m`, { body: {}, type: "application/x" });
  t.match(wrong.status.message, /strategic-merge-patch\+json, application\/apply-patch\+yaml$/);
});

t.test("apply: YAML, and keys that stand twice", async (t) => {
  const h = await serve(t);
  const text = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: m\ndata:\n  x: a\n  x: b\n";
  const send = (fieldValidation: string, body = text) =>
    h.send("PATCH", `${CM}/m`, { body, type: APPLY, query: { fieldManager: "a", fieldValidation } });
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

t.test("apply to a scale: owns the replicas of the object", async (t) => {
  const h = await serve(t);
  const apply = applier(h, DEPLOYS);
  await apply("a", deployment("web", { replicas: 2 }));
  const scale = (replicas: unknown, query: Record<string, string> = {}) =>
    h.send("PATCH", `${DEPLOYS}/web/scale`, {
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
  const { object } = await h.send("GET", `${DEPLOYS}/web`);
  t.same(owners(object.metadata.managedFields)["s Apply scale"], [".spec.replicas"]);
  t.equal(object.spec?.template.spec?.containers.length, 1);
  t.match(
    (await scale("5")).status.message,
    /^failed to create typed patch object \(\/web; autoscaling\/v1, Kind=Scale\)/,
  );
  const wrong = await h.send("PATCH", `${DEPLOYS}/web/scale`, {
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
    h.send("POST", CM, { body, type: "application/yaml", query: { fieldValidation } });
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
