// The API over a unix socket: warnings, patches, subresources, deletion, admission.

import t from "tap";
import { SERVICE_ACCOUNTS } from "../../common/client.js";
import type { Stored } from "../../common/k8s.js";
import { ADMISSION } from "../../control/api/admission.js";
import { CM, configMap, DEPLOYS, deployment, PODS_PATH, pod, startHarness } from "./helpers/api-server.js";

t.test("warnings: a deprecated kind with every answer, a deprecated field with every write", async (t) => {
  const { call } = await startHarness(t);
  const path = "/api/v1/namespaces/default/endpoints";
  const deprecated = '299 - "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"';
  const body = (ip: string) => ({
    metadata: { name: "e" },
    subsets: [{ addresses: [{ ip }], notaField: 1, ports: [{ port: 80 }] }],
  });
  const made = await call("POST", path, { body: body("FD00::1") });
  t.equal(
    made.headers.warning,
    [
      deprecated,
      '299 - "unknown field \\"subsets[0].notaField\\""',
      '299 - "subsets[0].addresses[0].ip: IPv6 address \\"FD00::1\\" should be in RFC 5952 canonical format (\\"fd00::1\\")"',
    ].join(", "),
  );
  for (const [method, where, body, code] of [
    ["GET", path, undefined, 200],
    ["GET", `${path}/e`, undefined, 200],
    ["GET", `${path}/none`, undefined, 404],
    ["GET", `${path}?watch=true&timeoutSeconds=1`, undefined, 200],
    ["DELETE", `${path}/e`, undefined, 200],
    ["DELETE", path, undefined, 200],
  ] as const) {
    const answer = await call(method, where, { body });
    t.match(answer, { code, headers: { warning: deprecated } }, `${method} ${where}`);
  }
  const services = "/api/v1/namespaces/default/services";
  const warning = '299 - "spec.externalIPs is deprecated and may no longer be implemented in some clusters"';
  const spec = { ports: [{ port: 80 }], externalIPs: ["192.0.2.1"] };
  const service = await call("POST", services, { body: { metadata: { name: "s" }, spec } });
  t.match(service, { code: 201, headers: { warning } });
  const merge = "application/merge-patch+json";
  t.match(await call("PATCH", `${services}/s`, { type: merge, body: {} }), {
    code: 200,
    headers: { warning },
  });
  t.equal(
    (await call("PATCH", `${services}/s/status`, { type: merge, body: {} })).headers.warning,
    undefined,
  );
  t.equal((await call("GET", `${services}/s`)).headers.warning, undefined);
});

t.test("patch: three kinds, conflicts retried, errors", async (t) => {
  const { call } = await startHarness(t);
  await call("POST", DEPLOYS, { body: deployment("d") });
  const patch = (kind: string, body: unknown, query = "") =>
    call("PATCH", `${DEPLOYS}/d${query}`, { body: body as object, type: `application/${kind}+json` });
  t.equal((await patch("merge-patch", { spec: { replicas: 5 } })).body.spec.replicas, 5);
  t.equal(
    (await patch("json-patch", [{ op: "replace", path: "/spec/replicas", value: 6 }])).body.spec.replicas,
    6,
  );
  const smp = await patch("strategic-merge-patch", {
    spec: { template: { spec: { containers: [{ name: "c", image: "nginx:2" }] } } },
  });
  t.equal(smp.body.spec.template.spec.containers[0].image, "nginx:2");
  t.equal(
    smp.body.spec.template.spec.containers[0].imagePullPolicy,
    "Always",
    "the rest of the container is kept",
  );
  const { metadata } = smp.body;
  const conflict = await patch("merge-patch", { metadata: { resourceVersion: "1" }, spec: { replicas: 1 } });
  t.match(conflict.body, {
    reason: "Conflict",
    message: /^Operation cannot be fulfilled on deployments.apps "d": the object has been modified/,
  });
  const many = await Promise.all(
    Array.from({ length: 20 }, (_, i) =>
      patch("merge-patch", { metadata: { annotations: { [`k${i}`]: "v" } } }),
    ),
  );
  t.ok(
    many.every((a) => a.code === 200),
    "patches without a version never conflict",
  );
  t.equal(Object.keys((await call("GET", `${DEPLOYS}/d`)).body.metadata.annotations).length, 20);
  const strict = await patch("merge-patch", { spec: { foo: 1 } }, "?fieldValidation=Strict");
  t.equal(strict.code, 422);
  t.match(strict.body.message, /patch: Invalid value: .*: strict decoding error: unknown field "spec.foo"/);
  t.equal((await patch("json-patch", [{ op: "remove", path: "/spec/nope" }])).code, 422);
  t.equal((await patch("json-patch", { op: "x" })).code, 400);
  t.equal((await patch("merge-patch", [])).code, 400);
  for (const [body, type] of [
    [[], "array"],
    ['"x"', "string"],
    ["3", "number"],
  ]) {
    const message = `json: cannot unmarshal ${type} into Go value of type map[string]interface {}`;
    t.match((await patch("strategic-merge-patch", body)).body, { code: 400, reason: "BadRequest", message });
  }
  t.equal((await patch("strategic-merge-patch", "null")).code, 200, "nothing to change");
  const unknown = await call("PATCH", `${DEPLOYS}/d`, { body: "a: b", type: "application/x-patch" });
  t.equal(unknown.code, 415);
  t.match(unknown.body.message, /application\/strategic-merge-patch\+json/);
  t.match((await patch("merge-patch", { spec: { replicas: -1 } })).body, {
    code: 422,
    reason: "Invalid",
    message: /spec.replicas: Invalid value: -1: must be greater than or equal to 0/,
  });
  t.not(metadata.resourceVersion, "");
});

