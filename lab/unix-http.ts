// Small HTTP requests over a unix socket: how `up`, `status` and tests talk to the processes of a cluster.

import { request } from "node:http";
import { ClusterError } from "./errors.js";

export interface UnixRequest {
  socketPath: string;
  method?: string;
  path: string;
  /** Sent as JSON. */
  body?: unknown;
  timeoutMs?: number;
}

/**
 * The parsed JSON answer.
 * @throws ClusterError COMMAND_FAILED with the `message` of an error answer, or its `code` when it names one;
 *   the transport's own error (ENOENT, ECONNREFUSED) when nobody listens.
 */
export function requestJson<T>({
  socketPath,
  method = "GET",
  path,
  body,
  timeoutMs = 5000,
}: UnixRequest): Promise<T> {
  return new Promise((resolve, reject) => {
    const headers = body === undefined ? {} : { "content-type": "application/json" };
    const req = request({ socketPath, method, path, headers, timeout: timeoutMs }, (res) => {
      const chunks: Buffer[] = [];
      res.on("data", (chunk: Buffer) => chunks.push(chunk));
      res.on("error", reject);
      res.on("end", () => {
        const text = Buffer.concat(chunks).toString();
        try {
          const answer = (text ? JSON.parse(text) : {}) as { message?: string; code?: string };
          if ((res.statusCode ?? 500) < 400) resolve(answer as T);
          else reject(errorOf(answer, `${method} ${path}: HTTP ${res.statusCode}`));
        } catch (cause) {
          reject(
            new ClusterError("COMMAND_FAILED", `${method} ${path}: answer is not JSON: ${text}`, { cause }),
          );
        }
      });
    });
    req.once("timeout", () => req.destroy(new Error(`${method} ${path}: no answer in ${timeoutMs} ms`)));
    req.once("error", reject);
    req.end(body === undefined ? undefined : JSON.stringify(body));
  });
}

function errorOf({ message, code }: { message?: string; code?: string }, fallback: string): ClusterError {
  return new ClusterError(code === "PORT_IN_USE" ? code : "COMMAND_FAILED", message ?? fallback);
}
