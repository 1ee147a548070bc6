// The kinds as declared to the API engine: defaults, validation texts, table cells. Services have a file of their own. No I/O.

import type { PodSpec } from "kubernetes-types/core/v1.js";
import t from "tap";
import type { Deployment, Namespace, Node, Pod, Stored } from "../../common/k8s.js";
import { age, humanDuration } from "../../control/resources/duration.js";
import { errorText, same } from "../../control/resources/validation/field.js";
import {
  dns1035Label,
  dns1123Label,
  dns1123Subdomain,
  validateAnnotations,
  validateLabels,
} from "../../control/resources/validation/meta.js";
import { canonicalQuantity, parseQuantity } from "../../control/resources/validation/quantity.js";
import { cells, created, KINDS, kind, NOW, problems, updated } from "./helpers/kinds.js";

const ago = (seconds: number) => new Date(NOW - seconds * 1000).toISOString();
const pod = (spec: Partial<PodSpec> = {}): Pod => ({
  spec: { containers: [{ name: "c", image: "nginx" }], ...spec },
});
const container = (fields: object): Pod =>
  pod({ containers: [{ name: "c", image: "nginx", ...fields }] as PodSpec["containers"] });

t.test("names of the kinds", async (t) => {
  const summary = [...KINDS.values()].map((d) =>
    [
      d.resource.plural,
      d.singular,
      d.shortNames?.join("|") ?? "",
      d.categories?.join("|") ?? "",
      d.hasStatus,
    ].join(" "),
  );
  t.strictSame(summary, [
    "nodes node no  true",
    "namespaces namespace ns  true",
    "pods pod po all true",
    "servicecidrs servicecidr   true",
    "services service svc all true",
    "ipaddresses ipaddress ip  false",
    "endpoints endpoints ep  false",
    "endpointslices endpointslice   false",
    "deployments deployment deploy all true",
    "replicasets replicaset rs all true",
    "jobs job  all true",
    "cronjobs cronjob cj all true",
    "horizontalpodautoscalers horizontalpodautoscaler hpa all true",
    "horizontalpodautoscalers horizontalpodautoscaler hpa all true",
    "replicationcontrollers replicationcontroller rc all true",
    "statefulsets statefulset sts all true",
    "daemonsets daemonset ds all true",
    "controllerrevisions controllerrevision   false",
    "poddisruptionbudgets poddisruptionbudget pdb  true",
    "events event ev  false",
    "events event ev  false",
    "configmaps configmap cm  false",
    "secrets secret   false",
    "serviceaccounts serviceaccount sa  false",
    "limitranges limitrange limits  false",
    "ingresses ingress ing  true",
    "ingressclasses ingressclass   false",
    "leases lease   false",
    "certificatesigningrequests certificatesigningrequest csr  true",
  ]);
  for (const d of KINDS.values()) t.match(d.schema, /^io\.k8s\.api\.[a-z]+\.v[12]\.[A-Z]/, d.schema);
});

t.test("durations", async (t) => {
  const s = 1000;
  const [m, h, d] = [60 * s, 3600 * s, 86_400 * s];
  const table: [number, string][] = [
    [-3 * s, "<invalid>"],
    [-1.5 * s, "0s"],
    [-0.5 * s, "0s"],
    [5 * s, "5s"],
    [119 * s, "119s"],
    [2 * m, "2m"],
    [130 * s, "2m10s"],
    [10 * m + 5 * s, "10m"],
    [179 * m, "179m"],
    [3 * h, "3h"],
    [3 * h + 5 * m, "3h5m"],
    [8 * h + 59 * m, "8h"],
    [47 * h, "47h"],
    [51 * h, "2d3h"],
    [7 * d, "7d"],
    [9 * d + 5 * h, "9d"],
    [729 * d, "729d"],
    [2 * 365 * d, "2y"],
    [(2 * 365 + 3) * d, "2y3d"],
    [9 * 365 * d, "9y"],
  ];
  for (const [ms, text] of table) t.equal(humanDuration(ms), text, text);
  t.equal(age(undefined, NOW), "<unknown>");
  t.equal(age(ago(7), NOW), "7s");
});

t.test("quantities", async (t) => {
  const table: [string, string][] = [
    ["1", "1"],
    ["1000m", "1"],
    ["0.5", "500m"],
    ["1500m", "1500m"],
    ["100000", "100k"],
    ["1.5Gi", "1536Mi"],
    ["1024Mi", "1Gi"],
    ["512", "512"],
    ["0.5Ki", "512"],
    ["1e3", "1e3"],
    ["8E", "8E"],
    ["12E", "9223372036854775807"],
    ["-1", "-1"],
    [".5", "500m"],
    ["0", "0"],
    ["1n", "1n"],
  ];
  for (const [text, canonical] of table) t.equal(canonicalQuantity(text), canonical, text);
  t.equal(parseQuantity("1500m")?.value, 1.5);
  t.equal(parseQuantity("1Gi")?.value, 2 ** 30);
  for (const bad of ["", "abc", "1Kb", "1 Gi", "1.2.3", "--1", "1e", "Gi"]) {
    t.equal(parseQuantity(bad), undefined, bad);
  }
});

t.test("metadata", async (t) => {
  t.strictSame(dns1123Subdomain("a.b-c"), []);
  t.strictSame(dns1123Label("a.b"), ["must not contain dots"]);
  t.strictSame(dns1035Label("9a"), [
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
  ]);
  t.strictSame(dns1123Label("A_"), [
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
  ]);
  t.strictSame(dns1123Subdomain("a".repeat(254)), ["must be no more than 253 bytes"]);
  t.strictSame(validateLabels({ "example.com/a": "ok", b: "" }, "metadata.labels"), []);
  t.strictSame(validateLabels({ a: "-bad" }, "metadata.labels").map(errorText), [
    `metadata.labels: Invalid value: "-bad": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')`,
  ]);
  t.match(validateLabels({ "a/b/c": "x" }, "l").map(errorText), [/a qualified name must consist of/]);
  t.match(validateLabels({ "/b": "x" }, "l").map(errorText), [/prefix part must be non-empty/]);
  t.strictSame(validateAnnotations({ "Example.COM/Key": "any thing" }, "metadata.annotations"), []);
  t.strictSame(validateAnnotations({ a: "x".repeat(300_000) }, "metadata.annotations").map(errorText), [
    "metadata.annotations: Too long: may not be more than 262144 bytes",
  ]);
});

