// The line between `up` and a process it starts: descriptor 3, a socket pair. The child reports on it; until the
// parent has said "commit" (or for ever, in an ephemeral cluster) its end means that the parent is dead, and the
// child goes too. So a killed `up` leaves nothing half-started. Knows JSON lines, nothing of clusters.

import { Socket } from "node:net";
import { messageOf } from "./errors.js";

export const CHANNEL_FD = 3;

/** What a child says; each a line of JSON. */
export type ChildMessage =
  | { event: "hosts"; ms: number }
  | { event: "ready"; apiPort?: number }
  | { event: "failed"; message: string; code?: string };

const COMMIT = "commit\n";

/** The child's end. */
export class ChildChannel {
  readonly #socket: Socket;
  #committed = false;

  /** `orphaned` is called once, when the parent is gone before it has committed. */
  constructor(orphaned: () => void) {
    this.#socket = new Socket({ fd: CHANNEL_FD, readable: true, writable: true });
    let text = "";
    this.#socket.setEncoding("utf8");
    this.#socket.on("data", (chunk: string) => {
      text += chunk;
      if (text.includes(COMMIT)) this.#committed = true;
      if (this.#committed) this.#socket.destroy();
    });
    // EPIPE and ECONNRESET are how a dead parent shows while we write; "close" follows and decides.
    this.#socket.on("error", () => {});
    this.#socket.on("close", () => {
      if (!this.#committed) orphaned();
    });
    this.#socket.unref();
  }

  send(message: ChildMessage): void {
    if (this.#socket.writable) this.#socket.write(`${JSON.stringify(message)}\n`);
  }

  /** Tells the parent why there will be no "ready"; resolves when it is written. */
  fail(error: unknown): Promise<void> {
    const code = error instanceof Error && "code" in error ? { code: String(error.code) } : {};
    const line = `${JSON.stringify({ event: "failed", message: messageOf(error), ...code })}\n`;
    return new Promise((resolve) => {
      if (!this.#socket.writable) resolve();
      else this.#socket.write(line, () => resolve());
    });
  }
}

/** The parent's end, on the child's `stdio[3]`. */
export class ParentChannel {
  readonly #socket: Socket;

  constructor(socket: Socket) {
    this.#socket = socket;
    // ECONNRESET is how the end of a child shows that had not read everything; "close" follows and says enough.
    socket.on("error", () => {});
  }

  /** Calls `receive` for each message; resolves when the child closes the line or ends. */
  listen(receive: (message: ChildMessage) => void): Promise<void> {
    let rest = "";
    this.#socket.setEncoding("utf8");
    this.#socket.on("data", (chunk: string) => {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) receive(JSON.parse(line) as ChildMessage);
    });
    return new Promise((resolve) => this.#socket.once("close", () => resolve()));
  }

  /** The child may outlive this process. */
  commit(): void {
    this.#socket.end(COMMIT);
  }

  /** Keeps the line for as long as this process lives, without keeping this process alive. */
  hold(): void {
    held.add(this.#socket);
    this.#socket.once("close", () => held.delete(this.#socket));
    this.#socket.unref();
  }

  close(): void {
    this.#socket.destroy();
  }
}

/** Lines of ephemeral clusters: a collected socket would close its descriptor and end the child. */
const held = new Set<Socket>();
