// A node's certificates on disk: a key of its own, a request for a certificate, what came back, and when to ask again.
// Knows files and certificates, no API.

import { X509Certificate } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";

/** A certificate and its private key, both PEM. */
export interface KeyPair {
  cert: string;
  key: string;
}

const KEY = { name: "ECDSA", namedCurve: "P-256" } as const;
const { subtle } = globalThis.crypto;

/** Undefined when there is none, or it is damaged, of another name or authority, or has ended. One file: PEM after PEM. */
export function readKeyPair(
  path: string,
  commonName: string,
  ca: string,
  now = Date.now(),
): KeyPair | undefined {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
  const [cert, key] = text.split(/(?=-----BEGIN PRIVATE KEY-----)/);
  if (!cert || !key) return undefined;
  try {
    const parsed = new X509Certificate(cert);
    const isOurs = parsed.subject.split("\n").includes(`CN=${commonName}`);
    const isGood = isOurs && parsed.verify(new X509Certificate(ca).publicKey);
    return isGood && Date.parse(parsed.validTo) > now ? { cert, key } : undefined;
  } catch (error) {
    // Damaged text: it is asked for anew, as when the file is missing.
    if (error instanceof Error && "code" in error) return undefined;
    throw error;
  }
}

/** Both in one file, so that no crash leaves a key with another's certificate. */
export function writeKeyPair(path: string, { cert, key }: KeyPair): void {
  writeFileAtomically(path, cert + key);
}

export function writeFileAtomically(path: string, text: string): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  writeFileSync(`${path}.tmp`, text, { mode: 0o600 });
  renameSync(`${path}.tmp`, path);
}

/**
 * When to ask for the next certificate, in milliseconds since the epoch: after 70 to 90 % of its life, as the kubelet.
 * @param chance from 0 to 1: nodes that joined at once shall not come back at once.
 */
export function renewAt(cert: string, chance: number): number {
  const { validFrom, validTo } = new X509Certificate(cert);
  const [from, to] = [Date.parse(validFrom), Date.parse(validTo)];
  return from + (to - from) * (0.7 + 0.2 * chance);
}

/** A new key, and a request (PKCS #10, PEM) for a certificate of it. */
export async function newRequest(
  commonName: string,
  dnsNames: readonly string[],
): Promise<{ key: string; request: string }> {
  await import("reflect-metadata");
  const x509 = await import("@peculiar/x509");
  const keys = await subtle.generateKey(KEY, true, ["sign", "verify"]);
  const names = dnsNames.map((value) => ({ type: "dns" as const, value }));
  const request = await x509.Pkcs10CertificateRequestGenerator.create({
    name: [{ O: ["system:nodes"] }, { CN: [commonName] }],
    keys,
    signingAlgorithm: { name: "ECDSA", hash: "SHA-256" },
    ...(names.length > 0 ? { extensions: [new x509.SubjectAlternativeNameExtension(names)] } : {}),
  });
  const pkcs8 = Buffer.from(await subtle.exportKey("pkcs8", keys.privateKey)).toString("base64");
  const lines = pkcs8.replace(/.{64}/g, "$&\n");
  return {
    key: `-----BEGIN PRIVATE KEY-----\n${lines}\n-----END PRIVATE KEY-----\n`,
    request: `${request.toString("pem")}\n`,
  };
}
