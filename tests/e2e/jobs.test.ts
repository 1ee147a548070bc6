// Jobs, CronJobs, measurements and a HorizontalPodAutoscaler as kubectl's user meets them: real processes in the pods,
// their output, their CPU time. In a lab or on VMs.

import t from "tap";
import { clusterUnderTest } from "../helpers/cluster-under-test.js";
import { kubectlOf } from "../helpers/kubectl.js";

const { cluster, lab, patience } = await clusterUnderTest(t, { nodes: 2, timeoutMs: 300_000 });
const kubectl = kubectlOf(cluster);
const run = (line: string) => kubectl(...line.split(" "));

async function apply(object: object): Promise<void> {
  const result = await cluster.kubectl(["apply", "-f", "-"], { input: JSON.stringify(object) });
  if (result.exitCode !== 0) throw new Error(result.stderr);
}

const job = (name: string, command: string, spec: object = {}, podSpec: object = {}) =>
  apply({
    apiVersion: "batch/v1",
    kind: "Job",
    metadata: { name },
    spec: {
      ...spec,
      template: {
        spec: {
          restartPolicy: "Never",
          terminationGracePeriodSeconds: 1,
          ...podSpec,
          containers: [{ name: "c", image: "busybox", command: ["sh", "-c", command] }],
        },
      },
    },
  });

const reasonOf = (name: string, type: string) =>
  run(`get job ${name} -o jsonpath={.status.conditions[?(@.type=="${type}")].reason}`);

const until = (what: string, seconds: number, probe: () => Promise<boolean>) =>
  cluster.waitUntil(probe, { what, timeoutMs: seconds * 1000, intervalMs: 500 });

/** Of the clock that it was made by. */
const minuteOf = async (object: string) =>
  Math.floor(Date.parse(await run(`get ${object} -o jsonpath={.metadata.creationTimestamp}`)) / 60_000);

t.test("a CronJob: made, refused, run by hand", async (t) => {
  t.equal(
    await kubectl("create", "cronjob", "tick", "--image=busybox", "--schedule=* * * * *", "--", "date"),
    "cronjob.batch/tick created",
  );
  t.equal(await run("create job now --from=cronjob/tick"), "job.batch/now created");
  await run(`wait --for=condition=complete job/now --timeout=${patience}`);
  const bad = await cluster.kubectl(["create", "cronjob", "x", "--image=busybox", "--schedule=0 * * * * *"]);
  t.match(bad.stderr, /spec.schedule: Invalid value: .*: expected exactly 5 fields, found 6/);
  const rows = await run("get cronjobs");
  t.match(rows, /^NAME +SCHEDULE +TIMEZONE +SUSPEND +ACTIVE +LAST SCHEDULE +AGE\n/);
  t.match(rows, /\ntick +\* \* \* \* \* +<none> +False +\d +/);
});

t.test("a Job from the command line to its end", async (t) => {
  t.equal(await run("create job hello --image=busybox -- echo Hello"), "job.batch/hello created");
  t.equal(
    await run(`wait --for=condition=complete job/hello --timeout=${patience}`),
    "job.batch/hello condition met",
  );
  t.equal(await run("logs job/hello"), "Hello");
  t.match(
    await run("get job hello"),
    /^NAME +STATUS +COMPLETIONS +DURATION +AGE\nhello +Complete +1\/1 +\d+s +\d+s$/,
  );
  const described = await run("describe job hello");
  t.match(described, /Pods Statuses: +0 Active \(0 Ready\) \/ 1 Succeeded \/ 0 Failed/);
  t.match(described, /Normal +SuccessfulCreate +\S+ +job-controller +Created pod: hello-/);
  t.match(described, /Normal +Completed +\S+ +job-controller +Job completed/);
  t.match(await run("get pods -l job-name=hello"), /hello-\w+ +0\/1 +Completed +0 /);
  t.equal(await run("get pods -l job-name=hello -o jsonpath={.items[0].metadata.finalizers}"), "");
  t.match(await run("delete job hello"), /^job.batch "hello" deleted/);
  await until(
    "its pods go with it",
    60,
    async () => (await run("get pods -l job-name=hello -o name")) === "",
  );
});

t.test("indexes, by environment and by host name", async (t) => {
  const spec = { completions: 3, parallelism: 2, completionMode: "Indexed" };
  await job("squares", 'echo "$(hostname) $((JOB_COMPLETION_INDEX * JOB_COMPLETION_INDEX))"', spec);
  await run(`wait --for=condition=complete job/squares --timeout=${patience}`);
  const lines = (await run("logs -l job-name=squares")).split("\n").sort();
  t.same(lines, ["squares-0 0", "squares-1 1", "squares-2 4"]);
  t.equal(await run("get job squares -o jsonpath={.status.completedIndexes}"), "0-2");
});