t.test("semantic equality", async (t) => {
  t.ok(same({ a: [], b: undefined, c: {} }, {}));
  t.ok(same({ a: [{ x: 1 }] }, { a: [{ x: 1, y: null }] }));
  t.notOk(same({ a: [1, 2] }, { a: [2, 1] }));
  t.ok(same({ stdin: false, minReadySeconds: 0 }, {}));
  t.notOk(same({ runAsUser: 0 }, {}), "a pointer: root is not nobody in particular");
  t.notOk(same({ labels: { a: "" } }, { labels: {} }), "an empty label is a label");
  t.notOk(same([], [1]));
});

t.test("defaults of a pod", async (t) => {
  const p = created(
    "Pod",
    pod({
      containers: [
        {
          name: "c",
          image: "nginx",
          ports: [{ containerPort: 80 }],
          resources: { limits: { cpu: "1000m" } },
          env: [{ name: "IP", valueFrom: { fieldRef: { fieldPath: "status.podIP" } } }],
          readinessProbe: { httpGet: { port: 80 } },
        },
      ],
      volumes: [{ name: "v", configMap: { name: "cm" } }, { name: "e" }],
    }),
  );
  t.strictSame(p.spec, {
    containers: [
      {
        name: "c",
        image: "nginx",
        ports: [{ containerPort: 80, protocol: "TCP" }],
        resources: { limits: { cpu: "1" }, requests: { cpu: "1" } },
        env: [{ name: "IP", valueFrom: { fieldRef: { apiVersion: "v1", fieldPath: "status.podIP" } } }],
        readinessProbe: {
          httpGet: { port: 80, path: "/", scheme: "HTTP" },
          timeoutSeconds: 1,
          periodSeconds: 10,
          successThreshold: 1,
          failureThreshold: 3,
        },
        imagePullPolicy: "Always",
        terminationMessagePath: "/dev/termination-log",
        terminationMessagePolicy: "File",
      },
    ],
    volumes: [
      { name: "v", configMap: { name: "cm", defaultMode: 0o644 } },
      { name: "e", emptyDir: {} },
    ],
    restartPolicy: "Always",
    terminationGracePeriodSeconds: 30,
    dnsPolicy: "ClusterFirst",
    securityContext: {},
    schedulerName: "default-scheduler",
    enableServiceLinks: true,
    serviceAccountName: "default",
    serviceAccount: "default",
    priority: 0,
    preemptionPolicy: "PreemptLowerPriority",
    tolerations: ["not-ready", "unreachable"].map((what) => ({
      key: `node.kubernetes.io/${what}`,
      operator: "Exists",
      effect: "NoExecute",
      tolerationSeconds: 300,
    })),
  });
  t.equal(p.metadata.generation, 1);
  t.strictSame(p.status, { phase: "Pending", qosClass: "Burstable" });
  t.strictSame(kind("Pod").validate(p), []);
  // Defaulting what has its defaults changes nothing.
  const again = structuredClone(p) as Pod;
  kind("Pod").setDefaults?.(again);
  t.strictSame(again, p);

  const policies: [string, string][] = [
    ["nginx", "Always"],
    ["nginx:latest", "Always"],
    ["nginx:1.27", "IfNotPresent"],
    ["localhost:5000/nginx", "Always"],
    ["gcr.io/google-samples/kubernetes-bootcamp:v1", "IfNotPresent"],
    ["nginx@sha256:0123", "IfNotPresent"],
  ];
  for (const [image, policy] of policies) {
    t.equal(created("Pod", container({ image })).spec?.containers[0]?.imagePullPolicy, policy, image);
  }
  const host = created(
    "Pod",
    pod({ hostNetwork: true, containers: [{ name: "c", image: "i", ports: [{ containerPort: 80 }] }] }),
  );
  t.equal(host.spec?.containers[0]?.ports?.[0]?.hostPort, 80);
  const tolerant = created("Pod", pod({ tolerations: [{ operator: "Exists" }] }));
  t.equal(tolerant.spec?.tolerations?.length, 1, "who tolerates everything gets no tolerations");
  const both = { cpu: "1", memory: "1Gi" };
  t.equal(created("Pod", container({ resources: { limits: both } })).status?.qosClass, "Guaranteed");
  t.equal(created("Pod", pod()).status?.qosClass, "BestEffort");
  t.equal(
    created("Pod", pod({ schedulingGates: [{ name: "g" }] })).status?.conditions?.[0]?.reason,
    "SchedulingGated",
  );
});

t.test("defaults of the other kinds", async (t) => {
  const d: Deployment = {
    spec: {
      selector: { matchLabels: { a: "b" } },
      template: { metadata: { labels: { a: "b" } }, spec: pod().spec },
    },
  };
  const made = created("Deployment", d);
  t.match(made, {
    metadata: { generation: 1 },
    spec: {
      replicas: 1,
      revisionHistoryLimit: 10,
      progressDeadlineSeconds: 600,
      strategy: { type: "RollingUpdate", rollingUpdate: { maxSurge: "25%", maxUnavailable: "25%" } },
      template: { spec: { restartPolicy: "Always", schedulerName: "default-scheduler" } },
    },
    status: {},
  });
  t.notOk(made.spec?.template.spec?.tolerations, "a template gets no tolerations");
  t.notOk(made.spec?.template.spec?.enableServiceLinks, "nor what only pods have");
  t.strictSame(kind("Deployment").validate(made), []);

  const ns = created("Namespace", {});
  t.match(ns, {
    metadata: { labels: { "kubernetes.io/metadata.name": "x" } },
    spec: { finalizers: ["kubernetes"] },
    status: { phase: "Active" },
  });
  t.strictSame(created("Node", { spec: { podCIDR: "10.244.1.0/24" } } as Node).spec?.podCIDRs, [
    "10.244.1.0/24",
  ]);
  t.match(created("Node", { status: { capacity: { memory: "16384Ki" } } }).status, {
    capacity: { memory: "16Mi" },
    allocatable: { memory: "16Mi" },
  });
  const secret = created("Secret", { stringData: { a: "secret" }, data: { b: "Yg==" } });
  t.match(secret, { type: "Opaque", data: { a: "c2VjcmV0", b: "Yg==" } });
  t.notOk("stringData" in secret);
  t.match(created("EndpointSlice", { addressType: "IPv4", ports: [{ port: 80 }] }), {
    ports: [{ name: "", protocol: "TCP", port: 80 }],
    metadata: { generation: 1 },
  });
});

