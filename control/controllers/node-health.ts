// When a node counts as lost: what its Lease and status heartbeats tell, and what conditions follow. Pure; the clock
// is an argument. Rules of kube-controller-manager's node lifecycle controller.

import type { Lease, Node, NodeCondition, Stored } from "../../common/k8s.js";
import { timestamp } from "./time.js";

/** What was last seen of a node, and when by our own clock: the node's clock may be wrong. */
export interface NodeHealth {
  uid: string;
  /** When a heartbeat of either kind last moved; milliseconds since the epoch. */
  seenAt: number;
  renewTime: string | undefined;
  heartbeat: string | undefined;
}

function heartbeatOf(node: Stored<Node>): string | undefined {
  return node.status?.conditions?.find((condition) => condition.type === "Ready")?.lastHeartbeatTime;
}

/** The health after one more look. A node seen for the first time counts as heard of now: we may just have started. */
export function observe(
  health: NodeHealth | undefined,
  node: Stored<Node>,
  lease: Stored<Lease> | undefined,
  now: number,
): NodeHealth {
  const renewTime = lease?.spec?.renewTime ?? health?.renewTime;
  const heartbeat = heartbeatOf(node);
  if (health?.uid !== node.metadata.uid) return { uid: node.metadata.uid, seenAt: now, renewTime, heartbeat };
  const moved = renewTime !== health.renewTime || (heartbeat !== undefined && heartbeat !== health.heartbeat);
  return { uid: health.uid, seenAt: moved ? now : health.seenAt, renewTime, heartbeat };
}

/** Conditions the kubelet is expected to post. */
const EXPECTED = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/** The conditions of a node that has not been heard of for too long; undefined when they say so already. */
export function lostConditions(node: Stored<Node>, now: number): NodeCondition[] | undefined {
  const present = node.status?.conditions ?? [];
  const time = timestamp(now);
  let changed = false;
  const conditions = present.map((condition) => {
    if (!EXPECTED.includes(condition.type) || condition.status === "Unknown") return condition;
    changed = true;
    return {
      ...condition,
      status: "Unknown",
      reason: "NodeStatusUnknown",
      message: "Kubelet stopped posting node status.",
      lastTransitionTime: time,
    };
  });
  for (const type of EXPECTED) {
    if (present.some((condition) => condition.type === type)) continue;
    changed = true;
    conditions.push({
      type,
      status: "Unknown",
      reason: "NodeStatusNeverUpdated",
      message: "Kubelet never posted node status.",
      lastHeartbeatTime: node.metadata.creationTimestamp,
      lastTransitionTime: time,
    });
  }
  return changed ? conditions : undefined;
}

/**
 * Whether pods may be evicted from lost nodes. When every node is lost, the trouble is more likely on our side, and
 * the same holds for most of a small cluster: evicting would only make it worse.
 */
export function evictionAllowed(ready: number, notReady: number): boolean {
  if (ready === 0) return false;
  const partial = notReady > 2 && notReady / (ready + notReady) >= 0.55;
  return !partial || ready + notReady > 50;
}
