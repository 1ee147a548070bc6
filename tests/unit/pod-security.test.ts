// PodSecurity: each rule with its words, which of them a level and a version ask, and what the API refuses and warns of.

import type { PodSpec, PodTemplateSpec } from "kubernetes-types/core/v1.js";
import t, { type Test } from "tap";
import {
  policyOf,
  type Standard,
  standardText,
  violations,
  violationText,
} from "../../control/api/pod-security.js";
import { DEPLOYS, deployment, PODS_PATH, pod, startHarness } from "./helpers/api-server.js";

const LATEST = Number.POSITIVE_INFINITY;
const baseline = (minor = LATEST): Standard => ({ level: "baseline", minor });
const restricted = (minor = LATEST): Standard => ({ level: "restricted", minor });

/** A pod with nothing to say against at any level, but for what is changed. */
function good(spec: Partial<PodSpec> = {}, context: object = {}): PodTemplateSpec {
  const securityContext = {
    allowPrivilegeEscalation: false,
    capabilities: { drop: ["ALL"] },
    runAsNonRoot: true,
    seccompProfile: { type: "RuntimeDefault" },
  };
  return {
    spec: { containers: [{ name: "a", securityContext: { ...securityContext, ...context } }], ...spec },
  };
}

const told = (standard: Standard, pod: PodTemplateSpec) => violationText(violations(standard, pod));
const NGINX: PodTemplateSpec = { spec: { containers: [{ name: "nginx", image: "nginx" }] } };
const NGINX_RESTRICTED =
  'allowPrivilegeEscalation != false (container "nginx" must set securityContext.allowPrivilegeEscalation=false), ' +
  'unrestricted capabilities (container "nginx" must set securityContext.capabilities.drop=["ALL"]), ' +
  'runAsNonRoot != true (pod or container "nginx" must set securityContext.runAsNonRoot=true), ' +
  'seccompProfile (pod or container "nginx" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")';

const two = (first: object, second = first): Partial<PodSpec> => ({
  initContainers: [{ name: "i", ...first }],
  containers: [{ name: "a", ...second }],
});

t.test("baseline: what each rule says", async (t) => {
  const cases: [string, PodTemplateSpec, string][] = [
    ["a usual pod", NGINX, ""],
    ["a good pod", good(), ""],
    [
      "host namespaces",
      good({ hostPID: true, hostNetwork: true, hostIPC: true }),
      "host namespaces (hostIPC=true, hostNetwork=true, hostPID=true)",
    ],
    [
      "privileged",
      { spec: two({ securityContext: { privileged: true } }) as PodSpec },
      'privileged (containers "i", "a" must not set securityContext.privileged=true)',
    ],
    [
      "capabilities",
      {
        spec: two(
          { securityContext: { capabilities: { add: ["NET_ADMIN", "CHOWN"] } } },
          { securityContext: { capabilities: { add: ["BPF"] } } },
        ) as PodSpec,
      },
      'non-default capabilities (containers "i", "a" must not include "BPF", "NET_ADMIN" in securityContext.capabilities.add)',
    ],
    [
      "hostPath",
      good({
        volumes: [
          { name: "v", hostPath: { path: "/" } },
          { name: "e", emptyDir: {} },
        ],
      }),
      'hostPath volumes (volume "v")',
    ],
    [
      "host port",
      {
        spec: two(
          { ports: [{ containerPort: 80, hostPort: 8080 }] },
          { ports: [{ containerPort: 1, hostPort: 443 }, { containerPort: 2 }] },
        ) as PodSpec,
      },
      'hostPort (containers "i", "a" use hostPorts 443, 8080)',
    ],
    [
      "one host port",
      { spec: two({}, { ports: [{ containerPort: 1, hostPort: 443 }] }) as PodSpec },
      'hostPort (container "a" uses hostPort 443)',
    ],
    [
      "AppArmor",
      good({ securityContext: { appArmorProfile: { type: "Unconfined" } } }),
      'forbidden AppArmor profile (pod must not set AppArmor profile type to "Unconfined")',
    ],
    [
      "AppArmor's annotations",
      {
        ...NGINX,
        metadata: {
          annotations: {
            "container.apparmor.security.beta.kubernetes.io/e": "unconfined",
            "container.apparmor.security.beta.kubernetes.io/d": "localhost/d",
          },
        },
      },
      'forbidden AppArmor profile (annotation must not set AppArmor profile type to "container.apparmor.security.beta.kubernetes.io/e="unconfined"")',
    ],
    [
      "SELinux",
      good(
        { securityContext: { seLinuxOptions: { type: "foo", user: "u" } } },
        { seLinuxOptions: { type: "bar", role: "r" } },
      ),
      'seLinuxOptions (pod and container "a" set forbidden securityContext.seLinuxOptions: types "bar", "foo"; user may not be set; role may not be set)',
    ],
    [
      "/proc",
      good({}, { procMount: "Unmasked" }),
      'procMount (container "a" must not set securityContext.procMount to "Unmasked")',
    ],
    [
      "seccomp",
      good({ securityContext: { seccompProfile: { type: "Unconfined" } } }),
      'seccompProfile (pod must not set securityContext.seccompProfile.type to "Unconfined")',
    ],
    [
      "sysctls",
      good({
        securityContext: {
          sysctls: [
            { name: "kernel.msgmax", value: "1" },
            { name: "net.ipv4.tcp_rmem", value: "1" },
          ],
        },
      }),
      "forbidden sysctls (kernel.msgmax)",
    ],
    [
      "Windows",
      good({ securityContext: { windowsOptions: { hostProcess: true } } }),
      "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
    ],
    [
      "probes",
      {
        spec: two(
          {},
          {
            livenessProbe: { httpGet: { port: 80, host: "h" } },
            lifecycle: { preStop: { tcpSocket: { port: 1, host: "g" } } },
          },
        ) as PodSpec,
      },
      'probe or lifecycle host (container "a" uses probe or lifecycle hosts "g", "h")',
    ],
  ];
  for (const [what, pod, text] of cases) t.equal(told(baseline(), pod), text, what);
});