t.test("what is wrong with a pod", async (t) => {
  const table: [object, (string | RegExp)[]][] = [
    [{ spec: {} }, ["spec.containers: Required value"]],
    [container({ name: "" }), ["spec.containers[0].name: Required value"]],
    [
      container({ name: "A" }),
      [/^spec\.containers\[0\]\.name: Invalid value: "A": a lowercase RFC 1123 label must/],
    ],
    [container({ image: "" }), ["spec.containers[0].image: Required value"]],
    [
      container({ image: " nginx" }),
      ['spec.containers[0].image: Invalid value: " nginx": must not have leading or trailing whitespace'],
    ],
    [
      pod({
        containers: [
          { name: "a", image: "i" },
          { name: "a", image: "i" },
        ],
      }),
      ['spec.containers[1].name: Duplicate value: "a"'],
    ],
    [
      pod({ restartPolicy: "always" }),
      ['spec.restartPolicy: Unsupported value: "always": supported values: "Always", "OnFailure", "Never"'],
    ],
    [
      container({ imagePullPolicy: "Often" }),
      [
        'spec.containers[0].imagePullPolicy: Unsupported value: "Often": supported values: "Always", "IfNotPresent", "Never"',
      ],
    ],
    [
      container({ ports: [{ containerPort: 70000 }] }),
      [
        "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
      ],
    ],
    [container({ ports: [{ name: "web" }] }), ["spec.containers[0].ports[0].containerPort: Required value"]],
    [
      container({ ports: [{ containerPort: 1, protocol: "tcp" }] }),
      [
        'spec.containers[0].ports[0].protocol: Unsupported value: "tcp": supported values: "SCTP", "TCP", "UDP"',
      ],
    ],
    [
      container({ ports: [{ containerPort: 1, name: "1234" }] }),
      ['spec.containers[0].ports[0].name: Invalid value: "1234": must contain at least one letter (a-z)'],
    ],
    [
      container({
        ports: [
          { containerPort: 1, name: "w" },
          { containerPort: 2, name: "w" },
        ],
      }),
      ['spec.containers[0].ports[1].name: Duplicate value: "w"'],
    ],
    [
      container({
        ports: [
          { containerPort: 1, hostPort: 9 },
          { containerPort: 2, hostPort: 9 },
        ],
      }),
      ['spec.containers[0].ports[1].hostPort: Duplicate value: "TCP//9"'],
    ],
    [
      container({ volumeMounts: [{ name: "v", mountPath: "/v" }] }),
      ['spec.containers[0].volumeMounts[0].name: Not found: "v"'],
    ],
    [
      pod({ volumes: [{ name: "v", emptyDir: {}, secret: { secretName: "s" } }] }),
      ["spec.volumes[0].secret: Forbidden: may not specify more than 1 volume type"],
    ],
    [pod({ volumes: [{ name: "v" }, { name: "v" }] }), ['spec.volumes[1].name: Duplicate value: "v"']],
    [
      pod({ volumes: [{ name: "v", configMap: { name: "c", defaultMode: 1000 } }] }),
      [
        "spec.volumes[0].configMap.defaultMode: Invalid value: 1000: must be a number between 0 and 0777 (octal), both inclusive",
      ],
    ],
    [
      container({ livenessProbe: {} }),
      ["spec.containers[0].livenessProbe: Required value: must specify a handler type"],
    ],
    [
      container({ livenessProbe: { exec: { command: ["a"] }, tcpSocket: { port: 1 } } }),
      ["spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type"],
    ],
    [
      container({ livenessProbe: { tcpSocket: { port: 1 }, successThreshold: 2 } }),
      ["spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1"],
    ],
    [
      container({ readinessProbe: { httpGet: { port: "web site" }, periodSeconds: -1 } }),
      [
        'spec.containers[0].readinessProbe.httpGet.port: Invalid value: "web site": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)',
        "spec.containers[0].readinessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
      ],
    ],
    [
      container({ lifecycle: { preStop: { sleep: { seconds: 60 } } } }),
      [
        "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 60: must be non-negative and less than terminationGracePeriodSeconds (30)",
      ],
    ],
    [
      container({ resources: { requests: { cpu: "2" }, limits: { cpu: "1" } } }),
      [
        'spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1',
      ],
    ],
    [
      container({ resources: { limits: { cpu: "lots" } } }),
      [
        /^spec\.containers\[0\]\.resources\.limits\[cpu\]: Invalid value: "lots": quantities must match/,
        /requests\[cpu\]/,
      ],
    ],
    [
      container({ resources: { requests: { gpu: "1" } } }),
      [
        'spec.containers[0].resources.requests[gpu]: Invalid value: "gpu": must be a standard resource type or fully qualified',
        'spec.containers[0].resources.requests[gpu]: Invalid value: "gpu": must be a standard resource for containers',
      ],
    ],
    [container({ env: [{ value: "x" }] }), ["spec.containers[0].env[0].name: Required value"]],
    [
      container({ env: [{ name: "a=b" }] }),
      [
        /env\[0\]\.name: Invalid value: "a=b": a valid environment variable name must consist only of printable ASCII/,
      ],
    ],
    [
      container({
        env: [{ name: "A", value: "b", valueFrom: { fieldRef: { fieldPath: "metadata.name" } } }],
      }),
      [
        'spec.containers[0].env[0].valueFrom: Invalid value: "": may not be specified when `value` is not empty',
      ],
    ],
    [
      container({ env: [{ name: "A", valueFrom: { fieldRef: { fieldPath: "spec.foo" } } }] }),
      [/fieldRef\.fieldPath: Unsupported value: "spec\.foo": supported values: "metadata\.name"/],
    ],
    [
      container({ restartPolicy: "Always" }),
      ["spec.containers[0].restartPolicy: Forbidden: may not be set for non-init containers"],
    ],
    [
      pod({ initContainers: [{ name: "c", image: "i", readinessProbe: { tcpSocket: { port: 1 } } }] }),
      [
        'spec.initContainers[0].name: Duplicate value: "c"',
        "spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
      ],
    ],
    [pod({ nodeSelector: { a: "b c" } }), [/^spec\.nodeSelector: Invalid value: "b c": a valid label must/]],
    [
      pod({ tolerations: [{ key: "a", operator: "Exists", value: "b" }] }),
      ["spec.tolerations[0].operator: Invalid value: \"b\": value must be empty when `operator` is 'Exists'"],
    ],
    [
      pod({ tolerations: [{ key: "a", operator: "Exists", tolerationSeconds: 5 }] }),
      [
        "spec.tolerations[0].effect: Invalid value: \"\": effect must be 'NoExecute' when `tolerationSeconds` is set",
      ],
    ],
    [
      pod({ dnsPolicy: "None" }),
      ["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"],
    ],
    [
      pod({ hostAliases: [{ ip: "1.2.3", hostnames: ["a"] }] }),
      [
        'spec.hostAliases[0].ip: Invalid value: "1.2.3": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)',
      ],
    ],
    [pod({ hostname: "a.b" }), ['spec.hostname: Invalid value: "a.b": must not contain dots']],
    [
      pod({
        affinity: {
          nodeAffinity: {
            requiredDuringSchedulingIgnoredDuringExecution: {
              nodeSelectorTerms: [{ matchExpressions: [{ key: "a", operator: "In" }] }],
            },
          },
        },
      }),
      [
        /matchExpressions\[0\]\.values: Required value: must be specified when `operator` is 'In' or 'NotIn'$/,
      ],
    ],
    [
      pod({
        topologySpreadConstraints: [{ maxSkew: 0, topologyKey: "zone", whenUnsatisfiable: "DoNotSchedule" }],
      }),
      ["spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero"],
    ],
    [
      pod({ activeDeadlineSeconds: 0 }),
      ["spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"],
    ],
  ];
  for (const [object, texts] of table) {
    const found = problems("Pod", object);
    t.equal(found.length, texts.length, found.join("\n"));
    t.match(found, texts);
  }
});

