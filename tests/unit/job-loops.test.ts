// The controllers of Jobs, CronJobs and HorizontalPodAutoscalers on the real in-process API, with a kubelet that only
// reports and a clock that the test sets ahead.

import t from "tap";
import {
  CRON_JOBS,
  DEPLOYMENTS,
  EVENTS,
  HORIZONTAL_POD_AUTOSCALERS,
  JOBS,
  type KubeClient,
  NAMESPACES,
  PODS,
} from "../../common/client.js";
import type { InformerFactory } from "../../common/informer.js";
import type { CronJob, Deployment, Job, Pod, PodMetrics, Stored } from "../../common/k8s.js";
import { silentLogger } from "../../common/log.js";
import type { WorkQueue } from "../../common/workqueue.js";
import { AutoscalerController } from "../../control/controllers/autoscaler.js";
import type { ControllerContext } from "../../control/controllers/context.js";
import { CronJobController } from "../../control/controllers/cronjob.js";
import { EventBroadcaster } from "../../control/controllers/events.js";
import { JobController } from "../../control/controllers/job.js";
import { TRACKING } from "../../control/controllers/job-plan.js";
import { queueController, type Reconciler } from "../../control/controllers/reconcile.js";
import { TtlAfterFinishedController } from "../../control/controllers/ttl-after-finished.js";
import { eventually, openLocalApi } from "./helpers/local-cluster.js";

const DEFAULT = { namespace: "default" };
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const timestamp = (ms: number) => new Date(ms).toISOString();
const container = { name: "c", image: "busybox" };
const template = { spec: { restartPolicy: "Never", containers: [container] } };

async function cluster(t: { teardown(fn: () => unknown): unknown }) {
  const { client, newInformers, close } = await openLocalApi();
  const clock = { ahead: 0 };
  const now = () => Date.now() + clock.ahead;
  const events = new EventBroadcaster({ client, log: silentLogger, now });
  await client.create(NAMESPACES, { metadata: { name: "default" } });
  events.start();
  const running = new Set<{ stop(): Promise<void> }>();
  t.teardown(async () => {
    await Promise.all([...running].map((one) => one.stop()));
    await events.stop();
    await close();
  });
  return {
    client,
    clock,
    newInformers,
    /** Controllers with a cache of their own, as in a process of their own. */
    async start(...makers: ((context: ControllerContext, queue: WorkQueue) => Reconciler)[]) {
      const informers = newInformers();
      const context: ControllerContext = { client, informers, events, log: silentLogger, now };
      const controllers = makers.map((make) =>
        queueController(context, "test", 2, (queue) => make(context, queue)),
      );
      informers.start();
      await informers.synced();
      for (const controller of controllers) controller.start();
      const handle = {
        async stop() {
          running.delete(handle);
          await Promise.all(controllers.map((controller) => controller.stop()));
          informers.stop();
        },
      };
      running.add(handle);
      return handle;
    },
    told: (text: RegExp) =>
      eventually(`an Event ${text}`, async () => {
        const { items } = await client.list(EVENTS);
        return items.some(({ reason, message }) => text.test(`${reason}: ${message}`));
      }),
  };
}

const jobs: (context: ControllerContext, queue: WorkQueue) => Reconciler = (context, queue) =>
  new JobController(context, queue);

/** A kubelet that ends each pod a little later as `outcome` says. Its clock is an hour behind: no back-off. */
function endPods(
  client: KubeClient,
  informers: InformerFactory,
  outcome: (pod: Stored<Pod>) => boolean,
): void {
  const seen = new Set<string>();
  const finishedAt = timestamp(Date.now() - 3_600_000);
  informers.get(PODS).subscribe({
    add(pod) {
      const { name, uid } = pod.metadata;
      if (seen.has(uid)) return;
      seen.add(uid);
      const good = outcome(pod);
      const state = { terminated: { exitCode: good ? 0 : 1, finishedAt } };
      const status = {
        phase: good ? "Succeeded" : "Failed",
        containerStatuses: [{ name: "c", ready: false, restartCount: 0, image: "", imageID: "", state }],
      };
      const patch = { metadata: { uid }, status };
      setTimeout(
        () =>
          void client
            .patch(PODS, name, "merge", patch, { ...DEFAULT, subresource: "status" })
            .catch(() => {}),
        Math.random() * 20,
      );
    },
  });
}

