// A control plane's socket as client-go speaks to it: lists, watches, content types, and control planes for that.

import { type IncomingMessage, request } from "node:http";
import type { Test } from "tap";
import type { Control } from "../../../control/server.js";
import { controlFor } from "../../helpers/control.js";

/** client-go, when protobuf is preferred: kube-proxy's default. */
export const PROTOBUF_FIRST = "application/vnd.kubernetes.protobuf, */*";
export const PROTOBUF_OR_JSON = "application/vnd.kubernetes.protobuf,application/json";
export const PROTOBUF = "application/vnd.kubernetes.protobuf";

export type Json = ReturnType<typeof JSON.parse>;

interface Answer {
  code: number;
  type: string;
  body: Json;
}

interface Asked {
  method?: string;
  accept?: string;
  type?: string;
  body?: object | Buffer;
}

/** Requests to a socket, each on a connection of its own. */
class Door {
  readonly #socketPath: string;

  constructor(socketPath: string) {
    this.#socketPath = socketPath;
  }

  #open(path: string, { method = "GET", accept, type, body }: Asked): Promise<IncomingMessage> {
    const payload = Buffer.isBuffer(body) ? body : Buffer.from(body ? JSON.stringify(body) : "");
    const headers = {
      ...(accept ? { accept } : {}),
      ...(body ? { "content-type": type ?? "application/json", "content-length": payload.length } : {}),
    };
    return new Promise((resolve, reject) => {
      // A connection of its own: a kept one may belong to a server that has been closed meanwhile.
      const req = request({ socketPath: this.#socketPath, method, path, headers, agent: false }, resolve);
      req.on("error", reject);
      req.end(payload);
    });
  }

  async ask(path: string, asked: Asked = {}): Promise<Answer> {
    const res = await this.#open(path, asked);
    let text = "";
    for await (const chunk of res.setEncoding("utf8")) text += chunk;
    const type = res.headers["content-type"] ?? "";
    return { code: res.statusCode ?? 0, type, body: type === "application/json" ? JSON.parse(text) : text };
  }

  /** Reads a watch until `enough` holds of its events; the server's end of it counts as well. */
  async watch(path: string, enough: (events: Json[]) => boolean, accept = PROTOBUF_FIRST): Promise<Json[]> {
    const res = await this.#open(path, { accept });
    const events: Json[] = [];
    let rest = "";
    for await (const chunk of res.setEncoding("utf8")) {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop() ?? "";
      events.push(...lines.map((line) => JSON.parse(line)));
      if (enough(events)) break;
    }
    res.destroy();
    return events;
  }
}

/** A control plane, gone with the test. */
export async function open(
  test: Test,
  options: Parameters<typeof controlFor>[1] = {},
): Promise<{ control: Control; door: Door }> {
  const { control, socketPath } = await controlFor(test, options);
  return { control, door: new Door(socketPath) };
}
