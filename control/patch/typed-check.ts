// Whether a configuration fits its type: server-side apply refuses fields that the type does not have, whatever
// fieldValidation says. Pure. Texts: structured-merge-diff's validation, Go's formatting of values included.

import { elementText } from "./field-set.js";
import { elementOf, ItemError, type ItemList, isObject, type Shape, shapeOfField } from "./shape.js";

/** All that is wrong, as structured-merge-diff says it; undefined when the value fits. */
export function typeProblem(value: unknown, shape: Shape): string | undefined {
  const found: string[] = [];
  check(value, shape, "", found);
  if (found.length === 0) return undefined;
  return found.length === 1 ? found[0] : ["errors:", ...found.map((text) => `  ${text}`)].join("\n");
}

function check(value: unknown, shape: Shape, path: string, found: string[]): void {
  if (value === null || value === undefined) return;
  if (shape.kind === "scalar") {
    const text = scalarProblem(value, shape.type);
    if (text) found.push(at(path, text));
  } else if (shape.kind === "struct" || shape.kind === "map") {
    if (isObject(value)) checkFields(value, shape, path, found);
    else found.push(at(path, `expected map, got &{${goText(value)}}`));
  } else if (Array.isArray(value)) checkItems(value, shape, path, found);
  else found.push(at(path, `expected list, got &{${goText(value)}}`));
}

const at = (path: string, text: string): string => (path === "" ? text : `${path}: ${text}`);

function scalarProblem(value: unknown, type: "string" | "numeric" | "boolean" | "any"): string | undefined {
  if (type === "numeric" && typeof value !== "number")
    return "expected numeric (int or float), got *value.valueUnstructured";
  if (type === "string" && typeof value !== "string")
    return `expected string, got &value.valueUnstructured{Value:${goSyntax(value)}}`;
  if (type === "boolean" && typeof value !== "boolean") return `expected boolean, got &{${goText(value)}}`;
  return undefined;
}

function checkFields(
  value: Record<string, unknown>,
  shape: Shape & { kind: "struct" | "map" },
  path: string,
  found: string[],
): void {
  for (const [name, item] of Object.entries(value)) {
    const inner = shapeOfField(shape, name);
    if (!inner) {
      found.push(`${path}.${name}: field not declared in schema`);
      // The real server stops at the first such field of an object, too.
      return;
    }
    check(item, inner, `${path}.${name}`, found);
  }
}

function checkItems(value: readonly unknown[], shape: ItemList, path: string, found: string[]): void {
  const seen = new Set<string>();
  for (const [index, item] of value.entries()) {
    try {
      const element = elementOf(shape, item, index);
      const text = elementText(element);
      if (seen.has(element)) found.push(at(path, `duplicate entries for key ${text}`));
      seen.add(element);
      check(item, shape.items, path + text, found);
    } catch (error) {
      if (!(error instanceof ItemError)) throw error;
      found.push(at(path, `element ${index}: ${error.message}`));
      // Without its element nothing in it can be named.
      return;
    }
  }
}

/** Go's %v of a decoded JSON value. */
function goText(value: unknown): string {
  if (value === null || value === undefined) return "<nil>";
  if (Array.isArray(value)) return `[${value.map(goText).join(" ")}]`;
  if (!isObject(value)) return String(value);
  const pairs = Object.keys(value).sort();
  return `map[${pairs.map((key) => `${key}:${goText(value[key])}`).join(" ")}]`;
}

/** Go's %#v of the same. */
function goSyntax(value: unknown): string {
  if (value === null || value === undefined) return "interface {}(nil)";
  if (Array.isArray(value)) return `[]interface {}{${value.map(goSyntax).join(", ")}}`;
  if (!isObject(value)) return JSON.stringify(value);
  const pairs = Object.keys(value).sort();
  return `map[string]interface {}{${pairs.map((key) => `${JSON.stringify(key)}:${goSyntax(value[key])}`).join(", ")}}`;
}
