// One document of a kubelet over HTTP/1.1. Knows how a node is reached, nothing of what it answers.

import { request } from "node:http";
import { text } from "node:stream/consumers";
import type { KubeletConnector } from "../api/http/kubelet.js";
import type { KubeletReader } from "./metrics-server.js";

const TIMEOUT_MS = 10_000;

export function kubeletReader(connect: KubeletConnector): KubeletReader {
  return async (node, path) => {
    const { pathPrefix, ...address } = connect(node);
    return await new Promise<string>((resolve, reject) => {
      const outgoing = request({
        ...address,
        path: pathPrefix + path,
        headers: { host: node.metadata.name },
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
      outgoing.on("error", reject);
      outgoing.on("response", (incoming) => {
        text(incoming).then((body) => {
          if (incoming.statusCode === 200) resolve(body);
          else reject(new Error(`the kubelet answered ${incoming.statusCode}: ${body.slice(0, 200)}`));
        }, reject);
      });
      outgoing.end();
    });
  };
}
