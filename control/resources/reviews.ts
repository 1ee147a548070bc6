// Reviews: who am I, may I, whose is this token. Kinds that are answered and not stored; what is allowed is
// control/api/authorizer.ts's business.

import type { SelfSubjectReview, TokenReview } from "kubernetes-types/authentication/v1.js";
import type {
  SelfSubjectAccessReview,
  SelfSubjectRulesReview,
  SubjectAccessReview,
} from "kubernetes-types/authorization/v1.js";
import type { Resource } from "../../common/client.js";
import type { KubeObject, PolicyRule } from "../../common/k8s.js";
import type { Answers, FieldError, RequestContext, ResourceDefinition } from "./types.js";
import { forbidden, invalid, invalidStatus, required } from "./validation/field.js";

type User = RequestContext["user"];

export interface ReviewOptions {
  /** Whose token it is. @throws Error saying why it is nobody's. */
  verify(token: string, audiences?: readonly string[]): Promise<{ user: User; audiences: string[] }>;
  /** Whether the user may do that, and why not when there is something to tell. */
  review(user: User, asked: Attributes): Promise<{ allowed: boolean; reason?: string }>;
  /** The rules that hold for the user there. */
  rulesFor(user: User, namespace: string | undefined): Promise<{ rules: PolicyRule[] }>;
}

/** What is asked for, to the authorizer: a resource, or a path that is none. */
export interface Attributes {
  verb: string;
  resource?: {
    group: string;
    plural: string;
    subresource: string | undefined;
    namespace: string | undefined;
    name: string | undefined;
  };
  path: string;
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

interface Asked {
  resourceAttributes?: {
    namespace?: string;
    verb?: string;
    group?: string;
    resource?: string;
    subresource?: string;
    name?: string;
  };
  nonResourceAttributes?: { path?: string; verb?: string };
}

function reviewed({ resourceAttributes: asked, nonResourceAttributes }: Asked): Attributes {
  const { path = "", verb = "" } = nonResourceAttributes ?? {};
  if (!asked) return { verb, path };
  const { group = "", resource: plural = "", subresource, namespace, name } = asked;
  return {
    verb: asked.verb ?? "",
    path: "",
    resource: {
      group,
      plural,
      subresource: subresource || undefined,
      namespace: namespace || undefined,
      name: name || undefined,
    },
  };
}

function attributeErrors({ resourceAttributes, nonResourceAttributes }: Asked): FieldError[] {
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

function subjectReview(kind: string, { review: decide }: ReviewOptions) {
  return async (
    object: SubjectAccessReview & KubeObject,
    { namespace }: { namespace: string | undefined },
  ) => {
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
    const { user: name = "", uid, groups = [] } = spec ?? {};
    const asked: User = { name, ...(uid ? { uid } : {}), groups };
    return { ...object, status: await decide(asked, reviewed(spec ?? {})) };
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
    review<SelfSubjectAccessReview & KubeObject>(
      AUTHORIZATION,
      "SelfSubjectAccessReview",
      async (object, { user }) => {
        checked("SelfSubjectAccessReview", attributeErrors(object.spec ?? {}));
        return { ...object, status: await options.review(user, reviewed(object.spec ?? {})) };
      },
    ),
    review<SubjectAccessReview & KubeObject>(
      AUTHORIZATION,
      "SubjectAccessReview",
      subjectReview("SubjectAccessReview", options),
    ),
    review<SubjectAccessReview & KubeObject>(
      AUTHORIZATION,
      "LocalSubjectAccessReview",
      subjectReview("LocalSubjectAccessReview", options),
      true,
    ),
    review<SelfSubjectRulesReview & KubeObject>(
      AUTHORIZATION,
      "SelfSubjectRulesReview",
      async (object, { user }) => {
        const { rules } = await options.rulesFor(user, object.spec?.namespace || undefined);
        const isPath = ({ nonResourceURLs }: PolicyRule) => (nonResourceURLs ?? []).length > 0;
        return {
          ...object,
          status: {
            resourceRules: rules.filter((rule) => !isPath(rule)),
            nonResourceRules: rules.filter(isPath),
            incomplete: false,
          },
        } as never;
      },
    ),
  ] as unknown as ResourceDefinition[];
}
