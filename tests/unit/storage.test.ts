// PersistentVolumes, PersistentVolumeClaims and StorageClasses on the real in-process API: what is refused, what is
// bound to what, what is made and what becomes of it.

import { existsSync, readdirSync } from "node:fs";
import t, { type Test } from "tap";
import {
  EVENTS,
  type KubeClient,
  PERSISTENT_VOLUME_CLAIMS,
  PERSISTENT_VOLUMES,
  PODS,
  type Resource,
  STATEFUL_SETS,
  STORAGE_CLASSES,
} from "../../common/client.js";
import type {
  KubeObject,
  PersistentVolume,
  PersistentVolumeClaim,
  StorageClass,
  Stored,
} from "../../common/k8s.js";
import { ADMISSION } from "../../control/api/admission.js";
import { ensureNamespaces } from "../../control/controllers/bootstrap.js";
import { caught } from "../helpers/caught.js";
import { tempDir } from "../helpers/temp-dir.js";
import { startAll } from "./helpers/all-controllers.js";
import { addNodes, eventually, openLocalApi, playKubelets } from "./helpers/local-cluster.js";
import { statefulSet } from "./helpers/workload-objects.js";

const DEFAULT = { namespace: "default" };
type ClaimSpec = PersistentVolumeClaim["spec"];

function claim(name: string, spec: ClaimSpec = {}): PersistentVolumeClaim {
  const resources = { requests: { storage: "1Gi" } };
  return { metadata: { name, ...DEFAULT }, spec: { accessModes: ["ReadWriteOnce"], resources, ...spec } };
}

function volume(name: string, spec: PersistentVolume["spec"] = {}): PersistentVolume {
  return {
    metadata: { name },
    spec: {
      capacity: { storage: "1Gi" },
      accessModes: ["ReadWriteOnce"],
      hostPath: { path: "/mnt/data" },
      storageClassName: "manual",
      ...spec,
    },
  };
}

function storageClass(name: string, more: Partial<StorageClass>): StorageClass {
  return { metadata: { name }, provisioner: "kubernetes.io/no-provisioner", ...more };
}

/** A pod that mounts the claim. */
function user(name: string, claimName: string): KubeObject {
  return {
    metadata: { name, ...DEFAULT },
    spec: {
      volumes: [{ name: "v", persistentVolumeClaim: { claimName } }],
      containers: [{ name: "c", image: "nginx", volumeMounts: [{ name: "v", mountPath: "/v" }] }],
    },
  } as KubeObject;
}

async function start(t: Test) {
  const volumesDir = tempDir(t);
  const api = await openLocalApi("error", undefined, ADMISSION);
  const { client, informers } = api;
  await ensureNamespaces(client);
  await startAll(t, api, { volumesDir });
  await addNodes(client, 2);
  t.teardown(playKubelets(client, informers));
  await eventually("the default class", () => found(client, STORAGE_CLASSES, "standard"));
  const bound = (name: string) =>
    eventually(`claim ${name} is bound`, async () => {
      const one = await client.get(PERSISTENT_VOLUME_CLAIMS, name, "default");
      return one.status?.phase === "Bound" && one;
    });
  const phase = (name: string, wanted: string) =>
    eventually(`volume ${name} is ${wanted}`, async () => {
      const one = await found(client, PERSISTENT_VOLUMES, name);
      return one?.status?.phase === wanted && one;
    });
  const told = (name: string, message: RegExp) =>
    eventually(`${name} is told ${message}`, async () => {
      const { items } = await client.list(EVENTS, DEFAULT);
      return items.some((e) => e.involvedObject.name === name && message.test(`${e.reason}: ${e.message}`));
    });
  return { client, volumesDir, bound, phase, told };
}

async function found<T extends KubeObject>(
  client: KubeClient,
  resource: Resource<T>,
  name: string,
  namespace?: string,
): Promise<Stored<T> | undefined> {
  return await client.get(resource, name, namespace).catch(() => undefined);
}

