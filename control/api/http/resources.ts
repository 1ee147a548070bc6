// The verbs over HTTP: from a request on a resource to the registry, and back as the representation the client
// accepts.

import type { IncomingMessage, ServerResponse } from "node:http";
import type { Stored } from "../../../common/k8s.js";
import type { Answers } from "../../resources/types.js";
import type { Applied, ApplyRequest } from "../apply.js";
import { type Body, decodeBody } from "../body.js";
import type { Kind, User } from "../engine.js";
import { patchChange } from "../patching.js";
import { Selection } from "../read.js";
import type { Registry } from "../registry.js";
import { badRequest, methodNotAllowed, StatusError } from "../status.js";
import { BINDING, EVICTION, SCALE, scaleOf } from "../subresources.js";
import { issueToken, TOKEN_REQUEST } from "../token-request.js";
import { expectedOf, type WriteRequest, type Written } from "../write.js";
import { verbsOf } from "./discovery.js";
import { type Accepted, negotiate } from "./negotiate.js";
import {
  flag,
  isApply,
  isPretty,
  listOptions,
  readApply,
  readDeleteOptions,
  readObject,
  readPatch,
  type Target,
  watchOptions,
  writeFlags,
} from "./request.js";
import { type Reply, send, sendList, warn } from "./respond.js";
import {
  type IncludeObject,
  PRINTED_SCALE,
  type Printed,
  parseIncludeObject,
  partialMetadata,
  tableOf,
} from "./table.js";
import { WatchStream } from "./watch-stream.js";

export interface Call {
  req: IncomingMessage;
  res: ServerResponse;
  query: URLSearchParams;
  target: Target;
  user: User;
  /** Worked out when they are first asked for. */
  view?: View;
  request?: WriteRequest;
}

/** How the answer is wanted. */
interface View {
  accepted: Accepted;
  includeObject: IncludeObject;
  reply: Reply;
}

export class ResourceHandlers {
  readonly #registry: Registry;
  readonly #streams = new Set<WatchStream>();

  constructor(registry: Registry) {
    this.#registry = registry;
  }

  /** Ends all watches as at their time limit. */
  closeWatches(): void {
    for (const stream of [...this.#streams]) stream.close();
  }

  /** Answers a request on a collection, an object or a plain subresource. @throws StatusError */
  async handle(call: Call): Promise<void> {
    const { target } = call;
    const { deprecation, answers } = target.kind.definition;
    if (deprecation !== undefined) warn(call.res, [deprecation]);
    if (answers) return await this.#answered(call, answers);
    if (target.name === undefined) return await this.#collection(call);
    if (target.subresource === undefined) return await this.#item(call, target.name);
    return await this.#subresource(call, target.name, target.subresource);
  }

  /** A kind that is not stored. */
  async #answered(call: Call, answers: Answers): Promise<void> {
    const { req, target, user, query } = call;
    const { kind, namespace, name } = target;
    const asked = { user, namespace };
    const method = req.method === "HEAD" ? "GET" : req.method;
    if (target.subresource !== undefined) throw methodNotAllowed();
    if (method === "POST" && name === undefined && answers.create) {
      const { fieldValidation } = this.#request(call);
      const body = await this.#object(call);
      const { object, warnings } = decodeBody(this.#registry.engine, body, expectedOf(kind), fieldValidation);
      const answer = (await answers.create(object, asked)) as Stored;
      return this.#sendObject(call, 201, { object: answer, warnings });
    }
    if (method === "GET" && name !== undefined && answers.get)
      return this.#sendObject(call, 200, { object: await answers.get(name, asked), warnings: [] });
    if (method === "GET" && name === undefined && answers.list && !flag(query, "watch")) {
      const selection = new Selection(kind, listOptions(query, namespace));
      const items = (await answers.list(asked)).filter((object) => selection.matches(object));
      return await this.#sendItems(call, items, {});
    }
    throw methodNotAllowed();
  }

  /** @throws StatusError NotAcceptable, BadRequest: before anything is done. */
  #view(call: Call): View {
    if (call.view) return call.view;
    const { req, res, query } = call;
    const accepted = negotiate(req.headers.accept);
    const includeObject = parseIncludeObject(query.get("includeObject"));
    const reply = { res, format: accepted.format, pretty: isPretty(req, query) };
    call.view = { accepted, includeObject, reply };
    return call.view;
  }

  /** @throws StatusError Invalid, for the options. */
  #request(call: Call): WriteRequest {
    const { req, target, user, query } = call;
    const { kind, namespace } = target;
    call.request ??= { kind, namespace, user, ...writeFlags(req, query) };
    return call.request;
  }

