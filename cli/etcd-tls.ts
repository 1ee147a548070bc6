// TLS to etcd by kube-apiserver's flags: the files read and checked, and what etcd's refusals mean in terms of them.

import { createPrivateKey, X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { connect } from "node:tls";
import { type EtcdTls, EtcdUnreachable } from "../control/store/etcd-client.js";
import type { StoreSpec } from "../control/store/open.js";
import { type OptionSpec, UsageError } from "./command.js";

export interface EtcdFlags {
  etcdCafile?: string;
  etcdCertfile?: string;
  etcdKeyfile?: string;
}

/** As kube-apiserver names them. */
export const etcdOptions: readonly OptionSpec[] = [
  {
    flags: "--etcd-cafile <file>",
    description: "CA of etcd's certificate (PEM); default: those that Node.js knows",
    complete: "files",
  },
  {
    flags: "--etcd-certfile <file>",
    description: "certificate to show to etcd (PEM)",
    complete: "files",
  },
  { flags: "--etcd-keyfile <file>", description: "its key (PEM)", complete: "files" },
];

/** Undefined without flags. @throws UsageError naming the flag that is wrong, missing or of no use. */
export function readEtcdTls(flags: EtcdFlags, store: StoreSpec): EtcdTls | undefined {
  const { etcdCafile, etcdCertfile, etcdKeyfile } = flags;
  if (!etcdCafile && !etcdCertfile && !etcdKeyfile) return undefined;
  const isHttps = store.type === "etcd" && store.endpoints.every((url) => url.startsWith("https:"));
  if (!isHttps)
    throw new UsageError("--etcd-cafile, --etcd-certfile and --etcd-keyfile are for --store etcd:https://…");
  if (Boolean(etcdCertfile) !== Boolean(etcdKeyfile))
    throw new UsageError("--etcd-certfile and --etcd-keyfile go together");
  const tls: EtcdTls = {
    ca: read("--etcd-cafile", etcdCafile, (pem) => new X509Certificate(pem)),
    cert: read("--etcd-certfile", etcdCertfile, (pem) => new X509Certificate(pem)),
    key: read("--etcd-keyfile", etcdKeyfile, createPrivateKey),
  };
  if (tls.cert && tls.key && !new X509Certificate(tls.cert).checkPrivateKey(createPrivateKey(tls.key)))
    throw new UsageError(`--etcd-keyfile ${etcdKeyfile} is not the key of --etcd-certfile ${etcdCertfile}`);
  return tls;
}

function read(flag: string, path: string | undefined, check: (pem: string) => unknown): string | undefined {
  if (path === undefined) return undefined;
  try {
    const pem = readFileSync(path, "utf8");
    check(pem);
    return pem;
  } catch (error) {
    throw new UsageError(`${flag} ${path}: ${(error as Error).message}`);
  }
}

/** The error of a store that could not be opened, in words that name the flag; others are returned as they are. */
export async function explainedEtcdError(
  error: unknown,
  { etcdCafile, etcdCertfile }: EtcdFlags,
  store: StoreSpec,
  tls: EtcdTls | undefined,
): Promise<unknown> {
  if (!(error instanceof EtcdUnreachable) || store.type !== "etcd") return error;
  const told = (sentence: string) => new Error(`${error.message}: ${sentence}`, { cause: error });
  switch (await refusalOf(store.endpoints, tls)) {
    case "server":
      return told(
        etcdCafile
          ? `its certificate is not of the CA in --etcd-cafile ${etcdCafile}`
          : "give the CA of its certificate with --etcd-cafile",
      );
    case "client":
      return told(
        etcdCertfile
          ? `it does not accept the certificate in --etcd-certfile ${etcdCertfile}`
          : "it wants a certificate: --etcd-certfile and --etcd-keyfile",
      );
    case "plain":
      return told("does it speak HTTP without TLS? Then it is --store etcd:http://…");
    default:
      return error;
  }
}

/** Whose certificate is the reason; plain: there is no TLS at all. */
type Refusal = "server" | "client" | "plain";
/** How long a server may be silent: it may have other work. */
const REFUSAL_MS = 10_000;

/** Asked by a connection of its own, which hears alerts (RFC 8446, 6.2): an HTTP client hears that it was closed on. */
async function refusalOf(
  endpoints: readonly string[],
  tls: EtcdTls | undefined,
): Promise<Refusal | undefined> {
  for (const { protocol, hostname, port } of endpoints.map((url) => new URL(url))) {
    if (protocol !== "https:") continue;
    const host = hostname.replace(/^\[|\]$/g, "");
    let isSecure = false;
    const socket = connect({ host, port: Number(port) || 443, ...tls }, () => {
      isSecure = true;
    });
    const error = await new Promise<NodeJS.ErrnoException | undefined>((resolve) => {
      socket.setTimeout(REFUSAL_MS, () => resolve(undefined));
      socket.once("error", resolve);
      socket.once("close", () => resolve(undefined));
      socket.resume();
    });
    socket.destroy();
    const { code = "" } = error ?? {};
    if (/^(UNABLE_TO_|SELF_SIGNED|DEPTH_ZERO|CERT_SIGNATURE_FAILURE)/.test(code)) return "server";
    if (/ALERT_(CERTIFICATE_REQUIRED|BAD_CERTIFICATE|UNKNOWN_CA)/.test(code)) return "client";
    // Closed on by a server that made nothing of it; a reset when it had not read all.
    if (code === "ERR_SSL_WRONG_VERSION_NUMBER" || (code === "ECONNRESET" && !isSecure)) return "plain";
  }
  return undefined;
}
