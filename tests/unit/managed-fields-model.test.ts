// Random applies and updates of pods by several managers, held against a model that knows nothing of trees, schemas
// or sets of paths: the object is a flat list of named values, and each manager has a list of names.

import t from "tap";
import { Schema } from "../../control/api/schema.js";
import { pathTexts } from "../../control/patch/field-set.js";
import type { Manager } from "../../control/patch/managers.js";
import { afterApply, afterUpdate } from "../../control/patch/ownership.js";
import { Shapes } from "../../control/patch/shape.js";

const shape = new Shapes(Schema.load()).of("io.k8s.api.core.v1.Pod");
const RUNS = 150;
const STEPS = 30;
const view = { shape, convert: (object: unknown) => object };

/** mulberry32 */
function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let x = Math.imul(state ^ (state >>> 15), 1 | state);
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
    return ((x ^ (x >>> 14)) >>> 0) % below;
  };
}

/** Path → value; an item of a list is a path of its own with the value "". */
type Flat = Map<string, string>;

interface Env {
  name: string;
  value?: string;
}
interface Container {
  name: string;
  image?: string;
  env?: Env[];
  command?: string[];
}
interface Pod {
  metadata?: { labels?: Record<string, string>; finalizers?: string[] };
  spec?: { nodeSelector?: Record<string, string>; containers?: Container[] };
}

function randomPod(below: (n: number) => number): Pod {
  const value = () => String(below(2));
  const some = <T>(from: readonly T[]): T[] => from.filter(() => below(2) === 0);
  const labels = Object.fromEntries(some(["a", "b"]).map((key) => [key, value()]));
  const containers = some(["x", "y"]).map((name): Container => {
    const env = some(["E", "F"]).map((key): Env => ({ name: key, ...(below(3) ? { value: value() } : {}) }));
    return {
      name,
      ...(below(2) ? { image: value() } : {}),
      ...(env.length > 0 ? { env } : {}),
      ...(below(3) === 0 ? { command: [value(), "z"] } : {}),
    };
  });
  const finalizers = some(["f/1", "f/2"]);
  return {
    metadata: {
      ...(Object.keys(labels).length > 0 ? { labels } : {}),
      ...(finalizers.length > 0 ? { finalizers } : {}),
    },
    spec: {
      ...(below(3) === 0 ? { nodeSelector: { n: value() } } : {}),
      ...(containers.length > 0 ? { containers: below(2) ? containers : containers.reverse() } : {}),
    },
  };
}

function flatten({ metadata, spec }: Pod): Flat {
  const flat: Flat = new Map();
  for (const [key, value] of Object.entries(metadata?.labels ?? {}))
    flat.set(`.metadata.labels.${key}`, value);
  for (const name of metadata?.finalizers ?? []) flat.set(`.metadata.finalizers[="${name}"]`, "");
  if (spec?.nodeSelector) flat.set(".spec.nodeSelector", JSON.stringify(spec.nodeSelector));
  for (const { name, image, env = [], command } of spec?.containers ?? []) {
    const at = `.spec.containers[name="${name}"]`;
    flat.set(at, "").set(`${at}.name`, name);
    if (image !== undefined) flat.set(`${at}.image`, image);
    if (command) flat.set(`${at}.command`, JSON.stringify(command));
    for (const { name: key, value } of env) {
      const item = `${at}.env[name="${key}"]`;
      flat.set(item, "").set(`${item}.name`, key);
      if (value !== undefined) flat.set(`${item}.value`, value);
    }
  }
  return flat;
}

class Model {
  flat: Flat = new Map();
  readonly owned = new Map<string, Set<string>>();

  ownersBut(manager: string, path: string): string[] {
    return [...this.owned]
      .filter(([name, paths]) => name !== manager && paths.has(path))
      .map(([name]) => name);
  }

