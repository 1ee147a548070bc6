// get and list: selectors, pages, and states of the past. Knows no HTTP.

import type { ListOptions } from "../../common/client.js";
import type { KubeObject, Stored } from "../../common/k8s.js";
import {
  type FieldRequirement,
  matchFields,
  matchLabels,
  parseFieldSelector,
  parseLabelSelector,
  type Requirement,
} from "../../common/selector.js";
import type { FieldError } from "../resources/types.js";
import { forbidden, notSupported } from "../resources/validation/field.js";
import { CompactedError, type Entry, FutureRevisionError, type RangeResult } from "../store/store.js";
import type { Engine, Kind } from "./engine.js";
import { badRequest, expired, failure, futureResourceVersion, invalidOptions, notFound } from "./status.js";

/** Tells which objects of a kind are meant: the selectors of a request. */
export class Selection {
  readonly #kind: Kind;
  readonly #labels: readonly Requirement[];
  readonly #fields: readonly FieldRequirement[];
  readonly namespace: string | undefined;
  /** The one name that a field selector asks for. */
  readonly name: string | undefined;

  /** @throws StatusError BadRequest for a selector that cannot be read, or a field the kind does not offer. */
  constructor(kind: Kind, options: Pick<ListOptions, "namespace" | "labelSelector" | "fieldSelector">) {
    this.#kind = kind;
    this.namespace = options.namespace || undefined;
    try {
      this.#labels = parseLabelSelector(options.labelSelector ?? "");
      this.#fields = parseFieldSelector(options.fieldSelector ?? "");
    } catch (error) {
      throw badRequest((error as Error).message);
    }
    const offered = this.#values(STUB);
    for (const { field } of this.#fields) {
      if (Object.hasOwn(offered, field)) continue;
      const only = `is not a known field selector: only "metadata.name", "metadata.namespace"`;
      const ownFields = kind.definition.selectableFields !== undefined;
      throw badRequest(
        ownFields ? `field label not supported: ${field}` : `${JSON.stringify(field)} ${only}`,
      );
    }
    this.name = this.#fields.find((f) => f.field === "metadata.name" && f.equals)?.value;
  }

  get selective(): boolean {
    return this.#labels.length > 0 || this.#fields.length > 0;
  }

  #values(object: Stored): Record<string, string> {
    const { name, namespace } = object.metadata;
    return {
      "metadata.name": name,
      ...(this.#kind.resource.namespaced ? { "metadata.namespace": namespace ?? "" } : {}),
      ...this.#kind.definition.selectableFields?.(object),
    };
  }

