// Server-side apply: the configuration checked against its type, merged into what is stored or made into a new object,
// with the owners of the fields kept. Knows no HTTP. Order and texts of apimachinery's managedfields and apiserver.

import type { KubeObject, Stored } from "../../common/k8s.js";
import { compare, fieldsOf } from "../patch/compare.js";
import { difference, type FieldSet } from "../patch/field-set.js";
import { type Conflict, conflictTexts, readManagers, writeManagers } from "../patch/managers.js";
import { afterApply, conflictsBeyond, type Applied as Outcome, type View } from "../patch/ownership.js";
import { isObject } from "../patch/shape.js";
import { typeProblem } from "../patch/typed-check.js";
import type { Body } from "./body.js";
import { DecodeError } from "./decode.js";
import { type Engine, type Kind, timestamp } from "./engine.js";
import { yamlError } from "./json.js";
import * as status from "./status.js";
import { SCALE } from "./subresources.js";
import { shapeOf, viewsOf, writerOf } from "./tracking.js";
import { type Change, expectedOf, type WriteRequest, type Writer, type Written } from "./write.js";

export interface ApplyRequest extends WriteRequest {
  name: string;
  part: "main" | "status" | "scale";
  force: boolean;
}

export interface Applied extends Written {
  created: boolean;
}

/** kubectl's annotation of client-side apply, which its server-side apply keeps true. */
const LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration";
const KUBECTL = "kubectl";
/** What a configuration copied from an object may say of the server's own fields is not applied. */
const SERVER_METADATA = ["creationTimestamp", "deletionTimestamp", "generation", "selfLink"];
const MAX_ATTEMPTS = 5;

type Config = KubeObject & Record<string, unknown>;

export class Applier {
  readonly #engine: Engine;
  readonly #writer: Writer;

  constructor(engine: Engine, writer: Writer) {
    this.#engine = engine;
    this.#writer = writer;
  }

  /** @throws StatusError Conflict (fields of others), BadRequest, Invalid, NotFound (of a subresource). */
  async apply(request: ApplyRequest, body: Body): Promise<Applied> {
    const { kind, namespace, name, part } = request;
    const config = this.#read(request, body);
    const change = (old: Stored): Change => this.#merge(request, config, old, body);
    for (let attempt = 1; ; attempt++) {
      const exists = (await kind.store.get(kind.key(namespace, name))) !== undefined;
      try {
        if (exists || part !== "main") {
          const through = part === "scale" ? ({ part: "main", subresource: "scale" } as const) : { part };
          const written = await this.#writer.modify(request, { name, ...through, change });
          return { ...written, created: false };
        }
        const { uid } = config.metadata ?? {};
        if (uid)
          throw status.conflict(
            kind.resource,
            name,
            `uid mismatch: the provided object specified uid ${uid}, and no existing object was found`,
          );
        const written = await this.#writer.createApplied(
          request,
          this.#merge(request, config, undefined, body),
        );
        return { ...written, created: true };
      } catch (error) {
        // Somebody has created or deleted it between the look and the write.
        const reason = exists ? "NotFound" : "AlreadyExists";
        const isRace = error instanceof status.StatusError && error.reason === reason && part === "main";
        if (!isRace || attempt >= MAX_ATTEMPTS) throw error;
      }
    }
  }

  /** The configuration as far as the request is about it. */
  #read({ kind, name, part }: ApplyRequest, { value }: Body): Config {
    if (!isObject(value))
      throw status.badRequest("error decoding YAML: json: cannot unmarshal into an object");
    const config = value as Config;
    const { apiVersion = "", kind: type = "", metadata } = config;
    const expected = part === "scale" ? SCALE : expectedOf(kind);
    if (apiVersion !== expected.apiVersion || type !== expected.kind)
      throw status.badRequest(`invalid object type: ${typeText(apiVersion, type)}`);
    if (metadata?.managedFields != null) throw status.badRequest("metadata.managedFields must be nil");
    const problem = typeProblem(config, shapeOf(this.#engine, expected.schema));
    if (problem !== undefined)
      throw status.unknown(`failed to create typed patch object (${identity(config)}): ${problem}`);
    if (metadata?.name && metadata.name !== name)
      throw status.badRequest(
        `the name of the object (${metadata.name}) does not match the name on the URL (${name})`,
      );
    return applicable(kind, part, config);
  }

  #view(kind: Kind, part: ApplyRequest["part"]): View {
    return viewsOf(this.#engine, kind, part)(kind.apiVersion) as View;
  }

  #merge(request: ApplyRequest, config: Config, old: Stored | undefined, body: Body): Change {
    const { kind } = request;
    const { managedFields, ...metadata } = old?.metadata ?? {};
    const live = old ? { ...old, metadata } : {};
    const managers = readManagers(managedFields);
    const merged = this.#applied(request, config, live, managers);
    if ("conflicts" in merged) {
      const { message, causes } = conflictTexts(merged.conflicts);
      throw status.failure({ code: 409, reason: "Conflict", message, details: { causes } });
    }
    const duplicates = duplicateWarnings(request, body);
    try {
      const made = old && merged.same ? live : merged.object;
      const { object } = this.#engine.decoders.decode(kind.definition.schema, made);
      const whole: KubeObject = { ...object, apiVersion: kind.apiVersion, kind: kind.resource.kind };
      if (request.manager.name === KUBECTL) keepLastApplied(whole, body.value as Config);
      return { object: whole, warnings: duplicates, managedFields: writeManagers(merged.managers) };
    } catch (error) {
      if (error instanceof DecodeError)
        throw status.unknown(
          `failed to convert new object (${identity(config)}) to proper version: unable to convert unstructured object to ${typeText(kind.apiVersion, kind.resource.kind)}: ${error.message}`,
        );
      throw error;
    }
  }

  /**
   * kubectl may take over, without being told to, what its client-side apply has set: the fields of the annotation
   * that are still as it says.
   */
  #applied(
    { kind, part, manager, force }: ApplyRequest,
    config: Config,
    live: KubeObject,
    managers: ReturnType<typeof readManagers>,
  ): Outcome {
    const views = viewsOf(this.#engine, kind, part);
    const writer = writerOf(kind, part, "Apply", manager);
    const apply = { live, config, managers, writer, views, now: timestamp() };
    const first = afterApply({ ...apply, force });
    if (!("conflicts" in first) || manager.name !== KUBECTL) return first;
    const own = this.#lastAppliedFields(kind, live, this.#view(kind, part));
    const conflicts: Conflict[] = own ? conflictsBeyond(first.conflicts, own) : [...first.conflicts];
    return conflicts.length > 0 ? { conflicts } : afterApply({ ...apply, force: true });
  }

  #lastAppliedFields(kind: Kind, live: KubeObject, { shape, convert }: View): FieldSet | undefined {
    const text = live.metadata?.annotations?.[LAST_APPLIED];
    if (!text) return undefined;
    let last: unknown;
    try {
      last = JSON.parse(text);
    } catch (error) {
      if (error instanceof SyntaxError) return undefined;
      throw error;
    }
    if (!isObject(last) || last.apiVersion !== kind.apiVersion || typeProblem(last, shape)) return undefined;
    const { modified, added, removed } = compare(convert(last), convert(live), shape);
    return [modified, added, removed].reduce(difference, fieldsOf(last, shape));
  }
}

