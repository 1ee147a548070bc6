// All controllers together on the real in-process API, with kubelets that only report: rollouts, deletion, namespaces,
// events.

import t from "tap";
import {
  CONFIG_MAPS,
  DEPLOYMENTS,
  ENDPOINT_SLICES,
  ENDPOINTS,
  EVENTS,
  isNotFound,
  NAMESPACES,
  PODS,
  REPLICA_SETS,
  type Resource,
  SERVICE_ACCOUNTS,
  SERVICES,
} from "../../common/client.js";
import { InformerFactory } from "../../common/informer.js";
import { EventBroadcaster } from "../../control/controllers/events.js";
import { EventTtlController } from "../../control/controllers/events-ttl.js";
import { judge } from "../../control/controllers/garbage-collector.js";
import { timestamp } from "../../control/controllers/time.js";
import { imagePatch, late, running, startAll, webDeployment } from "./helpers/all-controllers.js";
import { DEFAULT, makePod, NOW } from "./helpers/controller-objects.js";
import { addNodes, eventually, type LocalApi, openLocalApi, playKubelets } from "./helpers/local-cluster.js";

t.test("garbage collector: the verdict", async (t) => {
  const object = makePod("p");
  const owner = (uid: string, state: "solid" | "waiting" | "absent") => ({ uid, state });
  t.same(judge(object, [], false), { type: "keep" });
  t.same(judge(object, [owner("a", "solid")], false), { type: "keep" });
  t.same(judge(object, [owner("a", "absent")], false), { type: "delete", policy: "Background" });
  t.same(judge(object, [owner("a", "absent"), owner("b", "solid")], false), {
    type: "forget-owners",
    uids: ["a"],
  });
  t.same(judge(object, [owner("a", "waiting")], true), { type: "delete", policy: "Foreground" });
  t.same(judge(object, [owner("a", "waiting")], false), { type: "delete", policy: "Background" });
  for (const [finalizer, policy] of [
    ["orphan", "Orphan"],
    ["foregroundDeletion", "Foreground"],
  ]) {
    const asked = makePod("p", { metadata: { finalizers: [finalizer] } });
    t.same(judge(asked, [owner("a", "absent")], true), { type: "delete", policy }, "as it was asked for");
  }
  const going = makePod("p", { metadata: { deletionTimestamp: timestamp(NOW) } });
  t.same(judge(going, [owner("a", "absent")], false), { type: "keep" }, "it goes already");
});

/** Everything of the current template and available, as kubectl rollout status sees it. */
function rolledOut({ client }: LocalApi, replicas: number, revision: string) {
  return eventually(`revision ${revision} with ${replicas} available`, async () => {
    const deployment = await client.get(DEPLOYMENTS, "web", "default");
    const { status, metadata } = deployment;
    return (
      status?.observedGeneration === metadata.generation &&
      metadata.annotations?.["deployment.kubernetes.io/revision"] === revision &&
      (status?.updatedReplicas ?? 0) === replicas &&
      (status?.replicas ?? 0) === replicas &&
      (status?.availableReplicas ?? 0) === replicas &&
      status?.conditions?.some(({ reason }) => reason === "NewReplicaSetAvailable") &&
      deployment
    );
  });
}