t.test("restricted: what each rule says, and that it says it once", async (t) => {
  const cases: [string, PodTemplateSpec, string][] = [
    ["a usual pod", NGINX, NGINX_RESTRICTED],
    ["a good pod", good(), ""],
    [
      "the pod's own settings",
      good(
        { securityContext: { runAsNonRoot: true, seccompProfile: { type: "Localhost" } } },
        { runAsNonRoot: undefined, seccompProfile: undefined },
      ),
      "",
    ],
    [
      "may become root",
      good({}, { runAsNonRoot: false, runAsUser: 0 }),
      'runAsNonRoot != true (container "a" must not set securityContext.runAsNonRoot=false), runAsUser=0 (container "a" must not set runAsUser=0)',
    ],
    [
      "root by the pod",
      good({ securityContext: { runAsUser: 0 } }),
      "runAsUser=0 (pod must not set runAsUser=0)",
    ],
    [
      "volumes",
      good({
        volumes: [
          { name: "h", hostPath: { path: "/" } },
          { name: "n", nfs: { path: "/", server: "s" } },
          { name: "c", configMap: {} },
        ],
      }),
      'restricted volume types (volumes "h", "n" use restricted volume types "hostPath", "nfs")',
    ],
    [
      "one volume",
      good({ volumes: [{ name: "h", hostPath: { path: "/" } }] }),
      'restricted volume types (volume "h" uses restricted volume type "hostPath")',
    ],
    [
      "capabilities",
      good({}, { capabilities: { drop: ["NET_RAW"], add: ["CHOWN", "NET_BIND_SERVICE"] } }),
      'unrestricted capabilities (container "a" must set securityContext.capabilities.drop=["ALL"]; container "a" must not include "CHOWN" in securityContext.capabilities.add)',
    ],
    [
      "seccomp",
      good({}, { seccompProfile: { type: "Unconfined" } }),
      'seccompProfile (container "a" must not set securityContext.seccompProfile.type to "Unconfined")',
    ],
    [
      "baseline comes first",
      good({ hostPID: true }, { allowPrivilegeEscalation: true }),
      'host namespaces (hostPID=true), allowPrivilegeEscalation != false (container "a" must set securityContext.allowPrivilegeEscalation=false)',
    ],
  ];
  for (const [what, pod, text] of cases) t.equal(told(restricted(), pod), text, what);
});