t.test("updates of a pod", async (t) => {
  const old = created("Pod", pod());
  const image = updated("Pod", old, (p: Pod) => {
    if (p.spec?.containers[0]) p.spec.containers[0].image = "nginx:1.27";
    Object.assign(p, { status: { phase: "Running" } });
  });
  // The pull policy was defaulted from the old tag and stays; the image alone may change.
  t.strictSame(image.problems, []);
  t.equal(image.draft.metadata.generation, 2);
  t.equal(image.draft.status?.phase, "Pending", "status is not the main resource's to change");
  t.equal(updated("Pod", old, () => undefined).draft.metadata.generation, 1);
  const command = updated("Pod", old, (p: Pod) => {
    if (p.spec?.containers[0]) p.spec.containers[0].command = ["sh"];
    if (p.spec) p.spec.nodeName = "node-1";
    if (p.spec) p.spec.hostNetwork = false;
  });
  t.match(command.problems, [
    /^spec: Forbidden: pod updates may not change fields other than `spec\.containers\[\*\]\.image`,.*changed: spec\.containers\[0\]\.command, spec\.nodeName$/s,
  ]);
  t.strictSame(updated("Pod", old, (p: Pod) => p.spec?.containers.push({ name: "d", image: "i" })).problems, [
    "spec.containers: Forbidden: pod updates may not add or remove containers",
  ]);
  t.strictSame(
    updated("Pod", old, (p: Pod) => p.spec?.tolerations?.push({ key: "k", operator: "Exists" })).problems,
    [],
    "tolerations may be added",
  );
  const tolerant = created("Pod", pod({ tolerations: [{ key: "k", operator: "Equal", value: "a" }] }));
  t.strictSame(
    updated("Pod", tolerant, (p: Pod) => Object.assign(p.spec?.tolerations?.[0] ?? {}, { value: "b" }))
      .problems,
    ["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"],
  );
});

t.test("status of a pod", async (t) => {
  const old = created("Pod", pod());
  const report = (status: object) => {
    const d = kind("Pod");
    const draft = { ...structuredClone(old), status: structuredClone(status) };
    d.setDefaults?.(draft);
    d.prepareForStatusUpdate?.(draft, old);
    return { status: draft.status, problems: d.validate(draft, old).map(errorText) };
  };
  t.strictSame(
    report({
      phase: "Running",
      podIP: "10.244.0.3",
      podIPs: [{ ip: "10.244.0.2" }],
      hostIP: "192.168.56.11",
    }),
    {
      status: {
        phase: "Running",
        podIP: "10.244.0.3",
        podIPs: [{ ip: "10.244.0.3" }],
        hostIP: "192.168.56.11",
        hostIPs: [{ ip: "192.168.56.11" }],
        qosClass: "BestEffort",
      },
      problems: [],
    },
  );
  t.strictSame(report({ podIP: "10.244.0", qosClass: "Guaranteed" }).problems, [
    'status.podIPs[0]: Invalid value: "10.244.0": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)',
    'status.qosClass: Invalid value: "Guaranteed": field is immutable',
  ]);
  const dual = { podIP: "10.244.0.2", podIPs: [{ ip: "10.244.0.2" }, { ip: "fd00::2" }] };
  t.strictSame(report({ ...dual, qosClass: "BestEffort" }).problems, []);
  t.strictSame(
    report({ podIPs: [{ ip: "10.244.0.2" }, { ip: "10.244.0.3" }], qosClass: "BestEffort" }).problems,
    [
      'status.podIPs: Invalid value: [{"ip":"10.244.0.2"},{"ip":"10.244.0.3"}]: may specify no more than one IP for each IP family',
    ],
  );
});

