// What Kubernetes' task pages ask of the API: LimitRanges for new pods, and ephemeral containers for those that run.

import type { LimitRangeItem, ResourceRequirements } from "kubernetes-types/core/v1.js";
import t from "tap";
import { LIMIT_RANGES, PODS, StatusError } from "../../common/client.js";
import type { LimitRange, Pod, Stored } from "../../common/k8s.js";
import { resolveImage } from "../../node/images/index.js";
import { controlFor } from "../helpers/control.js";

const PODS_PATH = "/api/v1/namespaces/default/pods";

async function refusal(request: Promise<unknown>): Promise<string> {
  try {
    await request;
    return "(accepted)";
  } catch (error) {
    if (!(error instanceof StatusError)) throw error;
    return `${error.code} ${error.message}`;
  }
}

t.test("LimitRanges", async (t) => {
  const { admin: api } = await controlFor(t);
  const set = async (...limits: LimitRangeItem[]): Promise<Stored<LimitRange>> => {
    await api.deleteCollection(LIMIT_RANGES, { namespace: "default" });
    const metadata = { name: "limits", namespace: "default" };
    return await api.create(LIMIT_RANGES, { metadata, spec: { limits } } as LimitRange, {
      namespace: "default",
    });
  };
  let count = 0;
  const run = async (...resources: ResourceRequirements[]): Promise<Stored<Pod>> => {
    const containers = resources.map((one, i) => ({ name: `c${i}`, image: "nginx", resources: one }));
    const pod: Pod = { metadata: { name: `pod-${++count}`, namespace: "default" }, spec: { containers } };
    return await api.create(PODS, pod, { namespace: "default" });
  };
  const given = (pod: Stored<Pod>) => pod.spec?.containers.map(({ resources }) => resources);

  await set({ type: "Container", default: { memory: "512Mi" }, defaultRequest: { memory: "256Mi" } });
  const pod = await run({}, { requests: { memory: "128Mi" } }, { limits: { memory: "1Gi" } });
  t.same(given(pod), [
    { limits: { memory: "512Mi" }, requests: { memory: "256Mi" } },
    { limits: { memory: "512Mi" }, requests: { memory: "128Mi" } },
    { limits: { memory: "1Gi" }, requests: { memory: "1Gi" } },
  ]);
  t.equal(
    pod.metadata.annotations?.["kubernetes.io/limit-ranger"],
    "LimitRanger plugin set: memory request for container c0; memory limit for container c0; memory limit for container c1",
  );

  const { spec } = await set({ type: "Container", max: { cpu: "800m" }, min: { cpu: "200m" } });
  t.match(spec?.limits[0], { default: { cpu: "800m" }, defaultRequest: { cpu: "800m" } }, "from the maximum");
  t.match(given(await run({})), [{ limits: { cpu: "800m" }, requests: { cpu: "800m" } }]);
  t.match(
    await refusal(run({ limits: { cpu: "1.5" }, requests: { cpu: "500m" } })),
    /^403 pods "pod-\d+" is forbidden: maximum cpu usage per Container is 800m, but limit is 1500m$/,
  );
  t.match(
    await refusal(run({ limits: { cpu: "800m" }, requests: { cpu: "100m" } }, { limits: { cpu: "1" } })),
    /: \[minimum cpu usage per Container is 200m, but request is 100m, maximum cpu usage .* but limit is 1\]$/,
  );
  await set({ type: "Pod", max: { memory: "1Gi" }, maxLimitRequestRatio: { memory: "2" } });
  t.match(await refusal(run({})), /maximum memory usage per Pod is 1Gi\. No limit is specified/);
  const half = { limits: { memory: "600Mi" } };
  t.match(await refusal(run(half, half)), /maximum memory usage per Pod is 1Gi, but limit is 1200Mi$/);
  t.match(
    await refusal(run({ limits: { memory: "900Mi" }, requests: { memory: "300Mi" } })),
    /memory max limit to request ratio per Pod is 2, but provided ratio is 3\.000000$/,
  );
  t.equal(await refusal(run(half)), "(accepted)");
  t.equal(
    await refusal(
      set(
        { type: "Container", min: { cpu: "2" }, default: { cpu: "1" } },
        { type: "Pod", default: { cpu: "1" } },
      ),
    ),
    [
      '422 LimitRange "limits" is invalid: [',
      'spec.limits[0].defaultRequest[cpu]: Invalid value: "1": min value 2 is greater than default request value 1, ',
      'spec.limits[0].default[cpu]: Invalid value: "2": min value 2 is greater than default value 1, ',
      "spec.limits[1].default: Forbidden: may not be specified when `type` is 'Pod']",
    ].join(""),
  );
});