t.test("what is refused", async (t) => {
  const { client } = await start(t);
  const refused = async (resource: Resource, object: KubeObject) =>
    String(((await caught(client.create(resource, object, DEFAULT))) as Error).message);
  const claimProblem = (spec: ClaimSpec) => refused(PERSISTENT_VOLUME_CLAIMS, claim("c", spec));
  t.equal(
    await claimProblem({ accessModes: [], resources: {} }),
    'PersistentVolumeClaim "c" is invalid: [spec.accessModes: Required value: at least 1 access mode is required, spec.resources[storage]: Required value]',
  );
  t.match(
    await claimProblem({ accessModes: ["Sometimes"] }),
    /spec\.accessModes: Unsupported value: "Sometimes": supported values: "ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"$/,
  );
  t.match(
    await claimProblem({ resources: { requests: { storage: "0" } } }),
    /spec\.resources\[storage\]: Invalid value: "0": must be greater than zero$/,
  );
  const volumeProblem = (spec: object) => refused(PERSISTENT_VOLUMES, volume("v", spec));
  t.match(
    await volumeProblem({ hostPath: undefined }),
    /: spec: Required value: must specify a volume type$/,
  );
  t.match(
    await volumeProblem({ hostPath: undefined, local: { path: "/tmp" } }),
    /metadata\.annotations: Required value: Local volume requires node affinity$/,
  );
  t.match(
    await volumeProblem({ nfs: { server: "s", path: "/" } }),
    /may not specify more than 1 volume type$/,
  );
  t.match(
    await volumeProblem({ persistentVolumeReclaimPolicy: "Burn", capacity: {} }),
    /\[spec\.capacity: Required value, spec\.persistentVolumeReclaimPolicy: Unsupported value: "Burn": supported values: "Delete", "Recycle", "Retain"\]$/,
  );
  t.match(
    await refused(STORAGE_CLASSES, storageClass("s", { provisioner: "", reclaimPolicy: "Recycle" })),
    /\[provisioner: Required value, reclaimPolicy: Unsupported value: "Recycle": supported values: "Delete", "Retain"\]$/,
  );
  const standard = await client.get(STORAGE_CLASSES, "standard");
  const changed = { ...standard, provisioner: "other.io/p" } as StorageClass;
  t.match(
    ((await caught(client.update(STORAGE_CLASSES, changed))) as Error).message,
    /provisioner: Forbidden: updates to provisioner are forbidden\.$/,
  );
});

t.test("a claim takes the smallest volume that fits, and keeps it from others", async (t) => {
  const { client, bound, phase, told } = await start(t);
  const create = (one: PersistentVolume) => client.create(PERSISTENT_VOLUMES, one);
  await create(volume("big", { capacity: { storage: "10Gi" } }));
  await create(volume("small", { capacity: { storage: "500Mi" } }));
  await create(volume("fit", { capacity: { storage: "2Gi" } }));
  await create(volume("many", { accessModes: ["ReadWriteOnce", "ReadWriteMany"] }));
  await create({
    ...volume("fast", { capacity: { storage: "20Gi" } }),
    metadata: { name: "fast", labels: { disk: "fast" } },
  });
  for (const name of ["big", "small", "fit", "many", "fast"]) await phase(name, "Available");
  const take = async (name: string, spec: ClaimSpec = {}) => {
    await client.create(PERSISTENT_VOLUME_CLAIMS, claim(name, { storageClassName: "manual", ...spec }));
    return (await bound(name)).spec?.volumeName;
  };
  t.equal(await take("first"), "fit", "not one with more access modes, though it is smaller");
  t.equal(await take("writers", { accessModes: ["ReadWriteMany"] }), "many");
  t.equal(await take("labelled", { selector: { matchLabels: { disk: "fast" } } }), "fast");
  t.equal(await take("named", { volumeName: "big" }), "big");
  const first = await client.get(PERSISTENT_VOLUME_CLAIMS, "first", "default");
  t.same(first.status?.capacity, { storage: "2Gi" });
  t.same(first.metadata.finalizers, ["kubernetes.io/pvc-protection"]);
  t.match((await phase("fit", "Bound")).spec?.claimRef, {
    ...DEFAULT,
    name: "first",
    uid: first.metadata.uid,
  });

  await client.create(PERSISTENT_VOLUME_CLAIMS, claim("late", { storageClassName: "manual" }));
  await told("late", /^ProvisioningFailed: storageclass\.storage\.k8s\.io "manual" not found$/);
  await client.create(PERSISTENT_VOLUME_CLAIMS, claim("none", { storageClassName: "" }));
  await told(
    "none",
    /^FailedBinding: no persistent volumes available for this claim and no storage class is set$/,
  );
  await client.create(
    PERSISTENT_VOLUME_CLAIMS,
    claim("mine", { storageClassName: "manual", volumeName: "small" }),
  );
  await told("mine", /^VolumeMismatch: Cannot bind to requested volume "small": requested PV is too small$/);
  await client.create(
    PERSISTENT_VOLUME_CLAIMS,
    claim("too", { storageClassName: "manual", volumeName: "fit" }),
  );
  await told("too", /^FailedBinding: volume "fit" already bound to a different claim\.$/);

  await client.delete(PERSISTENT_VOLUME_CLAIMS, "first", DEFAULT);
  await phase("fit", "Released");
  t.notOk(await found(client, PERSISTENT_VOLUME_CLAIMS, "first", "default"));
  await client.patch(PERSISTENT_VOLUMES, "fit", "merge", { spec: { claimRef: null } });
  t.equal((await bound("late")).spec?.volumeName, "fit", "somebody has cleared it for the next one");
  await client.patch(PERSISTENT_VOLUMES, "many", "merge", {
    spec: { persistentVolumeReclaimPolicy: "Delete" },
  });
  await client.delete(PERSISTENT_VOLUME_CLAIMS, "writers", DEFAULT);
  const failed = await phase("many", "Failed");
  t.equal(failed.status?.message, "host_path deleter only supports /tmp/.+ but received provided /mnt/data");
});

