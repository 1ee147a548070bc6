// StatefulSets, DaemonSets and ReplicationControllers on the real in-process API with kubelets that only report.

import t from "tap";
import {
  CONTROLLER_REVISIONS,
  DAEMON_SETS,
  type KubeClient,
  NODES,
  PERSISTENT_VOLUME_CLAIMS,
  PODS,
  REPLICATION_CONTROLLERS,
  type Resource,
  STATEFUL_SETS,
} from "../../common/client.js";
import { InformerFactory } from "../../common/informer.js";
import type { DaemonSet, KubeObject, ReplicationController } from "../../common/k8s.js";
import { tempDir } from "../helpers/temp-dir.js";
import { imagePatch, running, startAll } from "./helpers/all-controllers.js";
import { DEFAULT } from "./helpers/controller-objects.js";
import { addNodes, eventually, openLocalApi, playKubelets, readyNode } from "./helpers/local-cluster.js";
import {
  changed,
  daemonSet,
  livingPods,
  reasons,
  statefulSet,
  TEMPLATE,
} from "./helpers/workload-objects.js";

t.test("a StatefulSet from its first pod to its end", async (t) => {
  const { client, informers } = await running(t);
  const order: string[] = [];
  informers.get(PODS).subscribe({ add: ({ metadata }) => void order.push(metadata.name) });
  t.teardown(playKubelets(client, informers));
  await client.create(STATEFUL_SETS, statefulSet());
  const settled = (replicas: number, image: string) =>
    eventually(`${replicas} of ${image}`, async () => {
      const { status, metadata } = await client.get(STATEFUL_SETS, "web", "default");
      const pods = await livingPods(client);
      return (
        status?.observedGeneration === metadata.generation &&
        status?.readyReplicas === (replicas || undefined) &&
        status?.updatedReplicas === (replicas || undefined) &&
        status?.currentRevision === status?.updateRevision &&
        pods.length === replicas &&
        pods.every((pod) => pod.spec?.containers[0]?.image === image)
      );
    });
  await settled(3, "v1");
  t.same(order, ["web-0", "web-1", "web-2"], "in order");
  const [first] = await livingPods(client);
  t.match(first, { spec: { hostname: "web-0", subdomain: "web" } });
  t.ok(
    (await reasons(client, "StatefulSet")).includes(
      "SuccessfulCreate: create Pod web-0 in StatefulSet web successful",
    ),
  );

  await changed(client, STATEFUL_SETS, "web", imagePatch("v2"));
  await settled(3, "v2");
  t.same(order.slice(3), ["web-2", "web-1", "web-0"], "replaced from the last");
  const history = async () =>
    (await client.list(CONTROLLER_REVISIONS, DEFAULT)).items.map((r) => r.revision).sort();
  t.same(await history(), [1, 2]);

  await changed(client, STATEFUL_SETS, "web", imagePatch("v1"));
  await settled(3, "v1");
  t.same(await history(), [2, 3], "the old template is the newest revision");

  await changed(client, STATEFUL_SETS, "web", { spec: { replicas: 1 } });
  await settled(1, "v1");
  t.equal((await livingPods(client))[0]?.metadata.name, "web-0");

  await client.delete(STATEFUL_SETS, "web", { ...DEFAULT, propagationPolicy: "Orphan" });
  await eventually("an orphan", async () => {
    const [orphan] = await livingPods(client);
    return orphan && (orphan.metadata.ownerReferences ?? []).length === 0;
  });
  await eventually(
    "the set is gone",
    async () => (await client.list(STATEFUL_SETS, DEFAULT)).items.length === 0,
  );
  const orphans = (await client.list(CONTROLLER_REVISIONS, DEFAULT)).items;
  t.same(
    orphans.map(({ revision }) => revision).sort(),
    [2, 3],
    "its history is left, and no more than that",
  );
  t.ok(orphans.every(({ metadata }) => (metadata.ownerReferences ?? []).length === 0));
  const before = (await livingPods(client))[0]?.metadata.uid;
  const again = await client.create(STATEFUL_SETS, statefulSet({ replicas: 2 }));
  await settled(2, "v1");
  const adopted = await client.get(PODS, "web-0", "default");
  t.equal(adopted.metadata.uid, before, "the same pod");
  t.equal(adopted.metadata.ownerReferences?.[0]?.uid, again.metadata.uid, "adopted");
  await client.delete(STATEFUL_SETS, "web", { ...DEFAULT, propagationPolicy: "Foreground" });
  await eventually("nothing left", async () => {
    const left = [...(await livingPods(client)), ...(await client.list(CONTROLLER_REVISIONS, DEFAULT)).items];
    return left.length === 0;
  });
});

