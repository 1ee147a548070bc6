// What a remote command needs of its client, whatever the connection: streams, sizes of the terminal, and a way to
// tell the end. Pure types, and the one format that all connections share.

import type { Readable, Writable } from "node:stream";
import type { Status } from "../../common/k8s.js";

/** The client's end of a remote command. */
export interface RemoteChannels {
  /** What the client types; null when it does not. Ends when the client says so, or goes. */
  readonly stdin: Readable | null;
  /** Null: the client does not want it. */
  readonly stdout: Writable | null;
  readonly stderr: Writable | null;
  /** Sizes of the client's terminal, from now on. */
  onResize(listener: (columns: number, rows: number) => void): void;
  /** Resolves when the client has gone. */
  readonly gone: Promise<void>;
  /** How the command ended, after all output; then the connection is closed. */
  finish(status: Partial<Status>): void;
}

/** Which streams the client asked for. */
export interface WantedStreams {
  stdin: boolean;
  stdout: boolean;
  stderr: boolean;
  tty: boolean;
}

const SIZE = /\{[^{}]*\}/g;
const LARGEST_SIDE = 65_535;

/** Reads terminal sizes, JSON objects one after the other, from text that may come in pieces. */
export class ResizeReader {
  #rest = "";

  read(text: string): { columns: number; rows: number }[] {
    this.#rest += text;
    const objects = this.#rest.match(SIZE) ?? [];
    // What follows the last object may be the beginning of the next; one is never long.
    this.#rest = this.#rest.slice(this.#rest.lastIndexOf("}") + 1).slice(-200);
    return objects.flatMap((object) => {
      const { Width, Height } = parse(object);
      if (typeof Width !== "number" || typeof Height !== "number") return [];
      return [{ columns: Math.min(Width, LARGEST_SIDE), rows: Math.min(Height, LARGEST_SIDE) }];
    });
  }
}

function parse(text: string): { Width?: unknown; Height?: unknown } {
  try {
    return JSON.parse(text) as { Width?: unknown; Height?: unknown };
  } catch {
    // Not JSON: no size to follow, and nothing else on this channel could be meant.
    return {};
  }
}
