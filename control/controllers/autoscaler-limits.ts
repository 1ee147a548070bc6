// How fast a HorizontalPodAutoscaler may go where its metrics want it: stabilization windows, rates, minimum and
// maximum. Source: "Configurable scaling behavior" of its documentation. Pure; knows the spec and past decisions.

import type { HPAScalingPolicy } from "kubernetes-types/autoscaling/v2.js";
import type { HorizontalPodAutoscaler } from "../../common/k8s.js";
import type { ScalingRules } from "../resources/validation/autoscaler.js";

/** --horizontal-pod-autoscaler-downscale-stabilization */
const DOWNSCALE_WINDOW_S = 300;
/** Without `behavior`: in one step to twice the size, or to four. */
const SCALE_UP_FACTOR = 2;
const SCALE_UP_MINIMUM = 4;
/** No window and no period is longer. */
const LONGEST_MS = 3_600_000;

/** What was recommended or done, and when (milliseconds since the epoch). */
export interface Past {
  recommendations: { replicas: number; at: number }[];
  /** Changes of the scale, signed. */
  changes: { by: number; at: number }[];
}

/** Without what can matter no more. */
export function recent({ recommendations, changes }: Past, now: number): Past {
  const young = ({ at }: { at: number }) => at > now - LONGEST_MS;
  return { recommendations: recommendations.filter(young), changes: changes.filter(young) };
}

interface Reason {
  reason: string;
  message: string;
}

export interface Decision {
  replicas: number;
  /** For the condition AbleToScale. */
  able: Reason;
  /** For the condition ScalingLimited; `limited` is its status. */
  limited: boolean;
  limit: Reason;
}

const READY: Reason = { reason: "ReadyForNewScale", message: "recommended size matches current size" };
const DOWN_STABILIZED: Reason = {
  reason: "ScaleDownStabilized",
  message: "recent recommendations were higher than current one, applying the highest recent recommendation",
};
const UP_STABILIZED: Reason = {
  reason: "ScaleUpStabilized",
  message: "recent recommendations were lower than current one, applying the lowest recent recommendation",
};
const WITHIN: Reason = {
  reason: "DesiredWithinRange",
  message: "the desired count is within the acceptable range",
};
const TOO_FEW: Reason = {
  reason: "TooFewReplicas",
  message: "the desired replica count is less than the minimum replica count",
};
const TOO_MANY: Reason = {
  reason: "TooManyReplicas",
  message: "the desired replica count is more than the maximum replica count",
};
const UP_LIMIT: Reason = {
  reason: "ScaleUpLimit",
  message: "the desired replica count is increasing faster than the maximum scale rate",
};
const DOWN_LIMIT: Reason = {
  reason: "ScaleDownLimit",
  message: "the desired replica count is decreasing faster than the maximum scale rate",
};

type Spec = NonNullable<HorizontalPodAutoscaler["spec"]>;

/** What becomes of a recommendation. `past` is to hold this recommendation already. */
export function limitReplicas(
  spec: Spec,
  current: number,
  recommended: number,
  past: Past,
  now: number,
): Decision {
  const { behavior, minReplicas = 1, maxReplicas } = spec;
  const { replicas: stable, able } = stabilize(behavior, current, recommended, past, now);
  let [lowest, highest] = [0, Math.max(SCALE_UP_FACTOR * current, SCALE_UP_MINIMUM)];
  if (behavior) {
    highest = Math.max(current, rateLimit(behavior.scaleUp, current, past, now, 1));
    lowest = Math.min(current, rateLimit(behavior.scaleDown, current, past, now, -1));
  }
  const [floor, ceiling] = [Math.max(minReplicas, lowest), Math.min(maxReplicas, highest)];
  if (stable > ceiling)
    return { replicas: ceiling, able, limited: true, limit: maxReplicas > highest ? UP_LIMIT : TOO_MANY };
  if (stable < floor)
    return { replicas: floor, able, limited: true, limit: lowest > minReplicas ? DOWN_LIMIT : TOO_FEW };
  return { replicas: stable, able, limited: false, limit: WITHIN };
}

/** The lowest of the recent recommendations on the way up, the highest on the way down. */
function stabilize(
  behavior: Spec["behavior"],
  current: number,
  recommended: number,
  { recommendations }: Past,
  now: number,
): { replicas: number; able: Reason } {
  const within = (seconds: number) =>
    recommendations.filter(({ at }) => at > now - seconds * 1000).map(({ replicas }) => replicas);
  const up = Math.min(recommended, ...within(behavior?.scaleUp?.stabilizationWindowSeconds ?? 0));
  const down = Math.max(
    recommended,
    ...within(behavior?.scaleDown?.stabilizationWindowSeconds ?? DOWNSCALE_WINDOW_S),
  );
  // Without `behavior` the highest of the window holds, also when that is above the present size.
  if (!behavior) return { replicas: down, able: down === recommended ? READY : DOWN_STABILIZED };
  const replicas = Math.min(Math.max(current, up), down);
  if (replicas === recommended) return { replicas, able: READY };
  return { replicas, able: recommended < current ? DOWN_STABILIZED : UP_STABILIZED };
}

/** How far a direction (1 up, -1 down) may be gone now; each policy counts from the size at its period's beginning. */
function rateLimit(
  rules: ScalingRules | undefined,
  current: number,
  { changes }: Past,
  now: number,
  direction: 1 | -1,
): number {
  if (rules?.selectPolicy === "Disabled") return current;
  const reach = ({ type, value, periodSeconds }: HPAScalingPolicy): number => {
    const made = changes
      .filter(({ at }) => at > now - periodSeconds * 1000)
      .reduce((sum, { by }) => sum + by, 0);
    const before = current - made;
    if (type === "Pods") return before + direction * value;
    const proposed = before * (1 + (direction * value) / 100);
    return direction > 0 ? Math.ceil(proposed) : Math.trunc(proposed);
  };
  const limits = (rules?.policies ?? []).map(reach);
  const far = (rules?.selectPolicy === "Min") === direction < 0;
  return limits.length === 0 ? current : far ? Math.max(...limits) : Math.min(...limits);
}
