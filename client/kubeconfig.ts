// Reads a kubeconfig: which server a context means and with which credentials. Knows the file format
// (client.authentication and clientcmd/api/v1 Config), opens no connection.

import { readFileSync } from "node:fs";
import { isAbsolute, join } from "node:path";
import { parseDocument } from "yaml";

/** What a connection over TCP needs; PEM texts. */
export interface ServerOptions {
  /** https://127.0.0.1:6443 */
  server: string;
  ca?: string;
  cert?: string;
  key?: string;
  token?: string;
  /** Path of a file with the token; read again from time to time, because issuers renew it. Goes before `token`. */
  tokenFile?: string;
  /** Name to check the certificate against, when it is not the host of `server`. */
  tlsServerName?: string;
  insecureSkipTlsVerify?: boolean;
}

interface NamedEntry {
  name: string;
  [kind: string]: unknown;
}

/** A parsed kubeconfig. */
export interface Kubeconfig {
  currentContext: string | undefined;
  clusters: Map<string, Record<string, unknown>>;
  users: Map<string, Record<string, unknown>>;
  contexts: Map<string, Record<string, unknown>>;
}

/**
 * @param source where the text comes from, for messages.
 * @throws Error naming source and, for malformed YAML, the line.
 */
export function parseKubeconfig(text: string, source = "kubeconfig"): Kubeconfig {
  const document = parseDocument(text);
  const problem = document.errors[0];
  if (problem) throw new Error(`${source} is not valid YAML: ${problem.message.split("\n")[0]}`);
  const content: unknown = document.toJS() ?? {};
  if (!isRecord(content)) throw new Error(`${source} is no kubeconfig: a mapping is expected at its top`);
  const { kind, "current-context": current } = content;
  if (kind !== undefined && kind !== "Config") {
    throw new Error(`${source}: kind is ${JSON.stringify(kind)}, not "Config"`);
  }
  return {
    currentContext: typeof current === "string" && current ? current : undefined,
    clusters: entries(content, "clusters", "cluster", source),
    users: entries(content, "users", "user", source),
    contexts: entries(content, "contexts", "context", source),
  };
}

/**
 * The connection that `context` (default: current-context) stands for.
 * @param directory what file names in it are relative to (clientcmd: the directory of the kubeconfig).
 * @throws Error naming the missing context, cluster, user or file, or the way of authentication not supported here.
 */
export function connectionOf(config: Kubeconfig, context?: string, directory = process.cwd()): ServerOptions {
  const name = context ?? config.currentContext;
  if (!name)
    throw new Error(`no context given and no current-context set; there are: ${names(config.contexts)}`);
  const found = config.contexts.get(name);
  if (!found)
    throw new Error(`context ${JSON.stringify(name)} does not exist; there are: ${names(config.contexts)}`);
  const cluster = referenced(config.clusters, "cluster", found.cluster, name);
  const user = found.user ? referenced(config.users, "user", found.user, name) : {};
  const server = text(cluster.server);
  if (!server) throw new Error(`cluster ${JSON.stringify(found.cluster)} has no server`);
  if (cluster["proxy-url"])
    throw new Error(`cluster ${JSON.stringify(found.cluster)}: proxy-url is not supported`);
  for (const way of ["exec", "auth-provider", "username"]) {
    if (user[way])
      throw new Error(
        `user ${JSON.stringify(found.user)}: ${way} is not supported, use a certificate or a token`,
      );
  }
  return {
    server,
    ca: dataOrFile(cluster, "certificate-authority", directory),
    cert: dataOrFile(user, "client-certificate", directory),
    key: dataOrFile(user, "client-key", directory),
    token: text(user.token),
    tokenFile: user.tokenFile ? absolute(String(user.tokenFile), directory) : undefined,
    tlsServerName: text(cluster["tls-server-name"]),
    insecureSkipTlsVerify: cluster["insecure-skip-tls-verify"] === true || undefined,
  };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isNamed(value: unknown): value is NamedEntry {
  return isRecord(value) && typeof value.name === "string";
}

function entries(
  content: Record<string, unknown>,
  list: string,
  kind: string,
  source: string,
): Map<string, Record<string, unknown>> {
  const value = content[list] ?? [];
  if (!Array.isArray(value)) throw new Error(`${source}: ${list} is not a list`);
  const found = new Map<string, Record<string, unknown>>();
  for (const [index, entry] of value.entries()) {
    if (!isNamed(entry)) throw new Error(`${source}: ${list}[${index}] has no name`);
    const body = entry[kind] ?? {};
    if (!isRecord(body)) throw new Error(`${source}: ${list}[${index}].${kind} is not a mapping`);
    // clientcmd: of entries with one name the first holds.
    if (!found.has(entry.name)) found.set(entry.name, body);
  }
  return found;
}

function referenced(
  among: Map<string, Record<string, unknown>>,
  kind: string,
  name: unknown,
  context: string,
): Record<string, unknown> {
  const found = typeof name === "string" ? among.get(name) : undefined;
  if (found) return found;
  throw new Error(
    `context ${JSON.stringify(context)} names ${kind} ${JSON.stringify(name)}, which does not exist`,
  );
}

/** Embedded data goes before a file, as in clientcmd. */
function dataOrFile(from: Record<string, unknown>, field: string, directory: string): string | undefined {
  const data = text(from[`${field}-data`]);
  if (data) return Buffer.from(data, "base64").toString("utf8");
  return file(text(from[field]), directory);
}

function file(path: string | undefined, directory: string): string | undefined {
  if (!path) return undefined;
  return readFileSync(absolute(path, directory), "utf8");
}

function absolute(path: string, directory: string): string {
  return isAbsolute(path) ? path : join(directory, path);
}

function text(value: unknown): string | undefined {
  return typeof value === "string" && value ? value : undefined;
}

function names(among: Map<string, unknown>): string {
  return [...among.keys()].join(", ") || "none";
}