t.test("a Deployment from nothing to traffic, rolled forth and back", async (t) => {
  const api = await running(t);
  const { client, informers } = api;
  t.teardown(playKubelets(client, informers));
  await client.create(SERVICES, {
    metadata: { name: "web", namespace: "default" },
    spec: { selector: { app: "web" }, ports: [{ port: 80, targetPort: 8080 }] },
  });
  await client.create(DEPLOYMENTS, webDeployment());
  await rolledOut(api, 4, "1");
  const ready = await eventually("four ready endpoints", async () => {
    const { items } = await client.list(ENDPOINT_SLICES, { labelSelector: "kubernetes.io/service-name=web" });
    const endpoints = items.flatMap((slice) => slice.endpoints.filter(({ conditions }) => conditions?.ready));
    return endpoints.length === 4 && endpoints;
  });
  t.same(
    new Set(ready.map(({ nodeName }) => nodeName)),
    new Set(["node-1", "node-2", "node-3"]),
    "on all nodes",
  );
  await eventually("four addresses in Endpoints", async () => {
    const { subsets = [] } = await client.get(ENDPOINTS, "web", "default");
    return subsets[0]?.addresses?.length === 4;
  });

  let fewest = Number.POSITIVE_INFINITY;
  let most = 0;
  const pods = informers.get(PODS);
  const stop = pods.subscribe({
    update: () => {
      const active = pods.list("default").filter((pod) => !pod.metadata.deletionTimestamp);
      const available = active.filter((pod) =>
        pod.status?.conditions?.some(({ type, status }) => type === "Ready" && status === "True"),
      );
      fewest = Math.min(fewest, available.length);
      most = Math.max(most, active.length);
    },
  });
  await client.patch(DEPLOYMENTS, "web", "strategic", imagePatch("v2"), DEFAULT);
  await rolledOut(api, 4, "2");
  stop();
  t.ok(fewest >= 3, `never fewer than three were available (${fewest})`);
  t.ok(most <= 5, `never more than five pods (${most})`);

  await client.patch(DEPLOYMENTS, "web", "strategic", imagePatch("v1"), DEFAULT);
  await rolledOut(api, 4, "3");
  const { items } = await client.list(REPLICA_SETS, DEFAULT);
  t.equal(items.length, 2, "the old ReplicaSet came back to life");
  const current = items.find((rs) => rs.spec?.replicas === 4);
  t.equal(current?.metadata.annotations?.["deployment.kubernetes.io/revision-history"], "1");

  const messages = (await eventually("events", async () => {
    const { items } = await client.list(EVENTS, DEFAULT);
    const found = items.map(({ reason, message }) => `${reason}: ${message}`);
    return found.length > 20 && found;
  })) as string[];
  t.ok(messages.some((text) => /^ScalingReplicaSet: Scaled up replica set web-\w+ from 0 to 4$/.test(text)));
  t.ok(messages.some((text) => /^SuccessfulCreate: Created pod: web-\w+-\w+$/.test(text)));
  t.ok(
    messages.some((text) => /^Scheduled: Successfully assigned default\/web-\w+-\w+ to node-\d$/.test(text)),
  );

  await client.patch(DEPLOYMENTS, "web", "merge", { spec: { revisionHistoryLimit: 0 } }, DEFAULT);
  await eventually(
    "history cleaned up",
    async () => (await client.list(REPLICA_SETS, DEFAULT)).items.length === 1,
  );
});

t.test("paused, scaled while paused, resumed", async (t) => {
  const api = await running(t);
  const { client, informers } = api;
  t.teardown(playKubelets(client, informers));
  await client.create(DEPLOYMENTS, webDeployment({ replicas: 2 }));
  await rolledOut(api, 2, "1");
  await client.patch(DEPLOYMENTS, "web", "merge", { spec: { paused: true } }, DEFAULT);
  await client.patch(DEPLOYMENTS, "web", "strategic", imagePatch("v2"), DEFAULT);
  await client.patch(DEPLOYMENTS, "web", "merge", { spec: { replicas: 5 } }, DEFAULT);
  await eventually("scaled but not rolled", async () => {
    const { status } = await client.get(DEPLOYMENTS, "web", "default");
    return (
      status?.availableReplicas === 5 &&
      !status.updatedReplicas &&
      status.conditions?.some(({ reason }) => reason === "DeploymentPaused")
    );
  });
  await client.patch(DEPLOYMENTS, "web", "merge", { spec: { paused: false } }, DEFAULT);
  await rolledOut(api, 5, "2");
});

