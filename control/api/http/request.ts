// Reading requests: which resource a path names, what the query asks, and the body within limits. Knows the shapes
// of URLs, no verbs.

import type { IncomingMessage } from "node:http";
import type { DeleteOptions, ListOptions, PatchType } from "../../../common/client.js";
import { ProtobufError } from "../../../common/protobuf.js";
import type { FieldError } from "../../resources/types.js";
import { forbidden, invalid, notSupported, required, tooLong } from "../../resources/validation/field.js";
import type { Body, FieldValidation } from "../body.js";
import type { Engine, Kind } from "../engine.js";
import { parseApplied, parseJson, parseYaml, SyntaxProblem } from "../json.js";
import { PROTOBUF } from "../protobuf.js";
import { badRequest, invalidOptions, tooLarge, unsupportedMediaType } from "../status.js";
import { type FieldManager, fieldManager } from "../tracking.js";
import type { WatchRequest } from "../watching.js";

/** What a path under /api or /apis names. */
export interface Target {
  kind: Kind;
  namespace: string | undefined;
  /** Absent: the collection. */
  name: string | undefined;
  subresource: string | undefined;
  /** What follows the subresource: the path behind …/proxy/. */
  rest: string;
}

const DELETE_OPTIONS = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const MAX_BODY_BYTES = 3 << 20;

/** Undefined when no resource that is served has that path. @throws StatusError BadRequest for a bad escape. */
export function parseTarget(engine: Engine, pathname: string): Target | undefined {
  const parts = pathname.split("/").slice(1);
  const isCore = parts[0] === "api";
  const [group, version] = isCore ? ["", parts[1]] : [parts[1], parts[2]];
  const path = parts.slice(isCore ? 2 : 3);
  if (group === undefined || version === undefined || path.length === 0) return undefined;
  let namespace: string | undefined;
  // /namespaces/NAME and its own subresources name the namespace; everything longer is inside it.
  const inside = path[0] === "namespaces" && path.length > 2 && engine.kind(group, version, path[2] ?? "");
  if (inside) {
    namespace = decode(path[1] ?? "");
    path.splice(0, 2);
  }
  const kind = engine.kind(group, version, path[0] ?? "");
  if (!kind || (namespace !== undefined && !kind.resource.namespaced)) return undefined;
  const name = path[1] === undefined || path[1] === "" ? undefined : decode(path[1]);
  const subresource = path[2] === "" ? undefined : path[2];
  if (path.length > 3 && subresource !== "proxy") return undefined;
  // One object of a namespaced kind is only found in its namespace.
  if (kind.resource.namespaced && namespace === undefined && name !== undefined) return undefined;
  return { kind, namespace, name, subresource, rest: path.slice(3).join("/") };
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch (error) {
    throw badRequest(
      `the path segment ${JSON.stringify(part)} cannot be decoded: ${(error as Error).message}`,
    );
  }
}

export function flag(query: URLSearchParams, name: string): boolean | undefined {
  const text = query.get(name);
  if (text === null) return undefined;
  // As apimachinery converts query values: everything but these is true.
  return text !== "false" && text !== "0" && text.toLowerCase() !== "f";
}

/** Programs that show an answer to a person as it is. */
const FOR_PEOPLE = /^(?:curl|Wget|Mozilla\/5\.0)/;

/** Whether the answer is to be indented: as asked, else by who asks (apiserver's isPrettyPrint). */
export function isPretty(req: IncomingMessage, query: URLSearchParams): boolean {
  return flag(query, "pretty") ?? FOR_PEOPLE.test(req.headers["user-agent"] ?? "");
}

function integer(query: URLSearchParams, name: string): number | undefined {
  const text = query.get(name);
  if (text === null || text === "") return undefined;
  if (!/^-?\d{1,15}$/.test(text))
    throw badRequest(
      `strconv.ParseInt: parsing ${JSON.stringify(text)}: invalid syntax (query parameter ${name} must be an integer)`,
    );
  return Number(text);
}

type Optional<T> = { [K in keyof T]?: T[K] | undefined };

/** Leaves out what is undefined. */
function present<T extends object>(options: Optional<T>): T {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as T;
}

export function listOptions(query: URLSearchParams, namespace: string | undefined): ListOptions {
  const limit = integer(query, "limit");
  if (limit !== undefined && limit < 0) throw badRequest(`limit: Invalid value: ${limit}: must be 0 or more`);
  return present<ListOptions>({
    namespace,
    labelSelector: query.get("labelSelector") ?? undefined,
    fieldSelector: query.get("fieldSelector") ?? undefined,
    limit,
    continue: query.get("continue") || undefined,
    resourceVersion: query.get("resourceVersion") ?? undefined,
    // Whoever reads it says what is wrong with it.
    resourceVersionMatch: (query.get("resourceVersionMatch") ||
      undefined) as ListOptions["resourceVersionMatch"],
  });
}