t.test("a version asks what it asked then", async (t) => {
  const sysctl = (name: string) => good({ securityContext: { sysctls: [{ name, value: "1" }] } });
  const windows: PodTemplateSpec = {
    spec: { os: { name: "windows" }, containers: [{ name: "a", securityContext: { runAsNonRoot: true } }] },
  };
  const probe = good({ containers: [{ name: "a", livenessProbe: { tcpSocket: { port: 1, host: "h" } } }] });
  const engine = good({}, { seLinuxOptions: { type: "container_engine_t" } });
  const noted = {
    ...NGINX,
    metadata: { annotations: { "seccomp.security.alpha.kubernetes.io/pod": "unconfined" } },
  };
  const reasons = (standard: Standard, pod: PodTemplateSpec) =>
    violations(standard, pod).map(({ reason }) => reason);
  const cases: [string, Standard, PodTemplateSpec, string[]][] = [
    ["privileged asks nothing", { level: "privileged", minor: LATEST }, good({ hostPID: true }), []],
    [
      "reserved ports before 1.27",
      baseline(26),
      sysctl("net.ipv4.ip_local_reserved_ports"),
      ["forbidden sysctls"],
    ],
    ["reserved ports", baseline(27), sysctl("net.ipv4.ip_local_reserved_ports"), []],
    ["keepalive", baseline(28), sysctl("net.ipv4.tcp_keepalive_time"), ["forbidden sysctls"]],
    ["keepalive now", baseline(29), sysctl("net.ipv4.tcp_keepalive_time"), []],
    ["rmem", baseline(31), sysctl("net.ipv4.tcp_rmem"), ["forbidden sysctls"]],
    ["probes before 1.34", baseline(33), probe, []],
    ["probes", baseline(34), probe, ["probe or lifecycle host"]],
    ["container_engine_t before 1.31", baseline(30), engine, ["seLinuxOptions"]],
    ["container_engine_t", baseline(31), engine, []],
    ["seccomp by annotation", baseline(18), noted, ["seccompProfile"]],
    ["seccomp by field", baseline(19), noted, []],
    [
      "before capabilities had to be dropped",
      restricted(21),
      NGINX,
      ["allowPrivilegeEscalation != false", "runAsNonRoot != true", "seccompProfile"],
    ],
    ["the oldest", restricted(0), NGINX, ["runAsNonRoot != true"]],
    [
      "Windows before 1.25",
      restricted(24),
      windows,
      ["allowPrivilegeEscalation != false", "unrestricted capabilities", "seccompProfile"],
    ],
    ["Windows", restricted(25), windows, []],
    ["a version to come", restricted(99), good(), []],
  ];
  for (const [what, standard, pod, wanted] of cases) t.same(reasons(standard, pod), wanted, what);
});

t.test("labels: levels, versions, and what cannot be read", async (t) => {
  const read = (labels: Record<string, string>) => {
    const prefixed = Object.entries(labels).map(([key, value]) => [
      `pod-security.kubernetes.io/${key}`,
      value,
    ]);
    const { policy, errors } = policyOf(Object.fromEntries(prefixed));
    const { enforce, audit, warn } = policy;
    return [[enforce, audit, warn].map(standardText).join(" "), errors.map(({ detail }) => detail)];
  };
  const free = "privileged:latest";
  t.same(read({}), [`${free} ${free} ${free}`, []]);
  t.same(read({ enforce: "baseline", "enforce-version": "v1.27", warn: "restricted" }), [
    `baseline:v1.27 ${free} restricted:latest`,
    [],
  ]);
  t.same(read({ "audit-version": "latest" }), [`${free} ${free} ${free}`, []]);
  const level = "must be one of privileged, baseline, restricted";
  t.same(read({ enforce: "strict", warn: "strict", "warn-version": "v1.07" }), [
    `restricted:latest ${free} ${free}`,
    [level, level, 'must be "latest" or "v1.x"'],
  ]);
});

async function start(t: Test) {
  const { call } = await startHarness(t);
  const label = async (labels: Record<string, string | null>, query = "") => {
    const named = Object.entries(labels).map(([key, value]) => [`pod-security.kubernetes.io/${key}`, value]);
    return await call("PATCH", `/api/v1/namespaces/default${query}`, {
      type: "application/merge-patch+json",
      body: { metadata: { labels: Object.fromEntries(named) } },
    });
  };
  return { call, label };
}

