// Reading request bodies: JSON with duplicate keys found, and YAML. Pure.

import { isAlias, isMap, isScalar, isSeq, parseDocument } from "yaml";

export interface Parsed {
  value: unknown;
  /** Paths of keys that stand twice in one object: spec.replicas. */
  duplicates: string[];
}

/** The body is not JSON, or not YAML. */
export class SyntaxProblem extends Error {
  override readonly name = "SyntaxProblem";
}

export function parseJson(text: string, findDuplicates: boolean): Parsed {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new SyntaxProblem(`json parse error: ${(error as Error).message}`, { cause: error });
  }
  return { value, duplicates: findDuplicates ? duplicateKeys(text) : [] };
}

interface Frame {
  /** Keys seen, for an object; the next index, for an array. */
  keys: Set<string> | undefined;
  index: number;
  part: string;
}

/**
 * Keys that repeat within one object of a valid JSON text: JSON.parse keeps the last one silently. One pass over
 * the tokens that matter (strings, brackets, colons, commas).
 */
export function duplicateKeys(text: string): string[] {
  const found: string[] = [];
  const stack: Frame[] = [];
  const token = /"(?:[^"\\]|\\.)*"|[{}[\],]/g;
  let expectKey = false;
  for (let match = token.exec(text); match; match = token.exec(text)) {
    const part = match[0];
    const frame = stack.at(-1);
    if (part === "{" || part === "[") {
      stack.push({ keys: part === "{" ? new Set() : undefined, index: 0, part: part === "[" ? "[0]" : "" });
      expectKey = part === "{";
    } else if (part === "}" || part === "]") {
      stack.pop();
      expectKey = false;
    } else if (part === ",") {
      if (frame?.keys) expectKey = true;
      else if (frame) frame.part = `[${++frame.index}]`;
    } else if (expectKey && frame?.keys) {
      const key = JSON.parse(part) as string;
      frame.part = key;
      if (frame.keys.has(key)) found.push(pathOf(stack));
      frame.keys.add(key);
      expectKey = false;
    }
  }
  return [...new Set(found)];
}

function pathOf(stack: readonly Frame[]): string {
  let path = "";
  for (const { part } of stack) path += part.startsWith("[") || path === "" ? part : `.${part}`;
  return path;
}

/** One YAML document; repeated keys are reported as for JSON, the last one holds. */
export function parseYaml(text: string): Parsed {
  const document = parseDocument(text, { uniqueKeys: false, merge: true });
  const [first] = document.errors;
  if (first)
    throw new SyntaxProblem(`error converting YAML to JSON: yaml: ${first.message}`, { cause: first });
  const duplicates: string[] = [];
  collect(document.contents, "", duplicates);
  return { value: document.toJS({ maxAliasCount: 100 }), duplicates };
}

function collect(node: unknown, path: string, duplicates: string[]): void {
  if (isAlias(node)) return;
  if (isSeq(node)) for (const [i, item] of node.items.entries()) collect(item, `${path}[${i}]`, duplicates);
  if (!isMap(node)) return;
  const seen = new Set<string>();
  for (const { key, value } of node.items) {
    const name = String(isScalar(key) ? key.value : key);
    const at = path === "" ? name : `${path}.${name}`;
    if (seen.has(name) && name !== "<<") duplicates.push(at);
    seen.add(name);
    collect(value, at, duplicates);
  }
}
