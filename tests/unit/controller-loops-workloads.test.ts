// The controllers of ReplicaSets and Deployments, one at a time on the real in-process API: what others write, what the
// API refuses, deadlines and rollouts.

import t from "tap";
import { DEPLOYMENTS, EVENTS, NAMESPACES, PODS, REPLICA_SETS, type Resource } from "../../common/client.js";
import { DeploymentController } from "../../control/controllers/deployment.js";
import { ReplicaSetController } from "../../control/controllers/replicaset.js";
import { DEFAULT } from "./helpers/controller-objects.js";
import { addNodes, eventually, playKubelets } from "./helpers/local-cluster.js";
import { alone, HOLD, pause, refusal } from "./helpers/one-controller.js";
import { CONTAINERS, LABELS, TEMPLATE } from "./helpers/workload-objects.js";

const replicaSet = (spec: object) => ({
  metadata: { name: "web", ...DEFAULT },
  spec: { selector: { matchLabels: LABELS }, template: TEMPLATE, ...spec },
});

t.test("replicaset: refused pods are tried slowly, told in the status, and come when they may", async (t) => {
  let open = 3;
  let now = 0;
  let most = 0;
  const { client, context, start, queued, told } = await alone(t, (client) => ({
    async create(resource, object, options) {
      if ((resource as Resource) !== (PODS as Resource))
        return await client.create(resource, object, options);
      now += 1;
      most = Math.max(most, now);
      await pause(2);
      now -= 1;
      open -= 1;
      if (open < 0) throw refusal();
      return await client.create(resource, object, options);
    },
  }));
  await start(queued((queue) => new ReplicaSetController(context, queue)));
  await client.create(REPLICA_SETS, replicaSet({ replicas: 16 }));
  const failed = await eventually("ReplicaFailure", async () => {
    const { status } = await client.get(REPLICA_SETS, "web", "default");
    return status?.replicas === 3 && status.conditions;
  });
  t.match(failed, [{ type: "ReplicaFailure", status: "True", reason: "FailedCreate", message: "not today" }]);
  await told(/^FailedCreate: Error creating: not today$/);
  t.equal(most, 4, "one, two, four, and then no more");
  open = 100;
  await eventually("all of them", async () => {
    const { status } = await client.get(REPLICA_SETS, "web", "default");
    return status?.replicas === 16 && !status.conditions;
  });
});

t.test("replicaset: minReadySeconds, pods it loses, pods that others delete", async (t) => {
  const { client, context, informers, start, queued } = await alone(t, (client) => ({
    // Somebody else is faster each time.
    async delete(resource, name, options) {
      await client.delete(resource, name, { ...DEFAULT, gracePeriodSeconds: 0 });
      await client.delete(resource, name, options);
    },
  }));
  await start(queued((queue) => new ReplicaSetController(context, queue)));
  await addNodes(client, 1);
  t.teardown(playKubelets(client, informers));
  const template = { ...TEMPLATE, spec: { ...TEMPLATE.spec, nodeName: "node-1" } };
  await client.create(REPLICA_SETS, replicaSet({ replicas: 2, minReadySeconds: 1, template }));
  const status = (replicas: number, available: number) =>
    eventually(`${replicas} replicas, ${available} available`, async () => {
      const { status } = await client.get(REPLICA_SETS, "web", "default");
      return status?.replicas === replicas && (status.availableReplicas ?? 0) === available;
    });
  await status(2, 2);
  const [pod] = (await client.list(PODS, DEFAULT)).items;
  const name = pod?.metadata.name ?? "";
  // Given to another controller: its old one makes up for it.
  const ownerReferences = [
    {
      apiVersion: "v1",
      kind: "ConfigMap",
      name: "mine",
      uid: "1",
      controller: true,
      blockOwnerDeletion: true,
    },
  ];
  await client.patch(PODS, name, "merge", { metadata: { ownerReferences } }, DEFAULT);
  await eventually("another one", async () => (await client.list(PODS, DEFAULT)).items.length === 3);
  await client.patch(REPLICA_SETS, "web", "merge", { spec: { replicas: 0 } }, DEFAULT);
  await status(0, 0);
  const { items } = await client.list(EVENTS, DEFAULT);
  t.notOk(
    items.some(({ reason }) => reason === "SuccessfulDelete"),
    "it was not we who deleted them",
  );
});

