// The API server with its store in a temporary folder for tests, over a unix socket, TLS and in-process; watches
// as a client sees them, and objects as somebody sends them.

import { type IncomingMessage, request } from "node:http";
import { join } from "node:path";
import type { Test } from "tap";
import { NAMESPACES } from "../../../common/client.js";
import type { ConfigMap, Status, Stored } from "../../../common/k8s.js";
import { silentLogger } from "../../../common/log.js";
import type { Admission } from "../../../control/api/admission.js";
import { objectCodec } from "../../../control/api/codec.js";
import type { KubeletConnector } from "../../../control/api/http/kubelet.js";
import { ApiServer } from "../../../control/api/http/server.js";
import { LocalClient } from "../../../control/api/local.js";
import { Registry } from "../../../control/api/registry.js";
import { Schema } from "../../../control/api/schema.js";
import { closeServer, listenSocket, listenTls } from "../../../control/listeners.js";
import { loadPki } from "../../../control/pki.js";
import { createResources } from "../../../control/resources/index.js";
import { LmdbStore } from "../../../control/store/lmdb.js";
import { tempDir } from "../../helpers/temp-dir.js";

const schema = Schema.load();

export interface Answer {
  code: number;
  headers: IncomingMessage["headers"];
  text: string;
  // biome-ignore lint/suspicious/noExplicitAny: tests read documents of many shapes
  body: any;
}

interface CallOptions {
  body?: unknown;
  type?: string;
  accept?: string;
}

export interface Harness {
  registry: Registry;
  store: LmdbStore<Stored>;
  client: LocalClient;
  socketPath: string;
  port: number;
  tls: { ca: string; cert: string; key: string };
  dir: string;
  api: ApiServer;
  call(method: string, path: string, options?: CallOptions): Promise<Answer>;
}

/** The whole answer, its body read when it is JSON. */
export function answerOf(res: IncomingMessage): Promise<Answer> {
  return new Promise((resolve, reject) => {
    let text = "";
    res.setEncoding("utf8");
    res.on("data", (chunk) => {
      text += chunk;
    });
    res.on("error", reject);
    res.on("end", () => {
      const isJson = res.headers["content-type"]?.startsWith("application/json") ?? false;
      resolve({
        code: res.statusCode ?? 0,
        headers: res.headers,
        text,
        body: isJson ? JSON.parse(text) : undefined,
      });
    });
  });
}

/** An API server on a unix socket with the namespace default, gone with the test. */
export async function startApi(
  test: Test,
  kubelet: KubeletConnector = () => ({ socketPath: "/nowhere", pathPrefix: "" }),
  admission: readonly Admission[] = [],
): Promise<Pick<Harness, "registry" | "store" | "client" | "socketPath" | "dir" | "api">> {
  const dir = tempDir(test);
  const store = await LmdbStore.open<Stored>({ path: join(dir, "store"), codec: objectCodec });
  const definitions = createResources({
    serviceCIDRs: ["10.96.0.0/16"],
    nodePortRange: [30000, 32767],
    defaultTolerationSeconds: 300,
  });
  const registry = await Registry.open({ store, schema, definitions, admission, log: silentLogger });
  const client = new LocalClient(registry);
  await client.create(NAMESPACES, { metadata: { name: "default" } });
  const api = new ApiServer({ registry, kubelet, address: () => "127.0.0.1:1", log: silentLogger });
  const socketPath = join(dir, "control.sock");
  const server = await listenSocket(api, socketPath, silentLogger);
  test.teardown(async () => {
    api.close();
    await closeServer(server);
    await store.close();
  });
  return { registry, store, client, socketPath, dir, api };
}