t.test("grace periods", async (t) => {
  const grace = (fields: object, requested?: number) =>
    kind("Pod").gracePeriod?.(
      { spec: { nodeName: "n", terminationGracePeriodSeconds: 30 }, ...fields } as unknown as Stored,
      requested,
    );
  t.equal(grace({}), 30);
  t.equal(grace({}, 5), 5);
  t.equal(grace({}, 0), 0);
  t.equal(grace({}, -1), 1);
  t.equal(grace({ spec: { terminationGracePeriodSeconds: 30 } }, 10), 0, "not scheduled");
  t.equal(grace({ status: { phase: "Succeeded" } }, 10), 0, "finished");
  t.equal(grace({ status: { phase: "Failed" } }), 0);
});

t.test("what is wrong with the other kinds", async (t) => {
  const template = { metadata: { labels: { a: "b" } }, spec: pod().spec };
  const workload = (spec: object) => ({ spec: { selector: { matchLabels: { a: "b" } }, template, ...spec } });
  const cm = "x".repeat(1024 * 1024 + 1);
  const slice = (fields: object) => ({ addressType: "IPv4", endpoints: [], ...fields });
  const hints = (count: number) => Array.from({ length: count }, (_, i) => ({ name: `h${i}` }));
  const endpoint = { addresses: ["10.244.0.2"] };
  const table: [string, object, (string | RegExp)[]][] = [
    [
      "Deployment",
      workload({ selector: undefined }),
      [
        "spec.selector: Required value",
        'spec.template.metadata.labels: Invalid value: {"a":"b"}: `selector` does not match template `labels`',
      ],
    ],
    [
      "Deployment",
      workload({ selector: {} }),
      ["spec.selector: Invalid value: {}: empty selector is invalid for deployment"],
    ],
    [
      "Deployment",
      workload({ selector: { matchLabels: { a: "c" } } }),
      [
        'spec.template.metadata.labels: Invalid value: {"a":"b"}: `selector` does not match template `labels`',
      ],
    ],
    [
      "Deployment",
      workload({ selector: { matchExpressions: [{ key: "a", operator: "Is" }] } }),
      ['spec.selector.matchExpressions[0].operator: Invalid value: "Is": not a valid selector operator'],
    ],
    [
      "Deployment",
      workload({ selector: { matchExpressions: [{ key: "a", operator: "Exists", values: ["b"] }] } }),
      [
        "spec.selector.matchExpressions[0].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
      ],
    ],
    [
      "Deployment",
      workload({ replicas: -1 }),
      ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
    ],
    [
      "Deployment",
      workload({ strategy: { type: "Rolling" } }),
      ['spec.strategy.type: Unsupported value: "Rolling": supported values: "Recreate", "RollingUpdate"'],
    ],
    [
      "Deployment",
      workload({ strategy: { rollingUpdate: { maxSurge: 0, maxUnavailable: 0 } } }),
      ["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"],
    ],
    [
      "Deployment",
      workload({ strategy: { rollingUpdate: { maxSurge: "x" } } }),
      [/^spec\.strategy\.rollingUpdate\.maxSurge: Invalid value: "x": a valid percent string must be/],
    ],
    [
      "Deployment",
      workload({ strategy: { type: "Recreate", rollingUpdate: {} } }),
      ["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"],
    ],
    [
      "Deployment",
      workload({ minReadySeconds: 600 }),
      ["spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds"],
    ],
    [
      "Deployment",
      workload({ template: { ...template, spec: { ...pod().spec, restartPolicy: "Never" } } }),
      ['spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"'],
    ],
    [
      "Deployment",
      {},
      [
        "spec.selector: Required value",
        /labels: Invalid value: \{\}/,
        "spec.template.spec.containers: Required value",
      ],
    ],
    [
      "ReplicaSet",
      workload({ replicas: -1 }),
      ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
    ],
    [
      "ConfigMap",
      { data: { "a b": "c" } },
      [/^data\[a b\]: Invalid value: "a b": a valid config key must consist of/],
    ],
    [
      "ConfigMap",
      { data: { a: "b" }, binaryData: { a: "Yg==" } },
      ['data[a]: Invalid value: "a": duplicate of key present in binaryData'],
    ],
    ["ConfigMap", { data: { a: cm } }, [": Too long: may not be more than 1048576 bytes"]],
    ["Secret", { type: "kubernetes.io/tls", data: { "tls.crt": "" } }, ["data[tls.key]: Required value"]],
    [
      "Secret",
      { type: "kubernetes.io/dockerconfigjson", stringData: { ".dockerconfigjson": "password" } },
      ['data[.dockerconfigjson]: Invalid value: "<secret contents redacted>": must be valid JSON'],
    ],
    [
      "EndpointSlice",
      slice({ addressType: "IPv9" }),
      ['addressType: Unsupported value: "IPv9": supported values: "FQDN", "IPv4", "IPv6"'],
    ],
    [
      "EndpointSlice",
      slice({ endpoints: Array(1001).fill(endpoint) }),
      ["endpoints: Too many: 1001: must have at most 1000 items"],
    ],
    [
      "EndpointSlice",
      slice({ ports: Array.from({ length: 101 }, (_, i) => ({ name: `p${i}` })) }),
      ["ports: Too many: 101: must have at most 100 items"],
    ],
    [
      "EndpointSlice",
      slice({ endpoints: [{ addresses: [] }] }),
      ["endpoints[0].addresses: Required value: must contain at least 1 address"],
    ],
    [
      "EndpointSlice",
      slice({ endpoints: [{ addresses: ["fd00::1"] }] }),
      ['endpoints[0].addresses[0]: Invalid value: "fd00::1": must be an IPv4 address'],
    ],
    [
      "EndpointSlice",
      slice({ addressType: "IPv6", endpoints: [{ addresses: ["10.244.0.2"] }, { addresses: ["fe80::1"] }] }),
      [
        'endpoints[0].addresses[0]: Invalid value: "10.244.0.2": must be an IPv6 address',
        'endpoints[1].addresses[0]: Invalid value: "fe80::1": may not be in the link-local range (169.254.0.0/16, fe80::/10)',
      ],
    ],
    [
      "EndpointSlice",
      slice({ endpoints: [{ ...endpoint, hints: { forZones: hints(9), forNodes: hints(9) } }] }),
      [
        "endpoints[0].hints.forZones: Too many: 9: must have at most 8 items",
        "endpoints[0].hints.forNodes: Too many: 9: must have at most 8 items",
      ],
    ],
    [
      "EndpointSlice",
      slice({ endpoints: [{ ...endpoint, hints: { forZones: hints(8), forNodes: hints(8) } }] }),
      [],
    ],
    [
      "EndpointSlice",
      slice({
        endpoints: [
          {
            ...endpoint,
            hints: { forZones: [{ name: "-" }], forNodes: [...hints(1), ...hints(1), { name: "A" }] },
          },
        ],
      }),
      [
        /^endpoints\[0\]\.hints\.forZones\[0\]\.name: Invalid value: "-": a valid label must/,
        'endpoints[0].hints.forNodes[1].name: Duplicate value: "h0"',
        /^endpoints\[0\]\.hints\.forNodes\[2\]\.name: Invalid value: "A": a lowercase RFC 1123 subdomain/,
      ],
    ],
    [
      "EndpointSlice",
      slice({ ports: [{ port: 0 }, { name: "b", protocol: "ICMP", appProtocol: "a b" }, { name: "all" }] }),
      [
        "ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        'ports[1].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"',
        /^ports\[1\]\.appProtocol: Invalid value: "a b": name part/,
      ],
    ],
    ["Node", { spec: { podCIDRs: ["10.244.1.0/24", "fd00:10:244:1::/64"] } }, []],
    [
      "Node",
      { spec: { podCIDRs: ["10.244.1.0/24", "10.244.2.0/24"] } },
      [
        'spec.podCIDRs: Invalid value: ["10.244.1.0/24","10.244.2.0/24"]: may specify no more than one CIDR for each IP family',
      ],
    ],
    [
      "Node",
      { spec: { podCIDRs: ["10.244.1.0/24", "fd00::/129"] } },
      [
        'spec.podCIDRs[1]: Invalid value: "fd00::/129": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)',
      ],
    ],
    [
      "EndpointSlice",
      slice({ ports: [{ name: "a" }, { name: "a" }] }),
      ['ports[1].name: Duplicate value: "a"'],
    ],
    [
      "Endpoints",
      { subsets: [{ ports: [{ port: 80 }] }] },
      ["subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"],
    ],
    [
      "Endpoints",
      { subsets: [{ addresses: [{ ip: "169.254.1.1" }] }] },
      [
        'subsets[0].addresses[0].ip: Invalid value: "169.254.1.1": may not be in the link-local range (169.254.0.0/16, fe80::/10)',
      ],
    ],
    [
      "Node",
      { spec: { taints: [{ key: "a", effect: "Never" }] } },
      [
        'metadata.taints[0].effect: Unsupported value: "Never": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"',
      ],
    ],
    [
      "Node",
      { spec: { podCIDR: "10.244.0.0" } },
      [
        'spec.podCIDRs[0]: Invalid value: "10.244.0.0": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)',
      ],
    ],
    [
      "Lease",
      { spec: { leaseDurationSeconds: 0 } },
      ["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"],
    ],
    ["Lease", { spec: { holderIdentity: "" } }, []],
    [
      "Event",
      { involvedObject: { namespace: "other", kind: "Pod" } },
      ['involvedObject.namespace: Invalid value: "other": does not match event.namespace'],
    ],
    ["Event", { involvedObject: { namespace: "ns", kind: "Pod" } }, []],
    ["ServiceAccount", {}, []],
  ];
  for (const [name, object, texts] of table) {
    const found = problems(name, object);
    t.equal(found.length, texts.length, `${name}\n${found.join("\n")}`);
    t.match(found, texts);
  }
});

