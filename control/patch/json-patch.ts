// RFC 6902 JSON Patch. Pure: the document given is not changed.

import { copyJson } from "./copy.js";

/** The patch is malformed: it could never be applied. */
export class PatchSyntaxError extends Error {
  override readonly name = "PatchSyntaxError";
}

/** The patch does not fit the document. */
export class PatchApplyError extends Error {
  override readonly name = "PatchApplyError";
}

interface Operation {
  op: "add" | "remove" | "replace" | "move" | "copy" | "test";
  path: string[];
  from: string[];
  value: unknown;
}

const MAX_OPERATIONS = 10_000;

function pointer(text: unknown, what: string): string[] {
  if (typeof text !== "string") throw new PatchSyntaxError(`${what} must be a string`);
  if (text === "") return [];
  if (!text.startsWith("/")) throw new PatchSyntaxError(`${what} "${text}" must start with "/"`);
  return text
    .slice(1)
    .split("/")
    .map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"));
}

function operation(raw: unknown): Operation {
  if (typeof raw !== "object" || raw === null) throw new PatchSyntaxError("each operation must be an object");
  const { op, path, from, value } = raw as Record<string, unknown>;
  switch (op) {
    case "add":
    case "replace":
    case "test":
      if (!Object.hasOwn(raw, "value")) throw new PatchSyntaxError(`operation ${op} needs a value`);
      return { op, path: pointer(path, "path"), from: [], value };
    case "remove":
      return { op, path: pointer(path, "path"), from: [], value: undefined };
    case "move":
    case "copy":
      return { op, path: pointer(path, "path"), from: pointer(from, "from"), value: undefined };
    default:
      throw new PatchSyntaxError(`unexpected kind of operation: ${JSON.stringify(op)}`);
  }
}

const show = (path: readonly string[]): string =>
  path.map((p) => `/${p.replaceAll("~", "~0").replaceAll("/", "~1")}`).join("");

type Container = unknown[] | Record<string, unknown>;

function isContainer(value: unknown): value is Container {
  return typeof value === "object" && value !== null;
}

function index(list: readonly unknown[], part: string, path: readonly string[], last: number): number {
  if (!/^(0|[1-9]\d*)$/.test(part) || Number(part) > last)
    throw new PatchApplyError(`${show(path)}: no index "${part}" in a list of ${list.length}`);
  return Number(part);
}

function read(root: unknown, path: readonly string[]): unknown {
  let at = root;
  for (const part of path) {
    if (Array.isArray(at)) at = at[index(at, part, path, at.length - 1)];
    else if (isContainer(at) && Object.hasOwn(at, part)) at = (at as Record<string, unknown>)[part];
    else throw new PatchApplyError(`doc is missing path: "${show(path)}"`);
  }
  return at;
}

function parentOf(root: unknown, path: readonly string[]): { parent: Container; key: string } {
  const parent = read(root, path.slice(0, -1));
  if (!isContainer(parent)) throw new PatchApplyError(`doc is missing path: "${show(path)}"`);
  return { parent, key: path.at(-1) as string };
}

function add(root: unknown, path: readonly string[], value: unknown): unknown {
  if (path.length === 0) return value;
  const { parent, key } = parentOf(root, path);
  if (Array.isArray(parent))
    parent.splice(key === "-" ? parent.length : index(parent, key, path, parent.length), 0, value);
  else parent[key] = value;
  return root;
}

function remove(root: unknown, path: readonly string[]): unknown {
  if (path.length === 0) return null;
  const { parent, key } = parentOf(root, path);
  if (Array.isArray(parent)) parent.splice(index(parent, key, path, parent.length - 1), 1);
  else if (Object.hasOwn(parent, key)) delete parent[key];
  else throw new PatchApplyError(`unable to remove nonexistent key: "${show(path)}"`);
  return root;
}

/** Deep equality of JSON values; a key whose value is undefined is as good as absent. */
export function jsonEqual(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  if (Array.isArray(a) !== Array.isArray(b)) return false;
  const one = a as Record<string, unknown>;
  const other = b as Record<string, unknown>;
  const keys = (o: Record<string, unknown>): string[] => Object.keys(o).filter((key) => o[key] !== undefined);
  const ownKeys = keys(one);
  if (ownKeys.length !== keys(other).length) return false;
  return ownKeys.every((key) => Object.hasOwn(other, key) && jsonEqual(one[key], other[key]));
}

function applyOne(root: unknown, { op, path, from, value }: Operation): unknown {
  switch (op) {
    case "add":
      return add(root, path, copyJson(value));
    case "remove":
      return remove(root, path);
    case "replace": {
      read(root, path);
      if (path.length === 0) return copyJson(value);
      const { parent, key } = parentOf(root, path);
      (parent as Record<string, unknown>)[key] = copyJson(value);
      return root;
    }
    case "move": {
      if (show(path).startsWith(`${show(from)}/`))
        throw new PatchApplyError(`cannot move "${show(from)}" into itself`);
      const moved = read(root, from);
      return add(remove(root, from), path, moved);
    }
    case "copy":
      return add(root, path, copyJson(read(root, from)));
    case "test":
      if (!jsonEqual(read(root, path), value))
        throw new PatchApplyError(`testing value ${show(path)} failed`);
      return root;
  }
}

/**
 * Applies a JSON patch, all of it or nothing.
 * @throws PatchSyntaxError, PatchApplyError
 */
export function applyJsonPatch(document: unknown, patch: unknown): unknown {
  if (!Array.isArray(patch)) throw new PatchSyntaxError("a JSON patch must be a list of operations");
  if (patch.length > MAX_OPERATIONS)
    throw new PatchSyntaxError(
      `The allowed maximum operations in a JSON patch is ${MAX_OPERATIONS}, got ${patch.length}`,
    );
  const operations = patch.map(operation);
  let result: unknown = copyJson(document);
  for (const op of operations) result = applyOne(result, op);
  return result;
}