t.test("Recreate: nothing new before everything old is gone", async (t) => {
  const api = await running(t);
  const { client, informers } = api;
  const images = new Set<string>();
  let mixed = 0;
  const pods = informers.get(PODS);
  t.teardown(
    pods.subscribe({
      add: () => {
        images.clear();
        for (const pod of pods.list("default")) images.add(pod.spec?.containers[0]?.image ?? "");
        if (images.size > 1) mixed += 1;
      },
    }),
  );
  t.teardown(playKubelets(client, informers));
  await client.create(DEPLOYMENTS, webDeployment({ replicas: 3, strategy: { type: "Recreate" } }));
  await rolledOut(api, 3, "1");
  await client.patch(DEPLOYMENTS, "web", "strategic", imagePatch("v2"), DEFAULT);
  await rolledOut(api, 3, "2");
  t.equal(mixed, 0);
});

t.test("a ReplicaSet adopts orphans, releases strangers and never overshoots", async (t) => {
  const { client, informers } = await running(t);
  t.teardown(playKubelets(client, informers));
  const labels = { app: "web" };
  const template = { metadata: { labels }, spec: { containers: [{ name: "c", image: "v1" }] } };
  await client.create(PODS, {
    metadata: { name: "orphan", namespace: "default", labels },
    spec: template.spec,
  });
  await client.create(REPLICA_SETS, {
    metadata: { name: "web", namespace: "default" },
    spec: { replicas: 30, selector: { matchLabels: labels }, template },
  });
  const created = new Set<string>();
  t.teardown(informers.get(PODS).subscribe({ add: (pod) => created.add(pod.metadata.uid) }));
  await eventually("30 available", async () => {
    const { status } = await client.get(REPLICA_SETS, "web", "default");
    return status?.availableReplicas === 30 && status.fullyLabeledReplicas === 30;
  });
  t.equal(created.size, 30, "the orphan and 29 new ones: none twice");
  const orphan = await client.get(PODS, "orphan", "default");
  t.match(orphan.metadata.ownerReferences, [{ kind: "ReplicaSet", name: "web", controller: true }]);

  await client.patch(PODS, "orphan", "merge", { metadata: { labels: { app: "mine" } } }, DEFAULT);
  await eventually("released", async () => {
    const pod = await client.get(PODS, "orphan", "default");
    return (pod.metadata.ownerReferences ?? []).length === 0;
  });
  await eventually("replaced", async () => {
    const { status } = await client.get(REPLICA_SETS, "web", "default");
    return status?.availableReplicas === 30 && created.size === 31;
  });
  await client.patch(REPLICA_SETS, "web", "merge", { spec: { replicas: 3 } }, DEFAULT);
  await eventually("scaled down", async () => (await client.list(PODS, DEFAULT)).items.length === 4);
});

t.test("a cache that lags makes nothing twice", async (t) => {
  const api = await openLocalApi();
  const { client, log } = api;
  const informers = new InformerFactory(late(client, 15), { log });
  const close = async () => {
    informers.stop();
    await api.close();
  };
  await startAll(t, { client, informers, log, close });
  await addNodes(client, 1);
  api.informers.start();
  const created: string[] = [];
  for (const resource of [PODS, ENDPOINT_SLICES] as Resource[]) {
    t.teardown(api.informers.get(resource).subscribe({ add: ({ metadata }) => created.push(metadata.name) }));
  }
  t.teardown(playKubelets(client, api.informers));
  await client.create(SERVICES, {
    metadata: { name: "web", namespace: "default" },
    spec: { selector: { app: "web" }, ports: [{ port: 80 }] },
  });
  await client.create(DEPLOYMENTS, webDeployment({ replicas: 6 }));
  await rolledOut(api, 6, "1");
  await eventually("six endpoints", async () => {
    const { items } = await client.list(ENDPOINT_SLICES, { labelSelector: "kubernetes.io/service-name=web" });
    return (
      items.flatMap(({ endpoints }) => endpoints.filter(({ conditions }) => conditions?.ready)).length === 6
    );
  });
  const [slices, pods] = [/^web-[a-z0-9]{5}$/, /^web-[a-z0-9]+-[a-z0-9]{5}$/];
  t.equal(created.filter((name) => pods.test(name)).length, 6, "six pods");
  t.equal(created.filter((name) => slices.test(name)).length, 1, "one slice");
});

