// Managed fields over HTTP: who owns what after creates, updates, patches and writes to subresources, and what a
// request's own managedFields and kubectl's annotation do to that.

import t from "tap";
import { CONFIG_MAPS, DEPLOYMENTS, PODS } from "../../common/client.js";
import type { ConfigMap, KubeObject } from "../../common/k8s.js";
import { CM, DEPLOYS } from "./helpers/api-server.js";
import { APPLY, applier, configMap, deployment, owners, ownersOf, serve } from "./helpers/apply-server.js";

t.test(
  "tracking: who, by option or User-Agent, of creates, updates and patches; not of machines",
  async (t) => {
    const h = await serve(t);
    const created = await h.send("POST", CM, {
      body: configMap("m", { x: "1" }),
      userAgent: "tool/1.0 (x)",
    });
    t.same(ownersOf(created), { "tool Update": [".data", ".data.x"] });
    t.match(created.object.metadata.managedFields, [
      { apiVersion: "v1", fieldsType: "FieldsV1", time: /Z$/ },
    ]);
    const put = await h.send("PUT", `${CM}/m`, {
      body: configMap("m", { x: "1", y: "1" }),
      query: { fieldManager: "putter" },
    });
    t.same(ownersOf(put), { "putter Update": [".data.y"], "tool Update": [".data", ".data.x"] });
    const patched = await h.send("PATCH", `${CM}/m`, {
      body: { data: { x: "2", y: null } },
      type: "application/merge-patch+json",
    });
    t.same(ownersOf(patched), { "curl Update": [".data.x"], "tool Update": [".data"] });
    const idle = await h.send("PUT", `${CM}/m`, { body: configMap("m", { x: "2" }), userAgent: "idle" });
    t.same(idle.object, patched.object, "nothing changed, nobody has written");

    const untracked = configMap("local", { x: "1" }, { namespace: "default" }) as ConfigMap;
    const local = await h.client.create(CONFIG_MAPS, untracked);
    t.equal(local.metadata.managedFields, undefined);
    const byUser = await h.send("PUT", `${CM}/local`, { body: configMap("local", { x: "2" }) });
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
  const apply = applier(h, DEPLOYS);
  await apply("a", deployment("web", { replicas: 2 }));
  const item = `${DEPLOYS}/web`;
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
  const missing = await h.send("PATCH", `${DEPLOYS}/none/status`, {
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
      h.send("PATCH", `${CM}/m`, {
        body: { metadata: { managedFields } },
        type: "application/merge-patch+json",
      });
    t.same(ownersOf(await patch([{ ...entry, manager: "b" }])), { "b Apply": [".data.x"] });
    t.same(ownersOf(await patch([{ ...entry, fieldsV1: { data: {} } }])), { "b Apply": [".data.x"] });
    t.same(ownersOf(await patch([])), { "b Apply": [".data.x"] });
    t.equal((await patch([{}])).object.metadata.managedFields, undefined);
    t.equal(
      (await h.send("PUT", `${CM}/m`, { body: configMap("m") })).object.metadata.managedFields,
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
  await h.send("POST", CM, {
    body: configMap("m", { x: "1", y: "1" }, last({ x: "1", y: "1" })),
    query: { fieldManager: "kubectl-client-side-apply" },
  });
  t.equal((await apply("other", configMap("m", { x: "2" }))).code, 409);
  const taken = await apply("kubectl", configMap("m", { x: "2" }));
  t.equal(taken.code, 200, "kubectl may");
  t.same(JSON.parse(taken.object.metadata.annotations?.[annotation] ?? ""), configMap("m", { x: "2" }));
  await h.send("PATCH", `${CM}/m`, {
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
