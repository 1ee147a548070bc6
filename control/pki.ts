// The cluster's own certificate authority: CA, the API server's certificate, the administrator's client certificate,
// the key of service accounts' tokens, made on first start and kept in files. Knows certificates, not what they are used for.

import { createPrivateKey, generateKeyPairSync, randomBytes, X509Certificate } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { isIP } from "node:net";
import { join } from "node:path";

/** A certificate and its private key, both PEM. */
export interface KeyPair {
  cert: string;
  key: string;
}

export interface Pki {
  ca: KeyPair;
  server: KeyPair;
  /** CN=kubernetes-admin, O=system:masters. */
  admin: KeyPair;
  /** CN=kube-apiserver-kubelet-client, O=system:masters: as whom the API server comes to kubelets. */
  kubeletClient: KeyPair;
  /** PEM: signs the tokens of service accounts. */
  serviceAccountKey: string;
}

export interface PkiOptions {
  /** Made with mode 0700; keys in it have mode 0600. */
  dir: string;
  /** DNS names and IP addresses that the server's certificate is for. */
  serverNames: readonly string[];
}

const DAY_MS = 24 * 3600 * 1000;
const CA_DAYS = 3650;
const CERT_DAYS = 365;
/** A certificate that ends sooner is made anew. */
const RENEW_DAYS = 60;
/** kubeadm's name for the files. */
const KUBELET_CLIENT = "apiserver-kubelet-client";