t.test("status and scale subresources", async (t) => {
  const { call } = await startHarness(t);
  const { body: created } = await call("POST", DEPLOYS, {
    body: { ...deployment("d"), status: { replicas: 9 } },
  });
  t.notOk(created.status.replicas, "status is not the creator's");
  const plain = await call("PATCH", `${DEPLOYS}/d`, {
    body: { status: { replicas: 4 } },
    type: "application/merge-patch+json",
  });
  t.notOk(plain.body.status.replicas, "nor the updater's");
  const status = await call("PATCH", `${DEPLOYS}/d/status`, {
    body: {
      spec: { replicas: 7 },
      metadata: { labels: { x: "y" } },
      status: { replicas: 4, observedGeneration: 1 },
    },
    type: "application/merge-patch+json",
  });
  t.equal(status.body.status.replicas, 4);
  t.equal(status.body.spec.replicas, 1, "an update of status changes only status");
  t.equal(status.body.metadata.labels, undefined);
  t.equal(status.body.metadata.generation, 1);
  t.equal((await call("GET", `${DEPLOYS}/d/status`)).body.status.replicas, 4);
  const scale = (await call("GET", `${DEPLOYS}/d/scale`)).body;
  t.match(scale, {
    kind: "Scale",
    apiVersion: "autoscaling/v1",
    spec: { replicas: 1 },
    status: { replicas: 4, selector: "app=d" },
  });
  const accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
  const printed = (await call("GET", `${DEPLOYS}/d/scale`, { accept })).body;
  t.same(
    printed.columnDefinitions.map((c: { name: string }) => c.name),
    ["Name", "Desired", "Available", "Age"],
  );
  t.same(printed.rows[0].cells.slice(0, 2), ["d", scale.spec.replicas]);
  const scaled = await call("PATCH", `${DEPLOYS}/d/scale`, {
    body: { spec: { replicas: 3 } },
    type: "application/merge-patch+json",
  });
  t.equal(scaled.body.spec.replicas, 3);
  t.match((await call("GET", `${DEPLOYS}/d`)).body, { spec: { replicas: 3 }, metadata: { generation: 2 } });
  const stale = await call("PUT", `${DEPLOYS}/d/scale`, { body: { ...scale, spec: { replicas: 8 } } });
  t.equal(stale.code, 409);
  const zero = await call("PUT", `${DEPLOYS}/d/scale`, { body: { metadata: { name: "d" }, spec: {} } });
  t.equal(zero.body.spec.replicas, 0);
  t.match(
    (
      await call("PATCH", `${DEPLOYS}/d/scale`, {
        body: { spec: { replicas: -1 } },
        type: "application/merge-patch+json",
      })
    ).body.message,
    /must be greater than or equal to 0/,
  );
  t.equal((await call("GET", `${CM}/x/scale`)).code, 404);
});

