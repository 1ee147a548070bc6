// Who owns which fields: sets of paths, comparison, merging, and the rules of update and apply, without a server.

import t from "tap";
import { Schema } from "../../control/api/schema.js";
import { compare, fieldsOf } from "../../control/patch/compare.js";
import {
  difference,
  type FieldSet,
  intersection,
  isFieldSet,
  pathTexts,
  union,
} from "../../control/patch/field-set.js";
import {
  asksForReset,
  capUpdaters,
  conflictTexts,
  type Manager,
  readManagers,
  writeManagers,
} from "../../control/patch/managers.js";
import { mergeApplied, removeFields } from "../../control/patch/merge-applied.js";
import { type Applied, afterApply, afterUpdate } from "../../control/patch/ownership.js";
import { Shapes } from "../../control/patch/shape.js";
import { typeProblem } from "../../control/patch/typed-check.js";

const shapes = new Shapes(Schema.load());
const DEPLOYMENT = shapes.of("io.k8s.api.apps.v1.Deployment");
const SERVICE = shapes.of("io.k8s.api.core.v1.Service");
const POD = shapes.of("io.k8s.api.core.v1.Pod");
const NODE = shapes.of("io.k8s.api.core.v1.Node");
const CONFIG_MAP = shapes.of("io.k8s.api.core.v1.ConfigMap");

t.test("sets: a node with '.' or without children is in the set", async (t) => {
  const a: FieldSet = { "f:a": { "f:x": {}, "f:y": {} }, "f:b": {} };
  const b: FieldSet = { "f:a": { ".": {}, "f:x": {} }, "f:c": {} };
  t.same(union(a, b), { "f:a": { ".": {}, "f:x": {}, "f:y": {} }, "f:b": {}, "f:c": {} });
  t.same(intersection(a, b), { "f:a": { "f:x": {} } });
  t.same(difference(a, b), { "f:a": { "f:y": {} }, "f:b": {} });
  t.same(difference(b, a), { "f:a": {}, "f:c": {} }, "what is left is the field itself");
  t.same(difference(a, { "f:a": {} }), a, "a itself was not in the set, its children are not a");
  t.same(union({ "f:a": {} }, { "f:a": { "f:x": {} } }), { "f:a": { ".": {}, "f:x": {} } });
  t.same(a, { "f:a": { "f:x": {}, "f:y": {} }, "f:b": {} }, "nothing given is changed");
  const paths = {
    "f:spec": { "f:ports": { 'k:{"port":80,"protocol":"TCP"}': { ".": {}, "f:name": {} } } },
    "f:list": { 'v:"x"': {}, "i:3": {} },
  };
  t.same(pathTexts(paths), [
    ".list[3]",
    '.list[="x"]',
    '.spec.ports[port=80,protocol="TCP"]',
    '.spec.ports[port=80,protocol="TCP"].name',
  ]);
  t.ok(isFieldSet(paths));
  for (const wrong of [{ spec: {} }, { "f:a": 1 }, { "k:80": {} }, { "k:{": {} }, { "i:x": {} }, [], null])
    t.notOk(isFieldSet(wrong), JSON.stringify(wrong));
});

const container = (name: string, more: object = {}) => ({ name, image: name, ...more });
const podSpec = (...containers: object[]) => ({ spec: { containers } });

t.test("fields: what a configuration says, by keys, sets and wholes", async (t) => {
  const config = {
    metadata: { labels: { a: "1" }, finalizers: ["x/y"], ownerReferences: [{ uid: "u", name: "n" }] },
    spec: {
      selector: { matchLabels: { a: "1" } },
      template: {
        spec: { ...podSpec(container("c", { ports: [{ containerPort: 80 }] })).spec, tolerations: [{}] },
      },
    },
  };
  t.same(fieldsOf(config, DEPLOYMENT), {
    "f:metadata": {
      "f:labels": { "f:a": {} },
      "f:finalizers": { 'v:"x/y"': {} },
      "f:ownerReferences": { 'k:{"uid":"u"}': {} },
    },
    "f:spec": {
      "f:selector": {},
      "f:template": {
        "f:spec": {
          "f:containers": {
            'k:{"name":"c"}': {
              ".": {},
              "f:name": {},
              "f:image": {},
              "f:ports": {
                'k:{"containerPort":80,"protocol":"TCP"}': { ".": {}, "f:containerPort": {} },
              },
            },
          },
          "f:tolerations": {},
        },
      },
    },
  });
  t.same(fieldsOf({ spec: { selector: { a: "b" }, ports: [] } }, SERVICE), {
    "f:spec": { "f:selector": {} },
  });
  t.same(fieldsOf({ data: {} }, CONFIG_MAP), { "f:data": {} }, "an empty map is a value");
});