t.test("deletion: background, foreground, orphan, and dependents of nobody", async (t) => {
  const api = await running(t);
  const { client, informers } = api;
  t.teardown(playKubelets(client, informers));
  const counts = async () => {
    const [deployments, sets, pods] = await Promise.all([
      client.list(DEPLOYMENTS, DEFAULT),
      client.list(REPLICA_SETS, DEFAULT),
      client.list(PODS, DEFAULT),
    ]);
    return [deployments.items.length, sets.items.length, pods.items.length].join(" ");
  };
  const order: string[] = [];
  const stopped = ([PODS, REPLICA_SETS, DEPLOYMENTS] as Resource[]).map((resource) =>
    informers.get(resource).subscribe({ delete: ({ kind }) => order.push(kind) }),
  );
  for (const propagationPolicy of ["Background", "Foreground"] as const) {
    await client.create(DEPLOYMENTS, webDeployment({ replicas: 3 }));
    await rolledOut(api, 3, "1");
    order.length = 0;
    await client.delete(DEPLOYMENTS, "web", { ...DEFAULT, propagationPolicy });
    await eventually(`${propagationPolicy}: all gone`, async () => (await counts()) === "0 0 0");
    const expected = propagationPolicy === "Background" ? "Deployment" : "Pod";
    t.equal(order[0], expected, `${propagationPolicy} begins with the ${expected}`);
    if (propagationPolicy === "Foreground") {
      await eventually("all heard of", async () => order.length === 5);
      t.equal(order.at(-1), "Deployment", "and ends with the owner");
    }
  }
  for (const stop of stopped) stop();

  await client.create(DEPLOYMENTS, webDeployment({ replicas: 2 }));
  await rolledOut(api, 2, "1");
  await client.delete(DEPLOYMENTS, "web", { ...DEFAULT, propagationPolicy: "Orphan" });
  await eventually("only the owner is gone", async () => (await counts()) === "0 1 2");
  const [rs] = (await client.list(REPLICA_SETS, DEFAULT)).items;
  t.same(rs?.metadata.ownerReferences ?? [], []);
  await client.create(DEPLOYMENTS, webDeployment({ replicas: 2 }));
  await rolledOut(api, 2, "1");
  t.equal(
    (await client.list(REPLICA_SETS, DEFAULT)).items[0]?.metadata.uid,
    rs?.metadata.uid,
    "adopted again",
  );

  const ownerReferences = [{ apiVersion: "v1", kind: "Pod", name: "nobody", uid: "0000" }];
  await client.create(CONFIG_MAPS, { metadata: { name: "dangling", namespace: "default", ownerReferences } });
  await eventually("collected", async () =>
    (await client.list(CONFIG_MAPS, DEFAULT)).items.every(({ metadata }) => metadata.name !== "dangling"),
  );
});

