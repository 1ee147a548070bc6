// Event (core v1): the declaration of the kind to the API engine.

import { EVENTS } from "../../common/client.js";
import type { Event, Stored } from "../../common/k8s.js";
import { age } from "./duration.js";
import { column, wideColumn } from "./object.js";
import type { ResourceDefinition } from "./types.js";
import { invalid } from "./validation/field.js";

function firstSeen(event: Stored<Event>, now: number): string {
  return age(event.firstTimestamp ?? event.eventTime, now);
}

function lastSeen(event: Stored<Event>, now: number): string {
  if (event.series) return age(event.series.lastObservedTime, now);
  return event.lastTimestamp ? age(event.lastTimestamp, now) : firstSeen(event, now);
}

function objectText({ involvedObject }: Stored<Event>): string {
  const kind = (involvedObject?.kind ?? "").toLowerCase();
  return involvedObject?.name ? `${kind}/${involvedObject.name}` : kind;
}

function sourceText(event: Stored<Event>): string {
  const component = event.source?.component || event.reportingComponent || "";
  const host = event.source?.component ? event.source.host : event.reportingInstance;
  return [component, host].filter((part) => part).join(", ");
}

export const eventDefinition: ResourceDefinition<Event> = {
  resource: EVENTS,
  singular: "event",
  shortNames: ["ev"],
  schema: "io.k8s.api.core.v1.Event",
  hasStatus: false,
  columns: [
    column("Last Seen", lastSeen),
    column("Type", (e) => e.type ?? ""),
    column("Reason", (e) => e.reason ?? ""),
    column("Object", objectText),
    wideColumn("Subobject", (e) => e.involvedObject?.fieldPath ?? ""),
    wideColumn("Source", sourceText),
    column("Message", (e) => (e.message ?? "").trim()),
    wideColumn("First Seen", firstSeen),
    // A new-style event that happened once carries no count.
    wideColumn("Count", (e) => e.series?.count ?? (e.count || 1), "integer"),
    { ...wideColumn<Event>("Name", (e) => e.metadata.name), format: "name" },
  ],
  selectableFields: (e) => ({
    "involvedObject.kind": e.involvedObject?.kind ?? "",
    "involvedObject.namespace": e.involvedObject?.namespace ?? "",
    "involvedObject.name": e.involvedObject?.name ?? "",
    "involvedObject.uid": e.involvedObject?.uid ?? "",
    "involvedObject.apiVersion": e.involvedObject?.apiVersion ?? "",
    "involvedObject.resourceVersion": e.involvedObject?.resourceVersion ?? "",
    "involvedObject.fieldPath": e.involvedObject?.fieldPath ?? "",
    reason: e.reason ?? "",
    reportingComponent: e.reportingComponent ?? "",
    source: e.source?.component || e.reportingComponent || "",
    type: e.type ?? "",
  }),
  validate(event) {
    const about = event.involvedObject?.namespace ?? "";
    const own = event.metadata?.namespace ?? "";
    // What happens to an object without a namespace (a Node) is told in "default".
    const ok = about === "" ? own === "" || own === "default" || own === "kube-system" : about === own;
    return ok ? [] : [invalid("involvedObject.namespace", about, "does not match event.namespace")];
  },
};
