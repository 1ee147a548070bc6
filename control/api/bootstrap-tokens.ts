// Bootstrap tokens: the short-lived secrets by which a machine joins (ID.SECRET, kept in Secrets of kube-system as kubeadm
// has them). Knows the store, no HTTP.

import { createHash, timingSafeEqual } from "node:crypto";
import type { Secret, Stored } from "../../common/k8s.js";
import type { Store } from "../store/store.js";
import type { User } from "./engine.js";
import { TokenError } from "./tokens.js";

const TOKEN = /^([a-z0-9]{6})\.([a-z0-9]{16})$/;
const TYPE = "bootstrap.kubernetes.io/token";
const GROUP = /^system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]$/;

export function isBootstrapToken(token: string): boolean {
  return TOKEN.test(token);
}

const hash = (text: string) => createHash("sha256").update(text).digest();

/**
 * Whom a bootstrap token stands for: system:bootstrap:ID.
 * @throws TokenError when there is none such, or it has expired or is not for authentication.
 */
export async function bootstrapUser(
  store: Store<Stored>,
  token: string,
  now: number = Date.now(),
): Promise<User> {
  const [, id = "", secret = ""] = TOKEN.exec(token) ?? [];
  const entry = await store.get(`/registry/secrets/kube-system/bootstrap-token-${id}`);
  const stored = entry?.value as Stored<Secret> | undefined;
  const field = (name: string) => Buffer.from(stored?.data?.[name] ?? "", "base64").toString();
  if (!stored || stored.type !== TYPE || stored.metadata.deletionTimestamp || field("token-id") !== id)
    throw new TokenError("there is no such bootstrap token");
  // Of equal length, so that the time it takes tells nothing.
  if (!timingSafeEqual(hash(field("token-secret")), hash(secret)))
    throw new TokenError("the bootstrap token has another secret");
  const expiration = field("expiration");
  if (expiration !== "" && !(Date.parse(expiration) > now))
    throw new TokenError("the bootstrap token has expired");
  if (field("usage-bootstrap-authentication") !== "true")
    throw new TokenError("the bootstrap token is not for authentication");
  const extra = field("auth-extra-groups")
    .split(",")
    .filter((group) => GROUP.test(group));
  return {
    name: `system:bootstrap:${id}`,
    groups: ["system:bootstrappers", ...extra, "system:authenticated"],
  };
}