t.test("every pod is counted exactly once, though the controller is replaced at random", async (t) => {
  const { client, newInformers, start } = await cluster(t);
  const informers = newInformers();
  let [good, bad] = [0, 0];
  endPods(client, informers, () => {
    const success = Math.random() < 0.7;
    if (success) good++;
    else bad++;
    return success;
  });
  informers.start();
  const spec = { completions: 40, parallelism: 8, backoffLimit: 1000, template };
  await client.create(JOBS, { metadata: { name: "many" }, spec } as Job, DEFAULT);
  const get = async () => (await client.get(JOBS, "many", "default")).status ?? {};
  let controller = await start(jobs);
  await eventually("the Job is complete", async () => {
    await pause(Math.random() * 60);
    await controller.stop();
    controller = await start(jobs);
    return (await get()).conditions?.some(({ type }) => type === "Complete");
  });
  const status = await get();
  t.equal(status.succeeded, good);
  t.equal(good, 40, "no pod too many");
  t.equal(status.failed ?? 0, bad);
  t.same(status.uncountedTerminatedPods, {});
  t.equal(status.active, undefined);
  const { items } = await client.list(PODS, DEFAULT);
  t.equal(items.length, good + bad);
  t.notOk(
    items.some((pod) => pod.metadata.finalizers?.includes(TRACKING)),
    "all are let go",
  );
});

t.test("suspending ends the pods without counting them; a deleted Job lets its pods go", async (t) => {
  const { client, start, told } = await cluster(t);
  await start(jobs);
  const spec = { completions: 3, parallelism: 3, template };
  const job = await client.create(JOBS, { metadata: { name: "j" }, spec } as Job, DEFAULT);
  const pods = async () => (await client.list(PODS, DEFAULT)).items;
  await eventually("three pods", async () => (await pods()).length === 3);
  await client.patch(JOBS, "j", "merge", { spec: { suspend: true } }, DEFAULT);
  await eventually("no pods", async () => (await pods()).length === 0);
  await told(/^Suspended: Job suspended$/);
  const status = await eventually("the condition", async () => {
    const { status } = await client.get(JOBS, "j", "default");
    return (
      status?.conditions?.some(({ type, status: is }) => type === "Suspended" && is === "True") && status
    );
  });
  t.equal(status.failed, undefined);
  await client.patch(JOBS, "j", "merge", { spec: { suspend: false } }, DEFAULT);
  await eventually("three pods again", async () => (await pods()).length === 3);
  t.ok((await pods()).every((pod) => pod.metadata.ownerReferences?.[0]?.uid === job.metadata.uid));
  await client.delete(JOBS, "j", DEFAULT);
  await eventually("no finalizer is left", async () =>
    (await pods()).every((pod) => !pod.metadata.finalizers?.includes(TRACKING)),
  );
});

t.test("pods that were there before: adopted, and counted", async (t) => {
  const { client, start } = await cluster(t);
  await start(jobs);
  const labels = { app: "x" };
  await client.create(PODS, { metadata: { name: "orphan", labels }, spec: template.spec }, DEFAULT);
  const spec = {
    manualSelector: true,
    selector: { matchLabels: labels },
    template: { metadata: { labels }, ...template },
  };
  const job = await client.create(JOBS, { metadata: { name: "j" }, spec } as Job, DEFAULT);
  await eventually("it is the Job's, and held", async () => {
    const { ownerReferences, finalizers } = (await client.get(PODS, "orphan", "default")).metadata;
    return ownerReferences?.[0]?.uid === job.metadata.uid && finalizers?.includes(TRACKING);
  });
  const status = { phase: "Succeeded" };
  await client.patch(PODS, "orphan", "merge", { status }, { ...DEFAULT, subresource: "status" });
  await eventually("the Job is complete", async () => {
    const { status } = await client.get(JOBS, "j", "default");
    return status?.succeeded === 1 && status.conditions?.some(({ type }) => type === "Complete");
  });
  t.equal((await client.list(PODS, DEFAULT)).items.length, 1, "no other pod was made");
});

