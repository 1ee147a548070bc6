// The other kinds as declared to the API engine: defaults, validation texts, updates. Services have files of their own.
// No I/O.

import t from "tap";
import type { Deployment, Namespace, Node } from "../../common/k8s.js";
import { created, kind, problems, updated } from "./helpers/kinds.js";
import { pod } from "./helpers/pod-specs.js";

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
