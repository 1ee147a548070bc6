// An API server for tests of server-side apply: requests as any client sends them, and who owns which fields of what it
// answers.

import type { ManagedFieldsEntry } from "kubernetes-types/meta/v1.js";
import type { Test } from "tap";
import { Client } from "undici";
import { SERVICE_ACCOUNTS } from "../../../common/client.js";
import type { Deployment, KubeObject, Status, Stored } from "../../../common/k8s.js";
import { ADMISSION } from "../../../control/api/admission.js";
import type { LocalClient } from "../../../control/api/local.js";
import { pathTexts } from "../../../control/patch/field-set.js";
import { readManagers } from "../../../control/patch/managers.js";
import { deployment as deploymentOf } from "../../helpers/manifests.js";
import { CM, startApi } from "./api-server.js";

export interface Answer {
  code: number;
  warnings: string[];
  object: Stored<Deployment & { data?: Record<string, string> }>;
  status: Status;
}

interface Harness {
  client: LocalClient;
  send(method: "GET" | "POST" | "PUT" | "PATCH", path: string, options?: SendOptions): Promise<Answer>;
}

interface SendOptions {
  body?: unknown;
  type?: string;
  query?: Record<string, string>;
  userAgent?: string;
}

/** An API server with admission and the namespace default, gone with the test. */
export async function serve(test: Test): Promise<Harness> {
  const { client, socketPath } = await startApi(test, undefined, ADMISSION);
  await client.create(SERVICE_ACCOUNTS, { metadata: { name: "default", namespace: "default" } });
  const http = new Client("http://localhost", { connect: { socketPath } });
  test.teardown(() => http.close());
  return {
    client,
    async send(method, path, { body, type = "application/json", query = {}, userAgent = "curl/8.0" } = {}) {
      const answer = await http.request({
        method,
        path,
        query,
        headers: { "content-type": type, "user-agent": userAgent },
        body: body === undefined ? null : typeof body === "string" ? body : JSON.stringify(body),
      });
      const object = (await answer.body.json()) as Answer["object"];
      const warnings = [answer.headers.warning ?? []].flat();
      return { code: answer.statusCode, warnings, object, status: object as unknown as Status };
    },
  };
}

export const APPLY = "application/apply-patch+yaml";

export const configMap = (name: string, data?: Record<string, string>, metadata: object = {}) => ({
  apiVersion: "v1",
  kind: "ConfigMap",
  metadata: { name, ...metadata },
  ...(data ? { data } : {}),
});

export const deployment = (name: string, spec: Record<string, unknown> = {}): object =>
  deploymentOf(name, { containers: [{ name: "c", image: "nginx" }] }, spec);

/** Manager, operation and subresource → paths. */
export function owners(entries: readonly ManagedFieldsEntry[] | undefined): Record<string, string[]> {
  return Object.fromEntries(
    readManagers(entries).map(({ manager, operation, subresource, fields }) => [
      [manager, operation, ...(subresource ? [subresource] : [])].join(" "),
      pathTexts(fields),
    ]),
  );
}

export const ownersOf = ({ object }: Answer) => owners(object.metadata.managedFields);

export function applier({ send }: Harness, collection = CM) {
  return (manager: string, object: unknown, query: Record<string, string> = {}): Promise<Answer> => {
    const { name } = (object as KubeObject).metadata ?? {};
    return send("PATCH", `${collection}/${name}`, {
      body: object,
      type: APPLY,
      query: { fieldManager: manager, ...query },
    });
  };
}