t.test("the default class makes a directory, which goes with its claim", async (t) => {
  const { client, volumesDir, bound } = await start(t);
  await client.create(PERSISTENT_VOLUME_CLAIMS, claim("data"));
  const { metadata, spec } = await bound("data");
  t.equal(spec?.storageClassName, "standard");
  t.equal(spec?.volumeName, `pvc-${metadata.uid}`);
  const made = await client.get(PERSISTENT_VOLUMES, spec?.volumeName ?? "");
  t.equal(made.spec?.persistentVolumeReclaimPolicy, "Delete");
  const path = made.spec?.hostPath?.path ?? "";
  t.ok(path.startsWith(`${volumesDir}/`) && existsSync(path));

  await client.create(PODS, user("web", "data"));
  await eventually(
    "the pod runs",
    async () => (await client.get(PODS, "web", "default")).status?.phase === "Running",
  );
  await client.delete(PERSISTENT_VOLUME_CLAIMS, "data", DEFAULT);
  await client.create(PODS, user("other", "data"));
  await eventually("no pod gets a claim that is going", async () => {
    const { status } = await client.get(PODS, "other", "default");
    return status?.conditions?.[0]?.message?.includes('persistentvolumeclaim "data" is being deleted');
  });
  t.ok(existsSync(path), "it is used");
  await client.delete(PODS, "web", DEFAULT);
  await eventually("claim, volume and directory are gone", async () => {
    const left = await found(client, PERSISTENT_VOLUME_CLAIMS, "data", "default");
    return !left && !(await found(client, PERSISTENT_VOLUMES, made.metadata.name)) && !existsSync(path);
  });

  await client.create(PERSISTENT_VOLUME_CLAIMS, claim("lost"));
  const { spec: lost } = await bound("lost");
  await client.patch(PERSISTENT_VOLUMES, lost?.volumeName ?? "", "merge", { metadata: { finalizers: null } });
  await client.delete(PERSISTENT_VOLUMES, lost?.volumeName ?? "");
  await eventually("Lost", async () => {
    const { status } = await client.get(PERSISTENT_VOLUME_CLAIMS, "lost", "default");
    return status?.phase === "Lost";
  });
});

