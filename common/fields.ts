// A strict reader of YAML: every field is asked for by name and type, everything wrong is collected with its path,
// line, value and what is allowed. Knows YAML, nothing of what the fields mean.

import {
  Document,
  isAlias,
  isMap,
  isNode,
  isScalar,
  isSeq,
  LineCounter,
  type Node,
  type ParsedNode,
  parseAllDocuments,
  type YAMLMap,
} from "yaml";

/** One thing that is wrong with a configuration. */
export interface ConfigProblem {
  /** networking.podSubnet, nodes[1].labels["a/b"]; "" for the document as a whole. */
  path: string;
  /** 1-based; absent when the configuration did not come as text. */
  line?: number;
  column?: number;
  /** As written, shortened. */
  value?: string;
  /** What is wrong and what is allowed. */
  message: string;
}

/** A configuration that cannot be used; lists everything that is wrong with it, not only the first thing. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
  readonly source: string;
  readonly problems: readonly ConfigProblem[];

  constructor(source: string, problems: readonly ConfigProblem[]) {
    super(problems.map((problem) => render(source, problem)).join("\n"));
    this.source = source;
    this.problems = problems;
  }
}

function render(source: string, { path, line, column, value, message }: ConfigProblem): string {
  const place = [source, ...(line ? [line, ...(column ? [column] : [])] : [])].join(":");
  const what = [path, value].filter((part) => part !== undefined && part !== "").join(": ");
  return what ? `${place}: ${what}: ${message}` : `${place}: ${message}`;
}

/** Collects the problems of one document. */
export class ProblemList {
  readonly source: string;
  readonly problems: ConfigProblem[] = [];
  readonly #lines: LineCounter | undefined;

  constructor(source: string, lines?: LineCounter) {
    this.source = source;
    this.#lines = lines;
  }

  add(path: string, node: Node | null | undefined, message: string, value?: unknown): void {
    const start = node?.range?.[0];
    const position = start === undefined ? undefined : this.#lines?.linePos(start);
    const text = value === undefined ? {} : { value: shorten(value) };
    const where = position ? { line: position.line, column: position.col } : {};
    this.problems.push({ path, ...where, ...text, message });
  }

  /** Throws {@link ConfigError} when there are any. */
  throwIfAny(): void {
    if (this.problems.length > 0) throw new ConfigError(this.source, this.problems);
  }
}

function shorten(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 60 ? `${text.slice(0, 57)}…` : text;
}

/**
 * The root field of a YAML text with exactly one document.
 * @throws ConfigError for malformed YAML, with the line.
 */
export function readYaml(text: string, source: string): Field {
  const lines = new LineCounter();
  const problems = new ProblemList(source, lines);
  const documents = parseAllDocuments<ParsedNode>(text, { lineCounter: lines, prettyErrors: false });
  const all = Array.isArray(documents) ? documents : [];
  for (const error of all.flatMap((document) => document.errors)) {
    const { line, col } = lines.linePos(error.pos[0]);
    problems.problems.push({ path: "", line, column: col, message: `malformed YAML: ${error.message}` });
  }
  problems.throwIfAny();
  if (all.length > 1)
    problems.add("", all[1]?.contents, "one document is expected, a second one begins here");
  problems.throwIfAny();
  return new Field("", all[0]?.contents ?? null, undefined, problems, all[0]);
}

/** The root field of a plain object, with the same strictness. */
export function readValue(value: unknown, source: string): Field {
  const document = new Document(value);
  return new Field(
    "",
    isNode(document.contents) ? document.contents : null,
    undefined,
    new ProblemList(source),
    document,
  );
}

/** A value of the document together with where it stands. Getters add a problem and return undefined. */
export class Field {
  readonly path: string;
  readonly #node: Node | null;
  readonly #place: Node | null;
  readonly problems: ProblemList;
  readonly #document: Document | undefined;

  constructor(
    path: string,
    node: Node | null,
    place: Node | undefined,
    problems: ProblemList,
    document: Document | undefined,
  ) {
    this.path = path;
    this.#document = document;
    const resolved = isAlias(node) && document ? (node.resolve(document) ?? null) : node;
    this.#node = resolved;
    this.#place = node ?? place ?? null;
    this.problems = problems;
  }