t.test("updates of the other kinds", async (t) => {
  const d = created("Deployment", {
    spec: {
      selector: { matchLabels: { a: "b" } },
      template: { metadata: { labels: { a: "b" } }, spec: pod().spec },
    },
  } as Deployment);
  const scaled = updated("Deployment", d, (x: Deployment) => {
    if (x.spec) x.spec.replicas = 4;
  });
  t.strictSame(scaled.problems, []);
  t.equal(scaled.draft.metadata.generation, 2);
  t.equal(
    updated("Deployment", d, (x: Deployment) => {
      x.metadata = { ...x.metadata, labels: { c: "d" } };
    }).draft.metadata.generation,
    1,
    "labels are not the spec",
  );
  t.match(
    updated("Deployment", d, (x: Deployment) => {
      if (x.spec) x.spec.selector = { matchLabels: { a: "c" } };
    }).problems.join("\n"),
    'spec.selector: Invalid value: {"matchLabels":{"a":"c"}}: field is immutable',
  );
  const frozen = created("ConfigMap", { immutable: true, data: { a: "b" } });
  t.strictSame(
    updated("ConfigMap", frozen, (x: { data: object }) => Object.assign(x, { data: {}, immutable: false }))
      .problems,
    [
      "immutable: Forbidden: field is immutable when `immutable` is set",
      "data: Forbidden: field is immutable when `immutable` is set",
    ],
  );
  const secret = created("Secret", { type: "Opaque" });
  t.strictSame(updated("Secret", secret, (x: object) => Object.assign(x, { type: "other" })).problems, [
    'type: Invalid value: "other": field is immutable',
  ]);
  const slice = created("EndpointSlice", { addressType: "IPv4", endpoints: [{ addresses: ["10.244.0.2"] }] });
  const six = { addressType: "IPv6", endpoints: [{ addresses: ["fd00::1"] }] };
  const changed = updated("EndpointSlice", slice, (x: object) => Object.assign(x, six));
  t.strictSame(changed.problems, ['addressType: Invalid value: "IPv6": field is immutable']);
  t.equal(changed.draft.metadata.generation, 2);
  const node = created("Node", { spec: { podCIDR: "10.244.0.0/24" } } as Node);
  t.strictSame(
    updated("Node", node, (x: Node) => Object.assign(x.spec ?? {}, { podCIDR: "10.244.9.0/24" })).problems,
    ['spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid'],
  );
  const second = (x: Node) => Object.assign(x.spec ?? {}, { podCIDRs: ["10.244.0.0/24", "fd00::/64"] });
  t.strictSame(updated("Node", node, second).problems.length, 1, "a second one does not come later");
  const fresh = created("Node", {} as Node);
  const given = updated("Node", fresh, (x: Node) =>
    Object.assign(x, { spec: { podCIDRs: ["fd00::/64", "10.244.0.0/24"] } }),
  );
  t.strictSame(given.problems, []);
  t.equal(given.draft.spec?.podCIDR, "fd00::/64");
  const beta = { addresses: ["10.244.0.2"], deprecatedTopology: { "kubernetes.io/hostname": "node-1" } };
  t.strictSame(created("EndpointSlice", { addressType: "IPv4", endpoints: [beta] }).endpoints, [
    { addresses: ["10.244.0.2"] },
  ]);
  const ns = created<Namespace>("Namespace", {});
  const going = structuredClone(ns);
  kind("Namespace").prepareForDelete?.(going);
  t.equal(going.status?.phase, "Terminating");
  const emptied = updated("Namespace", ns, (x: object) =>
    Object.assign(x, { spec: {}, metadata: { name: "x" } }),
  );
  t.match(emptied.draft, { spec: { finalizers: ["kubernetes"] }, status: { phase: "Active" } });
  t.equal(emptied.draft.metadata.labels?.["kubernetes.io/metadata.name"], "x");
});