t.test("enforced: pods are refused, and what makes pods is warned of", async (t) => {
  const { call, label } = await start(t);
  const text = violationText(violations(restricted(), { spec: { containers: [{ name: "c" }] } }));
  t.equal((await label({ enforce: "restricted", warn: "restricted" })).code, 200);
  const refused = await call("POST", PODS_PATH, { body: pod("p") });
  t.match(refused, {
    code: 403,
    headers: { warning: undefined },
    body: {
      reason: "Forbidden",
      message: `pods "p" is forbidden: violates PodSecurity "restricted:latest": ${text}`,
    },
  });
  const warning = `299 - ${JSON.stringify(`would violate PodSecurity "restricted:latest": ${text}`)}`;
  t.match(await call("POST", DEPLOYS, { body: deployment("d") }), { code: 201, headers: { warning } });
  const scaled = { type: "application/merge-patch+json", body: { spec: { replicas: 2 } } };
  t.match(await call("PATCH", `${DEPLOYS}/d`, scaled), { code: 200, headers: { warning } });
  t.equal((await call("PATCH", `${DEPLOYS}/d/scale`, scaled)).headers.warning, undefined, "not of its scale");
  const job = {
    spec: { template: { spec: { restartPolicy: "Never", containers: [{ name: "c", image: "i" }] } } },
  };
  const cron = { metadata: { name: "c" }, spec: { schedule: "* * * * *", jobTemplate: job } };
  const crons = "/apis/batch/v1/namespaces/default/cronjobs";
  t.match(await call("POST", crons, { body: cron }), { code: 201, headers: { warning } });
});

t.test("warned of: pods are made all the same", async (t) => {
  const { call, label } = await start(t);
  await label({ enforce: "baseline", warn: "restricted", "warn-version": "v1.21" });
  const made = await call("POST", PODS_PATH, { body: pod("p") });
  t.match(made, {
    code: 201,
    headers: { warning: /would violate PodSecurity \\"restricted:v1.21\\": allowPriv/ },
  });
  const merge = "application/merge-patch+json";
  const labelled = await call("PATCH", `${PODS_PATH}/p`, {
    type: merge,
    body: { metadata: { labels: { a: "b" } } },
  });
  t.match(
    labelled,
    { code: 200, headers: { warning: undefined } },
    "nothing that the rules look at has changed",
  );
  const smp = "application/strategic-merge-patch+json";
  const image = { spec: { containers: [{ name: "c", image: "other" }] } };
  const changed = await call("PATCH", `${PODS_PATH}/p`, { type: smp, body: image });
  t.match(changed, { code: 200, headers: { warning: /would violate/ } });
  const debug = {
    spec: {
      ephemeralContainers: [{ name: "debug", image: "busybox", securityContext: { privileged: true } }],
    },
  };
  t.match((await call("PATCH", `${PODS_PATH}/p/ephemeralcontainers`, { type: smp, body: debug })).body, {
    code: 403,
    message:
      'pods "p" is forbidden: violates PodSecurity "baseline:latest": privileged (container "debug" must not set securityContext.privileged=true)',
  });
});

t.test("labels of a namespace: checked, and its pods looked at", async (t) => {
  const { call, label } = await start(t);
  for (const name of ["b", "a", "c"]) await call("POST", PODS_PATH, { body: pod(name) });
  const host = pod("host") as { spec: object };
  await call("POST", PODS_PATH, { body: { ...host, spec: { ...host.spec, hostPID: true } } });
  const rest =
    "allowPrivilegeEscalation != false, unrestricted capabilities, runAsNonRoot != true, seccompProfile";
  const warnings = (level: string, ...lines: string[]) =>
    [
      `existing pods in namespace "default" violate the new PodSecurity enforce level "${level}:latest"`,
      ...lines,
    ]
      .map((text) => `299 - ${JSON.stringify(text)}`)
      .join(", ");
  const dry = await label({ enforce: "restricted" }, "?dryRun=All");
  t.equal(
    dry.headers.warning,
    warnings("restricted", `a (and 2 other pods): ${rest}`, `host: host namespaces, ${rest}`),
  );
  t.equal(
    (await label({ enforce: "baseline" })).headers.warning,
    warnings("baseline", "host: host namespaces"),
  );
  t.equal(
    (await label({ enforce: "baseline", warn: "restricted" })).headers.warning,
    undefined,
    "nothing new",
  );
  t.equal((await label({ enforce: "privileged" })).headers.warning, undefined, "less than before");
  const wrong =
    'Namespace "default" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "strict": must be one of privileged, baseline, restricted';
  t.match((await label({ enforce: "strict" })).body, { code: 422, reason: "Invalid", message: wrong });
  const labels = { "pod-security.kubernetes.io/warn-version": "1.30" };
  const made = await call("POST", "/api/v1/namespaces", { body: { metadata: { name: "n", labels } } });
  t.match(made.body, {
    code: 422,
    message: /warn-version\]: Invalid value: "1.30": must be "latest" or "v1.x"$/,
  });
});
