// Decides about requests for certificates: who gets one without being asked about, and what a signer signs. Pure.
// The rules are those of kube-controller-manager's csrapproving and csrsigning, as far as nodes go.

import type { CertificateSigningRequest, Node, Stored } from "../../common/k8s.js";
import type { RequestedIdentity } from "../certificate-requests.js";

const CLIENT = "kubernetes.io/kube-apiserver-client";
const NODE_CLIENT = "kubernetes.io/kube-apiserver-client-kubelet";
const NODE_SERVING = "kubernetes.io/kubelet-serving";
const NODE_PREFIX = "system:node:";
const NODES_GROUP = "system:nodes";
const BOOTSTRAPPERS = "system:bootstrappers:kubeadm:default-node-token";

/** What a certificate of that signer is for; undefined for signers that are not ours. */
export function usageOf(signerName: string): "client" | "server" | undefined {
  if (signerName === CLIENT || signerName === NODE_CLIENT) return "client";
  return signerName === NODE_SERVING ? "server" : undefined;
}

/** What stands against signing, whoever approved it; undefined when nothing does. */
export function signingProblem(
  { spec }: Pick<CertificateSigningRequest, "spec">,
  identity: RequestedIdentity,
): string | undefined {
  const { signerName, usages = [] } = spec;
  const purpose = usageOf(signerName) === "server" ? "server auth" : "client auth";
  const allowed = ["digital signature", "key encipherment", purpose];
  const foreign = usages.filter((usage) => !allowed.includes(usage));
  if (foreign.length > 0) return `usages that ${signerName} does not sign: ${foreign.join(", ")}`;
  if (!usages.includes(purpose)) return `usages must have ${JSON.stringify(purpose)}`;
  if (signerName === CLIENT)
    return identity.organizations.includes("system:masters")
      ? "no certificate of the group system:masters is signed"
      : undefined;
  if (String(identity.organizations) !== NODES_GROUP) return "subject organization is not system:nodes";
  if (!isNodeName(identity.commonName)) return `subject common name does not begin with ${NODE_PREFIX}`;
  if (signerName === NODE_CLIENT)
    return identity.dnsNames.length + identity.otherNames.length > 0
      ? "DNS, IP, email and URI alternative names are not allowed"
      : undefined;
  const name = identity.commonName.slice(NODE_PREFIX.length);
  if (identity.otherNames.length > 0 || String(identity.dnsNames) !== name)
    return `the one alternative name must be the DNS name ${name}`;
  return undefined;
}

const isNodeName = (name: string) => name.startsWith(NODE_PREFIX) && name.length > NODE_PREFIX.length;

export interface Verdict {
  type: "Approved" | "Denied";
  reason: string;
  message: string;
}

/**
 * Undefined: left to an administrator (kubectl certificate approve).
 * @param node the Node of the name that is asked for, if there is one.
 */
export function verdictOf(
  csr: Stored<CertificateSigningRequest>,
  identity: RequestedIdentity,
  node: Stored<Node> | undefined,
): Verdict | undefined {
  const { signerName, username = "", groups = [] } = csr.spec;
  if (signerName !== NODE_CLIENT && signerName !== NODE_SERVING) return undefined;
  if (signingProblem(csr, identity)) return undefined;
  const approved = (message: string): Verdict => ({ type: "Approved", reason: "AutoApproved", message });
  if (username === identity.commonName && groups.includes(NODES_GROUP)) {
    const what = signerName === NODE_CLIENT ? "client" : "server";
    return approved(`Auto approving self kubelet ${what} certificate after SubjectAccessReview.`);
  }
  if (signerName !== NODE_CLIENT || !groups.includes(BOOTSTRAPPERS)) return undefined;
  const ready = node?.status?.conditions?.find(({ type }) => type === "Ready")?.status;
  // A machine that was made anew may have the name of one that is gone: kubeadm's rule.
  if (node && ready === "True")
    return {
      type: "Denied",
      reason: "NodeNameTaken",
      message: `a Node with name ${JSON.stringify(node.metadata.name)} and status "Ready" already exists in the cluster. You must delete the existing Node or change the name of this new joining Node`,
    };
  return approved("Auto approving kubelet client certificate after SubjectAccessReview.");
}
