// A certificate authority for tests of TLS with peers that are not ours; files as those peers and kube-apiserver read
// them. By the library that makes the cluster's own certificates.

import { writeFileSync } from "node:fs";
import { isIP } from "node:net";
import { join } from "node:path";
import { Issuer, withX509 } from "../../control/pki.js";

const { subtle } = globalThis.crypto;
const KEY = { name: "ECDSA", namedCurve: "P-256" } as const;

/** Files with PEM text. */
export interface CertificateFiles {
  ca: string;
  cert: string;
  key: string;
}

export class TestAuthority {
  readonly #dir: string;
  readonly #name: string;
  readonly #issuer: Issuer;

  private constructor(dir: string, name: string, issuer: Issuer) {
    this.#dir = dir;
    this.#name = name;
    this.#issuer = issuer;
  }

  /** Writes NAME.crt. */
  static async create(dir: string, name: string): Promise<TestAuthority> {
    const issuer = await Issuer.open(undefined);
    writeFileSync(join(dir, `${name}.crt`), issuer.ca.cert);
    return new TestAuthority(dir, name, issuer);
  }

  /**
   * Writes NAME.crt and NAME.key, good for a server at 127.0.0.1 and for a client: the gateway of etcd shows the
   * server's certificate to etcd itself.
   */
  async issue(name: string): Promise<CertificateFiles> {
    const x509 = await withX509();
    const keys = await subtle.generateKey(KEY, true, ["sign", "verify"]);
    const issuer = new x509.X509Certificate(this.#issuer.ca.cert);
    const der = Buffer.from(this.#issuer.ca.key.replace(/-----[^-]+-----/g, ""), "base64");
    const names = ["127.0.0.1", "localhost"].map((value) => ({
      type: isIP(value) ? ("ip" as const) : ("dns" as const),
      value,
    }));
    const cert = await x509.X509CertificateGenerator.create({
      serialNumber: "01",
      subject: `CN=${name}`,
      issuer: issuer.subject,
      notBefore: new Date(Date.now() - 60_000),
      notAfter: new Date(Date.now() + 86_400_000),
      signingAlgorithm: { name: "ECDSA", hash: "SHA-256" },
      signingKey: await subtle.importKey("pkcs8", der, KEY, true, ["sign"]),
      publicKey: keys.publicKey,
      extensions: [
        new x509.ExtendedKeyUsageExtension([
          x509.ExtendedKeyUsage.serverAuth,
          x509.ExtendedKeyUsage.clientAuth,
        ]),
        new x509.SubjectAlternativeNameExtension(names),
      ],
    });
    const key = Buffer.from(await subtle.exportKey("pkcs8", keys.privateKey)).toString("base64");
    const file = (end: string) => join(this.#dir, `${name}.${end}`);
    writeFileSync(file("crt"), cert.toString("pem"));
    writeFileSync(
      file("key"),
      `-----BEGIN PRIVATE KEY-----\n${key.replace(/.{64}/g, "$&\n")}\n-----END PRIVATE KEY-----\n`,
    );
    return { ca: join(this.#dir, `${this.#name}.crt`), cert: file("crt"), key: file("key") };
  }
}