t.test("rows of pods", async (t) => {
  const running = { name: "c", ready: true, restartCount: 0, state: { running: {} } };
  const row = (status: object, spec: object = {}, metadata: object = {}) => {
    const c = cells("Pod", {
      metadata: { name: "x", creationTimestamp: ago(65), ...metadata },
      spec: { containers: [{ name: "c" }], ...spec },
      status,
    });
    return `${c.Ready} ${c.Status} ${c.Restarts} ${c.Age}`;
  };
  t.equal(row({ phase: "Pending" }), "0/1 Pending 0 65s");
  t.equal(row({ phase: "Running", containerStatuses: [running] }), "1/1 Running 0 65s");
  const waiting = (reason: string, more: object = {}) => ({
    phase: "Running",
    containerStatuses: [{ ...running, ready: false, state: { waiting: { reason } }, ...more }],
  });
  t.equal(row(waiting("ContainerCreating")), "0/1 ContainerCreating 0 65s");
  const crashed = { restartCount: 3, lastState: { terminated: { exitCode: 1, finishedAt: ago(12) } } };
  t.equal(row(waiting("CrashLoopBackOff", crashed)), "0/1 CrashLoopBackOff 3 (12s ago) 65s");
  const ended = (terminated: object, phase = "Running") => ({
    phase,
    containerStatuses: [{ ...running, ready: false, state: { terminated } }],
  });
  t.equal(row(ended({ exitCode: 0, reason: "Completed" }, "Succeeded")), "0/1 Completed 0 65s");
  t.equal(row(ended({ exitCode: 2 })), "0/1 ExitCode:2 0 65s");
  t.equal(row(ended({ exitCode: 137, signal: 9 })), "0/1 Signal:9 0 65s");
  t.equal(
    row({ phase: "Running", containerStatuses: [running] }, {}, { deletionTimestamp: ago(1) }),
    "1/1 Terminating 0 65s",
  );
  t.equal(row({ phase: "Succeeded" }, {}, { deletionTimestamp: ago(1) }), "0/1 Succeeded 0 65s");
  t.equal(
    row({ phase: "Running", reason: "NodeLost" }, {}, { deletionTimestamp: ago(1) }),
    "0/1 Unknown 0 65s",
  );
  t.equal(row({ phase: "Failed", reason: "Evicted" }), "0/1 Evicted 0 65s");
  const inits = { initContainers: [{ name: "i" }, { name: "j" }] };
  const init = (state: object) => ({
    phase: "Pending",
    initContainerStatuses: [{ name: "i", restartCount: 0, state }],
  });
  t.equal(row(init({ running: {} }), inits), "0/1 Init:0/2 0 65s");
  t.equal(row(init({ terminated: { exitCode: 1 } }), inits), "0/1 Init:ExitCode:1 0 65s");
  t.equal(row(init({ waiting: { reason: "ErrImagePull" } }), inits), "0/1 Init:ErrImagePull 0 65s");
  t.equal(row(init({ waiting: { reason: "PodInitializing" } }), inits), "0/1 Init:0/2 0 65s");
  const mixed = {
    phase: "Running",
    conditions: [{ type: "Ready", status: "False" }],
    containerStatuses: [{ ...running, state: { terminated: { exitCode: 0, reason: "Completed" } } }, running],
  };
  t.equal(row(mixed, { containers: [{ name: "c" }, { name: "d" }] }), "1/2 NotReady 0 65s");
  t.match(cells("Pod", { spec: { containers: [], readinessGates: [{ conditionType: "a" }] } }), {
    IP: "<none>",
    Node: "<none>",
    "Nominated Node": "<none>",
    "Readiness Gates": "0/1",
    Age: "<unknown>",
  });
});

