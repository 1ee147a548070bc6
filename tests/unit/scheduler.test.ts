// The scheduler: filters and scores as pure functions with kube-scheduler's words, and its loop on the real
// in-process API.

import t from "tap";
import { NODES, PODS } from "../../common/client.js";
import type { Node, Pod, Stored, Taint } from "../../common/k8s.js";
import { daemonPod } from "../../control/controllers/daemonset-pod.js";
import { filterNode, unschedulableMessage } from "../../control/controllers/scheduler-filter.js";
import { NodeInfo, podFacts } from "../../control/controllers/scheduler-node.js";
import { bestNode } from "../../control/controllers/scheduler-score.js";
import { NO_RULES, topologyRules } from "../../control/controllers/scheduler-topology.js";
import { wishesOf } from "../../control/controllers/scheduler-wishes.js";
import { running } from "./helpers/all-controllers.js";
import { makePod, stored } from "./helpers/controller-objects.js";
import { addNodes, eventually, playKubelets, readyNode } from "./helpers/local-cluster.js";
import { DAEMONS, pod } from "./helpers/workload-objects.js";

function infoOf(node: Node): NodeInfo {
  const info = new NodeInfo();
  info.node = stored("Node", node as Node & { metadata: { name: string } }) as unknown as Stored<Node>;
  return info;
}

function reasons(
  pod: Stored<Pod>,
  infos: NodeInfo[],
  guarded: Parameters<typeof topologyRules>[2] = [],
): string {
  const facts = podFacts(pod, undefined);
  const rules = topologyRules(facts, infos, guarded, () => ({}));
  const refusals = infos.flatMap((info) => filterNode(facts, info, rules) ?? []);
  return unschedulableMessage(infos.length, refusals);
}

t.test("scheduler: why not, in kube-scheduler's words", async (t) => {
  const preempt = (n: number, text: string) =>
    ` no new claims to deallocate, preemption: 0/${n} nodes are available: ${n} ${text}.`;
  const unhelpful = (n: number) => preempt(n, "Preemption is not helpful for scheduling");
  const pod = makePod("p", { status: { phase: "Pending" } });
  t.equal(reasons(pod, []), "no nodes available to schedule pods");

  const tainted = (taint: Taint) => {
    const node = readyNode("n");
    return infoOf({ ...node, spec: { taints: [taint] } });
  };
  const taint = { key: "dedicated", value: "db", effect: "NoSchedule" };
  t.equal(
    reasons(pod, [tainted(taint), tainted(taint), tainted(taint)]),
    `0/3 nodes are available: 3 node(s) had untolerated taint(s).${unhelpful(3)}`,
  );
  const tolerant = makePod("p", { spec: { tolerations: [{ key: "dedicated", operator: "Exists" }] } });
  t.equal(filterNode(podFacts(tolerant, undefined), tainted(taint), { check: () => undefined }), undefined);
  t.equal(
    filterNode(podFacts(pod, undefined), tainted({ ...taint, effect: "PreferNoSchedule" }), {
      check: () => undefined,
    }),
    undefined,
    "only a preference",
  );
  const lost: Node = { ...readyNode("n"), status: { conditions: [{ type: "Ready", status: "Unknown" }] } };
  t.match(reasons(pod, [infoOf(lost)]), "1 node(s) had untolerated taint(s).");
  t.match(
    reasons(pod, [infoOf({ ...readyNode("n"), spec: { unschedulable: true } })]),
    "1 node(s) were unschedulable.",
  );

  const choosy = makePod("p", { spec: { nodeSelector: { disk: "ssd" } } });
  t.match(reasons(choosy, [infoOf(readyNode("n"))]), "1 node(s) didn't match Pod's node affinity/selector.");
  const affinity = (operator: string, values?: string[]) =>
    makePod("p", {
      spec: {
        affinity: {
          nodeAffinity: {
            requiredDuringSchedulingIgnoredDuringExecution: {
              nodeSelectorTerms: [
                { matchExpressions: [{ key: "size", operator, ...(values ? { values } : {}) }] },
              ],
            },
          },
        },
      },
    });
  const sized = infoOf(readyNode("n", { labels: { size: "5" } }));
  t.match(reasons(affinity("Gt", ["5"]), [sized]), "didn't match Pod's node affinity/selector");
  t.equal(
    filterNode(podFacts(affinity("Gt", ["4"]), undefined), sized, { check: () => undefined }),
    undefined,
  );
  t.match(reasons(affinity("DoesNotExist"), [sized]), "didn't match Pod's node affinity/selector");

  const hostPort = (hostIP?: string, protocol = "TCP") => ({
    containers: [
      { name: "c", ports: [{ containerPort: 80, hostPort: 80, protocol, ...(hostIP ? { hostIP } : {}) }] },
    ],
  });
  const busy = infoOf(readyNode("n"));
  busy.add(podFacts(makePod("holder", { spec: hostPort("127.0.0.1") }), undefined));
  t.equal(
    reasons(makePod("p", { spec: hostPort() }), [busy]),
    "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports." +
      preempt(1, "No preemption victims found for incoming pod"),
  );
  for (const spec of [hostPort("192.168.56.11"), hostPort("127.0.0.1", "UDP")]) {
    t.equal(
      filterNode(podFacts(makePod("p", { spec }), undefined), busy, { check: () => undefined }),
      undefined,
    );
  }

  const small = infoOf(readyNode("n", { pods: 1 }));
  const hungry = makePod("p", {
    spec: { containers: [{ name: "c", resources: { requests: { cpu: "7500m" } } }] },
  });
  small.add(podFacts({ ...hungry, metadata: { ...hungry.metadata, uid: "other" } }, undefined));
  t.match(reasons(hungry, [small]), "1 Insufficient cpu, 1 Too many pods.");
  t.match(
    reasons(pod, [small, infoOf({ ...readyNode("m"), spec: { unschedulable: true } })]),
    "0/2 nodes are available: 1 Too many pods, 1 node(s) were unschedulable. no new claims to deallocate, preemption: 0/2 nodes are available: " +
      "1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling.",
  );
});