t.test("compare: what is new owns its parents, but not those that are always there", async (t) => {
  const after = {
    metadata: { labels: { a: "1" } },
    spec: {
      strategy: { rollingUpdate: { maxSurge: 1 } },
      template: podSpec(container("c", { resources: {} })),
    },
  };
  t.same(compare({ metadata: {} }, after, DEPLOYMENT).added, {
    "f:metadata": { "f:labels": { ".": {}, "f:a": {} } },
    "f:spec": {
      "f:strategy": { "f:rollingUpdate": { ".": {}, "f:maxSurge": {} } },
      "f:template": {
        "f:spec": {
          "f:containers": { 'k:{"name":"c"}': { ".": {}, "f:name": {}, "f:image": {}, "f:resources": {} } },
        },
      },
    },
  });
  const limits = { resources: { limits: { cpu: "1" } } };
  t.same(
    compare({ spec: {} }, podSpec(container("a", limits)), POD).added["f:spec"]?.["f:containers"]?.[
      'k:{"name":"a"}'
    ]?.["f:resources"],
    { ".": {}, "f:limits": { ".": {}, "f:cpu": {} } },
    "in what is new all is new",
  );
  const one = podSpec(container("a"), container("b"));
  t.same(compare(one, podSpec(container("b"), container("a")), POD), {
    added: {},
    modified: {},
    removed: {},
  });
  const other = podSpec(container("b", { image: "new" }), container("c"));
  t.same(compare(one, other, POD), {
    added: { "f:spec": { "f:containers": { 'k:{"name":"c"}': { ".": {}, "f:name": {}, "f:image": {} } } } },
    modified: { "f:spec": { "f:containers": { 'k:{"name":"b"}': { "f:image": {} } } } },
    removed: { "f:spec": { "f:containers": { 'k:{"name":"a"}': { ".": {}, "f:name": {}, "f:image": {} } } } },
  });
  const addresses = (...list: string[]) => ({
    status: { addresses: list.map((address) => ({ type: "InternalIP", address })) },
  });
  const element = 'k:{"type":"InternalIP"}';
  t.same(compare(addresses("a", "b"), addresses("a", "b"), NODE).modified, {});
  t.same(
    compare(addresses("a", "b"), addresses("a", "c"), NODE).modified,
    { "f:status": { "f:addresses": { [element]: {} } } },
    "items with one key are one value",
  );
  t.same(compare({ data: { a: "1" } }, { data: { a: "2" } }, CONFIG_MAP).modified, {
    "f:data": { "f:a": {} },
  });
});

t.test("merge: the configuration's order, what only the object has stays in its place", async (t) => {
  const names = (live: string[], config: string[]) => {
    const spec = (list: string[]) => podSpec(...list.map((name) => container(name)));
    const merged = mergeApplied(spec(live), spec(config), POD) as {
      spec: { containers: { name: string }[] };
    };
    return merged.spec.containers.map(({ name }) => name).join("");
  };
  t.equal(names(["a", "b", "c"], ["c", "a", "x"]), "bcax");
  t.equal(names(["a", "b"], ["x", "b"]), "axb");
  t.equal(names(["a"], ["x"]), "ax");
  t.equal(names([], ["x", "y"]), "xy");
  t.equal(names(["a", "b", "c"], ["a", "b", "c"]), "abc");
  const live = podSpec(container("a", { env: [{ name: "A", value: "1" }], command: ["x", "y"] }));
  const config = podSpec({ name: "a", env: [{ name: "B", value: "2" }], command: ["z"] });
  t.same(
    mergeApplied(live, config, POD),
    podSpec(
      container("a", {
        env: [
          { name: "A", value: "1" },
          { name: "B", value: "2" },
        ],
        command: ["z"],
      }),
    ),
  );
  const ports = (...list: object[]) => ({ spec: { ports: list } });
  t.same(
    mergeApplied(ports({ port: 80, protocol: "TCP", nodePort: 3 }), ports({ port: 80, name: "n" }), SERVICE),
    ports({ port: 80, protocol: "TCP", nodePort: 3, name: "n" }),
    "a key that is left out is its default",
  );
  const set = { "f:spec": { "f:containers": { 'k:{"name":"a"}': { "f:env": { 'k:{"name":"A"}': {} } } } } };
  t.same(
    removeFields(live, set, POD),
    podSpec(container("a", { command: ["x", "y"] })),
    "an empty list goes",
  );
  const poison = JSON.parse('{"data":{"__proto__":"1"}}') as object;
  t.ok(
    Object.hasOwn(
      (mergeApplied({ data: { a: "" } }, poison, CONFIG_MAP) as { data: object }).data,
      "__proto__",
    ),
  );
});

