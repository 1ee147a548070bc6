// The API without a transport: every verb on every kind. The HTTP handlers and the in-process client are two
// doors to this one room, so that both have the same semantics.

import { Applier } from "./apply.js";
import type { Kind } from "./engine.js";
import { Engine, type EngineOptions } from "./engine.js";
import { Reader } from "./read.js";
import { Remover } from "./remove.js";
import { Subresources } from "./subresources.js";
import { TokenAuthority } from "./tokens.js";
import { type EventSink, type RunningWatch, startWatch, type WatchRequest } from "./watching.js";
import { Writer } from "./write.js";

export interface RegistryOptions extends EngineOptions {
  /** Signs the tokens of service accounts; see TokenAuthority. */
  tokens?: TokenAuthority;
}

export class Registry {
  readonly engine: Engine;
  readonly reader: Reader;
  readonly writer: Writer;
  readonly applier: Applier;
  readonly remover: Remover;
  readonly subresources: Subresources;
  readonly tokens: TokenAuthority;

  private constructor(engine: Engine, tokens: TokenAuthority) {
    this.engine = engine;
    this.reader = new Reader(engine);
    this.writer = new Writer(engine);
    this.applier = new Applier(engine, this.writer);
    this.remover = new Remover(this.reader);
    this.subresources = new Subresources(engine, this.reader, this.writer, this.remover);
    this.tokens = tokens;
  }

  /** Reads what is stored into the kinds' allocators. */
  static async open({ tokens, ...options }: RegistryOptions): Promise<Registry> {
    const engine = new Engine(options);
    await engine.restore();
    return new Registry(engine, tokens ?? new TokenAuthority({ store: options.store }));
  }

  watch(kind: Kind, request: WatchRequest, sink: EventSink): Promise<RunningWatch> {
    return startWatch(this.engine, kind, request, sink);
  }
}