  /** Absent, or written as null: the default holds. */
  get absent(): boolean {
    return this.#node === null || (isScalar(this.#node) && this.#node.value === null);
  }

  get isList(): boolean {
    return isSeq(this.#node);
  }

  get isObject(): boolean {
    return isMap(this.#node);
  }

  get isString(): boolean {
    return isScalar(this.#node) && typeof this.#node.value === "string";
  }

  /** The plain value, for messages. */
  get value(): unknown {
    if (this.#node === null) return undefined;
    return this.#document ? this.#node.toJS(this.#document) : undefined;
  }

  wrong(message: string): undefined {
    this.problems.add(this.path, this.#place, message, this.value);
    return undefined;
  }

  /** Fields of a mapping; a name that is not among `names` is a problem. */
  object<K extends string>(names: readonly K[]): Record<K, Field> {
    const pairs = this.absent ? new Map<string, Field>() : this.#pairs();
    for (const [name, field] of pairs ?? []) {
      if (!(names as readonly string[]).includes(name)) {
        field.problems.add(field.path, field.#key, `unknown field, allowed are ${names.join(", ")}`);
      }
    }
    const missing = (name: string) =>
      new Field(join(this.path, name), null, this.#place ?? undefined, this.problems, this.#document);
    const entries = names.map((name) => [name, pairs?.get(name) ?? missing(name)] as const);
    return Object.fromEntries(entries) as Record<K, Field>;
  }

  /** Entries of a mapping with free names. */
  entries(): [string, Field][] {
    return this.absent ? [] : [...(this.#pairs() ?? [])];
  }

  list(): Field[] {
    if (this.absent) return [];
    if (!isSeq(this.#node)) {
      this.wrong("a list is expected");
      return [];
    }
    return this.#node.items.map(
      (item, index) =>
        new Field(
          `${this.path}[${index}]`,
          isNode(item) ? item : null,
          this.#node ?? undefined,
          this.problems,
          this.#document,
        ),
    );
  }

  string(check?: (text: string) => string | undefined): string | undefined {
    if (this.absent) return undefined;
    if (!isScalar(this.#node) || typeof this.#node.value !== "string")
      return this.wrong("a string is expected");
    const problem = check?.(this.#node.value);
    return problem ? this.wrong(problem) : this.#node.value;
  }

  integer(min: number, max: number): number | undefined {
    if (this.absent) return undefined;
    const value = isScalar(this.#node) ? this.#node.value : undefined;
    if (typeof value !== "number" || !Number.isInteger(value) || value < min || value > max) {
      return this.wrong(`a whole number from ${min} to ${max} is expected`);
    }
    return value;
  }

  boolean(): boolean | undefined {
    if (this.absent) return undefined;
    const value = isScalar(this.#node) ? this.#node.value : undefined;
    return typeof value === "boolean" ? value : this.wrong("true or false is expected");
  }

  oneOf<T extends string>(allowed: readonly T[]): T | undefined {
    if (this.absent) return undefined;
    const value = isScalar(this.#node) ? this.#node.value : undefined;
    const found = allowed.find((one) => one === value);
    return found ?? this.wrong(`allowed ${allowed.length > 1 ? "are" : "is"} ${allowed.join(", ")}`);
  }

  strings(): string[] | undefined {
    if (this.absent) return undefined;
    return this.list().flatMap((item) => {
      if (item.absent) item.wrong("a string is expected");
      const text = item.string();
      return text === undefined ? [] : [text];
    });
  }

  #key: Node | null = null;

  #pairs(): Map<string, Field> | undefined {
    if (!isMap(this.#node)) return this.wrong("a mapping is expected");
    const out = new Map<string, Field>();
    for (const { key, value } of (this.#node as YAMLMap).items) {
      const name = isScalar(key) ? String(key.value) : String(key);
      const field = new Field(
        join(this.path, name),
        isNode(value) ? value : null,
        isNode(key) ? key : undefined,
        this.problems,
        this.#document,
      );
      field.#key = isNode(key) ? key : null;
      out.set(name, field);
    }
    return out;
  }
}

function join(path: string, name: string): string {
  if (!/^[A-Za-z_][\w-]*$/.test(name)) return `${path}[${JSON.stringify(name)}]`;
  return path ? `${path}.${name}` : name;
}