t.test("type check: the words of structured-merge-diff", async (t) => {
  const deployment = (spec: object) => typeProblem({ spec }, DEPLOYMENT);
  t.equal(deployment({ replicas: 3 }), undefined);
  t.equal(deployment({ foo: 1 }), ".spec.foo: field not declared in schema");
  t.equal(
    deployment({ replicas: "3" }),
    ".spec.replicas: expected numeric (int or float), got *value.valueUnstructured",
  );
  t.equal(
    deployment({ template: { spec: { containers: [{ name: 1 }] } } }),
    ".spec.template.spec.containers[name=1].name: expected string, got &value.valueUnstructured{Value:1}",
  );
  t.equal(
    deployment({ paused: "x", template: 7 }),
    "errors:\n  .spec.paused: expected boolean, got &{x}\n  .spec.template: expected map, got &{7}",
  );
  t.equal(
    deployment({ template: podSpec({ image: "x" }) }),
    '.spec.template.spec.containers: element 0: associative list with keys has an element that omits key field "name" (and doesn\'t have default value)',
  );
  t.equal(
    deployment({ template: podSpec(container("a"), container("a")) }),
    '.spec.template.spec.containers: duplicate entries for key [name="a"]',
  );
  t.equal(
    deployment({ selector: { matchLabels: { a: "1" }, foo: {} } }),
    ".spec.selector.foo: field not declared in schema",
    "also within what is one value",
  );
  t.equal(typeProblem({ spec: { ports: {} } }, SERVICE), ".spec.ports: expected list, got &{map[]}");
});

// ------------------------------------------------------------------------------------------------ update, apply

const NOW = "2026-01-01T00:00:00Z";
const LATER = "2026-01-01T00:00:01Z";
const writer = (manager: string, operation: "Apply" | "Update", subresource = "") => ({
  manager,
  operation,
  apiVersion: "v1",
  subresource,
});
const view = { shape: CONFIG_MAP, convert: (object: unknown) => object };
const views = (apiVersion: string) => (apiVersion === "v1" ? view : undefined);
const data = (values: Record<string, string>) => ({ data: values });

interface State {
  live: object;
  managers: readonly Manager[];
}
const EMPTY: State = { live: {}, managers: [] };

function apply(state: State, manager: string, values: Record<string, string>, force = false): Applied {
  const config = data(values);
  return afterApply({ ...state, config, writer: writer(manager, "Apply"), views, now: NOW, force });
}

function applied(state: State, manager: string, values: Record<string, string>, force = false): State {
  const result = apply(state, manager, values, force);
  if ("conflicts" in result) throw new Error(conflictTexts(result.conflicts).message);
  return { live: result.object as object, managers: result.managers };
}

function updated(state: State, manager: string, values: Record<string, string>, now = NOW): State {
  const next = data(values);
  return {
    live: next,
    managers: afterUpdate({ ...state, next, writer: writer(manager, "Update"), views, now }),
  };
}

const owners = ({ managers }: State): Record<string, string[]> =>
  Object.fromEntries(managers.map((m) => [`${m.manager} ${m.operation}`, pathTexts(m.fields)]));

t.test("apply: shared fields, conflicts, force, and giving up", async (t) => {
  let state = applied(EMPTY, "a", { x: "1", y: "1" });
  t.same(state.live, data({ x: "1", y: "1" }));
  state = applied(state, "b", { x: "1", z: "1" });
  t.same(owners(state), { "a Apply": [".data.x", ".data.y"], "b Apply": [".data.x", ".data.z"] });
  const refused = apply(state, "b", { x: "2", y: "2" });
  t.same("conflicts" in refused && conflictTexts(refused.conflicts), {
    message: 'Apply failed with 2 conflicts: conflicts with "a":\n- .data.x\n- .data.y',
    causes: [".data.x", ".data.y"].map((field) => ({
      reason: "FieldManagerConflict",
      message: 'conflict with "a"',
      field,
    })),
  });
  t.same(owners(applied(state, "b", { x: "2" }, true)), { "a Apply": [".data.y"], "b Apply": [".data.x"] });
  t.same(applied(state, "b", { z: "1" }).live, data({ x: "1", y: "1", z: "1" }), "a owns x still");
  t.same(applied(state, "b", { x: "1" }).live, data({ x: "1", y: "1" }), "nobody owns z any more");
  t.same(applied(applied(state, "a", {}), "b", {}).live, {}, "the map goes with its last key");
});