t.test("ttlSecondsAfterFinished", async (t) => {
  const { client, newInformers, start, clock } = await cluster(t);
  const informers = newInformers();
  endPods(client, informers, () => true);
  informers.start();
  const controller = await start(jobs, (context, queue) => new TtlAfterFinishedController(context, queue));
  const spec = { ttlSecondsAfterFinished: 60, template };
  await client.create(JOBS, { metadata: { name: "j" }, spec } as Job, DEFAULT);
  await eventually("the Job is complete", async () =>
    (await client.get(JOBS, "j", "default")).status?.conditions?.some(({ type }) => type === "Complete"),
  );
  await controller.stop();
  clock.ahead = 61_000;
  await start((context, queue) => new TtlAfterFinishedController(context, queue));
  await eventually("the Job is being deleted", async () => {
    const { items } = await client.list(JOBS, DEFAULT);
    return items.every((job) => job.metadata.deletionTimestamp);
  });
});

t.test("a CronJob makes one Job a scheduled time, by its concurrency policy", async (t) => {
  const { client, start, clock, told } = await cluster(t);
  await start((context, queue) => new CronJobController(context, queue));
  const spec = { schedule: "0 * * * *", concurrencyPolicy: "Forbid", jobTemplate: { spec: { template } } };
  await client.create(CRON_JOBS, { metadata: { name: "tick" }, spec } as CronJob, DEFAULT);
  const HOUR = 3_600_000;
  // In the middle of an hour, whenever the test runs.
  const begin = Math.ceil(Date.now() / HOUR) * HOUR;
  const at = async (ms: number) => {
    clock.ahead = ms - Date.now();
    // The timers of a queue are real: a change brings the controller to look.
    await client.patch(
      CRON_JOBS,
      "tick",
      "merge",
      { metadata: { annotations: { at: String(ms) } } },
      DEFAULT,
    );
  };
  const names = async () =>
    (await client.list(JOBS, DEFAULT)).items.map(({ metadata }) => metadata.name).sort();
  const name = (ms: number) => `tick-${ms / 60_000}`;
  await at(begin + 1000);
  await eventually("the first Job", async () => (await names()).length === 1);
  t.same(await names(), [name(begin)]);
  const first = await eventually("the status", async () => {
    const { status } = await client.get(CRON_JOBS, "tick", "default");
    return status?.lastScheduleTime ? status : undefined;
  });
  t.match(first, { lastScheduleTime: `${timestamp(begin).slice(0, 19)}Z`, active: [{ name: name(begin) }] });
  await at(begin + HOUR / 2);
  await pause(50);
  t.same(await names(), [name(begin)], "not twice");
  await at(begin + HOUR + 1000);
  await told(/^JobAlreadyActive: Not starting job because prior execution is running/);
  t.same(await names(), [name(begin)], "Forbid");
  await client.patch(CRON_JOBS, "tick", "merge", { spec: { concurrencyPolicy: "Replace" } }, DEFAULT);
  await eventually("Replace", async () => (await names()).join() === name(begin + HOUR));
  const complete = [{ type: "Complete", status: "True", lastTransitionTime: timestamp(begin) }];
  const done = { status: { conditions: complete, completionTime: timestamp(begin) } };
  await client.patch(JOBS, name(begin + HOUR), "merge", done, { ...DEFAULT, subresource: "status" });
  await told(/^SawCompletedJob: Saw completed job: tick-\d+, condition: Complete$/);
  await eventually("no active Job", async () => {
    const { status } = await client.get(CRON_JOBS, "tick", "default");
    return status?.active === undefined && status?.lastSuccessfulTime !== undefined;
  });
  await client.patch(CRON_JOBS, "tick", "merge", { spec: { suspend: true } }, DEFAULT);
  await pause(20);
  await at(begin + 2 * HOUR + 1000);
  await pause(50);
  t.equal((await names()).length, 1, "suspended");
});