export function watchOptions(query: URLSearchParams, namespace: string | undefined): WatchRequest {
  const { limit: _, continue: __, ...selection } = listOptions(query, namespace);
  return present<WatchRequest>({
    ...selection,
    allowWatchBookmarks: flag(query, "allowWatchBookmarks"),
    timeoutSeconds: integer(query, "timeoutSeconds"),
    sendInitialEvents: flag(query, "sendInitialEvents"),
  });
}

export interface WriteFlags {
  dryRun: boolean;
  fieldValidation: FieldValidation;
  manager: FieldManager;
}

const FIELD_VALIDATIONS = ["", "Ignore", "Strict", "Warn"];
const MAX_MANAGER_BYTES = 128;

/** @throws StatusError Invalid, which names the options by the method: CreateOptions and so on. */
export function writeFlags(req: IncomingMessage, query: URLSearchParams): WriteFlags {
  const { method, headers } = req;
  const dryRun = query.getAll("dryRun").filter((value) => value !== "");
  const fieldValidation = query.get("fieldValidation") ?? "";
  const manager = query.get("fieldManager") ?? "";
  const errors = [
    ...(method === "PATCH" ? applyErrors(isApply(req), manager, query) : []),
    ...managerErrors(manager),
    ...dryRunErrors(dryRun),
  ];
  if (!FIELD_VALIDATIONS.includes(fieldValidation))
    errors.push(notSupported("fieldValidation", fieldValidation, FIELD_VALIDATIONS));
  const verb = method === "PUT" ? "Update" : method === "PATCH" ? "Patch" : "Create";
  if (errors.length > 0) throw invalidOptions(`${verb}Options`, errors);
  return {
    dryRun: dryRun.length > 0,
    fieldValidation: (fieldValidation || "Warn") as FieldValidation,
    manager: fieldManager(manager || managerOf(headers["user-agent"] ?? "")),
  };
}

function applyErrors(apply: boolean, manager: string, query: URLSearchParams): FieldError[] {
  if (apply) return manager === "" ? [required("fieldManager", "is required for apply patch")] : [];
  return query.get("force") === null ? [] : [forbidden("force", "may not be specified for non-apply patch")];
}

/** What Go's unicode.IsPrint calls printable: no control characters, and of spaces only the plain one. */
const UNPRINTABLE = /[^\p{L}\p{M}\p{N}\p{P}\p{S} ]/u;

function managerErrors(manager: string): FieldError[] {
  const errors: FieldError[] = [];
  if (Buffer.byteLength(manager) > MAX_MANAGER_BYTES) errors.push(tooLong("fieldManager", MAX_MANAGER_BYTES));
  let position = 0;
  for (const letter of manager) {
    if (UNPRINTABLE.test(letter)) {
      const code = (letter.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, "0");
      errors.push(invalid("fieldManager", manager, `invalid character U+${code} (at position ${position})`));
    }
    position += Buffer.byteLength(letter);
  }
  return errors;
}

/** The manager of a client that does not name one: its program, by its User-Agent. */
function managerOf(userAgent: string): string {
  let name = "";
  for (const letter of userAgent.split("/")[0] ?? "") {
    if (UNPRINTABLE.test(letter)) continue;
    if (Buffer.byteLength(name + letter) > MAX_MANAGER_BYTES) break;
    name += letter;
  }
  return name;
}

function dryRunErrors(values: readonly string[]): FieldError[] {
  return values.every((value) => value === "All") ? [] : [notSupported("dryRun", values, ["All"])];
}

const CUT_OFF = "the connection was closed before the body had ended";

/** The body as bytes. @throws StatusError RequestEntityTooLarge */
async function readBody(req: IncomingMessage): Promise<Buffer> {
  if (req.destroyed) throw new Error(CUT_OFF);
  const chunks: Buffer[] = [];
  let size = 0;
  // By events: an iterator of a stream costs more than all else about a small body.
  await new Promise<void>((resolve, reject) => {
    req.on("data", (chunk: Buffer) => {
      size += chunk.length;
      if (size > MAX_BODY_BYTES) reject(tooLarge(MAX_BODY_BYTES));
      else chunks.push(chunk);
    });
    req.once("end", resolve);
    req.once("error", reject);
    req.once("close", () => req.complete || reject(new Error(CUT_OFF)));
  });
  const [only] = chunks;
  return only && chunks.length === 1 ? only : Buffer.concat(chunks);
}

const mediaType = (req: IncomingMessage): string =>
  (req.headers["content-type"] ?? "application/json").split(";")[0]?.trim().toLowerCase() ?? "";

