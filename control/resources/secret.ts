// Secret: the declaration of the kind to the API engine.

import { SECRETS } from "../../common/client.js";
import type { Secret } from "../../common/k8s.js";
import { decodedLength, MAX_DATA_BYTES, validateImmutable, validateKeys } from "./config-map.js";
import { ageColumn, column, nameColumn } from "./object.js";
import type { FieldError, ResourceDefinition } from "./types.js";
import { immutable, invalid, required, tooLong } from "./validation/field.js";

const ACCOUNT_ANNOTATION = "kubernetes.io/service-account.name";

/** What a type promises to whoever mounts it. */
function validateType(secret: Secret): FieldError[] {
  const has = (key: string) => Object.hasOwn(secret.data ?? {}, key);
  const needs = (...keys: string[]) => keys.filter((k) => !has(k)).map((k) => required(`data[${k}]`));
  switch (secret.type) {
    case "kubernetes.io/service-account-token":
      return secret.metadata?.annotations?.[ACCOUNT_ANNOTATION]
        ? []
        : [required(`metadata.annotations[${ACCOUNT_ANNOTATION}]`)];
    case "kubernetes.io/dockercfg":
      return [...needs(".dockercfg"), ...validateJson(secret, ".dockercfg")];
    case "kubernetes.io/dockerconfigjson":
      return [...needs(".dockerconfigjson"), ...validateJson(secret, ".dockerconfigjson")];
    case "kubernetes.io/basic-auth":
      return has("username") || has("password") ? [] : needs("username", "password");
    case "kubernetes.io/ssh-auth":
      return needs("ssh-privatekey");
    case "kubernetes.io/tls":
      return needs("tls.crt", "tls.key");
    default:
      return [];
  }
}

function validateJson(secret: Secret, key: string): FieldError[] {
  const base64 = secret.data?.[key];
  if (base64 === undefined) return [];
  try {
    JSON.parse(Buffer.from(base64, "base64").toString("utf8"));
    return [];
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    // The parser's own message would quote the value, and it is a secret.
    return [invalid(`data[${key}]`, "<secret contents redacted>", "must be valid JSON")];
  }
}

export const secretDefinition: ResourceDefinition<Secret> = {
  resource: SECRETS,
  singular: "secret",
  schema: "io.k8s.api.core.v1.Secret",
  hasStatus: false,
  columns: [
    nameColumn(),
    column("Type", (s) => s.type ?? ""),
    column("Data", (s) => Object.keys(s.data ?? {}).length, { type: "integer" }),
    ageColumn(),
  ],
  selectableFields: (s) => ({ type: s.type ?? "" }),
  setDefaults(draft) {
    draft.type ||= "Opaque";
    if (!draft.stringData) return;
    const data = { ...draft.data };
    for (const [key, text] of Object.entries(draft.stringData)) {
      data[key] = Buffer.from(text, "utf8").toString("base64");
    }
    draft.data = data;
    // Write-only: never stored, never read back.
    delete draft.stringData;
  },
  validate(secret, old) {
    const errors = validateKeys(secret.data, "data");
    const size = Object.values(secret.data ?? {}).reduce((sum, value) => sum + decodedLength(value), 0);
    if (size > MAX_DATA_BYTES) errors.push(tooLong("data", MAX_DATA_BYTES));
    errors.push(...validateType(secret));
    if (old) errors.push(...immutable("type", secret.type, old.type));
    return [...errors, ...validateImmutable<Secret>(secret, old as Secret | undefined, ["data"])];
  },
};
