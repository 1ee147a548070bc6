// Event (events.k8s.io/v1): the objects of core/v1 Event under newer field names, with stricter rules for what is
// written through it. kube-proxy and other client-go recorders write this version. Declaration to the API engine.

import type { Event as EventV1 } from "kubernetes-types/events/v1.js";
import { EVENTS, type Resource } from "../../common/client.js";
import type { Event, Stored } from "../../common/k8s.js";
import { eventDefinition } from "./event.js";
import type { Conversion, FieldError, ResourceDefinition } from "./types.js";
import { invalid, required, same } from "./validation/field.js";
import { byteLength } from "./validation/meta.js";
import { qualified } from "./validation/values.js";

const EVENTS_V1: Resource<EventV1> = { ...EVENTS, group: "events.k8s.io" } as Resource<EventV1>;
const MAX_NAME = 128;
const MAX_NOTE = 1024;

/** Fields of events.k8s.io/v1 that core/v1 calls otherwise. */
const CORE_NAMES = {
  regarding: "involvedObject",
  note: "message",
  reportingController: "reportingComponent",
  deprecatedSource: "source",
  deprecatedFirstTimestamp: "firstTimestamp",
  deprecatedLastTimestamp: "lastTimestamp",
  deprecatedCount: "count",
} as const;

const FIXED = [
  "action",
  "deprecatedCount",
  "deprecatedFirstTimestamp",
  "deprecatedLastTimestamp",
  "deprecatedSource",
  "eventTime",
  "note",
  "reason",
  "regarding",
  "related",
  "reportingController",
  "reportingInstance",
  "type",
] as const;

function renamed(object: Stored, apiVersion: string, names: Readonly<Record<string, string>>): Stored {
  const entries = Object.entries(object).map(([field, value]) => [names[field] ?? field, value]);
  return { ...Object.fromEntries(entries), apiVersion } as Stored;
}

const newNames = Object.fromEntries(Object.entries(CORE_NAMES).map(([now, core]) => [core, now]));

const conversion: Conversion = {
  toStored: (object) => renamed(object, "v1", CORE_NAMES),
  fromStored: (object) => renamed(object, "events.k8s.io/v1", newNames),
};

const toCore = (event: Stored<EventV1>): Stored<Event> => conversion.toStored(event) as Stored<Event>;

function named(field: string, value: string | undefined): FieldError[] {
  if (!value) return [required(field)];
  if (byteLength(value) <= MAX_NAME) return [];
  return [invalid(field, "", `can have at most ${MAX_NAME} characters`)];
}

/** What a new Event needs: Kubernetes' ValidateEventCreate. */
function validateNew(event: EventV1): FieldError[] {
  const { eventTime, reportingController = "", type = "", note = "", series } = event;
  const errors: FieldError[] = [];
  if (!eventTime) errors.push(required("eventTime"));
  if (series && (series.count ?? 0) < 2) {
    errors.push(invalid("series.count", series.count ?? 0, "should be at least 2"));
  }
  if (series && !series.lastObservedTime) errors.push(required("series.lastObservedTime"));
  if (reportingController === "") errors.push(required("reportingController"));
  else errors.push(...qualified("reportingController", reportingController));
  errors.push(...named("reportingInstance", event.reportingInstance));
  errors.push(...named("action", event.action), ...named("reason", event.reason));
  if (type !== "Normal" && type !== "Warning") {
    errors.push(invalid("type", "", `has invalid value: ${type}`));
  }
  if (byteLength(note) > MAX_NOTE) {
    errors.push(invalid("note", "", `can have at most ${MAX_NOTE} characters`));
  }
  return errors;
}

/** An Event happened as it happened: only its series goes on. */
function validateUpdate(event: EventV1, old: Stored<EventV1>): FieldError[] {
  return FIXED.filter((field) => !same(event[field], old[field])).map((field) =>
    invalid(CORE_NAMES[field as keyof typeof CORE_NAMES] ?? field, event[field], "field is immutable"),
  );
}

export const eventV1Definition: ResourceDefinition<EventV1> = {
  resource: EVENTS_V1,
  singular: "event",
  shortNames: ["ev"],
  schema: "io.k8s.api.events.v1.Event",
  hasStatus: false,
  conversion,
  columns: eventDefinition.columns.map((c) => ({ ...c, value: (e, now) => c.value(toCore(e), now) })),
  selectableFields: (event) => ({
    "regarding.kind": event.regarding?.kind ?? "",
    "regarding.namespace": event.regarding?.namespace ?? "",
    "regarding.name": event.regarding?.name ?? "",
    "regarding.uid": event.regarding?.uid ?? "",
    "regarding.apiVersion": event.regarding?.apiVersion ?? "",
    "regarding.resourceVersion": event.regarding?.resourceVersion ?? "",
    "regarding.fieldPath": event.regarding?.fieldPath ?? "",
    reason: event.reason ?? "",
    reportingController: event.reportingController ?? "",
    type: event.type ?? "",
  }),
  validate(event, old) {
    const place = eventDefinition.validate(toCore(event as Stored<EventV1>) as Event);
    return [...place, ...(old ? validateUpdate(event, old) : validateNew(event))];
  },
};
