// A watch over HTTP: one JSON document a line, written in batches, with bookmarks, a time limit, and an ERROR event
// when it cannot go on.

import type { ServerResponse } from "node:http";
import type { KubeObject, Status, Stored } from "../../../common/k8s.js";
import { textOf } from "../codec.js";
import type { Kind } from "../engine.js";
import { expired, internalError } from "../status.js";
import type { EventSink, ObjectEvent, RunningWatch } from "../watching.js";
import type { Accepted } from "./negotiate.js";
import { type IncludeObject, partialMetadata, tableOf } from "./table.js";

export interface WatchStreamOptions {
  kind: Kind;
  accepted: Accepted;
  includeObject: IncludeObject;
  bookmarks: boolean;
  /** 0: the server's choice. */
  timeoutSeconds: number;
}

const BOOKMARK_INTERVAL_MS = 60_000;
/** A client this far behind is cut off and has to list anew. */
const MAX_BACKLOG_BYTES = 64 << 20;
const MIN_TIMEOUT_SECONDS = 1800;
const HEADERS = { "Content-Type": "application/json", "Cache-Control": "no-cache, private" };

export class WatchStream implements EventSink {
  readonly #res: ServerResponse;
  readonly #options: WatchStreamOptions;
  readonly #onClose: () => void;
  #pending: string[] = [];
  #scheduled = false;
  #running: RunningWatch | undefined;
  #headers = true;
  #closed = false;
  readonly #timers: NodeJS.Timeout[] = [];

  /** Nothing is sent before {@link begin}: until then an error can still be an HTTP status. */
  constructor(res: ServerResponse, options: WatchStreamOptions, onClose: () => void) {
    this.#res = res;
    this.#options = options;
    this.#onClose = onClose;
  }

  begin(running: RunningWatch): void {
    this.#running = running;
    this.#res.on("close", () => this.#finish());
    this.#res.on("error", () => this.#finish());
    if (this.#res.destroyed) {
      this.#finish();
      return;
    }
    this.#res.writeHead(200, HEADERS);
    this.#res.flushHeaders();
    const { bookmarks, timeoutSeconds } = this.#options;
    const limit = timeoutSeconds > 0 ? timeoutSeconds : MIN_TIMEOUT_SECONDS * (1 + Math.random());
    // setTimeout takes no more than 2^31 ms.
    this.#timers.push(setTimeout(() => this.close(), Math.min(limit * 1000, 2 ** 31 - 1)));
    if (bookmarks) this.#timers.push(setInterval(() => this.#bookmark(), BOOKMARK_INTERVAL_MS));
    for (const timer of this.#timers) timer.unref();
    if (this.#pending.length > 0) this.#flush();
  }

  /** Instead of {@link begin}: a watch whose only event is this error. */
  refuse(status: Status): void {
    this.#res.writeHead(200, HEADERS);
    this.#error(status);
    this.close(false);
  }

  event(event: ObjectEvent): void {
    if (this.#closed) return;
    this.#pending.push(this.#line(event));
    if (this.#scheduled || !this.#running) return;
    this.#scheduled = true;
    setImmediate(() => this.#flush());
  }

  /** The store ended the watch: without an error the client may simply come back. */
  end(error?: Error): void {
    if (error) this.#error(internalError(error.message).status);
    this.close(false);
  }

  /** Ends the watch as at its time limit. */
  close(bookmark = true): void {
    if (this.#closed) return;
    if (bookmark && this.#options.bookmarks) this.#bookmark();
    this.#flush();
    this.#finish();
    this.#res.end();
  }

  #bookmark(): void {
    if (this.#running) this.event(this.#running.bookmark());
  }

  #line(event: ObjectEvent): string {
    return `{"type":"${event.type}","object":${this.#object(event)}}\n`;
  }

  #object({ type, object }: ObjectEvent): string {
    const { accepted, kind, includeObject } = this.#options;
    if (!accepted.as) return type === "BOOKMARK" ? JSON.stringify(object) : textOf(object);
    const stored = object as Stored<KubeObject>;
    if (accepted.as === "Table") {
      const { resourceVersion } = object.metadata;
      const rows = type === "BOOKMARK" ? [] : [stored];
      const table = tableOf(kind, rows, { resourceVersion }, includeObject, this.#headers);
      // kubectl wants the row of a bookmark to carry the version; the columns are told once.
      if (type === "BOOKMARK")
        table.rows.push({ cells: kind.definition.columns.map(() => ""), object: partialMetadata(stored) });
      else this.#headers = false;
      return JSON.stringify(table);
    }
    return JSON.stringify(partialMetadata(stored));
  }

  #error(status: Status): void {
    this.#pending.push(`${JSON.stringify({ type: "ERROR", object: status })}\n`);
  }

  #flush(): void {
    this.#scheduled = false;
    if (this.#closed || this.#pending.length === 0) return;
    const text = this.#pending.join("");
    this.#pending = [];
    this.#res.write(text);
    if (this.#res.writableLength <= MAX_BACKLOG_BYTES) return;
    this.#finish();
    const { status } = expired("the watch could not keep up with the events, list again");
    this.#res.end(`${JSON.stringify({ type: "ERROR", object: status })}\n`);
  }

  #finish(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const timer of this.#timers) clearTimeout(timer);
    this.#running?.close();
    this.#onClose();
  }
}