t.test("100 pods in parallel, with claims, and an update of them by tens", async (t) => {
  const { client, informers } = await running(t, 4, { volumesDir: tempDir(t) });
  t.teardown(playKubelets(client, informers));
  const resources = { requests: { storage: "1Gi" } };
  const claim = {
    metadata: { name: "www" },
    spec: { accessModes: ["ReadWriteOnce"], storageClassName: "standard", resources },
  };
  await client.create(
    STATEFUL_SETS,
    statefulSet({
      replicas: 100,
      podManagementPolicy: "Parallel",
      volumeClaimTemplates: [claim],
      updateStrategy: { rollingUpdate: { maxUnavailable: "10%" } },
    }),
  );
  const settled = (revision: number) =>
    eventually(`all of revision ${revision}`, async () => {
      const { status } = await client.get(STATEFUL_SETS, "web", "default");
      const { items } = await client.list(CONTROLLER_REVISIONS, DEFAULT);
      const newest = items.find((r) => r.revision === revision)?.metadata.name;
      return status?.availableReplicas === 100 && !!newest && status.currentRevision === newest;
    });
  await settled(1);
  let fewest = 100;
  informers.get(STATEFUL_SETS).subscribe({
    update: (_old, now) => {
      fewest = Math.min(fewest, now.status?.availableReplicas ?? 0);
    },
  });
  const { items: claims } = await client.list(PERSISTENT_VOLUME_CLAIMS, DEFAULT);
  t.equal(claims.filter(({ status }) => status?.phase === "Bound").length, 100, "each has a volume");
  await changed(client, STATEFUL_SETS, "web", imagePatch("v2"));
  await settled(2);
  t.ok(fewest >= 90, `never below 90: ${fewest}`);
});

t.test("a DaemonSet follows the nodes and its template", async (t) => {
  const { client, informers } = await running(t);
  t.teardown(playKubelets(client, informers));
  await client.create(DAEMON_SETS, daemonSet());
  const onNodes = (expected: string[], image = "v1") =>
    eventually(`pods of ${image} on ${expected}`, async () => {
      const pods = await livingPods(client);
      const { status } = await client.get(DAEMON_SETS, "agent", "default");
      const fit = pods.filter((pod) => pod.spec?.containers[0]?.image === image);
      const names = fit.map((pod) => pod.spec?.nodeName ?? "").sort();
      return (
        pods.length === fit.length &&
        names.join() === expected.join() &&
        status?.numberAvailable === expected.length &&
        status?.updatedNumberScheduled === expected.length
      );
    });
  await onNodes(["node-1", "node-2", "node-3"]);
  const [victim] = await livingPods(client);
  const ended = { status: { phase: "Failed" } };
  await client.patch(PODS, victim?.metadata.name ?? "", "merge", ended, {
    ...DEFAULT,
    subresource: "status",
  });
  await eventually("a failed pod is replaced", async () => {
    const pods = await livingPods(client);
    return pods.length === 3 && pods.every((pod) => pod.metadata.uid !== victim?.metadata.uid);
  });
  t.match(
    (await reasons(client, "DaemonSet")).join("\n"),
    /FailedDaemonPod: Found failed daemon pod default\/agent-\w+ on node/,
  );
  await client.create(NODES, readyNode("node-4"));
  await onNodes(["node-1", "node-2", "node-3", "node-4"]);
  const taint = (effect: string) => ({ spec: { taints: [{ key: "dedicated", effect }] } });
  await client.patch(NODES, "node-2", "strategic", taint("NoExecute"));
  await onNodes(["node-1", "node-3", "node-4"]);
  await client.patch(NODES, "node-2", "merge", { spec: { taints: [] } });
  await onNodes(["node-1", "node-2", "node-3", "node-4"]);
  await client.patch(NODES, "node-3", "merge", { spec: { unschedulable: true } });
  await changed(client, DAEMON_SETS, "agent", imagePatch("v2"));
  await onNodes(["node-1", "node-2", "node-3", "node-4"], "v2");
  const { items } = await client.list(CONTROLLER_REVISIONS, DEFAULT);
  const undo = items.find((r) => r.revision === 1)?.data as object;
  await changed(client, DAEMON_SETS, "agent", undo);
  await onNodes(["node-1", "node-2", "node-3", "node-4"], "v1");
  await changed(client, DAEMON_SETS, "agent", {
    spec: { updateStrategy: { rollingUpdate: { maxSurge: 2, maxUnavailable: 0 } } },
  });
  await changed(client, DAEMON_SETS, "agent", imagePatch("v3"));
  await onNodes(["node-1", "node-2", "node-3", "node-4"], "v3");
  await client.delete(DAEMON_SETS, "agent", { ...DEFAULT, propagationPolicy: "Background" });
  await eventually("nothing left", async () => (await livingPods(client)).length === 0);
});

