// A Deployment under random writes of every sort through the whole API: managers never own what is not there, an
// apply or update that says the same again changes nothing.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { DEPLOYMENTS, NAMESPACES, type PatchType, StatusError } from "../../common/client.js";
import type { KubeObject, Stored } from "../../common/k8s.js";
import { silentLogger } from "../../common/log.js";
import { decodeBody } from "../../control/api/body.js";
import { objectCodec } from "../../control/api/codec.js";
import { LocalClient } from "../../control/api/local.js";
import { patchChange } from "../../control/api/patching.js";
import { Registry } from "../../control/api/registry.js";
import { Schema } from "../../control/api/schema.js";
import { fieldManager } from "../../control/api/tracking.js";
import { expectedOf, type Written } from "../../control/api/write.js";
import { compare, fieldsOf } from "../../control/patch/compare.js";
import { difference, pathTexts, union } from "../../control/patch/field-set.js";
import { readManagers } from "../../control/patch/managers.js";
import { Shapes, withNamedFields } from "../../control/patch/shape.js";
import { createResources } from "../../control/resources/index.js";
import { LmdbStore } from "../../control/store/lmdb.js";

const WRITES = 300;
const SEED = 7;
const schema = Schema.load();
const shape = new Shapes(schema).of("io.k8s.api.apps.v1.Deployment");

let state = SEED;
/** A linear congruential generator: good enough to choose from lists. */
function below(n: number): number {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * n);
}
const pick = <T>(list: readonly T[]): T => list[below(list.length)] as T;
const maybe = <T extends object>(value: T): T | object => (below(2) === 0 ? value : {});

function randomDeployment(): KubeObject & { spec: { template: object } } {
  const container = (name: string) => ({
    name,
    image: pick(["a", "b"]),
    ...maybe({ env: [{ name: pick(["E", "F"]), value: pick(["1", "2"]) }] }),
    ...maybe({ ports: [{ containerPort: pick([80, 81]), ...maybe({ name: "web" }) }] }),
    ...maybe({ resources: { limits: { cpu: pick(["1", "500m"]) } } }),
  });
  return {
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: {
      name: "d",
      ...maybe({ labels: { [pick(["l", "m"])]: pick(["1", "2"]) } }),
      ...maybe({ annotations: { [pick(["n", "o"])]: pick(["1", "2"]) } }),
    },
    spec: {
      ...maybe({ replicas: pick([1, 2, 3]) }),
      ...maybe({ minReadySeconds: pick([1, 2]) }),
      ...maybe({ strategy: pick([{ type: "Recreate" }, { rollingUpdate: { maxSurge: 1 } }]) }),
      selector: { matchLabels: { app: "d" } },
      template: {
        metadata: { labels: { app: "d" } },
        spec: {
          containers: ["x", ...(below(2) ? ["y"] : [])].map(container),
          ...maybe({ nodeSelector: { a: "b" } }),
        },
      },
    },
  } as KubeObject & { spec: { template: object } };
}

t.test("random writes: what is owned is there, and saying it again is no write", async (t) => {
  const dir = mkdtempSync(join(tmpdir(), "kubeplumb-soak-"));
  const store = await LmdbStore.open<Stored>({ path: join(dir, "store"), codec: objectCodec });
  t.teardown(async () => {
    await store.close();
    rmSync(dir, { recursive: true, force: true });
  });
  const definitions = createResources({
    serviceCIDRs: ["10.96.0.0/16"],
    nodePortRange: [30000, 32767],
    defaultTolerationSeconds: 300,
  });
  const registry = await Registry.open({ store, schema, definitions, log: silentLogger });
  const { engine, writer, applier, subresources } = registry;
  const client = new LocalClient(registry);
  await client.create(NAMESPACES, { metadata: { name: "default" } });
  const kind = engine.kindOf(DEPLOYMENTS);
  const body = (value: unknown) => ({ value, duplicates: [] });
  const by = (name: string) => ({
    kind,
    namespace: "default",
    user: { name: "u", groups: [] },
    dryRun: false,
    fieldValidation: "Strict" as const,
    manager: fieldManager(name),
  });
  const patch = (manager: string, type: PatchType, value: unknown, part: "main" | "status" = "main") => {
    const change = patchChange(engine, kind, type, body(value), "Strict");
    return writer.modify(by(manager), { name: "d", part, change });
  };
  const put = (manager: string, value: unknown) => {
    const change = () => decodeBody(engine, body(value), expectedOf(kind), "Strict");
    return writer.modify(by(manager), { name: "d", part: "main", change });
  };
  const apply = (manager: string, value: unknown) =>
    applier.apply({ ...by(manager), name: "d", part: "main", force: below(2) === 0 }, body(value));
  const writes: (() => Promise<Written>)[] = [
    () => apply("a", randomDeployment()),
    () => apply("b", randomDeployment()),
    () => put("putter", randomDeployment()),
    () => patch("patcher", "strategic", { spec: { template: randomDeployment().spec.template } }),
    () => patch("merger", "merge", { metadata: { labels: { l: pick([null, "3"]) } } }),
    () => patch("kube-controller-manager", "merge", { metadata: { annotations: { rev: String(below(9)) } } }),
    () => patch("kube-controller-manager", "merge", { status: { replicas: below(4) } }, "status"),
    () => subresources.setScale(by("scaler"), "d", body({ spec: { replicas: below(5) } }), "merge"),
  ];
  await apply("a", randomDeployment());
  let done = 0;
  let refused = 0;
  for (let i = 0; i < WRITES; i++) {
    try {
      await pick(writes)();
      done++;
    } catch (error) {
      // A conflict, or a value that does not go with another (Recreate with rollingUpdate).
      if (!(error instanceof StatusError) || ![409, 422].includes(error.code)) throw error;
      refused++;
    }
    const { metadata, ...object } = await client.get(DEPLOYMENTS, "d", "default");
    const there = union(
      compare({}, { ...object, metadata }, shape).added,
      fieldsOf({ ...object, metadata }, shape),
    );
    const named = withNamedFields(there, shape);
    for (const { manager, fields } of readManagers(metadata.managedFields)) {
      const dangling = pathTexts(difference(fields, named));
      if (dangling.length > 0) return t.fail(`write ${i}: ${manager} owns ${dangling.join(", ")}`);
    }
    const same = await put("nobody", { ...object, metadata });
    if (same.object.metadata.resourceVersion !== metadata.resourceVersion)
      return t.fail(`write ${i}: the same object again was a write`);
  }
  t.ok(done > WRITES / 3 && refused > 0, `${done} writes, ${refused} refused`);
});
