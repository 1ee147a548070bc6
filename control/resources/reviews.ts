// Reviews: who am I, may I, whose is this token. Kinds that are answered and not stored. Everybody who is let in may do
// everything (kube-apiserver's --authorization-mode=AlwaysAllow), and that is what these say.

import type { SelfSubjectReview, TokenReview } from "kubernetes-types/authentication/v1.js";
import type {
  SelfSubjectAccessReview,
  SelfSubjectRulesReview,
  SubjectAccessReview,
} from "kubernetes-types/authorization/v1.js";
import type { Resource } from "../../common/client.js";
import type { KubeObject } from "../../common/k8s.js";
import type { Answers, FieldError, RequestContext, ResourceDefinition } from "./types.js";
import { forbidden, invalid, invalidStatus, required } from "./validation/field.js";

type User = RequestContext["user"];

export interface ReviewOptions {
  /** Whose token it is. @throws Error saying why it is nobody's. */
  verify(token: string, audiences?: readonly string[]): Promise<{ user: User; audiences: string[] }>;
}

const AUTHENTICATION = "authentication.k8s.io";
const AUTHORIZATION = "authorization.k8s.io";

function review<T extends KubeObject>(
  group: string,
  kind: string,
  create: NonNullable<Answers<T>["create"]>,
  namespaced = false,
): ResourceDefinition<T> {
  const plural = `${kind.toLowerCase()}s`;
  const resource: Resource<T> = { group, version: "v1", plural, kind, namespaced };
  return {
    resource,
    singular: kind.toLowerCase(),
    schema: `io.k8s.api.${group.split(".")[0]}.v1.${kind}`,
    hasStatus: false,
    columns: [],
    answers: { create },
    validate: () => [],
  };
}

function userInfo({ name, uid, groups, extra }: User): object {
  return { username: name, ...(uid ? { uid } : {}), groups, ...(extra ? { extra } : {}) };
}

const allowed = <T extends KubeObject>(object: T): T => ({ ...object, status: { allowed: true } });

interface Attributes {
  resourceAttributes?: { namespace?: string };
  nonResourceAttributes?: object;
}

function attributeErrors({ resourceAttributes, nonResourceAttributes }: Attributes): FieldError[] {
  if (resourceAttributes && nonResourceAttributes)
    return [
      invalid(
        "spec.nonResourceAttributes",
        nonResourceAttributes,
        "cannot be specified in combination with resourceAttributes",
      ),
    ];
  if (!resourceAttributes && !nonResourceAttributes)
    return [
      invalid(
        "spec.resourceAttributes",
        null,
        "exactly one of nonResourceAttributes or resourceAttributes must be specified",
      ),
    ];
  return [];
}

function checked(kind: string, errors: readonly FieldError[]): void {
  if (errors.length > 0) throw invalidStatus({ group: AUTHORIZATION, kind }, "", errors);
}

function subjectReview(kind: string) {
  return (object: SubjectAccessReview & KubeObject, { namespace }: { namespace: string | undefined }) => {
    const { spec } = object;
    const errors = attributeErrors(spec ?? {});
    if (!spec?.user && !spec?.groups?.length)
      errors.push(invalid("spec.user", spec?.user ?? "", "at least one of user or group must be specified"));
    const inside = spec?.resourceAttributes?.namespace;
    if (namespace !== undefined && inside !== undefined && inside !== namespace)
      errors.push(invalid("spec.resourceAttributes.namespace", inside, "must match metadata.namespace"));
    if (namespace !== undefined && spec?.nonResourceAttributes)
      errors.push(forbidden("spec.nonResourceAttributes", "disallowed on this kind of request"));
    checked(kind, errors);
    return allowed(object);
  };
}

export function reviewDefinitions(options: ReviewOptions): ResourceDefinition[] {
  return [
    review<SelfSubjectReview & KubeObject>(AUTHENTICATION, "SelfSubjectReview", (object, { user }) => ({
      ...object,
      status: { userInfo: userInfo(user) },
    })),
    review<TokenReview & KubeObject>(AUTHENTICATION, "TokenReview", async (object) => {
      const { token = "", audiences } = object.spec ?? {};
      if (token === "")
        throw invalidStatus({ group: AUTHENTICATION, kind: "TokenReview" }, "", [
          required("spec.token", "token is required for TokenReview in authentication"),
        ]);
      try {
        const { user, audiences: meant } = await options.verify(
          token,
          audiences?.length ? audiences : undefined,
        );
        return { ...object, status: { authenticated: true, user: userInfo(user), audiences: meant } };
      } catch (error) {
        const why = error instanceof Error ? error.message : String(error);
        return { ...object, status: { user: {}, error: `[invalid bearer token, ${why}]` } };
      }
    }),
    review<SelfSubjectAccessReview & KubeObject>(AUTHORIZATION, "SelfSubjectAccessReview", (object) => {
      checked("SelfSubjectAccessReview", attributeErrors(object.spec ?? {}));
      return allowed(object);
    }),
    review<SubjectAccessReview & KubeObject>(
      AUTHORIZATION,
      "SubjectAccessReview",
      subjectReview("SubjectAccessReview"),
    ),
    review<SubjectAccessReview & KubeObject>(
      AUTHORIZATION,
      "LocalSubjectAccessReview",
      subjectReview("LocalSubjectAccessReview"),
      true,
    ),
    review<SelfSubjectRulesReview & KubeObject>(AUTHORIZATION, "SelfSubjectRulesReview", (object) => ({
      ...object,
      status: {
        resourceRules: [{ verbs: ["*"], apiGroups: ["*"], resources: ["*"] }],
        nonResourceRules: [{ verbs: ["*"], nonResourceURLs: ["*"] }],
        incomplete: false,
      },
    })),
  ] as unknown as ResourceDefinition[];
}
