// Label and field selectors: the text form of requests (a=b,c in (x,y),!d) and the object form of specs, parsed into
// one list of requirements and matched against maps. Pure; knows apimachinery's grammar and error texts.

import type { LabelSelector } from "./k8s.js";

export type Operator = "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt";

export interface Requirement {
  readonly key: string;
  readonly operator: Operator;
  readonly values: readonly string[];
}

export interface FieldRequirement {
  readonly field: string;
  readonly equals: boolean;
  readonly value: string;
}

const QUALIFIED_NAME = /^([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$/;
const DNS1123_SUBDOMAIN = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/;
const NAME_TEXT =
  "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric " +
  "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is " +
  "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const PREFIX_TEXT =
  "prefix part a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and " +
  "must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is " +
  "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_VALUE_TEXT =
  "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and " +
  "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is " +
  "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/** What is wrong with a qualified name ("name" or "prefix/name"), as apimachinery's IsQualifiedName says it. */
function qualifiedNameErrors(text: string): string[] {
  const parts = text.split("/");
  const errors: string[] = [];
  if (parts.length > 2)
    return [
      `a qualified name ${NAME_TEXT.slice("name part ".length)} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')`,
    ];
  const name = parts.at(-1) ?? "";
  if (parts.length === 2) {
    const prefix = parts[0] ?? "";
    if (prefix === "") errors.push("prefix part must be non-empty");
    else if (!DNS1123_SUBDOMAIN.test(prefix)) errors.push(PREFIX_TEXT);
    else if (prefix.length > 253) errors.push("prefix part must be no more than 253 bytes");
  }
  if (name === "") errors.push("name part must be non-empty");
  else if (name.length > 63) errors.push("name part must be no more than 63 bytes");
  if (!QUALIFIED_NAME.test(name)) errors.push(NAME_TEXT);
  return errors;
}

/** What is wrong with a label's value, as apimachinery's IsValidLabelValue says it. */
function labelValueErrors(value: string): string[] {
  const errors: string[] = [];
  if (value.length > 63) errors.push("must be no more than 63 bytes");
  if (value !== "" && !QUALIFIED_NAME.test(value)) errors.push(LABEL_VALUE_TEXT);
  return errors;
}

function checkRequirement(r: Requirement): Requirement {
  const key = qualifiedNameErrors(r.key);
  if (key.length > 0) throw new Error(`key: Invalid value: ${JSON.stringify(r.key)}: ${key.join("; ")}`);
  for (const [i, value] of r.values.entries()) {
    const errors = labelValueErrors(value);
    if (errors.length > 0)
      throw new Error(
        `values[${i}][${r.key}]: Invalid value: ${JSON.stringify(value)}: ${errors.join("; ")}`,
      );
  }
  return r;
}

type Token = { kind: "text" | "operator" | "end"; text: string };

function tokenize(text: string): Token[] {
  const tokens: Token[] = [];
  const pattern = /\s*(==|!=|[=!(),<>]|[^\s=!(),<>]+)/gy;
  const end = text.trimEnd().length;
  while (pattern.lastIndex < end) {
    const match = pattern.exec(text);
    const found = match?.[1];
    if (found === undefined) break;
    tokens.push({ kind: /^[=!(),<>]/.test(found) ? "operator" : "text", text: found });
  }
  tokens.push({ kind: "end", text: "" });
  return tokens;
}

class LabelParser {
  readonly #tokens: Token[];
  #at = 0;

  constructor(text: string) {
    this.#tokens = tokenize(text);
  }

  #peek(): Token {
    return this.#tokens[this.#at] ?? { kind: "end", text: "" };
  }

  #next(): Token {
    const token = this.#peek();
    this.#at++;
    return token;
  }

  parse(): Requirement[] {
    const out: Requirement[] = [];
    if (this.#peek().kind === "end") return out;
    for (;;) {
      out.push(checkRequirement(this.#requirement()));
      const token = this.#next();
      if (token.kind === "end") return out;
      if (token.text !== ",") throw new Error(`found '${token.text}', expected: ',' or 'end of string'`);
      if (this.#peek().kind === "end")
        throw new Error(`found '${this.#peek().text}', expected: identifier after ','`);
    }
  }

  #requirement(): Requirement {
    const first = this.#next();
    if (first.text === "!") {
      const key = this.#identifier(this.#next());
      return { key, operator: "DoesNotExist", values: [] };
    }
    const key = this.#identifier(first);
    const token = this.#peek();
    if (token.kind === "end" || token.text === ",") return { key, operator: "Exists", values: [] };
    this.#next();
    switch (token.text) {
      case "=":
      case "==":
        return { key, operator: "In", values: [this.#value()] };
      case "!=":
        return { key, operator: "NotIn", values: [this.#value()] };
      case "in":
        return { key, operator: "In", values: this.#values() };
      case "notin":
        return { key, operator: "NotIn", values: this.#values() };
      case ">":
      case "<":
        return { key, operator: token.text === ">" ? "Gt" : "Lt", values: [this.#integer()] };
      default:
        throw new Error(
          `unable to parse requirement: found '${token.text}', expected: in, notin, =, ==, !=, gt, lt`,
        );
    }
  }

  #identifier(token: Token): string {
    if (token.kind !== "text")
      throw new Error(`found '${token.text}', expected: !, identifier, or 'end of string'`);
    return token.text;
  }

  #value(): string {
    const token = this.#peek();
    if (token.kind === "end" || token.text === ",") return "";
    this.#next();
    if (token.kind !== "text")
      throw new Error(`unable to parse requirement: found '${token.text}', expected: identifier`);
    return token.text;
  }

  #integer(): string {
    const value = this.#value();
    if (!/^-?\d+$/.test(value))
      throw new Error(
        `values[0]: Invalid value: ${JSON.stringify(value)}: for 'Gt', 'Lt' operators, the value must be an integer`,
      );
    return value;
  }

  #values(): string[] {
    const open = this.#next();
    if (open.text !== "(")
      throw new Error(`unable to parse requirement: found '${open.text}', expected: '('`);
    const values: string[] = [];
    for (;;) {
      const token = this.#next();
      if (token.kind === "text") {
        values.push(token.text);
        const after = this.#next();
        if (after.text === ")") return [...new Set(values)].sort();
        if (after.text !== ",")
          throw new Error(`unable to parse requirement: found '${after.text}', expected: ',' or ')'`);
      } else if (token.text === ",") {
        values.push("");
      } else if (token.text === ")") {
        values.push("");
        return [...new Set(values)].sort();
      } else {
        throw new Error(
          `unable to parse requirement: found '${token.text}', expected: ',', ')' or identifier`,
        );
      }
    }
  }
}

/**
 * Parses the labelSelector parameter of a request; "" selects everything.
 * @throws Error with apimachinery's text.
 */
export function parseLabelSelector(text: string): Requirement[] {
  return new LabelParser(text).parse();
}

/**
 * The requirements of a LabelSelector in an object. `null` (an absent selector) matches nothing, an empty list
 * everything, as the API defines it.
 * @throws Error for an operator that does not exist.
 */
export function selectorOf(selector: LabelSelector | undefined): Requirement[] | null {
  if (!selector) return null;
  const out: Requirement[] = [];
  for (const [key, value] of Object.entries(selector.matchLabels ?? {}))
    out.push({ key, operator: "In", values: [value] });
  for (const { key, operator, values } of selector.matchExpressions ?? []) {
    if (operator !== "In" && operator !== "NotIn" && operator !== "Exists" && operator !== "DoesNotExist")
      throw new Error(`"${operator}" is not a valid label selector operator`);
    out.push({ key, operator, values: values ?? [] });
  }
  return out;
}

function matchOne(r: Requirement, labels: Readonly<Record<string, string>>): boolean {
  const value = Object.hasOwn(labels, r.key) ? labels[r.key] : undefined;
  switch (r.operator) {
    case "In":
      return value !== undefined && r.values.includes(value);
    case "NotIn":
      return value === undefined || !r.values.includes(value);
    case "Exists":
      return value !== undefined;
    case "DoesNotExist":
      return value === undefined;
    case "Gt":
    case "Lt": {
      if (value === undefined || !/^-?\d+$/.test(value)) return false;
      const limit = BigInt(r.values[0] ?? "0");
      return r.operator === "Gt" ? BigInt(value) > limit : BigInt(value) < limit;
    }
  }
}

/** Whether all requirements hold; `null` (see {@link selectorOf}) never does. */
export function matchLabels(
  requirements: readonly Requirement[] | null,
  labels: Readonly<Record<string, string>> | undefined,
): boolean {
  if (requirements === null) return false;
  const present = labels ?? {};
  return requirements.every((r) => matchOne(r, present));
}

function formatRequirement(r: Requirement): string {
  switch (r.operator) {
    case "In":
      return r.values.length === 1 ? `${r.key}=${r.values[0]}` : `${r.key} in (${r.values.join(",")})`;
    case "NotIn":
      return r.values.length === 1 ? `${r.key}!=${r.values[0]}` : `${r.key} notin (${r.values.join(",")})`;
    case "Exists":
      return r.key;
    case "DoesNotExist":
      return `!${r.key}`;
    case "Gt":
      return `${r.key}>${r.values[0]}`;
    case "Lt":
      return `${r.key}<${r.values[0]}`;
  }
}

/** A selector as kubectl prints it: keys in order, "<none>" for an empty or absent one. */
export function formatLabelSelector(selector: LabelSelector | undefined): string {
  const labels = Object.entries(selector?.matchLabels ?? {})
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, value]) => `${key}=${value}`);
  const expressions = (selector?.matchExpressions ?? [])
    .toSorted((a, b) => (a.key < b.key ? -1 : 1))
    .map(({ key, operator, values }) => {
      const list = (values ?? []).toSorted().join(",");
      if (operator === "In") return `${key} in (${list})`;
      if (operator === "NotIn") return `${key} notin (${list})`;
      return formatRequirement({ key, operator: operator as Operator, values: [] });
    });
  const all = [...labels, ...expressions].join(",");
  return all === "" ? "<none>" : all;
}

/**
 * Parses the fieldSelector parameter of a request: field=value, field==value, field!=value, joined by commas; a
 * backslash escapes a comma, an equals sign or a backslash.
 * @throws Error with apimachinery's text.
 */
export function parseFieldSelector(text: string): FieldRequirement[] {
  const out: FieldRequirement[] = [];
  for (const term of text.split(/(?<!\\),/)) {
    if (term === "") continue;
    const match = /^((?:[^=!\\]|\\.)*?)(==|!=|=)(.*)$/s.exec(term);
    const [, field, operator, value] = match ?? [];
    if (field === undefined || field === "" || value === undefined)
      throw new Error(`invalid selector: '${text}'; can't understand '${term}'`);
    out.push({ field, equals: operator !== "!=", value: value.replace(/\\([\\,=])/g, "$1") });
  }
  return out;
}

/** Whether all field requirements hold; a field that `values` lacks counts as "". */
export function matchFields(
  requirements: readonly FieldRequirement[],
  values: Readonly<Record<string, string>>,
): boolean {
  return requirements.every((r) => ((values[r.field] ?? "") === r.value) === r.equals);
}