t.test("how a Job fails", async (t) => {
  await job("never", "exit 3", { backoffLimit: 0 });
  await job("inplace", "exit 3", { backoffLimit: 1 }, { restartPolicy: "OnFailure" });
  await job("late", "sleep 60", { activeDeadlineSeconds: 1 });
  await job("policy", "exit 42", {
    podFailurePolicy: { rules: [{ action: "FailJob", onExitCodes: { operator: "In", values: [42] } }] },
  });
  for (const name of ["never", "inplace", "late", "policy"])
    await run(`wait --for=condition=failed job/${name} --timeout=${patience}`);
  t.equal(await reasonOf("never", "Failed"), "BackoffLimitExceeded");
  t.equal(await reasonOf("inplace", "Failed"), "BackoffLimitExceeded");
  t.equal(await reasonOf("late", "Failed"), "DeadlineExceeded");
  t.equal(await reasonOf("policy", "Failed"), "PodFailurePolicy");
  t.equal(await run("get job never -o jsonpath={.status.failed}"), "1");
  t.match(await run("get pods -l job-name=never"), /never-\w+ +0\/1 +Error +0 /);
  t.equal(await run("get pods -l job-name=late -o name"), "", "what ran has been ended");
});

t.test("a pod's own deadline", async (t) => {
  const spec = {
    activeDeadlineSeconds: 1,
    restartPolicy: "Never",
    containers: [{ name: "c", image: "busybox", command: ["sleep", "60"] }],
  };
  await apply({ apiVersion: "v1", kind: "Pod", metadata: { name: "late" }, spec });
  await run(`wait --for=jsonpath={.status.reason}=DeadlineExceeded pod/late --timeout=${patience}`);
  t.equal(await run("get pod late -o jsonpath={.status.phase}"), "Failed");
});

t.test("the HorizontalPodAutoscaler's walk-through: load is measured, and answered", async (t) => {
  const labels = { run: "php-apache" };
  const resources = { limits: { cpu: "500m" }, requests: { cpu: "50m" } };
  const containers = [{ name: "php-apache", image: "registry.k8s.io/hpa-example", resources }];
  await apply({
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: { name: "php-apache" },
    spec: { selector: { matchLabels: labels }, template: { metadata: { labels }, spec: { containers } } },
  });
  await run(`rollout status deployment/php-apache --timeout=${patience}`);
  t.match(
    await run("autoscale deployment php-apache --cpu-percent=50 --min=1 --max=3"),
    /^horizontalpodautoscaler.autoscaling\/php-apache autoscaled$/,
  );
  // On a slow machine it may have been measured already.
  const use = lab ? "<unknown>" : "(<unknown>|\\d+%)";
  t.match(await run("get hpa"), new RegExp(`php-apache +Deployment/php-apache +cpu: ${use}/50% +1 +3 +\\d `));
  const ip = await run("get pods -l run=php-apache -o jsonpath={.items[0].status.podIP}");
  await kubectl(
    "run",
    "load",
    "--image=busybox",
    "--restart=Never",
    "--",
    "sh",
    "-c",
    `while sleep 0.01; do wget -q -O- http://${ip} && echo; done`,
  );
  // It asks the first pod alone, so that what is measured does not depend on where requests go.
  await until("top tells the pods' use", 60, async () => {
    const top = await cluster.kubectl(["top", "pods", "--containers", "--no-headers"]);
    return (
      /^php-apache-\S+ +php-apache +[1-9]\d+m +[1-9]\d*Mi/m.test(top.stdout) &&
      /^load +load +/m.test(top.stdout)
    );
  });
  t.match(
    await run("top nodes --sort-by=cpu"),
    /^NAME +CPU\(cores\) +CPU[^\n]*\nnode-\d +\d+m +\d+% +\d+Mi +\d+%/,
  );
  await until("it is answered", 60, async () => (await run("logs load")) !== "");
  t.match(await run("logs load --tail=1"), /^OK!$/);
  await until("more replicas", 90, async () => {
    const replicas = await run("get deployment php-apache -o jsonpath={.spec.replicas}");
    return Number(replicas) > 1;
  });
  const described = await run("describe hpa php-apache");
  t.match(
    described,
    /SuccessfulRescale +\S+ +horizontal-pod-autoscaler +New size: \d; reason: cpu resource utilization \(percentage of request\) above target/,
  );
  t.match(described, /ScalingActive +True +ValidMetricFound/);
  t.match(await run("get hpa"), /cpu: \d+%\/50%/);
  t.match(await run("get --raw /api/v1/nodes/node-1/proxy/stats/summary"), /"nodeName":"node-1"/);
});

t.test("what the CronJob has made meanwhile", async (t) => {
  /** The last one: older ones go when there are several. */
  const minuteOfJob = async () => [...(await run("get jobs -o name")).matchAll(/tick-(\d+)/g)].at(-1)?.[1];
  const at = Number(
    await cluster.waitUntil(minuteOfJob, { what: "the next minute's Job", timeoutMs: 75_000 }),
  );
  const [made, came] = [await minuteOf("cronjob/tick"), await minuteOf(`job/tick-${at}`)];
  t.ok(at > made && at <= came, `${at} is a minute that has come since`);
  await run(`wait --for=condition=complete job/tick-${at} --timeout=${patience}`);
  await run("delete cronjob tick");
  await until("its Jobs go with it", 60, async () => !(await run("get jobs -o name")).includes("tick-"));
});
