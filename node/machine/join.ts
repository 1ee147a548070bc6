// How a machine comes into a cluster: finds the CA and makes sure that it is the right one, then gets a certificate of
// its own for a token. Knows the API's ways for that (those of kubeadm join), nothing of what a node does then.

import { createHash, randomBytes, X509Certificate } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { ApiClient } from "../../client/api-client.js";
import { parseKubeconfig } from "../../client/kubeconfig.js";
import { CERTIFICATE_SIGNING_REQUESTS, CONFIG_MAPS, isReason, type KubeClient } from "../../common/client.js";
import { type KeyPair, newRequest } from "./key-pair.js";

/** The machine will not become a node; the message says why, for people. */
export class JoinError extends Error {
  override readonly name = "JoinError";
}

const ANSWER_MS = 30_000;
const LOOK_MS = 250;

/** sha256:HEX of a certificate's public key, as --discovery-token-ca-cert-hash of kubeadm. */
export function publicKeyHash(cert: string): string {
  const key = new X509Certificate(cert).publicKey.export({ type: "spki", format: "der" });
  return `sha256:${createHash("sha256").update(key).digest("hex")}`;
}

/**
 * The CA of the cluster, from what it tells everybody (kube-public/cluster-info), held against the expected hash.
 * @throws JoinError when it is another's; the error of the transport.
 */
export async function discoverCa(server: string, hash: string): Promise<string> {
  // What comes is not believed before the hash has been looked at, and from then on TLS holds the server to it.
  const client = new ApiClient({ server, insecureSkipTlsVerify: true });
  try {
    const { data } = await client.get(CONFIG_MAPS, "cluster-info", "kube-public");
    const config = parseKubeconfig(data?.kubeconfig ?? "", "cluster-info");
    const [cluster] = config.clusters.values();
    const ca = Buffer.from(String(cluster?.["certificate-authority-data"] ?? ""), "base64").toString();
    const found = publicKeyHash(ca);
    if (found !== hash.toLowerCase())
      throw new JoinError(
        `the CA of ${server} is not the one that was expected: its public key is ${found}, pinned is ${hash}; compare with: kubeplumb token create --print-join-command`,
      );
    return ca;
  } finally {
    await client.close();
  }
}

export interface CertificateRequest {
  nodeName: string;
  /** kubelet: to the API server as this node; serving: of the kubelet's own server. */
  for: "client" | "serving";
}

const SIGNERS = {
  client: { signerName: "kubernetes.io/kube-apiserver-client-kubelet", usage: "client auth" },
  serving: { signerName: "kubernetes.io/kubelet-serving", usage: "server auth" },
} as const;

/** As whom a node comes. */
export const nodeUser = (name: string): string => `system:node:${name}`;

/**
 * Asks for a certificate, and waits for it.
 * @throws JoinError when it is refused, or nobody answers; StatusError for an answer that is an error.
 */
export async function requestCertificate(
  client: KubeClient,
  { nodeName, for: purpose }: CertificateRequest,
  signal?: AbortSignal,
): Promise<KeyPair> {
  const { signerName, usage } = SIGNERS[purpose];
  const { key, request } = await newRequest(nodeUser(nodeName), purpose === "serving" ? [nodeName] : []);
  const name = `node-csr-${randomBytes(8).toString("hex")}`;
  await client.create(CERTIFICATE_SIGNING_REQUESTS, {
    metadata: { name },
    spec: {
      request: Buffer.from(request).toString("base64"),
      signerName,
      usages: ["digital signature", usage],
    },
  });
  for (const deadline = Date.now() + ANSWER_MS; ; await sleep(LOOK_MS, undefined, signal ? { signal } : {})) {
    const { status } = await client.get(CERTIFICATE_SIGNING_REQUESTS, name);
    const no = status?.conditions?.find(({ type }) => type === "Denied" || type === "Failed");
    if (no) throw new JoinError(`the cluster refuses a certificate to node ${nodeName}: ${no.message}`);
    if (status?.certificate) return { cert: Buffer.from(status.certificate, "base64").toString(), key };
    if (Date.now() > deadline)
      throw new JoinError(
        `the request for a certificate is not approved; look at it with: kubectl get csr ${name}`,
      );
  }
}

/**
 * The first certificate of a node, for a token.
 * @throws JoinError saying what is wrong with the token, or why the cluster will not have this node.
 */
export async function joinWithToken(
  { server, ca, token, nodeName }: { server: string; ca: string; token: string; nodeName: string },
  signal?: AbortSignal,
): Promise<KeyPair> {
  const client = new ApiClient({ server, ca, token, userAgent: "kubelet" });
  try {
    return await requestCertificate(client, { nodeName, for: "client" }, signal);
  } catch (error) {
    if (isReason(error, "Unauthorized"))
      throw new JoinError(
        `${server} does not accept the token: it is wrong, or has expired; make one on the control machine with: kubeplumb token create`,
      );
    throw error;
  } finally {
    await client.close();
  }
}