function read(dir: string, name: string): KeyPair | undefined {
  try {
    return {
      cert: readFileSync(join(dir, `${name}.crt`), "utf8"),
      key: readFileSync(join(dir, `${name}.key`), "utf8"),
    };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** The key of service accounts' tokens; a damaged file is made anew, and the tokens of before are no good then. */
function serviceAccountKey(dir: string): string {
  const path = join(dir, "sa.key");
  if (existsSync(path)) {
    const kept = readFileSync(path, "utf8");
    try {
      if (createPrivateKey(kept).asymmetricKeyDetails?.namedCurve === "prime256v1") return kept;
    } catch (error) {
      if (!(error instanceof Error && "code" in error)) throw error;
    }
  }
  const { privateKey } = generateKeyPairSync("ec", {
    namedCurve: "P-256",
    privateKeyEncoding: { type: "pkcs8", format: "pem" },
    publicKeyEncoding: { type: "spki", format: "pem" },
  });
  writeFile(path, privateKey);
  return privateKey;
}

function writeFile(path: string, text: string): void {
  writeFileSync(`${path}.tmp`, text, { mode: 0o600 });
  renameSync(`${path}.tmp`, path);
}

function write(dir: string, name: string, pair: KeyPair): void {
  writeFile(join(dir, `${name}.key`), pair.key);
  writeFile(join(dir, `${name}.crt`), pair.cert);
}

/** Whether a kept pair can go on being used: in time, key and certificate belong together, issuer, names. */
function isGood(pair: KeyPair, ca: KeyPair | undefined, names: readonly string[]): boolean {
  try {
    const cert = new X509Certificate(pair.cert);
    if (Date.parse(cert.validTo) < Date.now() + RENEW_DAYS * DAY_MS) return false;
    const issuer = new X509Certificate(ca?.cert ?? pair.cert);
    if (!cert.checkIssued(issuer) || !cert.verify(issuer.publicKey)) return false;
    return names.every((name) => (isIP(name) ? cert.checkIP(name) : cert.checkHost(name)) !== undefined);
  } catch (error) {
    // Damaged text in a file of ours: it is made anew, like a file that is missing.
    if (error instanceof Error && "code" in error) return false;
    throw error;
  }
}

/** Opens or makes the certificates; the library that makes them is loaded only when it is needed. */
export async function loadPki({ dir, serverNames }: PkiOptions): Promise<Pki> {
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const kept = {
    ca: read(dir, "ca"),
    server: read(dir, "apiserver"),
    admin: read(dir, "admin"),
    kubeletClient: read(dir, KUBELET_CLIENT),
  };
  const ca = kept.ca && isGood(kept.ca, undefined, []) ? kept.ca : undefined;
  const server = ca && kept.server && isGood(kept.server, ca, serverNames) ? kept.server : undefined;
  const admin = ca && kept.admin && isGood(kept.admin, ca, []) ? kept.admin : undefined;
  const { kubeletClient: client } = kept;
  const kubeletClient = ca && client && isGood(client, ca, []) ? client : undefined;
  const key = serviceAccountKey(dir);
  if (ca && server && admin && kubeletClient)
    return { ca, server, admin, kubeletClient, serviceAccountKey: key };
  const issuer = await Issuer.open(ca);
  const made: Pki = {
    ca: issuer.ca,
    server:
      server ?? (await issuer.issue({ subject: "CN=kube-apiserver", names: serverNames, usage: "server" })),
    admin:
      admin ??
      (await issuer.issue({ subject: "CN=kubernetes-admin,O=system:masters", names: [], usage: "client" })),
    kubeletClient:
      kubeletClient ??
      (await issuer.issue({
        subject: "CN=kube-apiserver-kubelet-client,O=system:masters",
        names: [],
        usage: "client",
      })),
    serviceAccountKey: key,
  };
  write(dir, "ca", made.ca);
  write(dir, "apiserver", made.server);
  write(dir, "admin", made.admin);
  write(dir, KUBELET_CLIENT, made.kubeletClient);
  return made;
}

type X509 = typeof import("@peculiar/x509");

const KEY = { name: "ECDSA", namedCurve: "P-256" } as const;
const SIGNATURE = { name: "ECDSA", hash: "SHA-256" } as const;
const { subtle } = globalThis.crypto;
type CryptoKey = Awaited<ReturnType<typeof subtle.importKey>>;

interface IssueOptions {
  subject: string;
  names: readonly string[];
  usage: "server" | "client";
}

export async function withX509(): Promise<X509> {
  await import("reflect-metadata");
  return await import("@peculiar/x509");
}

interface SignOptions extends IssueOptions {
  seconds: number;
  publicKey: CryptoKey;
}

/** The cluster's CA at work. */
export class Issuer {
  readonly ca: KeyPair;
  readonly #x509: X509;
  readonly #key: CryptoKey;

  private constructor(x509: X509, ca: KeyPair, key: CryptoKey) {
    this.#x509 = x509;
    this.ca = ca;
    this.#key = key;
  }

  /** Takes a kept CA, or makes one. */
  static async open(kept: KeyPair | undefined): Promise<Issuer> {
    const x509 = await withX509();
    if (kept) {
      const der = Buffer.from(kept.key.replace(/-----[^-]+-----/g, ""), "base64");
      return new Issuer(x509, kept, await subtle.importKey("pkcs8", der, KEY, true, ["sign"]));
    }
    const keys = await subtle.generateKey(KEY, true, ["sign", "verify"]);
    const cert = await x509.X509CertificateGenerator.createSelfSigned({
      serialNumber: serialNumber(),
      name: "CN=kubernetes",
      ...validity((CA_DAYS * DAY_MS) / 1000),
      signingAlgorithm: SIGNATURE,
      keys,
      extensions: [
        new x509.BasicConstraintsExtension(true, undefined, true),
        new x509.KeyUsagesExtension(
          x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign | x509.KeyUsageFlags.digitalSignature,
          true,
        ),
        await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
      ],
    });
    const ca = { cert: `${cert.toString("pem")}\n`, key: await privatePem(keys.privateKey) };
    return new Issuer(x509, ca, keys.privateKey);
  }

  async issue(options: IssueOptions): Promise<KeyPair> {
    const keys = await subtle.generateKey(KEY, true, ["sign", "verify"]);
    const seconds = (CERT_DAYS * DAY_MS) / 1000;
    const cert = await this.sign({ ...options, seconds, publicKey: keys.publicKey });
    return { cert, key: await privatePem(keys.privateKey) };
  }

  /** A certificate (PEM) for somebody else's key. */
  async sign({ subject, names, usage, seconds, publicKey }: SignOptions): Promise<string> {
    const x509 = this.#x509;
    const issuer = new x509.X509Certificate(this.ca.cert);
    const alternatives = names.map((value) => ({
      type: isIP(value) ? ("ip" as const) : ("dns" as const),
      value,
    }));
    const purpose = usage === "server" ? x509.ExtendedKeyUsage.serverAuth : x509.ExtendedKeyUsage.clientAuth;
    const cert = await x509.X509CertificateGenerator.create({
      serialNumber: serialNumber(),
      subject,
      issuer: issuer.subject,
      ...validity(seconds),
      signingAlgorithm: SIGNATURE,
      signingKey: this.#key,
      publicKey,
      extensions: [
        new x509.BasicConstraintsExtension(false, undefined, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
        new x509.ExtendedKeyUsageExtension([purpose]),
        await x509.AuthorityKeyIdentifierExtension.create(issuer.publicKey),
        ...(alternatives.length > 0 ? [new x509.SubjectAlternativeNameExtension(alternatives)] : []),
      ],
    });
    return `${cert.toString("pem")}\n`;
  }
}

/** Positive and without a leading zero byte, as DER wants an integer. */
function serialNumber(): string {
  const bytes = randomBytes(16);
  bytes[0] = ((bytes[0] ?? 0) & 0x3f) | 0x40;
  return bytes.toString("hex");
}

/** A little in the past: clocks differ. */
function validity(seconds: number): { notBefore: Date; notAfter: Date } {
  const now = Date.now();
  return { notBefore: new Date(now - 5 * 60_000), notAfter: new Date(now + seconds * 1000) };
}

async function privatePem(key: CryptoKey): Promise<string> {
  const body = Buffer.from(await subtle.exportKey("pkcs8", key)).toString("base64");
  return `-----BEGIN PRIVATE KEY-----\n${body.replace(/.{64}/g, "$&\n")}\n-----END PRIVATE KEY-----\n`;
}
