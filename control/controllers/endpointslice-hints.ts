// The hints of a Service's endpoints: by zone and node as spec.trafficDistribution wants it, in proportion to CPU
// under topology-mode Auto, else none. Pure; knows Services and endpoints. Rules of Kubernetes' endpointslice reconciler.

import type { EndpointHints, Service, Stored } from "../../common/k8s.js";
import { addZoneHints, type CpuRatios, isReady, type SliceDraft, setHints } from "./topology-hints.js";

const TOPOLOGY_MODE = "service.kubernetes.io/topology-mode";
/** The older name, which counts where both are given. */
const TOPOLOGY_AWARE_HINTS = "service.kubernetes.io/topology-aware-hints";
const CLOSE = ["PreferClose", "PreferSameZone", "PreferSameNode"];

export interface HintsEvent {
  type: "Normal" | "Warning";
  reason: "TopologyAwareHintsEnabled" | "TopologyAwareHintsDisabled";
  message: string;
}

/** Whether a Service has topology-mode Auto. */
export function isTopologyAware({ metadata: { annotations = {} } }: Stored<Service>): boolean {
  const mode = annotations[TOPOLOGY_AWARE_HINTS] ?? annotations[TOPOLOGY_MODE];
  return mode === "Auto" || mode === "auto";
}

/**
 * Sets the hints of all slices of one family.
 * @param ratios Needed under topology-mode Auto only.
 * @returns Why a Service with topology-mode Auto gets no hints.
 */
export function hintSlices(
  service: Stored<Service>,
  slices: readonly SliceDraft[],
  ratios: () => CpuRatios,
): string | undefined {
  if (isTopologyAware(service)) {
    const problem = addZoneHints(slices, ratios());
    if (problem) eachEndpoint(slices, () => undefined);
    return problem;
  }
  const { trafficDistribution = "" } = service.spec ?? {};
  if (CLOSE.includes(trafficDistribution)) addCloseHints(slices, trafficDistribution === "PreferSameNode");
  else eachEndpoint(slices, () => undefined);
  return undefined;
}

function eachEndpoint(
  slices: readonly SliceDraft[],
  hints: (endpoint: SliceDraft["endpoints"][number]) => EndpointHints | undefined,
): void {
  for (const slice of slices) {
    for (const [i, endpoint] of slice.endpoints.entries()) setHints(slice, i, hints(endpoint));
  }
}

/** Own zone and, if wanted, own node. PreferClose is the older name of PreferSameZone. */
function addCloseHints(slices: readonly SliceDraft[], byNode: boolean): void {
  eachEndpoint(slices, (endpoint) => {
    const { zone, nodeName, hints } = endpoint;
    if (!isReady(endpoint)) return hints;
    const wanted: EndpointHints = {
      ...(zone ? { forZones: [{ name: zone }] } : {}),
      ...(byNode && nodeName ? { forNodes: [{ name: nodeName }] } : {}),
    };
    return Object.keys(wanted).length > 0 ? wanted : undefined;
  });
}

/** What the user is told when hints begin, end or cannot be. */
export function hintsEvents(
  service: Stored<Service>,
  hadHints: boolean,
  problems: ReadonlyMap<string, string | undefined>,
): HintsEvent[] {
  const events: HintsEvent[] = [];
  let enabled = hadHints;
  const disabled = "TopologyAwareHintsDisabled";
  for (const [family, problem] of problems) {
    const where = `addressType: ${family}`;
    if (!isTopologyAware(service)) {
      if (hadHints) {
        const message = `Topology Aware Hints configuration was disabled, ${where}`;
        events.push({ type: "Warning", reason: disabled, message });
      }
    } else if (problem) events.push({ type: "Warning", reason: disabled, message: `${problem}, ${where}` });
    else if (!enabled) {
      enabled = true;
      const message = `Topology Aware Hints has been enabled, ${where}`;
      events.push({ type: "Normal", reason: "TopologyAwareHintsEnabled", message });
    }
  }
  return events;
}
