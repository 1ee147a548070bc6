// Reading request bodies: JSON with duplicate keys found, and YAML. Pure.

import { isScalar, LineCounter, parseDocument, visit } from "yaml";

export interface Parsed {
  value: unknown;
  /** Keys that stand twice in one object: of JSON their paths (spec.replicas), of YAML texts with the line. */
  duplicates: string[];
  yaml?: boolean;
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
  const lost = findDuplicates && colons(text) !== keyCount(value);
  return { value, duplicates: lost ? duplicateKeys(text) : [] };
}

const COLON = 58;
const QUOTE = 34;

/** Colons outside of strings: one for each key of a valid JSON text. */
function colons(text: string): number {
  let count = 0;
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code === COLON) count++;
    else if (code === QUOTE) at = endOfString(text, at);
  }
  return count;
}

/** The place of the quote that ends a string; one after an odd number of backslashes is a part of it. */
function endOfString(text: string, start: number): number {
  let end = start;
  let slashes: number;
  do {
    end = text.indexOf('"', end + 1);
    slashes = 0;
    while (text[end - 1 - slashes] === "\\") slashes++;
  } while (slashes % 2 === 1);
  return end;
}

/** Keys of all objects of a JSON value, however deep. */
function keyCount(value: unknown): number {
  let count = 0;
  const left = [value];
  while (left.length > 0) {
    const next = left.pop();
    if (Array.isArray(next)) for (const item of next) left.push(item);
    else if (typeof next === "object" && next !== null)
      for (const key in next) {
        count++;
        left.push((next as Record<string, unknown>)[key]);
      }
  }
  return count;
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

/**
 * One YAML document. Repeated keys are told by line, in the words of Go's YAML reader; the last one holds.
 * @throws SyntaxProblem
 */
export function parseYaml(text: string, findDuplicates: boolean): Parsed {
  const lines = new LineCounter();
  const document = parseDocument(text, { uniqueKeys: false, merge: true, lineCounter: lines });
  const [first] = document.errors;
  if (first)
    throw new SyntaxProblem(`error converting YAML to JSON: yaml: ${first.message}`, { cause: first });
  const duplicates: string[] = [];
  if (findDuplicates)
    visit(document, {
      Map(_, { items }) {
        const seen = new Set<unknown>();
        for (const { key } of items) {
          if (!isScalar(key)) continue;
          const { line } = lines.linePos(key.range?.[0] ?? 0);
          if (seen.has(key.value) && key.value !== "<<")
            duplicates.push(`line ${line}: key ${JSON.stringify(key.value)} already set in map`);
          seen.add(key.value);
        }
      },
    });
  return { value: document.toJS({ maxAliasCount: 100 }), duplicates, yaml: true };
}

/** The body of an apply: YAML, of which JSON is a kind, and a faster one. */
export function parseApplied(text: string, findDuplicates: boolean): Parsed {
  try {
    const parsed = parseJson(text, findDuplicates);
    if (parsed.duplicates.length === 0) return parsed;
  } catch (error) {
    if (!(error instanceof SyntaxProblem)) throw error;
  }
  return parseYaml(text, findDuplicates);
}

/** Lines of a YAML text that repeat a key, as the one error that Go's YAML reader makes of them. */
export function yamlError(duplicates: readonly string[]): string {
  return ["yaml: unmarshal errors:", ...duplicates].join("\n  ");
}
