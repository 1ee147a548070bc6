// Names, label keys and values, annotations: the syntax rules of apimachinery (pkg/util/validation and
// pkg/api/validation) with its texts, because users and tools know them. Pure; knows no kind.

import type { FieldError } from "../types.js";

const LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN = `${LABEL}(\\.${LABEL})*`;
const DNS1035 = "[a-z]([-a-z0-9]*[a-z0-9])?";
const QUALIFIED = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_VALUE = `(${QUALIFIED})?`;

const LABEL_RE = new RegExp(`^${LABEL}$`);
const SUBDOMAIN_RE = new RegExp(`^${SUBDOMAIN}$`);
const DNS1035_RE = new RegExp(`^${DNS1035}$`);
const QUALIFIED_RE = new RegExp(`^${QUALIFIED}$`);
const LABEL_VALUE_RE = new RegExp(`^${LABEL_VALUE}$`);

const ANNOTATIONS_MAX_BYTES = 256 * 1024;
const EMPTY = "must be non-empty";

/** Length as Go counts it: bytes of UTF-8. */
export function byteLength(text: string): number {
  return Buffer.byteLength(text, "utf8");
}

/** apimachinery's MaxLenError. */
export function maxLengthText(max: number): string {
  return `must be no more than ${max} bytes`;
}

/** apimachinery's RegexError: what is allowed, with examples and the expression itself. */
export function regexText(text: string, expression: string, ...examples: string[]): string {
  if (examples.length === 0) return `${text} (regex used for validation is '${expression}')`;
  const shown = examples.map((e) => `'${e}', `).join(" or ");
  return `${text} (e.g. ${shown}regex used for validation is '${expression}')`;
}

/** What is wrong with a DNS-1123 label (container names, namespaces); empty when nothing is. */
export function dns1123Label(name: string): string[] {
  const wrong: string[] = [];
  if (byteLength(name) > 63) wrong.push(maxLengthText(63));
  if (!LABEL_RE.test(name)) {
    wrong.push(
      SUBDOMAIN_RE.test(name)
        ? "must not contain dots"
        : regexText(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
            LABEL,
            "my-name",
            "123-abc",
          ),
    );
  }
  return wrong;
}

/** What is wrong with a DNS-1123 subdomain (most object names); empty when nothing is. */
export function dns1123Subdomain(name: string): string[] {
  const wrong: string[] = [];
  if (byteLength(name) > 253) wrong.push(maxLengthText(253));
  if (!SUBDOMAIN_RE.test(name)) {
    wrong.push(
      regexText(
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
        SUBDOMAIN,
        "example.com",
      ),
    );
  }
  return wrong;
}

/** What is wrong with a DNS-1035 label (Service names); empty when nothing is. */
export function dns1035Label(name: string): string[] {
  const wrong: string[] = [];
  if (byteLength(name) > 63) wrong.push(maxLengthText(63));
  if (!DNS1035_RE.test(name)) {
    wrong.push(
      regexText(
        "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
        DNS1035,
        "my-name",
        "abc-123",
      ),
    );
  }
  return wrong;
}

/** What is wrong with a name that is to stand in a path; empty when nothing is. */
export function pathSegment(name: string): string[] {
  if (name === "." || name === "..") return [`may not be '${name}'`];
  return ["/", "%"].flatMap((bad) => (name.includes(bad) ? [`may not contain '${bad}'`] : []));
}

function qualifiedText(): string {
  return regexText(
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
    QUALIFIED,
    "MyName",
    "my.name",
    "123-abc",
  );
}

/** What is wrong with a qualified name: `[prefix/]name`, as label keys are. */
export function qualifiedName(value: string): string[] {
  const parts = value.split("/");
  if (parts.length > 2) {
    return [
      `a qualified name ${qualifiedText()} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')`,
    ];
  }
  const wrong: string[] = [];
  const name = parts[parts.length - 1] ?? "";
  if (parts.length === 2) {
    const prefix = parts[0] ?? "";
    if (prefix === "") wrong.push(`prefix part ${EMPTY}`);
    else wrong.push(...dns1123Subdomain(prefix).map((text) => `prefix part ${text}`));
  }
  if (name === "") wrong.push(`name part ${EMPTY}`);
  else if (byteLength(name) > 63) wrong.push(`name part ${maxLengthText(63)}`);
  if (!QUALIFIED_RE.test(name)) wrong.push(`name part ${qualifiedText()}`);
  return wrong;
}

/** What is wrong with the value of a label; empty when nothing is. */
export function labelValue(value: string): string[] {
  const wrong: string[] = [];
  if (byteLength(value) > 63) wrong.push(maxLengthText(63));
  if (!LABEL_VALUE_RE.test(value)) {
    wrong.push(
      regexText(
        "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
        LABEL_VALUE,
        "MyValue",
        "my_value",
        "12345",
      ),
    );
  }
  return wrong;
}

/** Checks keys and values of labels (or of an equality selector) at `fieldPath`, e.g. "metadata.labels". */
export function validateLabels(
  labels: Readonly<Record<string, string>> | undefined,
  fieldPath: string,
): FieldError[] {
  const errors: FieldError[] = [];
  for (const [key, value] of Object.entries(labels ?? {})) {
    for (const detail of qualifiedName(key)) {
      errors.push({ type: "FieldValueInvalid", field: fieldPath, value: key, detail });
    }
    for (const detail of labelValue(value)) {
      errors.push({ type: "FieldValueInvalid", field: fieldPath, value, detail });
    }
  }
  return errors;
}

/** Checks keys (case does not matter in them) and the total size of annotations. */
export function validateAnnotations(
  annotations: Readonly<Record<string, string>> | undefined,
  fieldPath: string,
): FieldError[] {
  const errors: FieldError[] = [];
  let size = 0;
  for (const [key, value] of Object.entries(annotations ?? {})) {
    for (const detail of qualifiedName(key.toLowerCase())) {
      errors.push({ type: "FieldValueInvalid", field: fieldPath, value: key, detail });
    }
    size += byteLength(key) + byteLength(value);
  }
  if (size > ANNOTATIONS_MAX_BYTES) {
    errors.push({
      type: "FieldValueTooLong",
      field: fieldPath,
      detail: `may not be more than ${ANNOTATIONS_MAX_BYTES} bytes`,
    });
  }
  return errors;
}