t.test("scheduler: rules between pods", async (t) => {
  const spread = makePod("p", {
    spec: {
      topologySpreadConstraints: [
        {
          maxSkew: 1,
          topologyKey: "kubernetes.io/hostname",
          whenUnsatisfiable: "DoNotSchedule",
          labelSelector: { matchLabels: { app: "web" } },
        },
      ],
    },
  });
  const [full, empty] = [infoOf(readyNode("full")), infoOf(readyNode("empty"))];
  full.add(podFacts(makePod("a"), undefined));
  const facts = podFacts(spread, undefined);
  const rules = topologyRules(facts, [full, empty], [], () => ({}));
  t.match(rules.check(full)?.reasons, ["node(s) didn't match pod topology spread constraints"]);
  t.equal(rules.check(empty), undefined);

  const term = { labelSelector: { matchLabels: { app: "web" } }, topologyKey: "kubernetes.io/hostname" };
  const apart = makePod("p", {
    spec: { affinity: { podAntiAffinity: { requiredDuringSchedulingIgnoredDuringExecution: [term] } } },
  });
  t.match(reasons(apart, [full]), "1 node(s) didn't match pod anti-affinity rules.");
  const guard = podFacts(apart, undefined);
  empty.add(guard);
  t.match(
    reasons(makePod("q"), [empty], [{ facts: guard, info: empty }]),
    "1 node(s) didn't satisfy existing pods anti-affinity rules.",
  );
  const together = (app: string) =>
    makePod("p", {
      spec: {
        affinity: {
          podAffinity: {
            requiredDuringSchedulingIgnoredDuringExecution: [
              { ...term, labelSelector: { matchLabels: { app } } },
            ],
          },
        },
      },
    });
  t.match(reasons(together("db"), [full]), "1 node(s) didn't match pod affinity rules.");
  const alone = infoOf(readyNode("alone"));
  t.equal(
    topologyRules(podFacts(together("web"), undefined), [alone], [], () => ({})).check(alone),
    undefined,
    "the first of its kind may go anywhere",
  );
});