t.test("WaitForFirstConsumer: the pod's node decides", async (t) => {
  const { client, bound, told } = await start(t);
  const volumeBindingMode = "WaitForFirstConsumer";
  await client.create(
    STORAGE_CLASSES,
    storageClass("late", { provisioner: "kubeplumb.io/hostpath", volumeBindingMode }),
  );
  await client.create(STORAGE_CLASSES, storageClass("local", { volumeBindingMode }));
  const on = (node: string) => ({
    required: {
      nodeSelectorTerms: [
        { matchExpressions: [{ key: "kubernetes.io/hostname", operator: "In", values: [node] }] },
      ],
    },
  });
  const local = { hostPath: undefined, local: { path: "/tmp" }, storageClassName: "local" };
  await client.create(PERSISTENT_VOLUMES, volume("disk", { ...local, nodeAffinity: on("node-2") } as never));
  for (const name of ["late", "local"]) {
    await client.create(PERSISTENT_VOLUME_CLAIMS, claim(name, { storageClassName: name }));
    await told(name, /^WaitForFirstConsumer: waiting for first consumer to be created before binding$/);
  }
  await client.create(PODS, user("one", "late"));
  await client.create(PODS, user("two", "local"));
  t.match((await bound("late")).metadata.annotations, {
    "volume.kubernetes.io/selected-node": /^node-[12]$/,
  });
  t.equal((await bound("local")).spec?.volumeName, "disk");
  const nodeOf = (name: string) =>
    eventually(`${name} has a node`, async () => (await client.get(PODS, name, "default")).spec?.nodeName);
  t.ok(await nodeOf("one"));
  t.equal(await nodeOf("two"), "node-2", "where its volume is");
  await client.create(PERSISTENT_VOLUME_CLAIMS, claim("more", { storageClassName: "local" }));
  await client.create(PODS, user("three", "more"));
  await told(
    "three",
    /^FailedScheduling: 0\/2 nodes are available: 2 node\(s\) didn't find available persistent volumes to bind\. /,
  );
  await client.create(PODS, user("four", "absent"));
  await told(
    "four",
    /^FailedScheduling: 0\/2 nodes are available: persistentvolumeclaim "absent" not found\. /,
  );
  await client.create(PERSISTENT_VOLUME_CLAIMS, claim("none", { storageClassName: "" }));
  await client.create(PODS, user("five", "none"));
  await told("five", /: pod has unbound immediate PersistentVolumeClaims\. .*2 Preemption is not helpful/);
});

t.test("claims of a StatefulSet stay, or go with it as it says", async (t) => {
  const { client, volumesDir } = await start(t);
  const resources = { requests: { storage: "1Gi" } };
  const template = { metadata: { name: "www" }, spec: { accessModes: ["ReadWriteOnce"], resources } };
  const names = async () =>
    (await client.list(PERSISTENT_VOLUME_CLAIMS, DEFAULT)).items.map(({ metadata }) => metadata.name).sort();
  const ready = (replicas: number) =>
    eventually(`${replicas} ready`, async () => {
      const { status } = await client.get(STATEFUL_SETS, "web", "default");
      return status?.readyReplicas === replicas && status.replicas === replicas;
    });
  const begin = (persistentVolumeClaimRetentionPolicy: object) =>
    client.create(
      STATEFUL_SETS,
      statefulSet({ replicas: 2, volumeClaimTemplates: [template], persistentVolumeClaimRetentionPolicy }),
    );
  await begin({});
  await ready(2);
  t.same(await names(), ["www-web-0", "www-web-1"]);
  await client.patch(STATEFUL_SETS, "web", "merge", { spec: { replicas: 1 } }, DEFAULT);
  await ready(1);
  await client.delete(STATEFUL_SETS, "web", { ...DEFAULT, propagationPolicy: "Foreground" });
  await eventually("it is gone", async () => (await client.list(STATEFUL_SETS, DEFAULT)).items.length === 0);
  t.same(await names(), ["www-web-0", "www-web-1"]);

  await begin({ whenScaled: "Delete", whenDeleted: "Delete" });
  await ready(2);
  await client.patch(STATEFUL_SETS, "web", "merge", { spec: { replicas: 1 } }, DEFAULT);
  await eventually("the claim went with its pod", async () => String(await names()) === "www-web-0");
  await client.delete(STATEFUL_SETS, "web", { ...DEFAULT, propagationPolicy: "Background" });
  await eventually("nothing is left", async () => (await names()).length === 0);
  await eventually("nor any directory", async () => readdirSync(volumesDir).length === 0);
});