  matches(object: Stored): boolean {
    if (!matchLabels(this.#labels, object.metadata.labels)) return false;
    return this.#fields.length === 0 || matchFields(this.#fields, this.#values(object));
  }
}

const STUB: Stored<KubeObject> = {
  apiVersion: "",
  kind: "",
  metadata: { name: "", uid: "", resourceVersion: "", creationTimestamp: "" },
};

export interface Page {
  items: Stored[];
  resourceVersion: string;
  continue?: string;
  remainingItemCount?: number;
}

interface Token {
  /** Revision of the list; -1: whatever is current. */
  rv: number;
  /** The last key given, without the kind's prefix. */
  start: string;
}

function encodeToken(token: Token): string {
  return Buffer.from(JSON.stringify({ v: "meta.k8s.io/v1", ...token })).toString("base64url");
}

function decodeToken(text: string): Token {
  try {
    const token = JSON.parse(Buffer.from(text, "base64url").toString("utf8")) as Record<string, unknown>;
    const { v, rv, start } = token;
    if (v === "meta.k8s.io/v1" && typeof rv === "number" && typeof start === "string") return { rv, start };
  } catch (error) {
    throw badRequest(`continue key is not valid: ${(error as Error).message}`);
  }
  throw badRequest("continue key is not valid: not a token of this server");
}

/** @throws StatusError BadRequest */
export function parseResourceVersion(text: string | undefined): number | undefined {
  if (text === undefined || text === "") return undefined;
  if (!/^\d{1,15}$/.test(text))
    throw failure({
      code: 400,
      reason: "BadRequest",
      message: `invalid resource version: Invalid value: ${JSON.stringify(text)}: strconv.ParseUint: parsing ${JSON.stringify(text)}: invalid syntax`,
    });
  return Number(text);
}

/** Refuses combinations of parameters that have no meaning, as the real server does. */
function checkMatch({ resourceVersionMatch: match, resourceVersion, continue: token }: ListOptions): void {
  if (!match) return;
  const errors: FieldError[] = [];
  const field = "resourceVersionMatch";
  if (!resourceVersion)
    errors.push(forbidden(field, "resourceVersionMatch is forbidden unless resourceVersion is provided"));
  if (token) errors.push(forbidden(field, "resourceVersionMatch is forbidden when continue is provided"));
  if (match !== "Exact" && match !== "NotOlderThan")
    errors.push(notSupported(field, match, ["Exact", "NotOlderThan", ""]));
  if (match === "Exact" && resourceVersion === "0")
    errors.push(forbidden(field, 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"'));
  if (errors.length > 0) throw invalidOptions("ListOptions", errors);
}

/** Which state a list wants: a revision, or now. */
function wantedRevision(options: ListOptions, limit: number, current: number): number | undefined {
  const version = parseResourceVersion(options.resourceVersion);
  const match = options.resourceVersionMatch;
  if (version === undefined || version === 0) return undefined;
  if (version > current) throw futureResourceVersion(version, current);
  const exact = match === "Exact" || (match === undefined && limit > 0);
  return exact ? version : undefined;
}

const CONTINUE_EXPIRED =
  "The provided continue parameter is too old to display a consistent list result. You can start a new list without " +
  "the continue parameter, or use the continue token in this response to retrieve the remainder of the results. " +
  "Continuing with the provided token results in an inconsistent list - objects that were created, modified, or " +
  "deleted between the time the first chunk was returned and now may show up in the list.";

export class Reader {
  readonly #engine: Engine;

  constructor(engine: Engine) {
    this.#engine = engine;
  }

  /**
   * The newest state; it is an error when that is older than `resourceVersion`.
   * @throws StatusError NotFound, BadRequest, Timeout (a version from the future).
   */
  async get(
    kind: Kind,
    namespace: string | undefined,
    name: string,
    resourceVersion?: string,
  ): Promise<Stored> {
    const version = parseResourceVersion(resourceVersion) ?? 0;
    if (version > 0) {
      const current = await this.#engine.store.revision();
      if (version > current) throw futureResourceVersion(version, current);
    }
    const entry = await kind.store.get(kind.key(namespace, name));
    if (!entry) throw notFound(kind.resource, name);
    return entry.value;
  }

  /**
   * One page, or everything. A continued list shows the state that its first page showed.
   * @throws StatusError BadRequest, Invalid (options), Expired (with a token to go on inconsistently), Timeout.
   */
  async list(kind: Kind, options: ListOptions): Promise<Page> {
    checkMatch(options);
    const selection = new Selection(kind, options);
    const limit = options.limit ?? 0;
    const prefix = kind.range(selection.namespace);
    let token: Token | undefined;
    if (options.continue) {
      token = decodeToken(options.continue);
      if (options.resourceVersion && options.resourceVersion !== "0")
        throw badRequest("specifying resource version is not allowed when using continue");
    }
    const current = await this.#engine.store.revision();
    const revision = token ? (token.rv < 0 ? undefined : token.rv) : wantedRevision(options, limit, current);
    const result = await this.#range(kind, prefix, {
      ...(token ? { after: kind.prefix + token.start } : {}),
      ...(revision !== undefined ? { revision } : {}),
      ...(limit > 0 && !selection.selective ? { limit } : {}),
    });
    return page(kind, result, selection, limit);
  }

  async #range(
    kind: Kind,
    prefix: string,
    options: { after?: string; revision?: number; limit?: number },
  ): Promise<RangeResult<Stored>> {
    try {
      return await kind.store.range(prefix, options);
    } catch (error) {
      if (error instanceof FutureRevisionError) throw futureResourceVersion(error.revision, error.current);
      if (!(error instanceof CompactedError)) throw error;
      if (options.after === undefined)
        throw expired(`The resourceVersion for the provided list is too old. (oldest: ${error.compacted})`);
      const status = expired(CONTINUE_EXPIRED);
      status.status.metadata.continue = encodeToken({
        rv: -1,
        start: options.after.slice(kind.prefix.length),
      });
      throw status;
    }
  }
}

function page(kind: Kind, result: RangeResult<Stored>, selection: Selection, limit: number): Page {
  const resourceVersion = String(result.revision);
  const token = (last: Entry<Stored> | undefined): string =>
    encodeToken({ rv: result.revision, start: (last?.key ?? kind.prefix).slice(kind.prefix.length) });
  if (!selection.selective) {
    const items = result.entries.map((entry) => entry.value);
    if (result.remaining === 0) return { items, resourceVersion };
    return {
      items,
      resourceVersion,
      continue: token(result.entries.at(-1)),
      remainingItemCount: result.remaining,
    };
  }
  const items: Stored[] = [];
  let last: Entry<Stored> | undefined;
  for (const entry of result.entries) {
    if (!selection.matches(entry.value)) continue;
    if (limit > 0 && items.length === limit) return { items, resourceVersion, continue: token(last) };
    items.push(entry.value);
    last = entry;
  }
  return { items, resourceVersion };
}