t.test("scheduler: pods of one owner are spread, the rest goes to the least loaded", async (t) => {
  const infos = ["a", "b", "c"].map((name) => infoOf(readyNode(name)));
  const placed = new Map<string, number>();
  for (let n = 0; n < 10; n++) {
    const facts = podFacts(makePod(`p${n}`), "owner");
    const best = bestNode(facts, infos);
    best?.add(facts);
    const name = best?.node?.metadata.name ?? "";
    placed.set(name, (placed.get(name) ?? 0) + 1);
  }
  t.same([...placed.values()].sort(), [3, 3, 4]);
  const lonely = podFacts(makePod("q"), undefined);
  const least = infos.toSorted((a, b) => a.pods.size - b.pods.size)[0]?.pods.size;
  t.equal(bestNode(lonely, infos)?.pods.size, least);
});

t.test("pods wait for a node that can take them", async (t) => {
  const { client, informers } = await running(t, 0);
  t.teardown(playKubelets(client, informers));
  const spec = { containers: [{ name: "c", image: "v1" }], nodeSelector: { disk: "ssd" } };
  await client.create(PODS, { metadata: { name: "p", namespace: "default" }, spec });
  const condition = (text: RegExp) =>
    eventually(`PodScheduled ${text}`, async () => {
      const pod = await client.get(PODS, "p", "default");
      return pod.status?.conditions?.some(
        ({ type, status, message = "" }) =>
          type === "PodScheduled" && status === "False" && text.test(message),
      );
    });
  await condition(/^no nodes available to schedule pods$/);
  await addNodes(client, 2);
  await condition(
    /^0\/[12] nodes are available: [12] node\(s\) didn't match Pod's node affinity\/selector\./,
  );
  await client.patch(NODES, "node-2", "merge", { metadata: { labels: { disk: "ssd" } } });
  await eventually("scheduled", async () => {
    const pod = await client.get(PODS, "p", "default");
    return (
      pod.spec?.nodeName === "node-2" &&
      pod.status?.conditions?.some(({ type, status }) => type === "PodScheduled" && status === "True")
    );
  });
});