function parse(bytes: Buffer, yaml: boolean, findDuplicates: boolean): Body {
  try {
    const text = bytes.toString("utf8");
    return yaml ? parseYaml(text, findDuplicates) : parseJson(text, findDuplicates);
  } catch (error) {
    if (error instanceof SyntaxProblem)
      throw badRequest(`the object provided is unrecognized: couldn't get version/kind; ${error.message}`);
    throw error;
  }
}

function parseProtobuf(engine: Engine, bytes: Buffer, definition: string): Body {
  try {
    return { value: engine.protobuf.read(bytes, definition), duplicates: [] };
  } catch (error) {
    if (error instanceof ProtobufError)
      throw badRequest(`the object provided is unrecognized: protobuf: ${error.message}`);
    throw error;
  }
}

/**
 * An object of the definition, in JSON, YAML or protobuf; undefined for an empty body.
 * @throws StatusError UnsupportedMediaType, BadRequest
 */
export async function readObject(
  engine: Engine,
  req: IncomingMessage,
  mode: FieldValidation,
  definition: string,
): Promise<Body | undefined> {
  const type = mediaType(req);
  const bytes = await readBody(req);
  if (bytes.length === 0) return undefined;
  if (type === PROTOBUF) return parseProtobuf(engine, bytes, definition);
  const isYaml = type === "application/yaml" || type === "application/x-yaml" || type === "text/yaml";
  if (!isYaml && type !== "application/json")
    throw unsupportedMediaType(["application/json", "application/yaml", PROTOBUF], type);
  return parse(bytes, isYaml, mode !== "Ignore");
}

const PATCH_TYPES: Readonly<Record<string, PatchType>> = {
  "application/json-patch+json": "json",
  "application/merge-patch+json": "merge",
  "application/strategic-merge-patch+json": "strategic",
};
const APPLY = "application/apply-patch+yaml";

export function isApply(req: IncomingMessage): boolean {
  return req.method === "PATCH" && mediaType(req) === APPLY;
}

/** @throws StatusError UnsupportedMediaType, BadRequest */
export async function readPatch(
  req: IncomingMessage,
  mode: FieldValidation,
): Promise<{ type: PatchType; patch: Body }> {
  const type = PATCH_TYPES[mediaType(req)];
  const bytes = await readBody(req);
  if (!type) throw unsupportedMediaType([...Object.keys(PATCH_TYPES), APPLY], mediaType(req));
  return { type, patch: parse(bytes, false, mode !== "Ignore") };
}

/** The configuration of an apply. @throws StatusError BadRequest */
export async function readApply(req: IncomingMessage, mode: FieldValidation): Promise<Body> {
  const bytes = await readBody(req);
  try {
    return parseApplied(bytes.toString("utf8"), mode !== "Ignore");
  } catch (error) {
    if (error instanceof SyntaxProblem) throw badRequest(`error decoding YAML: ${error.message}`);
    throw error;
  }
}

/** DeleteOptions of body and query; the query counts more, as in the real server. */
export async function readDeleteOptions(
  engine: Engine,
  req: IncomingMessage,
  query: URLSearchParams,
): Promise<DeleteOptions> {
  const body = (await readObject(engine, req, "Ignore", DELETE_OPTIONS))?.value ?? {};
  const { kind = "DeleteOptions" } = body as { kind?: unknown };
  if (kind !== "DeleteOptions") throw badRequest(`decoded object cannot be converted to DeleteOptions`);
  let decoded: Record<string, unknown>;
  try {
    decoded = engine.decoders.decode(DELETE_OPTIONS, body).object;
  } catch (error) {
    throw badRequest((error as Error).message);
  }
  const { gracePeriodSeconds, preconditions } = decoded;
  const orphans = flag(query, "orphanDependents") ?? decoded.orphanDependents;
  const policy = query.get("propagationPolicy") ?? decoded.propagationPolicy;
  const dryRun = [...query.getAll("dryRun"), ...((decoded.dryRun as string[] | undefined) ?? [])].filter(
    (value) => value !== "",
  );
  const errors = dryRunErrors(dryRun);
  if (orphans !== undefined && policy !== undefined)
    errors.unshift(
      invalid("propagationPolicy", policy, "orphanDependents and deletionPropagation cannot be both set"),
    );
  if (errors.length > 0) throw invalidOptions("DeleteOptions", errors);
  const fromOrphans = orphans === undefined ? undefined : orphans ? "Orphan" : "Background";
  return present<DeleteOptions>({
    gracePeriodSeconds: integer(query, "gracePeriodSeconds") ?? (gracePeriodSeconds as number | undefined),
    propagationPolicy: (policy ?? fromOrphans) as DeleteOptions["propagationPolicy"],
    preconditions: preconditions as DeleteOptions["preconditions"],
    dryRun: dryRun.length > 0,
  });
}