/** The same with TLS, and requests to it. */
export async function startHarness(
  test: Test,
  kubelet?: KubeletConnector,
  admission?: readonly Admission[],
): Promise<Harness> {
  const started = await startApi(test, kubelet, admission);
  const { registry, socketPath, dir, api } = started;
  const pki = await loadPki({ dir: join(dir, "pki"), serverNames: ["127.0.0.1", "localhost"] });
  const { server, port } = await listenTls(
    api,
    pki,
    { host: "127.0.0.1", port: 0 },
    registry.tokens,
    silentLogger,
  );
  test.teardown(() => {
    api.close();
    return closeServer(server);
  });
  const call = (method: string, path: string, { body, type, accept }: CallOptions = {}): Promise<Answer> =>
    new Promise((resolve, reject) => {
      const text =
        body === undefined || Buffer.isBuffer(body) || typeof body === "string" ? body : JSON.stringify(body);
      const payload = Buffer.from(text ?? "");
      const headers = {
        "content-type": type ?? "application/json",
        "content-length": payload.length,
        ...(accept ? { accept } : {}),
      };
      const req = request({ socketPath, method, path, headers }, (res) =>
        answerOf(res).then(resolve, reject),
      );
      req.on("error", reject);
      req.end(payload);
    });
  const tls = { ca: pki.ca.cert, cert: pki.admin.cert, key: pki.admin.key };
  return { ...started, port, tls, call };
}

/** A watch as a client sees it: lines, and how the answer ended. */
export interface LineWatch {
  events: { type: string; object: Stored<ConfigMap> & Status }[];
  ended: Promise<void>;
  isEnded(): boolean;
  stop(): void;
}

/** Opens a watch; a refusal comes as its code and Status. */
export function watch(
  h: Harness,
  path: string,
  accept = "application/json",
): Promise<LineWatch & { code: number; status?: Status }> {
  return new Promise((resolve, reject) => {
    const req = request({ socketPath: h.socketPath, path, headers: { accept } }, (res) => {
      if (res.statusCode !== 200) {
        answerOf(res).then(
          ({ code, body }) =>
            resolve({
              code,
              status: body,
              events: [],
              ended: Promise.resolve(),
              isEnded: () => true,
              stop: () => {},
            }),
          reject,
        );
        return;
      }
      const events: LineWatch["events"] = [];
      let rest = "";
      let over = false;
      res.setEncoding("utf8");
      res.on("data", (chunk) => {
        const lines = (rest + chunk).split("\n");
        rest = lines.pop() ?? "";
        events.push(...lines.map((line) => JSON.parse(line)));
      });
      const ended = new Promise<void>((done) => {
        res.on("close", () => {
          over = true;
          done();
        });
      });
      res.on("error", () => {});
      resolve({ code: 200, events, ended, isEnded: () => over, stop: () => req.destroy() });
    });
    req.on("error", (error) => {
      if ((error as NodeJS.ErrnoException).code !== "ECONNRESET") reject(error);
    });
    req.end();
  });
}

/** Types and names of what a watch has told. */
export const shown = (w: LineWatch) => w.events.map((e) => `${e.type} ${e.object.metadata?.name ?? ""}`);

export const CM = "/api/v1/namespaces/default/configmaps";
export const configMap = (
  name: string,
  data: Record<string, string> = {},
  labels: Record<string, string> = {},
) => ({
  apiVersion: "v1",
  kind: "ConfigMap",
  metadata: { name, labels },
  data,
});
export const deployment = (name: string, replicas = 1) => ({
  apiVersion: "apps/v1",
  kind: "Deployment",
  metadata: { name },
  spec: {
    replicas,
    selector: { matchLabels: { app: name } },
    template: { metadata: { labels: { app: name } }, spec: { containers: [{ name: "c", image: "nginx" }] } },
  },
});
export const pod = (name: string, more: object = {}, meta: object = {}) => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name, ...meta },
  spec: { containers: [{ name: "c", image: "nginx" }], ...more },
});
export const DEPLOYS = "/apis/apps/v1/namespaces/default/deployments";
export const PODS_PATH = "/api/v1/namespaces/default/pods";
