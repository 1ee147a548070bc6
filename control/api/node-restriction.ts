// What a node may write, as far as only the object tells: the admission plugin NodeRestriction of the real server, with
// its texts. The rest is in authorizer.ts.

import type { Admission } from "./admission.js";
import { nodeNameOf } from "./authorizer.js";
import type { User } from "./engine.js";
import { forbidden } from "./status.js";

/** Creates: of Nodes and Leases only those of its own name. */
export const admitNode: Admission = ({ kind, name, user }) => {
  const node = nodeNameOf(user);
  if (node === undefined || name === node) return;
  const { group, plural } = kind.resource;
  if (group === "" && plural === "nodes")
    throw forbidden(
      kind.resource,
      name,
      `node ${JSON.stringify(node)} is not allowed to modify node ${JSON.stringify(name)}`,
    );
  if (plural === "leases")
    throw forbidden(
      kind.resource,
      name,
      "can only access node lease with the same name as the requesting node",
    );
};

/** Tokens: only for pods that run on it. @throws StatusError Forbidden */
export function checkNodeToken(
  user: User,
  account: string,
  bound: { kind?: string; uid?: string | undefined } | undefined,
  boundNode: string | undefined,
): void {
  const node = nodeNameOf(user);
  if (node === undefined) return;
  const refuse = (why: string) => forbidden({ group: "", plural: "serviceaccounts" }, account, why);
  if (bound?.kind !== "Pod") throw refuse("node requested token not bound to a pod");
  if (!bound.uid) throw refuse("node requested token with a pod binding without a uid");
  if (boundNode !== node) throw refuse("node requested token bound to a pod scheduled on a different node");
}
