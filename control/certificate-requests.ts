// Certificates for others: reads a PKCS #10 request, and signs it with the cluster's CA. Knows certificates, not who may
// have one.

import { Issuer, type KeyPair, withX509 } from "./pki.js";

/** What a request asks to be called. */
export interface RequestedIdentity {
  commonName: string;
  organizations: string[];
  dnsNames: string[];
  /** All other alternative names: addresses, mail addresses, URIs. */
  otherNames: string[];
}

/** @throws Error when it is no request, or not signed with the key that it is for. */
export async function readCertificateRequest(pem: string): Promise<RequestedIdentity> {
  const x509 = await withX509();
  const request = new x509.Pkcs10CertificateRequest(pem);
  if (!(await request.verify())) throw new Error("the request is not signed with its own key");
  const alternatives = request.extensions.find((one) => one instanceof x509.SubjectAlternativeNameExtension);
  const names = alternatives?.names.items ?? [];
  return {
    commonName: request.subjectName.getField("CN")[0] ?? "",
    organizations: request.subjectName.getField("O"),
    dnsNames: names.filter(({ type }) => type === "dns").map(({ value }) => value),
    otherNames: names.filter(({ type }) => type !== "dns").map(({ value }) => value),
  };
}

/** Signs requests; the authority's key stays with it. */
export type SignCertificate = (
  pem: string,
  options: { usage: "client" | "server"; seconds: number },
) => Promise<string>;

/** The library behind it is loaded with the first request. */
export function certificateSigner(ca: KeyPair): SignCertificate {
  let opened: Promise<Issuer> | undefined;
  return async (pem, { usage, seconds }) => {
    opened ??= Issuer.open(ca);
    const [issuer, x509] = await Promise.all([opened, withX509()]);
    const request = new x509.Pkcs10CertificateRequest(pem);
    const { dnsNames, otherNames } = await readCertificateRequest(pem);
    if (otherNames.length > 0) throw new Error(`these names cannot be certified: ${otherNames.join(", ")}`);
    return await issuer.sign({
      subject: request.subject,
      names: dnsNames,
      usage,
      seconds,
      publicKey: await request.publicKey.export(),
    });
  };
}