t.test("namespaces and the Service kubernetes", async (t) => {
  const { client, informers } = await running(t);
  t.teardown(playKubelets(client, informers));
  const names = (await client.list(NAMESPACES)).items.map(({ metadata }) => metadata.name).sort();
  t.same(names, ["default", "kube-node-lease", "kube-public", "kube-system"]);
  const published = () =>
    eventually("default/kubernetes", async () => {
      const [service, endpoints, slice] = await Promise.all([
        client.get(SERVICES, "kubernetes", "default").catch(() => undefined),
        client.get(ENDPOINTS, "kubernetes", "default").catch(() => undefined),
        client.get(ENDPOINT_SLICES, "kubernetes", "default").catch(() => undefined),
      ]);
      return service && endpoints && slice && { service, endpoints, slice };
    });
  const { service, endpoints, slice } = await published();
  t.match(service.spec, { clusterIP: "10.96.0.1", ports: [{ name: "https", port: 443, targetPort: 6443 }] });
  t.match(endpoints.subsets, [{ addresses: [{ ip: "192.168.56.1" }], ports: [{ port: 6443 }] }]);
  t.match(slice, {
    endpoints: [{ addresses: ["192.168.56.1"] }],
    metadata: { labels: { "kubernetes.io/service-name": "kubernetes" } },
  });
  await client.delete(SERVICES, "kubernetes", DEFAULT);
  await published();

  await client.create(NAMESPACES, { metadata: { name: "team" } });
  await eventually(
    "its ServiceAccount",
    async () => (await client.list(SERVICE_ACCOUNTS, { namespace: "team" })).items.length === 1,
  );
  const web = webDeployment({ replicas: 3 });
  await client.create(DEPLOYMENTS, { ...web, metadata: { name: "web", namespace: "team" } });
  await client.create(SERVICES, {
    metadata: { name: "web", namespace: "team" },
    spec: { selector: { app: "web" }, ports: [{ port: 80 }] },
  });
  await eventually("pods", async () => (await client.list(PODS, { namespace: "team" })).items.length === 3);
  await client.delete(NAMESPACES, "team");
  await eventually("gone with everything in it", async () => {
    try {
      await client.get(NAMESPACES, "team");
      return false;
    } catch (error) {
      if (!isNotFound(error)) throw error;
      return true;
    }
  });
  for (const resource of [
    PODS,
    REPLICA_SETS,
    DEPLOYMENTS,
    SERVICES,
    ENDPOINT_SLICES,
    SERVICE_ACCOUNTS,
    EVENTS,
  ] as Resource[]) {
    t.equal((await client.list(resource, { namespace: "team" })).items.length, 0, resource.plural);
  }
});

t.test("events: repeats are counted, floods combined and held back, old ones removed", async (t) => {
  const api = await openLocalApi();
  const { client, informers, log } = api;
  let now = Date.now();
  const events = new EventBroadcaster({ client, log, now: () => now });
  const ttl = new EventTtlController({ client, informers, events, log, now: () => now });
  informers.start();
  await client.create(NAMESPACES, { metadata: { name: "default" } });
  events.start();
  t.teardown(async () => {
    await events.stop();
    await api.close();
  });
  const recorder = events.recorder("test");
  const subject = makePod("p");
  for (let i = 0; i < 3; i++) recorder.event(subject, "Warning", "Same", "the same again");
  await events.idle();
  const { items } = await client.list(EVENTS, DEFAULT);
  t.match(items, [{ count: 3, message: "the same again", reason: "Same", type: "Warning" }]);
  t.match(items[0]?.involvedObject, { kind: "Pod", name: "p", uid: subject.metadata.uid });

  const other = makePod("q");
  for (let i = 0; i < 15; i++) recorder.event(other, "Normal", "Many", `number ${i}`);
  await events.idle();
  const many = (await client.list(EVENTS, DEFAULT)).items.filter(({ reason }) => reason === "Many");
  t.equal(many.length, 11, "ten and the rest as one");
  const combined = many.find(({ message }) => message?.startsWith("(combined from similar events)"));
  t.equal(combined?.count, 5);
  for (let i = 0; i < 100; i++) recorder.event(other, "Normal", `Reason${i}`, "x");
  await events.idle();
  const about = (await client.list(EVENTS, DEFAULT)).items.filter(
    ({ involvedObject }) => involvedObject.name === "q",
  );
  t.equal(about.length, 21, "25 at once about one object, of which 15 came before");

  await informers.synced();
  await eventually("cached", async () => informers.get(EVENTS).list().length === about.length + 1);
  now += 3_590_000;
  await ttl.sweep();
  t.equal((await client.list(EVENTS, DEFAULT)).items.length, about.length + 1);
  now += 20_000;
  await ttl.sweep();
  t.equal((await client.list(EVENTS, DEFAULT)).items.length, 0, "an hour is over");
});