/** "apps/v1, Kind=Deployment"; the core group is an empty one. */
function typeText(apiVersion: string, kind: string): string {
  return `${apiVersion.includes("/") ? "" : "/"}${apiVersion}, Kind=${kind}`;
}

function identity({ apiVersion = "", kind = "", metadata }: Config): string {
  const { name = "", namespace = "" } = metadata ?? {};
  return `${namespace}/${name}; ${typeText(apiVersion, kind)}`;
}

/** Without the parts that this request cannot change; of a scale, what it says of the object. */
function applicable(kind: Kind, part: ApplyRequest["part"], config: Config): Config {
  const { status: given, ...rest } = config;
  const metadata: Record<string, unknown> = { ...config.metadata };
  for (const field of SERVER_METADATA) delete metadata[field];
  if (part === "main") {
    const kept = kind.definition.hasStatus || given === undefined ? rest : config;
    return { ...kept, metadata } as Config;
  }
  const { name, namespace, uid, resourceVersion } = metadata as { [field: string]: string };
  const head = {
    apiVersion: kind.apiVersion,
    kind: kind.resource.kind,
    metadata: { name, namespace, uid, resourceVersion },
  };
  if (part === "status") return (given === undefined ? head : { ...head, status: given }) as Config;
  const { replicas } = (config.spec ?? {}) as { replicas?: unknown };
  return (replicas === undefined ? head : { ...head, spec: { replicas } }) as Config;
}

function keepLastApplied(object: KubeObject, config: Config): void {
  const { annotations } = object.metadata ?? {};
  if (annotations?.[LAST_APPLIED] === undefined) return;
  const { [LAST_APPLIED]: _, ...others } = config.metadata?.annotations ?? {};
  const { annotations: __, ...metadata } = config.metadata ?? {};
  const kept = Object.keys(others).length > 0 ? { ...metadata, annotations: others } : metadata;
  annotations[LAST_APPLIED] = `${JSON.stringify({ ...config, metadata: kept })}\n`;
}

function duplicateWarnings({ fieldValidation }: ApplyRequest, { duplicates }: Body): string[] {
  if (duplicates.length === 0 || fieldValidation === "Ignore") return [];
  if (fieldValidation === "Warn") return [...duplicates];
  throw status.badRequest(
    `error strict decoding YAML: error converting YAML to JSON: ${yamlError(duplicates)}`,
  );
}