t.test("deletion: grace, finalizers, propagation, collections, namespaces", async (t) => {
  const { call } = await startHarness(t);
  await call("POST", PODS_PATH, { body: pod("free") });
  const free = (await call("DELETE", `${PODS_PATH}/free`)).body;
  t.match(free, { kind: "Pod", metadata: { name: "free" } }, "a pod without a node goes at once");
  t.equal((await call("GET", `${PODS_PATH}/free`)).code, 404);
  const { body: bound } = await call("POST", PODS_PATH, { body: pod("bound", { nodeName: "n1" }) });
  const marked = (await call("DELETE", `${PODS_PATH}/bound`)).body;
  t.equal(marked.metadata.deletionGracePeriodSeconds, 30);
  t.ok(
    Date.parse(marked.metadata.deletionTimestamp) >= Date.parse(bound.metadata.creationTimestamp) + 29_000,
  );
  t.same(
    (await call("DELETE", `${PODS_PATH}/bound`)).body.metadata,
    marked.metadata,
    "a second delete changes nothing",
  );
  const shorter = (await call("DELETE", `${PODS_PATH}/bound?gracePeriodSeconds=5`)).body.metadata;
  t.equal(shorter.deletionGracePeriodSeconds, 5);
  t.ok(shorter.deletionTimestamp < marked.metadata.deletionTimestamp, "but may shorten the time");
  t.equal(
    (await call("DELETE", `${PODS_PATH}/bound`, { body: { gracePeriodSeconds: 60 } })).body.metadata
      .deletionGracePeriodSeconds,
    5,
  );
  const now = { kind: "DeleteOptions", apiVersion: "v1", gracePeriodSeconds: 0 };
  t.match((await call("DELETE", `${PODS_PATH}/bound`, { body: now })).body, { kind: "Pod" });
  t.equal((await call("GET", `${PODS_PATH}/bound`)).code, 404);

  await call("POST", CM, { body: { metadata: { name: "held", finalizers: ["example.com/hold"] } } });
  const held = (await call("DELETE", `${CM}/held`)).body;
  t.match(held.metadata, { deletionTimestamp: /Z$/, deletionGracePeriodSeconds: 0 });
  const more = await call("PATCH", `${CM}/held`, {
    body: { metadata: { finalizers: ["example.com/hold", "example.com/two"] } },
    type: "application/merge-patch+json",
  });
  t.match(more.body, { code: 422, message: /no new finalizers can be added if the object is being deleted/ });
  const released = await call("PATCH", `${CM}/held`, {
    body: { metadata: { finalizers: null } },
    type: "application/merge-patch+json",
  });
  t.equal(released.code, 200);
  t.equal((await call("GET", `${CM}/held`)).code, 404, "the last finalizer's removal deletes");

  await call("POST", DEPLOYS, { body: deployment("d") });
  const foreground = (await call("DELETE", `${DEPLOYS}/d`, { body: { propagationPolicy: "Foreground" } }))
    .body;
  t.same(foreground.metadata.finalizers, ["foregroundDeletion"]);
  t.equal((await call("DELETE", `${DEPLOYS}/d?propagationPolicy=Background`)).body.status, "Success");
  await call("POST", DEPLOYS, { body: deployment("o") });
  t.same((await call("DELETE", `${DEPLOYS}/o?orphanDependents=true`)).body.metadata.finalizers, ["orphan"]);

  for (const name of ["x", "y", "z"])
    await call("POST", CM, { body: configMap(name, {}, { keep: name === "z" ? "yes" : "no" }) });
  const gone = (await call("DELETE", `${CM}?labelSelector=keep%3Dno`)).body;
  t.same(
    gone.items.map((o: Stored) => o.metadata.name),
    ["x", "y"],
  );
  t.same(
    (await call("GET", CM)).body.items.map((o: Stored) => o.metadata.name),
    ["z"],
  );

  await call("POST", "/api/v1/namespaces", { body: { metadata: { name: "team" } } });
  const ending = (await call("DELETE", "/api/v1/namespaces/team")).body;
  t.match(ending, {
    status: { phase: "Terminating" },
    metadata: { deletionTimestamp: /Z$/ },
    spec: { finalizers: ["kubernetes"] },
  });
  const late = await call("POST", "/api/v1/namespaces/team/configmaps", { body: configMap("late") });
  t.match(late.body, {
    code: 403,
    message:
      'configmaps "late" is forbidden: unable to create new content in namespace team because it is being terminated',
    details: { causes: [{ reason: "NamespaceTerminating" }] },
  });
  await call("PUT", "/api/v1/namespaces/team/finalize", { body: { ...ending, spec: {} } });
  t.equal((await call("GET", "/api/v1/namespaces/team")).code, 404, "finalized namespaces are gone");
});

t.test("pods: binding and eviction", async (t) => {
  const { call } = await startHarness(t);
  await call("POST", PODS_PATH, { body: pod("p") });
  const bind = (node: string) =>
    call("POST", `${PODS_PATH}/p/binding`, {
      body: { metadata: { name: "p" }, target: { apiVersion: "v1", kind: "Node", name: node } },
    });
  t.match((await bind("n1")).body, { kind: "Status", status: "Success", code: 201 });
  const { body } = await call("GET", `${PODS_PATH}/p`);
  t.equal(body.spec.nodeName, "n1");
  t.match(body.status.conditions, [{ type: "PodScheduled", status: "True" }]);
  t.equal(
    (await bind("n2")).body.message,
    'Operation cannot be fulfilled on pods/binding "p": pod p is already assigned to node "n1"',
  );
  const evicted = await call("POST", `${PODS_PATH}/p/eviction`, {
    body: {
      apiVersion: "policy/v1",
      kind: "Eviction",
      metadata: { name: "p" },
      deleteOptions: { gracePeriodSeconds: 3 },
    },
  });
  t.equal(evicted.code, 201);
  t.equal((await call("GET", `${PODS_PATH}/p`)).body.metadata.deletionGracePeriodSeconds, 3);
});

t.test("admission waits for the service account of a new namespace, not for long", async (t) => {
  const { call, client } = await startHarness(t, undefined, ADMISSION);
  const PODS_PATH = "/api/v1/namespaces/default/pods";
  t.match(await call("POST", PODS_PATH, { body: pod("p") }), {
    code: 403,
    body: {
      message:
        'pods "p" is forbidden: error looking up service account default/default: serviceaccount "default" not found',
    },
  });
  const waiting = call("POST", PODS_PATH, { body: pod("p") });
  await new Promise((resolve) => setTimeout(resolve, 50));
  await client.create(SERVICE_ACCOUNTS, { metadata: { name: "default", namespace: "default" } });
  t.equal((await waiting).code, 201);
});
