// What the kinds share as they are declared to the API engine: names, durations, quantities, metadata, table cells,
// fields to select by. No I/O.

import t from "tap";
import type { Stored } from "../../common/k8s.js";
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
import { cells, created, KINDS, kind, NOW } from "./helpers/kinds.js";
import { pod } from "./helpers/pod-specs.js";

const ago = (seconds: number) => new Date(NOW - seconds * 1000).toISOString();

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
    "resourcequotas resourcequota quota  true",
    "persistentvolumes persistentvolume pv  true",
    "persistentvolumeclaims persistentvolumeclaim pvc  true",
    "storageclasses storageclass sc  false",
    "priorityclasses priorityclass pc  false",
    "roles role   false",
    "clusterroles clusterrole   false",
    "rolebindings rolebinding   false",
    "clusterrolebindings clusterrolebinding   false",
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
