// Impersonate-User and its companions (kubectl --as): a request as somebody else, by those who may. Knows headers and
// users; asks the authorizer.

import type { IncomingMessage } from "node:http";
import type { Attributes } from "../../resources/reviews.js";
import type { Authorizer } from "../authorizer.js";
import type { User } from "../engine.js";
import { badRequest } from "../status.js";

const EXTRA = "impersonate-extra-";
const ACCOUNT = /^system:serviceaccount:([^:]+):([^:]+)$/;
const AUTHENTICATION = "authentication.k8s.io";

/** The user as whom the request is to be taken: mostly `user`. @throws StatusError Forbidden, BadRequest */
export async function impersonated(req: IncomingMessage, user: User, authorizer: Authorizer): Promise<User> {
  const { headersDistinct: headers } = req;
  const given = Object.keys(headers).filter((name) => name.startsWith("impersonate-"));
  if (given.length === 0) return user;
  const name = headers["impersonate-user"]?.[0];
  if (!name) throw badRequest("requested impersonation without impersonating a user");
  const may = (plural: string, which: string, group = "", namespace?: string, subresource?: string) => {
    const asked: Attributes = {
      verb: "impersonate",
      resource: { group, plural, subresource, namespace, name: which },
      path: "",
    };
    return authorizer.check(user, asked);
  };
  const account = ACCOUNT.exec(name);
  if (account) await may("serviceaccounts", account[2] ?? "", "", account[1]);
  else await may("users", name);
  const groups = headers["impersonate-group"] ?? [];
  for (const group of groups) await may("groups", group);
  const uid = headers["impersonate-uid"]?.[0];
  if (uid) await may("uids", uid, AUTHENTICATION);
  const extra: Record<string, string[]> = {};
  for (const header of given.filter((one) => one.startsWith(EXTRA))) {
    const key = decodeURIComponent(header.slice(EXTRA.length));
    extra[key] = headers[header] ?? [];
    for (const value of extra[key]) await may("userextras", value, AUTHENTICATION, undefined, key);
  }
  const implied =
    account && groups.length === 0 ? ["system:serviceaccounts", `system:serviceaccounts:${account[1]}`] : [];
  const everybody = name === "system:anonymous" ? "system:unauthenticated" : "system:authenticated";
  const all = [...new Set([...groups, ...implied, everybody])];
  return { name, ...(uid ? { uid } : {}), groups: all, ...(Object.keys(extra).length > 0 ? { extra } : {}) };
}
