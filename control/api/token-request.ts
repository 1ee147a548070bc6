// serviceaccounts/NAME/token: a token for an account, bound to a pod, a Secret or a Node if asked for. Knows no HTTP.

import type { TokenRequest } from "kubernetes-types/authentication/v1.js";
import type { KubeObject, Stored } from "../../common/k8s.js";
import type { FieldError } from "../resources/types.js";
import { invalid, invalidStatus } from "../resources/validation/field.js";
import { type Body, decodeBody, type Expected } from "./body.js";
import { type Engine, timestamp } from "./engine.js";
import { checkNodeToken } from "./node-restriction.js";
import * as status from "./status.js";
import { ISSUER, type TokenAuthority, type TokenSubject } from "./tokens.js";
import type { WriteRequest } from "./write.js";

export const TOKEN_REQUEST: Expected = {
  apiVersion: "authentication.k8s.io/v1",
  kind: "TokenRequest",
  schema: "io.k8s.api.authentication.v1.TokenRequest",
};

const DEFAULT_SECONDS = 3600;
const LEAST_SECONDS = 600;
const MOST_SECONDS = 2 ** 32;

const BOUND = {
  Pod: { plural: "pods", part: "pod", namespaced: true },
  Secret: { plural: "secrets", part: "secret", namespaced: true },
  Node: { plural: "nodes", part: "node", namespaced: false },
} as const;

interface Reference {
  kind?: string;
  apiVersion?: string;
  name?: string;
  uid?: string;
}

/** @throws StatusError NotFound (the account, what the token is bound to), Conflict (its uid), Invalid. */
export async function issueToken(
  engine: Engine,
  authority: TokenAuthority,
  { kind, namespace = "", fieldValidation, dryRun, user }: WriteRequest,
  name: string,
  body: Body,
): Promise<KubeObject> {
  const { object } = decodeBody(engine, body, TOKEN_REQUEST, fieldValidation);
  const { metadata, spec } = object as unknown as TokenRequest;
  const entry = await kind.store.get(kind.key(namespace, name));
  if (!entry) throw status.notFound(kind.resource, name);
  const account = entry.value;
  const seconds = spec?.expirationSeconds ?? DEFAULT_SECONDS;
  const errors = durationErrors(seconds);
  if (metadata?.name && metadata.name !== name)
    errors.push(invalid("metadata.name", metadata.name, "must match the service account name"));
  if (errors.length > 0)
    throw invalidStatus({ group: "authentication.k8s.io", kind: "TokenRequest" }, name, errors);
  const audiences = spec?.audiences?.length ? spec.audiences : [ISSUER];
  const subject: TokenSubject = {
    namespace,
    account: { name, uid: account.metadata.uid },
    ...(spec?.boundObjectRef ? await bound(engine, namespace, account, spec.boundObjectRef) : {}),
  };
  checkNodeToken(user, name, spec?.boundObjectRef, subject.node?.name);
  const { token, expiresAt } = await authority.issue(subject, audiences, seconds);
  return {
    ...TOKEN_REQUEST_TYPE,
    metadata: { name, namespace, creationTimestamp: timestamp() },
    spec: { audiences, expirationSeconds: seconds, boundObjectRef: spec?.boundObjectRef ?? null },
    status: { token: dryRun ? "" : token, expirationTimestamp: timestamp(expiresAt) },
  } as KubeObject;
}

const TOKEN_REQUEST_TYPE = { kind: TOKEN_REQUEST.kind, apiVersion: TOKEN_REQUEST.apiVersion };

function durationErrors(seconds: number): FieldError[] {
  const field = "spec.expirationSeconds";
  if (seconds < LEAST_SECONDS)
    return [invalid(field, seconds, "may not specify a duration less than 10 minutes")];
  if (seconds > MOST_SECONDS)
    return [invalid(field, seconds, "may not specify a duration larger than 2^32 seconds")];
  return [];
}

async function bound(
  engine: Engine,
  namespace: string,
  account: Stored,
  { kind = "", apiVersion = "", name = "", uid }: Reference,
): Promise<Partial<TokenSubject>> {
  const found =
    apiVersion === "v1" && Object.hasOwn(BOUND, kind) ? BOUND[kind as keyof typeof BOUND] : undefined;
  if (!found)
    throw status.badRequest(
      `cannot bind token for serviceaccount to object of type ${apiVersion}, Kind=${kind}`,
    );
  const { plural, part, namespaced } = found;
  const entry = await engine.store.get(`/registry/${plural}/${namespaced ? `${namespace}/` : ""}${name}`);
  if (!entry) throw status.notFound({ group: "", plural }, name);
  const object = entry.value;
  if (uid && uid !== object.metadata.uid)
    throw status.conflict(
      { group: "", plural },
      name,
      `the UID in the bound object reference (${uid}) does not match the UID in record. The object might have been deleted and then recreated`,
    );
  const named = { name, uid: object.metadata.uid };
  if (kind !== "Pod") return { [part]: named };
  const { serviceAccountName, nodeName } = (object as { spec?: Record<string, string> }).spec ?? {};
  if (serviceAccountName && serviceAccountName !== account.metadata.name)
    throw status.badRequest(
      `cannot bind token for serviceaccount ${JSON.stringify(account.metadata.name)} to pod running with different serviceaccount name.`,
    );
  const node = nodeName ? (await engine.store.get(`/registry/nodes/${nodeName}`))?.value : undefined;
  return { pod: named, ...(node ? { node: { name: node.metadata.name, uid: node.metadata.uid } } : {}) };
}
