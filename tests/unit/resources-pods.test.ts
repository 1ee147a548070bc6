// Pods as declared to the API engine: defaults, validation texts, updates, status. No I/O.

import t from "tap";
import type { Pod } from "../../common/k8s.js";
import { errorText } from "../../control/resources/validation/field.js";
import { created, kind, problems, updated } from "./helpers/kinds.js";
import { container, pod } from "./helpers/pod-specs.js";

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