t.test("rows of the other kinds", async (t) => {
  const columns = (name: string) =>
    kind(name)
      .columns.map((c) => (c.priority === 1 ? `+${c.name}` : c.name))
      .join(" ");
  t.equal(columns("Pod"), "Name Ready Status Restarts Age +IP +Node +Nominated Node +Readiness Gates");
  t.equal(
    columns("Node"),
    "Name Status Roles Age Version +Internal-IP +External-IP +OS-Image +Kernel-Version +Container-Runtime",
  );
  t.equal(columns("Service"), "Name Type Cluster-IP External-IP Port(s) Age +Selector");
  t.equal(columns("Deployment"), "Name Ready Up-to-date Available Age +Containers +Images +Selector");
  t.equal(columns("ReplicaSet"), "Name Desired Current Ready Age +Containers +Images +Selector");
  t.equal(columns("Endpoints"), "Name Endpoints Age");
  t.equal(columns("EndpointSlice"), "Name AddressType Ports Endpoints Age");
  t.equal(
    columns("Event"),
    "Last Seen Type Reason Object +Subobject +Source Message +First Seen +Count +Name",
  );
  t.equal(columns("ConfigMap"), "Name Data Age");
  t.equal(columns("Secret"), "Name Type Data Age");
  t.equal(columns("ServiceAccount"), "Name Secrets Age");
  t.equal(columns("Namespace"), "Name Status Age");
  t.equal(columns("Lease"), "Name Holder Age");

  const svc = (spec: object, status: object = {}) => {
    const c = cells("Service", { spec: { type: "ClusterIP", ports: [], ...spec }, status });
    return `${c["Cluster-IP"]} ${c["External-IP"]} ${c["Port(s)"]} ${c.Selector}`;
  };
  t.equal(svc({}), "<none> <none> <none> <none>");
  t.equal(
    svc({
      type: "NodePort",
      clusterIP: "10.96.0.9",
      ports: [
        { port: 80, nodePort: 30080, protocol: "TCP" },
        { port: 53, protocol: "UDP" },
      ],
      selector: { b: "2", a: "1" },
    }),
    "10.96.0.9 <none> 80:30080/TCP,53/UDP a=1,b=2",
  );
  t.match(svc({ type: "LoadBalancer" }), "<none> <pending> <none>");
  t.match(
    svc({ type: "LoadBalancer" }, { loadBalancer: { ingress: [{ ip: "1.2.3.4" }] } }),
    "<none> 1.2.3.4 <none>",
  );
  t.match(svc({ type: "ExternalName", externalName: "example.com" }), "<none> example.com <none>");
  t.match(svc({ externalIPs: ["1.1.1.1", "2.2.2.2"] }), "<none> 1.1.1.1,2.2.2.2 <none>");

  const node = {
    metadata: { name: "n", labels: { "node-role.kubernetes.io/control-plane": "" } },
    spec: { unschedulable: true },
  };
  t.match(cells("Node", { ...node, status: { conditions: [{ type: "Ready", status: "Unknown" }] } }), {
    Status: "NotReady,SchedulingDisabled",
    Roles: "control-plane",
    "Internal-IP": "<none>",
    "OS-Image": "<unknown>",
  });
  t.match(cells("Node", { status: {} }), { Status: "Unknown", Roles: "<none>" });
  t.match(
    cells("Deployment", {
      spec: {
        replicas: 3,
        selector: { matchLabels: { app: "x" } },
        template: {
          spec: {
            containers: [
              { name: "a", image: "i" },
              { name: "b", image: "j" },
            ],
          },
        },
      },
      status: { readyReplicas: 2, updatedReplicas: 1 },
    }),
    { Ready: "2/3", "Up-to-date": 1, Available: 0, Containers: "a,b", Images: "i,j", Selector: "app=x" },
  );
  const addresses = ["10.244.1.2", "10.244.1.3", "10.244.1.4"].map((ip) => ({ ip }));
  t.equal(cells("Endpoints", {}).Endpoints, "<none>");
  t.equal(
    cells("Endpoints", { subsets: [{ addresses, ports: [{ port: 8080 }, { port: 9090 }] }] }).Endpoints,
    "10.244.1.2:8080,10.244.1.3:8080,10.244.1.4:8080 + 3 more...",
  );
  t.match(cells("EndpointSlice", { addressType: "IPv4" }), {
    AddressType: "IPv4",
    Ports: "<unset>",
    Endpoints: "<unset>",
  });
  t.match(
    cells("EndpointSlice", {
      ports: [{ port: 80 }, { name: "" }],
      endpoints: [1, 2, 3, 4, 5].map((n) => ({ addresses: [`10.244.0.${n}`] })),
    }),
    { Ports: "80,*", Endpoints: "10.244.0.1,10.244.0.2,10.244.0.3 + 2 more..." },
  );
  t.match(
    cells("Event", {
      involvedObject: { kind: "Pod", name: "p", fieldPath: "spec.containers{c}" },
      source: { component: "kubelet", host: "node-1" },
      message: " Back-off \n",
      firstTimestamp: ago(600),
      lastTimestamp: ago(30),
      count: 7,
    }),
    {
      "Last Seen": "30s",
      Object: "pod/p",
      Source: "kubelet, node-1",
      Message: "Back-off",
      "First Seen": "10m",
      Count: 7,
    },
  );
  t.match(cells("Event", { involvedObject: { kind: "Node" }, eventTime: ago(5) }), {
    "Last Seen": "5s",
    Object: "node",
    Count: 1,
  });
  t.match(cells("Lease", { spec: { holderIdentity: "node-1" } }), { Holder: "node-1" });
  t.match(cells("ConfigMap", { data: { a: "" }, binaryData: { b: "" } }), { Data: 2 });
});

t.test("selectable fields and scale", async (t) => {
  t.match(kind("Pod").selectableFields?.(created("Pod", pod({ nodeName: "node-1" }))), {
    "spec.nodeName": "node-1",
    "status.phase": "Pending",
    "spec.hostNetwork": "false",
    "spec.serviceAccountName": "default",
    "status.podIP": "",
  });
  t.match(kind("Service").selectableFields?.(created("Service", { spec: { clusterIP: "None" } })), {
    "spec.clusterIP": "None",
    "spec.type": "ClusterIP",
  });
  t.match(kind("Node").selectableFields?.(created("Node", {})), { "spec.unschedulable": "false" });
  for (const name of ["Deployment", "ReplicaSet"]) {
    const workload = created(name, { spec: { replicas: 2, selector: { matchLabels: { a: "b" } } } });
    t.strictSame(kind(name).scale?.get(workload), { specReplicas: 2, statusReplicas: 0, selector: "a=b" });
    kind(name).scale?.set(workload, 5);
    t.equal(workload.spec.replicas, 5);
  }
});
