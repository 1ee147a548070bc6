// watch: the store's events as events of a kind, through the selectors of the request. Knows no HTTP.

import type { WatchEvent, WatchOptions } from "../../common/client.js";
import type { KubeObject, Stored } from "../../common/k8s.js";
import type { FieldError } from "../resources/types.js";
import { forbidden, notSupported } from "../resources/validation/field.js";
import { CompactedError, FutureRevisionError, type StoreEvent, type Watch } from "../store/store.js";
import type { Engine, Kind } from "./engine.js";
import { parseResourceVersion, Selection } from "./read.js";
import { expired, invalidOptions } from "./status.js";

export type ObjectEvent = WatchEvent<KubeObject>;

export interface EventSink {
  /** Only takes the event down: runs inside the writer's call. */
  event(event: ObjectEvent): void;
  end(error?: Error): void;
}

export interface WatchRequest extends WatchOptions {
  sendInitialEvents?: boolean;
  resourceVersionMatch?: "Exact" | "NotOlderThan";
}

export interface RunningWatch {
  /** An event that only says: everything up to here has been sent. */
  bookmark(): ObjectEvent;
  close(): void;
}

/**
 * What a change of an object is to a watcher that sees only some objects: coming into view is ADDED, leaving it
 * DELETED, with the last state that was in view.
 */
function eventFor(selection: Selection, event: StoreEvent<Stored>): ObjectEvent | undefined {
  const before = event.previous !== undefined && selection.matches(event.previous);
  if (event.type === "delete") return before ? { type: "DELETED", object: event.value } : undefined;
  const after = selection.matches(event.value);
  if (after) return { type: before ? "MODIFIED" : "ADDED", object: event.value };
  if (!before) return undefined;
  const { resourceVersion } = event.value.metadata;
  const last = event.previous as Stored;
  return { type: "DELETED", object: { ...last, metadata: { ...last.metadata, resourceVersion } } };
}

function bookmarkOf(kind: Kind, revision: number, annotations?: Record<string, string>): ObjectEvent {
  const metadata = {
    resourceVersion: String(revision),
    creationTimestamp: null,
    ...(annotations ? { annotations } : {}),
  };
  return { type: "BOOKMARK", object: { kind: kind.resource.kind, apiVersion: kind.apiVersion, metadata } };
}

/** Refuses combinations of parameters that have no meaning, as the real server does. */
function checkInitialEvents({ sendInitialEvents, resourceVersionMatch: match }: WatchRequest): void {
  const errors: FieldError[] = [];
  const field = "resourceVersionMatch";
  if (sendInitialEvents !== undefined && match !== "NotOlderThan")
    errors.push(forbidden(field, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"));
  if (sendInitialEvents === undefined && match !== undefined)
    errors.push(
      forbidden(field, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"),
    );
  if (match !== undefined && match !== "NotOlderThan")
    errors.push(notSupported(field, match, ["NotOlderThan"]));
  if (errors.length > 0) throw invalidOptions("ListOptions", errors);
}

/**
 * Starts a watch; events that are already due come before it returns.
 * @throws StatusError Expired for a resourceVersion that is no longer kept (or was never ours), BadRequest.
 */
export async function startWatch(
  engine: Engine,
  kind: Kind,
  request: WatchRequest,
  sink: EventSink,
): Promise<RunningWatch> {
  checkInitialEvents(request);
  const selection = new Selection(kind, request);
  const version = parseResourceVersion(request.resourceVersion);
  const prefix = kind.range(selection.namespace);
  let from = version ?? 0;
  const wantsState = request.sendInitialEvents ?? from === 0;
  if (wantsState) {
    const current = await engine.store.revision();
    if (from > current) throw tooNew(from, current);
    const state = await kind.store.range(prefix);
    for (const { value } of state.entries)
      if (selection.matches(value)) sink.event({ type: "ADDED", object: value });
    from = state.revision;
    if (request.sendInitialEvents && request.allowWatchBookmarks)
      sink.event(bookmarkOf(kind, from, { "k8s.io/initial-events-end": "true" }));
  } else if (from === 0) from = await engine.store.revision();
  const watch = await openWatch(kind, prefix, from, {
    event: (event) => {
      const mapped = eventFor(selection, event);
      if (mapped) sink.event(mapped);
    },
    end: (error) => sink.end(error),
  });
  return { bookmark: () => bookmarkOf(kind, watch.progress), close: () => watch.close() };
}

async function openWatch(
  kind: Kind,
  prefix: string,
  from: number,
  sink: { event(event: StoreEvent<Stored>): void; end(error?: Error): void },
): Promise<Watch> {
  try {
    return await kind.store.watch(prefix, from, sink);
  } catch (error) {
    if (error instanceof CompactedError)
      throw expired(`too old resource version: ${error.revision} (${error.compacted})`);
    if (error instanceof FutureRevisionError) throw tooNew(error.revision, error.current);
    throw error;
  }
}

/**
 * A version from the future belongs to another store (a data directory that was deleted): every client must list
 * anew, which is what it does on Expired.
 */
function tooNew(wanted: number, current: number): Error {
  return expired(`too large resource version: ${wanted}, current: ${current}`);
}