t.test("replicaset: of equal pods one on the fullest node goes; a dying owner lets go of none", async (t) => {
  const { client, context, start, queued, cached } = await alone(t);
  await start(queued((queue) => new ReplicaSetController(context, queue)));
  const pod = async (name: string, nodeName: string, restartCount: number) => {
    const spec = { nodeName, containers: CONTAINERS };
    await client.create(PODS, { metadata: { name, ...DEFAULT, labels: LABELS }, spec });
    const status = {
      phase: "Running",
      conditions: [{ type: "Ready", status: "True", lastTransitionTime: "2026-03-01T12:00:00Z" }],
      containerStatuses: [{ name: "c", image: "v1", imageID: "", ready: true, restartCount }],
    };
    const options = { ...DEFAULT, subresource: "status" as const };
    await cached(PODS, await client.patch(PODS, name, "strategic", { status }, options));
  };
  await pod("alone", "node-2", 5);
  await pod("one", "node-1", 0);
  await pod("two", "node-1", 0);
  const finalizers = [HOLD];
  const { metadata, spec } = replicaSet({ replicas: 2 });
  await client.create(REPLICA_SETS, { metadata: { ...metadata, finalizers }, spec });
  const replicas = (count: number) =>
    eventually(`${count} replicas`, async () => {
      const { status } = await client.get(REPLICA_SETS, "web", "default");
      return status?.replicas === count;
    });
  await replicas(2);
  t.notOk((await client.get(PODS, "alone", "default")).metadata.deletionTimestamp);
  await client.delete(REPLICA_SETS, "web", DEFAULT);
  await client.patch(PODS, "alone", "merge", { metadata: { labels: { app: "other" } } }, DEFAULT);
  await replicas(1);
  const { ownerReferences } = (await client.get(PODS, "alone", "default")).metadata;
  t.equal(ownerReferences?.length, 1, "the garbage collector has to find it");
});

t.test("replicaset: what adopts must live", async (t) => {
  const { client, context, start, queued } = await alone(t, (client) => ({
    async get(resource, name, namespace) {
      const object = await client.get(resource, name, namespace);
      return { ...object, metadata: { ...object.metadata, uid: "another" } };
    },
  }));
  await start(queued((queue) => new ReplicaSetController(context, queue)));
  await client.create(PODS, {
    metadata: { name: "orphan", ...DEFAULT, labels: LABELS },
    spec: TEMPLATE.spec,
  });
  await client.create(REPLICA_SETS, replicaSet({ replicas: 1 }));
  await pause(50);
  const orphan = await client.get(PODS, "orphan", "default");
  t.same(orphan.metadata.ownerReferences ?? [], [], "one that is being replaced adopts nothing");
});

const deployment = (spec: object = {}) => ({
  metadata: { name: "web", ...DEFAULT },
  spec: { replicas: 2, selector: { matchLabels: LABELS }, template: TEMPLATE, ...spec },
});