t.test("scheduler: what pods wish of their neighbours", async (t) => {
  const place = (name: string, labels: object, ...pods: Stored<Pod>[]) => {
    const info = new NodeInfo();
    info.node = stored("Node", {
      metadata: { name, labels: { host: name, ...labels } },
      status: { conditions: [{ type: "Ready", status: "True" }] },
    }) as unknown as Stored<Node>;
    for (const one of pods) info.add(podFacts(one, undefined));
    return info;
  };
  const labelled = (name: string, app: string, spec: object = {}) =>
    pod(name, "ready", { labels: { app }, spec });
  const term = (app: string, topologyKey = "host") => ({
    topologyKey,
    labelSelector: { matchLabels: { app } },
  });
  const preferred = (kind: "podAffinity" | "podAntiAffinity", app: string, key?: string) => ({
    affinity: {
      [kind]: {
        preferredDuringSchedulingIgnoredDuringExecution: [{ weight: 50, podAffinityTerm: term(app, key) }],
      },
    },
  });
  const best = (incoming: Stored<Pod>, nodes: NodeInfo[], inclined: [Stored<Pod>, NodeInfo][] = []) => {
    const facts = podFacts(incoming, undefined);
    const where = inclined.map(([one, info]) => ({ facts: podFacts(one, undefined), info }));
    const wishes = wishesOf(facts, nodes, where, () => undefined);
    return bestNode(facts, nodes, wishes)?.node?.metadata.name;
  };
  const cache = labelled("cache", "cache");
  const nodes = [place("a", { zone: "x" }), place("b", { zone: "y" }, cache), place("c", { zone: "y" })];
  t.equal(best(labelled("p", "p"), nodes), "a", "of equals the emptiest, by name");
  t.equal(best(labelled("p", "p", preferred("podAffinity", "cache")), nodes), "b");
  t.equal(
    best(labelled("p", "p", preferred("podAffinity", "cache", "zone")), nodes),
    "c",
    "near, and emptier",
  );
  const shy = place("a", {}, cache);
  const free = place("z", {}, labelled("x", "x"), labelled("y", "y"));
  t.equal(best(labelled("p", "p", preferred("podAntiAffinity", "cache")), [shy, free]), "z");
  const lonely = labelled("lonely", "lonely", preferred("podAntiAffinity", "p"));
  const taken = place("a", {}, lonely);
  t.equal(
    best(labelled("p", "p"), [taken, free], [[lonely, taken]]),
    "z",
    "a pod that is there wishes it away",
  );

  const soft = (key: string) => ({
    topologySpreadConstraints: [
      {
        maxSkew: 1,
        topologyKey: key,
        whenUnsatisfiable: "ScheduleAnyway",
        labelSelector: { matchLabels: { app: "p" } },
      },
    ],
  });
  const crowded = [
    place("a", { zone: "x" }),
    place("b", { zone: "x" }, labelled("p1", "p")),
    place("c", { zone: "y" }, labelled("o1", "o"), labelled("o2", "o")),
  ];
  t.equal(best(labelled("p", "p", soft("zone")), crowded), "c", "the zone that has none");
  t.equal(best(labelled("p", "p", soft("missing")), crowded), "a");

  const hard = (more: object) => {
    const constraint = {
      ...soft("zone").topologySpreadConstraints[0],
      whenUnsatisfiable: "DoNotSchedule",
      ...more,
    };
    return labelled("p", "p", { topologySpreadConstraints: [constraint] });
  };
  const forbidden = place("d", { zone: "z" });
  forbidden.node = {
    ...(forbidden.node as Stored<Node>),
    spec: { taints: [{ key: "k", effect: "NoSchedule" }] },
  };
  const full = [
    place("a", { zone: "x" }, labelled("p1", "p")),
    place("b", { zone: "y" }, labelled("p2", "p")),
    forbidden,
  ];
  const fits = (incoming: Stored<Pod>) => {
    const facts = podFacts(incoming, undefined);
    const rules = topologyRules(facts, full, [], () => undefined);
    return full.filter((info) => !filterNode(facts, info, rules)).map((info) => info.node?.metadata.name);
  };
  t.same(fits(hard({})), [], "the tainted node's empty zone counts");
  t.same(fits(hard({ nodeTaintsPolicy: "Honor" })), ["a", "b"]);
  const apart = (keys: object) =>
    labelled("p", "p", {
      affinity: {
        podAntiAffinity: { requiredDuringSchedulingIgnoredDuringExecution: [{ ...term("p"), ...keys }] },
      },
    });
  t.same(fits(apart({})), []);
  t.same(
    fits(apart({ mismatchLabelKeys: ["app"] })),
    ["a", "b"],
    "only of other apps, of which there are none",
  );

  const daemon = podFacts(
    { ...daemonPod(DAEMONS, "h", "b"), metadata: cache.metadata } as Stored<Pod>,
    undefined,
  );
  t.same(
    full.map((info) => filterNode(daemon, info, NO_RULES)?.reasons[0]),
    [
      "node(s) didn't satisfy plugin(s) [NodeAffinity]",
      undefined,
      "node(s) didn't satisfy plugin(s) [NodeAffinity]",
    ],
    "a daemon's pod is for one node",
  );

  const port = { ports: [{ containerPort: 80, hostPort: 80 }] };
  const sidecar = {
    initContainers: [
      { name: "s", restartPolicy: "Always", ...port },
      { name: "i", ...port },
    ],
  };
  t.equal(
    podFacts(labelled("p", "p", sidecar), undefined).hostPorts.length,
    1,
    "an init container holds no port",
  );
});