t.test("ephemeral containers", async (t) => {
  const { admin: api } = await controlFor(t);
  const containers = [{ name: "main", image: "nginx" }];
  const path = `${PODS_PATH}/web/ephemeralcontainers`;
  const add = (ephemeralContainers: object[], metadata: object = {}) =>
    api.patch(PODS, "web", "strategic", { metadata, spec: { ephemeralContainers } } as never, {
      namespace: "default",
      subresource: "ephemeralcontainers",
    });
  const debug = { name: "debug", image: "busybox", targetContainerName: "main" };
  const pod: Pod = { metadata: { name: "web", namespace: "default" }, spec: { containers } };
  await api.create(PODS, pod, { namespace: "default" });

  const added = await add([debug], { labels: { x: "y" } });
  t.match(added.spec?.ephemeralContainers, [{ ...debug, imagePullPolicy: "Always" }]);
  t.equal(added.metadata.generation, 2);
  t.notOk(added.metadata.labels, "nothing else changes by this way");
  t.same(await api.json("GET", path), await api.json("GET", `${PODS_PATH}/web`));
  const again = await add([{ name: "second", image: "busybox" }]);
  t.same(
    again.spec?.ephemeralContainers?.map(({ name }) => name).sort(),
    ["debug", "second"],
    "a patch adds to what there is",
  );
  t.match(
    await refusal(add([{ name: "debug", image: "alpine" }])),
    /spec\.ephemeralContainers: Forbidden: existing ephemeral containers "debug" may not be changed/,
  );
  t.match(
    await refusal(
      api.json("PUT", path, { body: { ...added, metadata: { name: "web" }, spec: { containers } } }),
    ),
    /existing ephemeral containers "(debug|second)" may not be removed\n.*"(debug|second)" may not be removed/s,
  );
  t.match(
    await refusal(add([{ name: "main", image: "busybox" }])),
    /spec\.ephemeralContainers\[\d\]\.name: Duplicate value: "main"/,
  );
  t.match(
    await refusal(
      api.patch(PODS, "web", "merge", { spec: { ephemeralContainers: [] } }, { namespace: "default" }),
    ),
    /pod updates may not change fields other than/,
  );
});

t.test("images that walk-throughs name", async (t) => {
  const exists = (image: string) => typeof resolveImage(image, { hasCommand: false }) === "object";
  for (const image of [
    ...[
      "nginx",
      "nginx:1.7.9",
      "nginx:1.14.2",
      "nginx:1.29-alpine",
      "nginx:stable",
      "nginx:1.27.3-bookworm-perl",
    ],
    ...["registry.k8s.io/nginx-slim:0.24", "registry.k8s.io/echoserver:1.10", "k8s.gcr.io/serve_hostname"],
    ...["luksa/kubia:v2", "gcr.io/google-samples/node-hello:1.0", "radial/busyboxplus:curl"],
  ])
    t.ok(exists(image), image);
  for (const image of ["nginx:1.161", "nginx:nosuch", "nginx:1.999", "luksa/kubia:v9"])
    t.notOk(exists(image), image);
});
