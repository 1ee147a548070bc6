// Certificates by name of the host (SNI): from Secrets, and one of our own for everybody else. Knows TLS and Secrets.

import { webcrypto } from "node:crypto";
import { createSecureContext, type SecureContext } from "node:tls";
import type { Secret, Stored } from "../../common/k8s.js";

const ALGORITHM = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
const YEAR_MS = 365 * 86_400_000;

/** For hosts that have no certificate: the handshake succeeds, and the client sees that nobody vouches for it. */
export function ownCertificate(): Promise<{ cert: string; key: string }> {
  return selfSigned("Kubeplumb Ingress Controller Fake Certificate", "ingress.local");
}

/** A certificate for a year that nobody else has signed. PEM. */
export async function selfSigned(
  commonName: string,
  dnsName: string,
): Promise<{ cert: string; key: string }> {
  await import("reflect-metadata");
  const x509 = await import("@peculiar/x509");
  const keys = await webcrypto.subtle.generateKey(ALGORITHM, true, ["sign", "verify"]);
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: Buffer.from(webcrypto.getRandomValues(new Uint8Array(8))).toString("hex"),
    name: `O=kubeplumb, CN=${commonName}`,
    notBefore: new Date(Date.now() - 60_000),
    notAfter: new Date(Date.now() + YEAR_MS),
    signingAlgorithm: ALGORITHM,
    keys: keys as webcrypto.CryptoKeyPair,
    extensions: [
      new x509.SubjectAlternativeNameExtension([{ type: "dns", value: dnsName }]),
      new x509.BasicConstraintsExtension(false),
    ],
  });
  const pkcs8 = Buffer.from(
    await webcrypto.subtle.exportKey("pkcs8", (keys as webcrypto.CryptoKeyPair).privateKey),
  );
  const lines = pkcs8.toString("base64").replace(/(.{64})/g, "$1\n");
  return {
    cert: certificate.toString("pem"),
    key: `-----BEGIN PRIVATE KEY-----\n${lines}\n-----END PRIVATE KEY-----\n`,
  };
}

/** Contexts of Secrets, each made once for each version of its Secret. */
export class SecretContexts {
  readonly #known = new Map<string, { version: string; context: SecureContext | undefined }>();

  /** Undefined when the Secret holds no certificate with its key. */
  get({ metadata, data }: Stored<Secret>): SecureContext | undefined {
    const { uid, resourceVersion: version } = metadata;
    const known = this.#known.get(uid);
    if (known?.version === version) return known.context;
    const context = contextOf(data);
    this.#known.set(uid, { version, context });
    return context;
  }
}

function contextOf(data: Secret["data"]): SecureContext | undefined {
  const [cert, key] = [data?.["tls.crt"], data?.["tls.key"]];
  if (!cert || !key) return undefined;
  try {
    return createSecureContext({ cert: Buffer.from(cert, "base64"), key: Buffer.from(key, "base64") });
  } catch {
    // Not a certificate, or not its key: the host has our own then, as with ingress-nginx.
    return undefined;
  }
}
