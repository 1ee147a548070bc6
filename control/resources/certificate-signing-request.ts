// CertificateSigningRequest: the declaration of the kind to the API engine. Who approves and who signs is the business of
// controllers.

import { CERTIFICATE_SIGNING_REQUESTS } from "../../common/client.js";
import type { CertificateSigningRequest, Stored } from "../../common/k8s.js";
import { ageColumn, column, draftOf, keepStatus, nameColumn } from "./object.js";
import type { FieldError, ResourceDefinition } from "./types.js";
import { duplicate, immutable, invalid, notSupported, oneOf, required } from "./validation/field.js";

const LEGACY_SIGNER = "kubernetes.io/legacy-unknown";
const USAGES = [
  "any",
  "cert sign",
  "client auth",
  "code signing",
  "content commitment",
  "crl sign",
  "data encipherment",
  "decipher only",
  "digital signature",
  "email protection",
  "encipher only",
  "ipsec end system",
  "ipsec tunnel",
  "ipsec user",
  "key agreement",
  "key encipherment",
  "microsoft sgc",
  "netscape sgc",
  "ocsp signing",
  "s/mime",
  "server auth",
  "signing",
  "timestamping",
];
const LEAST_SECONDS = 600;
const PEM = /^-----BEGIN CERTIFICATE REQUEST-----\n[\s\S]+-----END CERTIFICATE REQUEST-----\s*$/;
const SIGNER =
  /^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)+\/[a-z0-9]([-.a-z0-9]*[a-z0-9])?$/;

/** In kubectl's words: Pending, Approved, Approved,Issued, Denied, … */
function condition({ status }: Stored<CertificateSigningRequest>): string {
  const has = (type: string) => status?.conditions?.some((one) => one.type === type) ?? false;
  const verdict = has("Denied") ? "Denied" : has("Approved") ? "Approved" : "Pending";
  return [verdict, ...(has("Failed") ? ["Failed"] : []), ...(status?.certificate ? ["Issued"] : [])].join(
    ",",
  );
}

function validateSigner(name: string): FieldError[] {
  const field = "spec.signerName";
  if (!name) return [required(field, "signerName must be provided")];
  if (name === LEGACY_SIGNER)
    return [invalid(field, name, "the legacy signerName is not allowed via this API version")];
  if (SIGNER.test(name)) return [];
  return [
    invalid(field, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'"),
  ];
}

function validateSpec({ spec }: CertificateSigningRequest): FieldError[] {
  const errors: FieldError[] = [];
  const text = Buffer.from(spec.request ?? "", "base64").toString("latin1");
  if (!PEM.test(text))
    errors.push(invalid("spec.request", spec.request, "PEM block type must be CERTIFICATE REQUEST"));
  const usages = spec.usages ?? [];
  if (usages.length === 0) errors.push(required("spec.usages", "usages must be provided"));
  for (const [index, usage] of usages.entries()) {
    const field = `spec.usages[${index}]`;
    if (!USAGES.includes(usage)) errors.push(notSupported(field, usage, USAGES));
    if (usages.indexOf(usage) < index) errors.push(duplicate(field, usage));
  }
  const seconds = spec.expirationSeconds;
  if (seconds !== undefined && seconds < LEAST_SECONDS)
    errors.push(
      invalid(
        "spec.expirationSeconds",
        seconds,
        "may not specify a duration less than 600 seconds (10 minutes)",
      ),
    );
  return [...errors, ...validateSigner(spec.signerName)];
}

function validateConditions({ status }: CertificateSigningRequest): FieldError[] {
  const conditions = status?.conditions ?? [];
  const errors: FieldError[] = [];
  const types = conditions.map(({ type }) => type);
  for (const [index, one] of conditions.entries()) {
    const field = `status.conditions[${index}]`;
    if (!one.type) errors.push(required(`${field}.type`));
    const isVerdict = ["Approved", "Denied", "Failed"].includes(one.type);
    errors.push(...oneOf(`${field}.status`, one.status, isVerdict ? ["True"] : ["False", "True", "Unknown"]));
    const other = { Approved: "Denied", Denied: "Approved" }[one.type];
    if (other && types.slice(0, index).includes(other))
      errors.push(
        invalid(`${field}.type`, one.type, "Approved and Denied conditions are mutually exclusive"),
      );
    if (types.indexOf(one.type) < index) errors.push(duplicate(`${field}.type`, one.type));
  }
  return errors;
}

export const certificateSigningRequestDefinition: ResourceDefinition<CertificateSigningRequest> = {
  resource: CERTIFICATE_SIGNING_REQUESTS,
  singular: "certificatesigningrequest",
  shortNames: ["csr"],
  schema: "io.k8s.api.certificates.v1.CertificateSigningRequest",
  hasStatus: true,
  columns: [
    nameColumn(),
    ageColumn(),
    column("SignerName", ({ spec }) => spec.signerName || "<none>"),
    column("Requestor", ({ spec }) => spec.username ?? ""),
    column("RequestedDuration", ({ spec }) => requestedDuration(spec.expirationSeconds)),
    column("Condition", condition),
  ],
  // Asked of an empty object, too: which fields there are.
  selectableFields: ({ spec }: { spec?: Partial<CertificateSigningRequest["spec"]> }) => ({
    "spec.signerName": spec?.signerName ?? "",
  }),
  prepareForCreate(draft, { user }) {
    const { request, signerName, usages, expirationSeconds } = draft.spec ?? {};
    // Who asks is told by the server, whatever the request says.
    draft.spec = {
      request,
      signerName,
      ...(usages ? { usages } : {}),
      ...(expirationSeconds === undefined ? {} : { expirationSeconds }),
      username: user.name,
      groups: [...user.groups],
      ...(user.uid ? { uid: user.uid } : {}),
      ...(user.extra
        ? { extra: Object.fromEntries(Object.entries(user.extra).map(([key, list]) => [key, [...list]])) }
        : {}),
    };
    draftOf(draft).status = {};
  },
  prepareForUpdate(draft, old) {
    keepStatus(draft, old);
    draft.spec = old.spec;
  },
  prepareForStatusUpdate(draft, old) {
    const now = new Date().toISOString().replace(/\.\d+Z$/, "Z");
    for (const one of draft.status?.conditions ?? []) {
      const before = old.status?.conditions?.find(({ type }) => type === one.type);
      one.lastUpdateTime ??= now;
      one.lastTransitionTime ??= before?.lastTransitionTime ?? now;
    }
  },
  validate(object, old) {
    const issued = old?.status?.certificate;
    return [
      ...(old ? [] : validateSpec(object)),
      ...validateConditions(object),
      ...(issued ? immutable("status.certificate", object.status?.certificate, issued) : []),
    ];
  },
};

function requestedDuration(seconds: number | undefined): string {
  if (seconds === undefined) return "<none>";
  if (seconds % 86_400 === 0) return `${seconds / 86_400}d`;
  return seconds % 3600 === 0 ? `${seconds / 3600}h` : `${Math.floor(seconds / 60)}m`;
}