t.test("update: takes what it changes; what it removes is nobody's", async (t) => {
  let state = applied(EMPTY, "a", { x: "1", y: "1" });
  state = updated(state, "u", { x: "2", y: "1", z: "1" });
  t.same(owners(state), { "a Apply": [".data.y"], "u Update": [".data.x", ".data.z"] });
  const refused = apply(state, "a", { x: "1", y: "1" });
  t.equal(
    "conflicts" in refused && conflictTexts(refused.conflicts).message,
    'Apply failed with 1 conflict: conflict with "u" using v1: .data.x',
  );
  t.same(owners(updated(state, "v", { x: "2" })), { "u Update": [".data.x"] }, "v has set nothing");
  const same = updated(state, "v", { x: "2", y: "1", z: "1" }, LATER);
  t.same(same.managers, state.managers, "an update that changes nothing is nobody's");
  const again = updated(state, "u", { x: "3", y: "1", z: "1" }, LATER);
  t.same(
    again.managers.find(({ manager }) => manager === "u"),
    { ...writer("u", "Update"), time: LATER, fields: { "f:data": { "f:x": {}, "f:z": {} } } },
    "its own fields stay its own",
  );
  // The removal of a field by its applier removes it from updaters that had set it to the same value.
  t.same(owners(applied(updated(EMPTY, "u", { x: "1" }), "a", { x: "1" })), {
    "u Update": [".data", ".data.x"],
    "a Apply": [".data.x"],
  });
});

t.test("apply to an object that was not tracked: what it has belongs to before-first-apply", async (t) => {
  const untracked: State = { live: data({ x: "1", y: "1" }), managers: [] };
  t.same(owners(applied(untracked, "a", { x: "1" })), {
    "before-first-apply Update": [".data", ".data.x", ".data.y"],
    "a Apply": [".data.x"],
  });
  const refused = apply(untracked, "a", { x: "2" });
  t.equal(
    "conflicts" in refused && conflictTexts(refused.conflicts).message,
    'Apply failed with 1 conflict: conflict with "before-first-apply" using v1: .data.x',
  );
});

t.test("entries: order, reset, subresources, the cap on updaters", async (t) => {
  const entry = (manager: string, operation: "Apply" | "Update", time: string, subresource = "") => ({
    ...writer(manager, operation, subresource),
    time,
    fields: { "f:data": { [`f:${manager}`]: {} } },
  });
  const written = writeManagers([
    entry("z", "Update", NOW),
    entry("b", "Update", LATER, "status"),
    entry("c", "Apply", LATER),
    entry("a", "Update", NOW),
  ]);
  t.same(
    written.map(({ manager }) => manager),
    ["c", "a", "z", "b"],
  );
  t.same(written[3], {
    manager: "b",
    operation: "Update",
    apiVersion: "v1",
    time: LATER,
    fieldsType: "FieldsV1",
    fieldsV1: { "f:data": { "f:b": {} } },
    subresource: "status",
  });
  t.same(writeManagers(readManagers(written)), written);
  t.ok(asksForReset([{}]));
  t.notOk(asksForReset([]), "an empty list is from those who do not know the field");
  t.notOk(asksForReset(written));
  const many = Array.from({ length: 13 }, (_, i) =>
    entry(`m${String(i).padStart(2, "0")}`, "Update", `2026-01-01T00:00:${10 + i}Z`),
  );
  const capped = capUpdaters([...many, entry("a", "Apply", NOW)]);
  t.equal(capped.filter(({ operation }) => operation === "Update").length, 10);
  const ancient = capped.find(({ manager }) => manager === "ancient-changes");
  t.same(ancient?.fields, { "f:data": { "f:m00": {}, "f:m01": {}, "f:m02": {}, "f:m03": {} } });
  t.equal(ancient?.time, "2026-01-01T00:00:13Z", "the newest of them");
  t.equal(
    conflictTexts([{ manager: entry("s", "Update", NOW, "scale"), fields: { "f:a": {} } }]).causes[0]
      ?.message,
    'conflict with "s" with subresource "scale" using v1',
  );
});