t.test("an autoscaler scales through the scale subresource and says why", async (t) => {
  const { client, start, told } = await cluster(t);
  let milli = 300;
  const measured = (namespace: string) =>
    [
      {
        metadata: { name: "web-1", namespace },
        timestamp: timestamp(Date.now()),
        window: "15s",
        containers: [{ name: "c", usage: { cpu: `${milli}m`, memory: "1Mi" } }],
      },
    ] as unknown as Stored<PodMetrics>[];
  const labels = { app: "web" };
  const resources = { requests: { cpu: "100m" } };
  const podSpec = { containers: [{ ...container, resources }] };
  const spec = { selector: { matchLabels: labels }, template: { metadata: { labels }, spec: podSpec } };
  await client.create(DEPLOYMENTS, { metadata: { name: "web" }, spec } as Deployment, DEFAULT);
  await client.create(PODS, { metadata: { name: "web-1", labels }, spec: podSpec }, DEFAULT);
  const hourAgo = timestamp(Date.now() - 3_600_000);
  const ready = [{ type: "Ready", status: "True", lastTransitionTime: hourAgo }];
  const status = { phase: "Running", startTime: hourAgo, conditions: ready };
  await client.patch(PODS, "web-1", "merge", { status }, { ...DEFAULT, subresource: "status" });
  const scaleTargetRef = { apiVersion: "apps/v1", kind: "Deployment", name: "web" };
  const target = { type: "Utilization", averageUtilization: 50 };
  const metrics = [{ type: "Resource", resource: { name: "cpu", target } }];
  const hpa = { metadata: { name: "web" }, spec: { scaleTargetRef, maxReplicas: 5, metrics } };
  await client.create(HORIZONTAL_POD_AUTOSCALERS, hpa, DEFAULT);
  await start((context, queue) => new AutoscalerController(context, queue, measured));
  await told(
    /^SuccessfulRescale: New size: 4; reason: cpu resource utilization \(percentage of request\) above target$/,
  );
  t.equal((await client.get(DEPLOYMENTS, "web", "default")).spec?.replicas, 4);
  const conditions = async () => {
    const found = await client.get(HORIZONTAL_POD_AUTOSCALERS, "web", "default");
    return Object.fromEntries(
      (found.status?.conditions ?? []).map(({ type, status, reason }) => [type, `${status} ${reason}`]),
    );
  };
  await eventually("the status", async () => (await conditions()).ScalingLimited);
  t.same(await conditions(), {
    AbleToScale: "True SucceededRescale",
    ScalingActive: "True ValidMetricFound",
    ScalingLimited: "True ScaleUpLimit",
  });
  milli = 0;
  const other = [
    { type: "External", external: { metric: { name: "queue" }, target: { type: "Value", value: "5" } } },
  ];
  await client.patch(HORIZONTAL_POD_AUTOSCALERS, "web", "merge", { spec: { metrics: other } }, DEFAULT);
  await told(
    /^FailedGetExternalMetric: unable to get external metric default\/queue\/nil: unable to fetch metrics/,
  );
  await eventually(
    "the condition",
    async () => (await conditions()).ScalingActive === "False FailedGetExternalMetric",
  );
  await client.patch(HORIZONTAL_POD_AUTOSCALERS, "web", "merge", { spec: { maxReplicas: 2 } }, DEFAULT);
  await told(/^SuccessfulRescale: New size: 2; reason: Current number of replicas above Spec.MaxReplicas$/);
  await client.patch(
    HORIZONTAL_POD_AUTOSCALERS,
    "web",
    "merge",
    { spec: { scaleTargetRef: { name: "nobody" } } },
    DEFAULT,
  );
  await told(/^FailedGetScale: deployments.apps "nobody" not found$/);
});