t.test("deployment: another owner holds the name of its ReplicaSet", async (t) => {
  const { client, context, start, queued } = await alone(t);
  await client.create(NAMESPACES, { metadata: { name: "other" } });
  await start(queued((queue) => new DeploymentController(context, queue)));
  const elsewhere = { ...deployment(), metadata: { name: "web", namespace: "other" } };
  await client.create(DEPLOYMENTS, elsewhere);
  const first = (namespace: string) =>
    eventually(`a ReplicaSet in ${namespace}`, async () =>
      (await client.list(REPLICA_SETS, { namespace })).items.find(({ metadata }) => metadata.ownerReferences),
    );
  const { name } = (await first("other")).metadata;
  const labels = { app: "stranger" };
  const strange = { selector: { matchLabels: labels }, template: { ...TEMPLATE, metadata: { labels } } };
  await client.create(REPLICA_SETS, { metadata: { name, ...DEFAULT }, spec: { replicas: 0, ...strange } });
  await client.create(DEPLOYMENTS, deployment());
  const own = await first("default");
  t.not(own.metadata.name, name);
  t.equal((await client.get(DEPLOYMENTS, "web", "default")).status?.collisionCount, 1);
  const ownerReferences = [{ apiVersion: "v1", kind: "ConfigMap", name: "mine", uid: "1", controller: true }];
  await client.patch(REPLICA_SETS, own.metadata.name, "merge", { metadata: { ownerReferences } }, DEFAULT);
  await eventually(
    "it is taken away, and there is another",
    async () => (await client.list(REPLICA_SETS, DEFAULT)).items.length === 3,
  );
});

t.test("deployment: its own ReplicaSet of a moment ago is no collision", async (t) => {
  const { client, context, start, queued } = await alone(t, (client) => ({
    async create(resource, object, options) {
      await client.create(resource, object, options);
      return await client.create(resource, object, options);
    },
  }));
  await start(queued((queue) => new DeploymentController(context, queue)));
  await client.create(DEPLOYMENTS, deployment());
  const { status } = await eventually("it is found", async () => {
    const object = await client.get(DEPLOYMENTS, "web", "default");
    return object.status?.conditions?.some(({ reason }) => reason === "FoundNewReplicaSet") && object;
  });
  t.equal(status?.collisionCount, undefined);
});

t.test("deployment: a ReplicaSet that is being deleted is not adopted", async (t) => {
  const { client, context, start, queued, cached } = await alone(t);
  const { spec } = replicaSet({ replicas: 2 });
  const metadata = { name: "leaving", ...DEFAULT, labels: LABELS, finalizers: [HOLD] };
  await client.create(REPLICA_SETS, { metadata, spec });
  await client.delete(REPLICA_SETS, "leaving", DEFAULT);
  await start(queued((queue) => new DeploymentController(context, queue)));
  await cached(DEPLOYMENTS, await client.create(DEPLOYMENTS, deployment()));
  const items = await eventually("one of its own", async () => {
    const { items } = await client.list(REPLICA_SETS, DEFAULT);
    return items.length === 2 && items;
  });
  const owners = items.map(({ metadata }) => (metadata.ownerReferences ?? []).length);
  t.same(owners.sort(), [0, 1]);
});

t.test("deployment: the deadline, a refused ReplicaSet, minReadySeconds, zero replicas", async (t) => {
  let refuse = true;
  const { client, context, clock, start, queued } = await alone(t, (client) => ({
    async create(resource, object, options) {
      if (refuse && (resource as Resource) === (REPLICA_SETS as Resource)) throw refusal();
      return await client.create(resource, object, options);
    },
  }));
  await start(queued((queue) => new DeploymentController(context, queue)));
  const get = () => client.get(DEPLOYMENTS, "web", "default");
  const progressing = (reason: string) =>
    eventually(`Progressing: ${reason}`, async () =>
      (await get()).status?.conditions?.find((one) => one.type === "Progressing" && one.reason === reason),
    );
  await client.create(DEPLOYMENTS, deployment({ progressDeadlineSeconds: 1 }));
  const failed = await progressing("ReplicaSetCreateError");
  t.match(failed, { status: "False", message: /^Failed to create new replica set "web-\w+": not today$/ });
  refuse = false;
  await progressing("NewReplicaSetCreated");
  clock.ahead += 60_000;
  t.match(await progressing("ProgressDeadlineExceeded"), { status: "False" }, "nobody makes its pods");

  const sets = async () => (await client.list(REPLICA_SETS, DEFAULT)).items;
  const slower = { spec: { minReadySeconds: 7, progressDeadlineSeconds: 600 } };
  await client.patch(DEPLOYMENTS, "web", "merge", slower, DEFAULT);
  await eventually("handed down", async () => (await sets())[0]?.spec?.minReadySeconds === 7);
  await client.patch(DEPLOYMENTS, "web", "merge", { spec: { replicas: 0 } }, DEFAULT);
  const status = await eventually("nothing is wanted", async () => {
    const { metadata, status } = await get();
    return status?.observedGeneration === metadata.generation && !status?.unavailableReplicas && status;
  });
  t.notOk("unavailableReplicas" in status, "a count of zero is left out");
});

