// The OpenAPI documents: whatever they refer to is in them, in v2 and in each group of v3, and both name the same paths.

import t from "tap";
import { controlFor } from "../helpers/control.js";

type Json = { [key: string]: Json } & Json[];

function references(value: Json | string, found = new Set<string>()): Set<string> {
  if (typeof value !== "object" || value === null) return found;
  for (const [key, item] of Object.entries(value))
    if (key === "$ref" && typeof item === "string") found.add(item);
    else references(item, found);
  return found;
}

const { admin: client } = await controlFor(t);
const get = (path: string) => client.json<Json>("GET", path);

t.test("v2 and v3 hold what they refer to", async (t) => {
  const v2 = await get("/openapi/v2");
  const definitions = Object.keys(v2.definitions ?? {});
  const prefix = "#/definitions/";
  t.ok(definitions.length > 300, `${definitions.length} definitions`);
  for (const reference of references(v2))
    if (!definitions.includes(reference.slice(prefix.length))) t.fail(`v2 lacks ${reference}`);
  t.notMatch(JSON.stringify(v2), /#\/components\/schemas|"allOf"|"oneOf"|"requestBody"/, "nothing of v3");

  const index = await get("/openapi/v3");
  const paths: string[] = [];
  for (const [group, entry] of Object.entries(index.paths ?? {})) {
    const document = await get(entry.serverRelativeURL as unknown as string);
    const schemas = Object.keys(document.components?.schemas ?? {});
    for (const reference of references(document))
      if (!schemas.includes(reference.slice("#/components/schemas/".length)))
        t.fail(`${group} lacks ${reference}`);
    paths.push(...Object.keys(document.paths ?? {}));
  }
  t.strictSame(Object.keys(v2.paths ?? {}).sort(), paths.sort());
});

t.test("what kubectl looks for", async (t) => {
  const v3 = await get("/openapi/v3/apis/apps/v1");
  const item = v3.paths?.["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
  const names = (item?.patch?.parameters ?? []).map(({ name }) => name);
  t.ok(names.includes("fieldValidation" as never) && names.includes("dryRun" as never));
  const v2 = await get("/openapi/v2");
  const put = v2.paths?.["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]?.put;
  t.match(put?.parameters, [{ in: "body", schema: { $ref: "#/definitions/io.k8s.api.apps.v1.Deployment" } }]);
  t.match(v2.definitions?.["io.k8s.api.apps.v1.Deployment"], {
    "x-kubernetes-group-version-kind": [{ group: "apps", kind: "Deployment", version: "v1" }],
    properties: { spec: { $ref: "#/definitions/io.k8s.api.apps.v1.DeploymentSpec" } },
  });
  t.match(v2.definitions?.["io.k8s.apimachinery.pkg.util.intstr.IntOrString"], {
    type: "string",
    format: "int-or-string",
  });
});