  /** "owner path" of everything that is in the way, sorted; empty when it is done. */
  apply(manager: string, config: Flat, force: boolean): string[] {
    const conflicts = [...config].flatMap(([path, value]) => {
      const before = this.flat.get(path);
      return before === undefined || before === value
        ? []
        : this.ownersBut(manager, path).map((owner) => `${owner} ${path}`);
    });
    if (conflicts.length > 0 && !force) return conflicts.sort();
    const next = new Map([...this.flat, ...config]);
    for (const path of this.owned.get(manager) ?? [])
      if (!config.has(path) && this.ownersBut(manager, path).length === 0)
        for (const other of [...next.keys()])
          if (other === path || other.startsWith(`${path}.`) || other.startsWith(`${path}[`))
            next.delete(other);
    this.#become(manager, next);
    this.owned.set(manager, new Set(config.keys()));
    return [];
  }

  update(manager: string, next: Flat): void {
    const changed = [...next].filter(([path, value]) => this.flat.get(path) !== value).map(([path]) => path);
    this.#become(manager, next);
    this.owned.set(manager, new Set([...(this.owned.get(manager) ?? []), ...changed]));
  }

  #become(manager: string, next: Flat): void {
    for (const [name, paths] of this.owned)
      for (const path of [...paths]) {
        const value = next.get(path);
        if (value === undefined || (name !== manager && value !== this.flat.get(path))) paths.delete(path);
      }
    this.flat = next;
  }

  /** "manager: path, path", sorted, without managers that own nothing. */
  owners(): string[] {
    return [...this.owned]
      .filter(([, paths]) => paths.size > 0)
      .map(([name, paths]) => `${name}: ${[...paths].sort().join(", ")}`)
      .sort();
  }
}

/** The parents that the real thing owns besides, and the model does not know. */
const PARENT = /\.(labels|finalizers|env|metadata|spec|containers)$/;

const known = (manager: Manager): string[] => pathTexts(manager.fields).filter((path) => !PARENT.test(path));

const sorted = (flat: Flat): string[] => [...flat].map(([path, value]) => `${path}=${value}`).sort();

function run(seed: number): string | undefined {
  const below = random(seed);
  const model = new Model();
  let live: unknown = {};
  let managers: readonly Manager[] = [];
  for (let step = 0; step < STEPS; step++) {
    const pod = randomPod(below);
    const isApply = below(3) > 0;
    const name = isApply ? ["a", "b", "c"][below(3)] : ["u", "v"][below(2)];
    const manager = name as string;
    const force = below(3) === 0;
    const operation = isApply ? ("Apply" as const) : ("Update" as const);
    const writer = { manager, operation, apiVersion: "v1", subresource: "" };
    const change = { live, managers, writer, views: () => view, now: `t${step}` };
    const before = `${seed}/${step} ${manager}${force ? " by force" : ""}`;
    let conflicts: string[] = [];
    if (isApply) {
      const result = afterApply({ ...change, config: pod, force });
      if ("conflicts" in result)
        conflicts = result.conflicts.flatMap((c) =>
          pathTexts(c.fields).map((path) => `${c.manager.manager} ${path}`),
        );
      else ({ object: live, managers } = result);
      const wanted = model.apply(manager, flatten(pod), force);
      if (wanted.join() !== conflicts.sort().join())
        return `${before}: conflicts ${conflicts}, wanted ${wanted}`;
    } else {
      managers = afterUpdate({ ...change, next: pod });
      live = pod;
      model.update(manager, flatten(pod));
    }
    const is = sorted(flatten(live as Pod));
    const wanted = sorted(model.flat);
    if (is.join() !== wanted.join())
      return `${before}: object\n${is.join("\n")}\nwanted\n${wanted.join("\n")}`;
    const owners = managers
      .filter((m) => known(m).length > 0)
      .map((m) => `${m.manager}: ${known(m).sort().join(", ")}`)
      .sort();
    if (owners.join("\n") !== model.owners().join("\n"))
      return `${before}: owners\n${owners.join("\n")}\nwanted\n${model.owners().join("\n")}`;
  }
  return undefined;
}

t.test(`${RUNS} series of ${STEPS} writes by five managers`, async (t) => {
  for (let seed = 1; seed <= RUNS; seed++) {
    const problem = run(seed);
    if (problem !== undefined) return t.fail(problem);
  }
  t.pass("as the model has them");
});
