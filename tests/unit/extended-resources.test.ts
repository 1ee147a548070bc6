// Resources that somebody else announces for a node: the kubelet makes them allocatable, and forgets them with him.

import t from "tap";
import { type NodeFacts, nodeStatus, sameNodeStatus, statusPatch } from "../../node/host/node-object.js";

const facts = {
  name: "n",
  nodeIPs: ["192.0.2.1"],
  labels: {},
  taints: [],
  capacity: { cpu: "2" },
} as unknown as NodeFacts;
const NOW = "2026-11-22T00:00:00Z";

t.test("extended resources of a node", async (t) => {
  const first = nodeStatus(facts, { overlayUp: true }, undefined, NOW);
  t.same(first.allocatable, { cpu: "2" });
  const given = {
    ...first.capacity,
    "example.com/dongle": "4",
    "kubernetes.io/x": "1",
    "a.kubernetes.io/x": "1",
    odd: "1",
  };
  const announced = { ...first, capacity: given };
  const wanted = nodeStatus(facts, { overlayUp: true }, announced, NOW);
  t.same(wanted.allocatable, { cpu: "2", "example.com/dongle": "4" }, "no name of Kubernetes' own");
  t.notOk(sameNodeStatus(announced, wanted), "so that it is written");
  const patch = statusPatch(facts, wanted, announced);
  t.match(patch, { capacity: { cpu: "2" }, allocatable: { cpu: "2", "example.com/dongle": "4" } });
  t.same((patch as { capacity: object }).capacity, { cpu: "2" }, "the capacity is left to who gave it");
  const taken = { ...first, allocatable: wanted.allocatable ?? {} };
  const after = nodeStatus(facts, { overlayUp: true }, taken, NOW);
  t.notOk(sameNodeStatus(taken, after));
  const { allocatable } = statusPatch(facts, after, taken) as { allocatable: object };
  t.same(allocatable, { cpu: "2", "example.com/dongle": null });
});