t.test(
  "OnDelete: a pod is of the new template when somebody deletes the old one; a node that goes",
  async (t) => {
    const { client, informers } = await running(t);
    t.teardown(playKubelets(client, informers));
    await client.create(DAEMON_SETS, daemonSet({ updateStrategy: { type: "OnDelete" } }));
    const status = (what: string, test: (status: NonNullable<DaemonSet["status"]>) => boolean) =>
      eventually(what, async () => {
        const ds = await client.get(DAEMON_SETS, "agent", "default");
        const seen = ds.status?.observedGeneration === ds.metadata.generation;
        return seen && !!ds.status && test(ds.status);
      });
    await status("all available", ({ numberAvailable }) => numberAvailable === 3);
    await changed(client, DAEMON_SETS, "agent", imagePatch("v2"));
    await status("none updated", ({ updatedNumberScheduled = 0 }) => updatedNumberScheduled === 0);
    const [victim] = await livingPods(client);
    await client.delete(PODS, victim?.metadata.name ?? "", DEFAULT);
    await status("one updated", (s) => s.updatedNumberScheduled === 1 && s.numberAvailable === 3);
    const images = (await livingPods(client)).map((one) => one.spec?.containers[0]?.image).sort();
    t.same(images, ["v1", "v1", "v2"]);
    await client.delete(NODES, "node-3");
    await status("two are left", (s) => s.desiredNumberScheduled === 2 && s.numberAvailable === 2);
  },
);

t.test("a DaemonSet on 100 nodes makes each pod once", async (t) => {
  const { client, informers } = await running(t, 100);
  t.teardown(playKubelets(client, informers));
  const made = new Set<string>();
  informers.get(PODS).subscribe({ add: ({ metadata }) => void made.add(metadata.uid) });
  await client.create(DAEMON_SETS, daemonSet());
  await eventually("100 available", async () => {
    const { status } = await client.get(DAEMON_SETS, "agent", "default");
    return status?.numberAvailable === 100;
  });
  t.equal(made.size, 100);
});

t.test("caches that lag behind make nothing twice", async (t) => {
  const api = await openLocalApi();
  const { client, log } = api;
  const refused: string[] = [];
  const slow: KubeClient = Object.create(client, {
    watch: {
      value: async function* (resource: Resource, options: object) {
        for await (const event of client.watch(resource, options)) {
          await new Promise((resolve) => setTimeout(resolve, resource === PODS ? 30 : 5));
          yield event;
        }
      },
    },
    create: {
      value: async (resource: Resource, object: KubeObject, options: object) => {
        try {
          return await client.create(resource, object, options);
        } catch (error) {
          if (resource === PODS) refused.push(String(error));
          throw error;
        }
      },
    },
    ...Object.fromEntries(
      (["get", "list", "update", "patch", "delete", "deleteCollection"] as const).map((verb) => [
        verb,
        { value: client[verb].bind(client) },
      ]),
    ),
  });
  const informers = new InformerFactory(slow, { log });
  const close = async () => {
    informers.stop();
    await api.close();
  };
  await startAll(t, { client: slow, informers, log, close });
  await addNodes(client, 3);
  const nearby = api.informers.get(PODS);
  let made = 0;
  nearby.subscribe({ add: () => void made++ });
  api.informers.start();
  await api.informers.synced();
  t.teardown(playKubelets(client, api.informers));
  await client.create(STATEFUL_SETS, statefulSet({ podManagementPolicy: "Parallel", replicas: 5 }));
  await client.create(DAEMON_SETS, {
    ...daemonSet(),
    spec: {
      selector: { matchLabels: { app: "d" } },
      template: { ...TEMPLATE, metadata: { labels: { app: "d" } } },
    },
  });
  await eventually("all are there", async () => {
    const set = await client.get(STATEFUL_SETS, "web", "default");
    const ds = await client.get(DAEMON_SETS, "agent", "default");
    return set.status?.availableReplicas === 5 && ds.status?.numberAvailable === 3;
  });
  t.equal(made, 8);
  t.same(refused, []);
});

t.test("a ReplicationController counts, and lets go", async (t) => {
  const { client, informers } = await running(t);
  t.teardown(playKubelets(client, informers));
  const rc: ReplicationController = {
    metadata: { name: "web", ...DEFAULT },
    spec: { replicas: 3, template: TEMPLATE },
  };
  await client.create(REPLICATION_CONTROLLERS, rc);
  const ready = (count: number) =>
    eventually(`${count} ready`, async () => {
      const { status } = await client.get(REPLICATION_CONTROLLERS, "web", "default");
      return status?.readyReplicas === count && status.replicas === count;
    });
  await ready(3);
  const [lost] = await livingPods(client);
  const label = { metadata: { labels: { app: "else" } } };
  await client.patch(PODS, lost?.metadata.name ?? "", "merge", label, DEFAULT);
  await eventually("it lets go of the pod, and makes another", async () => {
    const released = await client.get(PODS, lost?.metadata.name ?? "", "default");
    const left = (released.metadata.ownerReferences ?? []).length === 0;
    return left && (await livingPods(client)).length === 3;
  });
  const scale = { spec: { replicas: 1 } };
  await client.patch(REPLICATION_CONTROLLERS, "web", "merge", scale, { ...DEFAULT, subresource: "scale" });
  await ready(1);
  const [kept] = await livingPods(client);
  t.equal(kept?.metadata.ownerReferences?.[0]?.kind, "ReplicationController");
  t.ok(
    (await reasons(client, "ReplicationController")).some((text) =>
      text.startsWith("SuccessfulDelete: Deleted pod: web-"),
    ),
  );
});