  #sendObject(call: Call, code: number, written: Written, kind: Printed = call.target.kind): void {
    const { object, warnings } = written;
    const { accepted, includeObject, reply } = this.#view(call);
    warn(call.res, warnings);
    if (accepted.as === "Table") {
      const { resourceVersion } = object.metadata;
      send(reply, code, tableOf(kind, [object], { resourceVersion }, includeObject));
    } else if (accepted.as === "PartialObjectMetadata") send(reply, code, partialMetadata(object));
    else send(reply, code, object);
  }

  async #collection(call: Call): Promise<void> {
    const { req, target, query } = call;
    switch (req.method) {
      case "GET":
      case "HEAD":
        return flag(query, "watch") ? await this.#watch(call) : await this.#list(call);
      case "POST": {
        if (target.kind.resource.namespaced && target.namespace === undefined) throw methodNotAllowed();
        this.#view(call);
        const request = this.#request(call);
        const body = await this.#object(call);
        return this.#sendObject(call, 201, await this.#registry.writer.create(request, body));
      }
      case "DELETE": {
        // Not of all namespaces at once, and the real server has no such verb for namespaces themselves.
        const { namespaced } = target.kind.resource;
        if (namespaced ? target.namespace === undefined : !verbsOf(target.kind).includes("deletecollection"))
          throw methodNotAllowed();
        const options = await readDeleteOptions(this.#registry.engine, req, query);
        const { remover } = this.#registry;
        const selection = listOptions(query, target.namespace);
        const { items, resourceVersion } = await remover.deleteCollection(
          target.kind,
          call.user,
          selection,
          options,
        );
        return await sendList(call.res, listHead(target.kind, { resourceVersion }), items);
      }
      default:
        throw methodNotAllowed();
    }
  }

  async #object(call: Call, definition = call.target.kind.definition.schema): Promise<Body> {
    const { fieldValidation } = this.#request(call);
    const body = await readObject(this.#registry.engine, call.req, fieldValidation, definition);
    if (!body) throw badRequest("the request has no body");
    return body;
  }

  async #list(call: Call): Promise<void> {
    this.#view(call);
    const { kind, namespace } = call.target;
    const { items, ...metadata } = await this.#registry.reader.list(kind, listOptions(call.query, namespace));
    await this.#sendItems(call, items, metadata);
  }

  async #sendItems(call: Call, items: readonly Stored[], metadata: Record<string, unknown>): Promise<void> {
    const { accepted, includeObject, reply } = this.#view(call);
    const { kind } = call.target;
    if (accepted.as === "Table") return send(reply, 200, tableOf(kind, items, metadata, includeObject));
    const partial = accepted.as !== undefined;
    const head = partial
      ? { kind: "PartialObjectMetadataList", apiVersion: "meta.k8s.io/v1", metadata }
      : listHead(kind, metadata);
    const shown = partial ? items.map(partialMetadata) : items;
    if (reply.pretty || reply.format === "yaml") return send(reply, 200, { ...head, items: shown });
    await sendList(call.res, head, shown);
  }

  async #watch(call: Call, name?: string): Promise<void> {
    const { accepted, includeObject } = this.#view(call);
    const { kind, namespace } = call.target;
    const request = watchOptions(call.query, namespace);
    if (name !== undefined) request.fieldSelector = `metadata.name=${name}`;
    const options = {
      kind,
      accepted,
      includeObject,
      bookmarks: request.allowWatchBookmarks ?? false,
      timeoutSeconds: request.timeoutSeconds ?? 0,
    };
    const stream = new WatchStream(call.res, options, () => this.#streams.delete(stream));
    try {
      const running = await this.#registry.watch(kind, request, stream);
      this.#streams.add(stream);
      stream.begin(running);
    } catch (error) {
      // The real server has begun to answer when it finds this out; clients look for the event.
      if (!(error instanceof StatusError) || error.reason !== "Expired") throw error;
      stream.refuse(error.status);
    }
  }

  async #item(call: Call, name: string): Promise<void> {
    const { req, target, query, user } = call;
    const { engine, remover } = this.#registry;
    const { kind, namespace } = target;
    switch (req.method) {
      case "GET":
      case "HEAD":
        if (flag(query, "watch")) return await this.#watch(call, name);
        return this.#sendObject(call, 200, await this.#get(call, name));
      case "PUT":
      case "PATCH":
        return await this.#modify(call, name, "main");
      case "DELETE": {
        const options = await readDeleteOptions(engine, req, query);
        const result = await remover.delete({ kind, namespace, name, user, options });
        if (!result.gone || kind.definition.returnsDeleted)
          return this.#sendObject(call, 200, { object: result.object, warnings: [] });
        const { code: _, ...body } = result.status;
        return send(this.#view(call).reply, 200, body);
      }
      default:
        throw methodNotAllowed();
    }
  }

  async #get({ target, query }: Call, name: string): Promise<Written> {
    const version = query.get("resourceVersion") ?? undefined;
    const object = await this.#registry.reader.get(target.kind, target.namespace, name, version);
    return { object, warnings: [] };
  }

  async #modify(call: Call, name: string, part: "main" | "status" | "finalize"): Promise<void> {
    const { req } = call;
    const { engine, writer } = this.#registry;
    this.#view(call);
    const request = this.#request(call);
    const { kind, fieldValidation } = request;
    if (isApply(req) && part !== "finalize") {
      const written = await this.#apply(call, name, part);
      return this.#sendObject(call, written.created ? 201 : 200, written);
    }
    if (req.method === "PATCH") {
      const { type, patch } = await readPatch(req, fieldValidation);
      const change = patchChange(engine, kind, type, patch, fieldValidation);
      return this.#sendObject(call, 200, await writer.modify(request, { name, part, change }));
    }
    const body = await this.#object(call);
    const change = () => decodeBody(engine, body, expectedOf(kind), fieldValidation);
    this.#sendObject(call, 200, await writer.modify(request, { name, part, change }));
  }

  async #apply(call: Call, name: string, part: ApplyRequest["part"]): Promise<Applied> {
    const request = this.#request(call);
    const body = await readApply(call.req, request.fieldValidation);
    const force = flag(call.query, "force") ?? false;
    return await this.#registry.applier.apply({ ...request, name, part, force }, body);
  }

  async #subresource(call: Call, name: string, subresource: string): Promise<void> {
    const { req, target } = call;
    const { subresources } = this.#registry;
    const { kind, namespace } = target;
    const method = req.method === "HEAD" ? "GET" : req.method;
    switch (`${method} ${subresource}`) {
      case "GET status":
      case "GET approval":
        return this.#sendObject(call, 200, await this.#get(call, name));
      case "PUT status":
      case "PATCH status":
      case "PUT approval":
      case "PATCH approval":
        return await this.#modify(call, name, "status");
      case "PUT finalize":
      case "PATCH finalize":
        return await this.#modify(call, name, "finalize");
      case "GET scale":
        return this.#sendScale(call, {
          object: await subresources.getScale(kind, namespace, name),
          warnings: [],
        });
      case "PUT scale":
        return this.#sendScale(
          call,
          await subresources.setScale(this.#request(call), name, await this.#object(call, SCALE.schema)),
        );
      case "PATCH scale": {
        if (isApply(req)) {
          const { object, warnings } = await this.#apply(call, name, "scale");
          return this.#sendScale(call, { object: scaleOf(kind, object), warnings });
        }
        const request = this.#request(call);
        const { type, patch } = await readPatch(req, request.fieldValidation);
        return this.#sendScale(call, await subresources.setScale(request, name, patch, type));
      }
      case "GET ephemeralcontainers":
        return this.#sendObject(call, 200, await this.#get(call, name));
      case "PUT ephemeralcontainers":
        return this.#sendObject(
          call,
          200,
          await subresources.setEphemeralContainers(this.#request(call), name, await this.#object(call)),
        );
      case "PATCH ephemeralcontainers": {
        const request = this.#request(call);
        const { type, patch } = await readPatch(req, request.fieldValidation);
        const written = await subresources.setEphemeralContainers(request, name, patch, type);
        return this.#sendObject(call, 200, written);
      }
      case "POST binding":
        return this.#sendStatus(
          call,
          await subresources.bind(this.#request(call), name, await this.#object(call, BINDING.schema)),
        );
      case "POST eviction":
        return this.#sendStatus(
          call,
          await subresources.evict(this.#request(call), name, await this.#object(call, EVICTION.schema)),
        );
      case "POST token": {
        const { engine, tokens } = this.#registry;
        const body = await this.#object(call, TOKEN_REQUEST.schema);
        const token = await issueToken(engine, tokens, this.#request(call), name, body);
        return send(this.#view(call).reply, 201, token);
      }
      default:
        throw methodNotAllowed();
    }
  }

  #sendScale(call: Call, written: Written): void {
    this.#sendObject(call, 200, written, PRINTED_SCALE);
  }

  #sendStatus(call: Call, status: { code: number }): void {
    send(this.#view(call).reply, status.code, status);
  }
}

function listHead(kind: Kind, metadata: object): object {
  return { kind: `${kind.resource.kind}List`, apiVersion: kind.apiVersion, metadata };
}
