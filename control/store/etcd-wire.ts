// What etcd v3 says and is told through its JSON gateway (api/etcdserverpb: keys and values in base64, 64-bit numbers as
// text). Pure: knows etcd's messages, no connection and nothing of Kubernetes.

/** All that a store keeps is below this, as kube-apiserver has it. */
export const ROOT = "/registry/";
/** Keys of the store's own business; no kind's name begins with a dot. */
const OWN = `${ROOT}.`;
/** Written when nothing else is, so that a watch shows how far it is. */
export const FENCE = `${OWN}fence`;
/** Whose turn it is to compact. */
export const COMPACTION = `${OWN}compaction`;

/** What each put with a turn writes too. */
export const turnKey = (name: string): string => `${OWN}turn/${name}`;

export interface Kv {
  key: string;
  text: string;
  revision: number;
  createRevision: number;
  /** How often the key has been written since it was made. */
  version: number;
}

interface RawHeader {
  revision?: string;
}

interface RawKv {
  key: string;
  value?: string;
  mod_revision?: string;
  create_revision?: string;
  version?: string;
}

export interface RawRange {
  header?: RawHeader;
  kvs?: RawKv[];
  /** Of all keys in the range, whatever the limit. */
  count?: string;
}

export interface RawTxn {
  header?: RawHeader;
  succeeded?: boolean;
  responses?: {
    response_range?: RawRange;
    response_put?: { prev_kv?: RawKv };
    response_delete_range?: { prev_kvs?: RawKv[] };
  }[];
}

export interface RawWatch {
  result?: {
    header?: RawHeader;
    created?: boolean;
    canceled?: boolean;
    compact_revision?: string;
    cancel_reason?: string;
    events?: { type?: "PUT" | "DELETE"; kv: RawKv; prev_kv?: RawKv }[];
  };
  error?: { message?: string };
}

export interface KvEvent {
  type: "put" | "delete";
  kv: Kv;
  previous?: Kv;
}

/** etcd's answer to a request that it does not do. */
export class EtcdError extends Error {
  override readonly name = "EtcdError";

  constructor(
    message: string,
    /** google.rpc.Code */
    readonly code: number,
  ) {
    super(message);
  }

  /** OUT_OF_RANGE is both: a revision that is gone, or not there yet. */
  get compacted(): boolean {
    return this.message.includes("required revision has been compacted");
  }

  get future(): boolean {
    return this.message.includes("required revision is a future revision");
  }

  /** RESOURCE_EXHAUSTED: no space, or too much to do. */
  get exhausted(): boolean {
    return this.code === 8;
  }
}

const base64 = (text: string): string => Buffer.from(text, "utf8").toString("base64");
const number = (text: string | undefined): number => Number(text ?? 0);

export const revisionOf = ({ header }: { header?: RawHeader }): number => number(header?.revision);

/** The least key greater than all that begin with `prefix` (which ends in ASCII). */
function endOf(prefix: string): string {
  return prefix.slice(0, -1) + String.fromCharCode(prefix.charCodeAt(prefix.length - 1) + 1);
}

export const isOwn = (key: string): boolean => key.startsWith(OWN);

/** Messages about the keys of one cluster: `prefix` stands before each of them, as kube-apiserver's --etcd-prefix. */
export class EtcdWire {
  constructor(readonly prefix: string) {}

  /** @throws Error for a key that no watch of ours would see. */
  #key(key: string): string {
    if (!key.startsWith(ROOT)) throw new Error(`${key}: keys of an etcd store begin with ${ROOT}`);
    return base64(this.prefix + key);
  }

  kv(raw: RawKv): Kv {
    return {
      key: Buffer.from(raw.key, "base64").toString("utf8").slice(this.prefix.length),
      text: Buffer.from(raw.value ?? "", "base64").toString("utf8"),
      revision: number(raw.mod_revision),
      createRevision: number(raw.create_revision),
      version: number(raw.version),
    };
  }

  range(prefix: string, { limit = 0, after = "", revision = 0 } = {}): object {
    return {
      key: this.#key(after >= prefix ? `${after}\0` : prefix),
      range_end: base64(this.prefix + endOf(prefix)),
      limit: String(limit),
      revision: String(revision),
    };
  }

  /** A linearizable read that answers with little but the revision. */
  count(): object {
    return { key: this.#key(FENCE), count_only: true };
  }

  #expect(key: string, expected: number | undefined): object[] {
    return expected === undefined
      ? []
      : [{ key: this.#key(key), target: "MOD", result: "EQUAL", mod_revision: String(expected) }];
  }

  /** @param turn another key that is expected to be as it was, and written to, with it */
  put(key: string, text: string, expected?: number, turn?: { key: string; expected: number }): object {
    const put = { key: this.#key(key), value: base64(text), prev_kv: expected !== 0 };
    return {
      compare: [...this.#expect(key, expected), ...(turn ? this.#expect(turn.key, turn.expected) : [])],
      success: [{ request_put: put }, ...(turn ? [{ request_put: { key: this.#key(turn.key) } }] : [])],
      failure: [{ request_range: { key: this.#key(key) } }],
    };
  }

  delete(key: string, expected?: number): object {
    return {
      compare: this.#expect(key, expected),
      success: [{ request_delete_range: { key: this.#key(key), prev_kv: true } }],
      failure: [{ request_range: { key: this.#key(key) } }],
    };
  }

  turn(name: string): object {
    return { key: this.#key(turnKey(name)) };
  }

  /** Takes the `turn`-th turn of compaction, if nobody has yet. */
  takeTurn(turn: number, revision: number): object {
    const key = this.#key(COMPACTION);
    return {
      compare: [{ key, target: "VERSION", result: "EQUAL", version: String(turn) }],
      success: [{ request_put: { key, value: base64(String(revision)) } }],
      failure: [{ request_range: { key } }],
    };
  }

  /**
   * Everything below the root from a revision on, that one included; with `history` each event brings what was there
   * before.
   */
  watch(startRevision: number, { history = false } = {}): object {
    return {
      create_request: {
        key: this.#key(ROOT),
        range_end: base64(endOf(this.prefix + ROOT)),
        start_revision: String(startRevision),
        progress_notify: true,
        prev_kv: history,
      },
    };
  }

  /** The key as it is when a write's expectation has failed. */
  found(answer: RawTxn): Kv | undefined {
    const [raw] = answer.responses?.[0]?.response_range?.kvs ?? [];
    return raw && this.kv(raw);
  }

  /** The key as it was before a put or a delete. */
  replaced(answer: RawTxn): Kv | undefined {
    const [response] = answer.responses ?? [];
    const raw = response?.response_put?.prev_kv ?? response?.response_delete_range?.prev_kvs?.[0];
    return raw && this.kv(raw);
  }

  events({ result }: RawWatch): KvEvent[] {
    return (result?.events ?? []).map(({ type, kv, prev_kv }) => ({
      type: type === "DELETE" ? "delete" : "put",
      kv: this.kv(kv),
      ...(prev_kv ? { previous: this.kv(prev_kv) } : {}),
    }));
  }
}