t.test("deployment: scaled in the middle of a rollout, old and new grow in proportion", async (t) => {
  const { client, context, informers, start, queued, told } = await alone(t);
  await start(
    queued((queue) => new DeploymentController(context, queue)),
    queued((queue) => new ReplicaSetController(context, queue)),
  );
  const nodeName = "node-1";
  const template = (image: string) => ({
    metadata: { labels: LABELS },
    spec: { nodeName, containers: [{ name: "c", image }] },
  });
  t.teardown(
    playKubelets(client, informers, (pod, becomeReady) => {
      if (pod.spec?.containers[0]?.image === "v1") void becomeReady();
    }),
  );
  await client.create(DEPLOYMENTS, deployment({ replicas: 8, template: template("v1") }));
  const sizes = (wanted: string) =>
    eventually(`sizes ${wanted}`, async () => {
      const { items } = await client.list(REPLICA_SETS, DEFAULT);
      const found = items.map(({ spec, status }) => `${spec?.replicas}/${status?.replicas}`);
      return found.sort().join(" ") === wanted;
    });
  await eventually("8 available", async () => {
    const { status } = await client.get(DEPLOYMENTS, "web", "default");
    return status?.availableReplicas === 8;
  });
  await client.patch(DEPLOYMENTS, "web", "merge", { spec: { template: template("v2") } }, DEFAULT);
  await sizes("4/4 6/6");
  await client.patch(DEPLOYMENTS, "web", "merge", { spec: { replicas: 16 } }, DEFAULT);
  await sizes("12/12 8/8");
  await told(/^ScalingReplicaSet: Scaled up replica set web-\w+ from 6 to 12$/);
  const paused = { spec: { paused: true, revisionHistoryLimit: 0 } };
  await client.patch(DEPLOYMENTS, "web", "merge", { spec: { replicas: 0 } }, DEFAULT);
  await sizes("0/0 0/0");
  await client.patch(DEPLOYMENTS, "web", "merge", paused, DEFAULT);
  await sizes("0/0");
});

t.test("deployment: Recreate waits until the last old pod has really ended", async (t) => {
  const { client, context, start, queued } = await alone(t);
  await start(
    queued((queue) => new DeploymentController(context, queue)),
    queued((queue) => new ReplicaSetController(context, queue)),
  );
  const spec = { ...TEMPLATE.spec, nodeName: "node-1" };
  const strategy = { type: "Recreate" };
  await client.create(DEPLOYMENTS, deployment({ replicas: 1, strategy, template: { ...TEMPLATE, spec } }));
  const [old] = await eventually("the old pod", async () => {
    const { items } = await client.list(PODS, DEFAULT);
    return items.length === 1 && items;
  });
  const next = { ...TEMPLATE, spec: { ...spec, containers: [{ name: "c", image: "v2" }] } };
  await client.patch(DEPLOYMENTS, "web", "merge", { spec: { template: next } }, DEFAULT);
  const name = old?.metadata.name ?? "";
  await eventually("it ends", async () => {
    const { metadata } = await client.get(PODS, name, "default");
    return metadata.deletionTimestamp;
  });
  await pause(50);
  t.equal((await client.list(REPLICA_SETS, DEFAULT)).items.length, 1, "it has not ended yet");
  const ended = { status: { phase: "Succeeded" } };
  await client.patch(PODS, name, "strategic", ended, { ...DEFAULT, subresource: "status" });
  await eventually("the new pod", async () =>
    (await client.list(PODS, DEFAULT)).items.some((pod) => pod.spec?.containers[0]?.image === "v2"),
  );
});
