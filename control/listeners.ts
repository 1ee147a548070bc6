// The doors of the API server: TLS on TCP for whoever has a client certificate or a token, and a unix socket for whoever
// may open it. Knows who asks; what is asked is the API server's.

import { chmodSync, unlinkSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { type AddressInfo, connect, type Socket } from "node:net";
import type { Duplex } from "node:stream";
import type { PeerCertificate, TLSSocket } from "node:tls";
import type { Logger } from "../common/log.js";
import type { User } from "./api/engine.js";
import { sendError } from "./api/http/respond.js";
import type { ApiServer } from "./api/http/server.js";
import { unauthorized } from "./api/status.js";
import { TokenError } from "./api/tokens.js";
import type { Pki } from "./pki.js";

/** Longer than client-go keeps an idle connection, so that it is the client that closes. */
const KEEP_ALIVE_MS = 120_000;
const SOCKET_USER: User = { name: "system:admin", groups: ["system:masters", "system:authenticated"] };

/** What everybody may ask, as far as kube-apiserver's anonymous user usually gets. */
const PUBLIC_PATHS =
  /^\/(?:healthz|livez|readyz|version|api\/v1\/namespaces\/kube-public\/configmaps\/cluster-info)(?:[/?]|$)/;
const ANONYMOUS: User = { name: "system:anonymous", groups: ["system:unauthenticated"] };

/** The user that a client certificate names: CN and O. */
function userOf(certificate: PeerCertificate): User {
  const { CN, O } = certificate.subject as unknown as { CN?: string | string[]; O?: string | string[] };
  const list = (value: string | string[] | undefined): string[] =>
    value === undefined ? [] : Array.isArray(value) ? value : [value];
  return { name: list(CN)[0] ?? "", groups: [...list(O), "system:authenticated"] };
}

/** Whom the certificate of a connection names: worked out once, since it takes as long as a small request. */
const certified = new WeakMap<TLSSocket, User | null>();

function certifiedUser(socket: TLSSocket): User | null {
  let user = certified.get(socket);
  if (user === undefined) {
    const certificate = socket.getPeerCertificate();
    // A resumed session counts as authorized even when its client never showed a certificate.
    user = socket.authorized && certificate.subject ? userOf(certificate) : null;
    certified.set(socket, user);
  }
  return user;
}

/** Knows whose token it is. @throws TokenError saying why it is nobody's. */
export interface TokenVerifier {
  verify(token: string): Promise<{ user: User }>;
}

/** By a certificate of our CA, else by a token. Undefined: nobody we know. */
function authenticator(tokens: TokenVerifier, log: Logger) {
  return (req: IncomingMessage): User | undefined | Promise<User | undefined> => {
    const user = certifiedUser(req.socket as TLSSocket);
    if (user) return user;
    const token = /^bearer +(\S+) *$/i.exec(req.headers.authorization ?? "")?.[1];
    if (token === undefined) return undefined;
    return tokens.verify(token).then(
      ({ user }) => user,
      (error: unknown) => {
        if (!(error instanceof TokenError)) throw error;
        log.debug({ err: error }, "bearer token refused");
        return undefined;
      },
    );
  };
}

function serve(
  server: Server,
  api: ApiServer,
  log: Logger,
  user: (req: IncomingMessage) => User | undefined | Promise<User | undefined>,
): void {
  track(server);
  server.keepAliveTimeout = KEEP_ALIVE_MS;
  server.on("request", (req: IncomingMessage, res: ServerResponse) => {
    const answer = (who: User | undefined): void => {
      if (who) api.handle(req, res, who);
      else if (PUBLIC_PATHS.test(req.url ?? "")) api.handle(req, res, ANONYMOUS);
      else sendError(req, res, unauthorized(), log);
    };
    const who = user(req);
    if (who instanceof Promise) who.then(answer, (error: unknown) => sendError(req, res, error, log));
    else answer(who);
  });
  server.on("upgrade", (req: IncomingMessage, socket: Duplex, head: Buffer) => {
    const answer = (who: User | undefined): void => {
      if (who) api.upgrade(req, socket, head, who);
      else api.refuseUpgrade(socket, unauthorized());
    };
    const who = user(req);
    if (who instanceof Promise) who.then(answer, (error: Error) => api.refuseUpgrade(socket, error));
    else answer(who);
  });
}

function listening(server: Server, listen: () => void): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.once("listening", () => {
      server.off("error", reject);
      resolve();
    });
    listen();
  });
}

/** @throws Error EADDRINUSE and the like. */
export async function listenTls(
  api: ApiServer,
  pki: Pki,
  address: { host: string; port: number },
  tokens: TokenVerifier,
  log: Logger,
): Promise<{ server: Server; port: number }> {
  const server = createTlsServer({
    cert: pki.server.cert,
    key: pki.server.key,
    ca: pki.ca.cert,
    requestCert: true,
    // Who has none is told so by an answer, not by a broken handshake.
    rejectUnauthorized: false,
    minVersion: "TLSv1.2",
  });
  server.on("tlsClientError", (error) => log.debug({ err: error }, "TLS handshake failed"));
  serve(server, api, log, authenticator(tokens, log));
  await listening(server, () => server.listen(address.port, address.host));
  return { server, port: (server.address() as AddressInfo).port };
}

/** Removes a socket file that nobody listens on. @throws Error when somebody does. */
async function clearStaleSocket(path: string): Promise<void> {
  const alive = await new Promise<boolean>((resolve, reject) => {
    const socket = connect(path);
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", (error: NodeJS.ErrnoException) => {
      if (error.code === "ECONNREFUSED" || error.code === "ENOENT") resolve(false);
      else reject(error);
    });
  });
  if (alive) throw new Error(`${path}: another process is listening on this socket`);
  try {
    unlinkSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
}

/** Mode 0600: to open the socket is to be the administrator. */
export async function listenSocket(api: ApiServer, path: string, log: Logger): Promise<Server> {
  await clearStaleSocket(path);
  const server = createServer();
  serve(server, api, log, () => SOCKET_USER);
  await listening(server, () => {
    // The file appears in listen(): it must never be open to others, not even for a moment.
    const umask = process.umask(0o177);
    try {
      server.listen(path);
    } finally {
      process.umask(umask);
    }
  });
  chmodSync(path, 0o600);
  return server;
}

/** Connections of a server, also those that HTTP does not count: in a handshake, or upgraded. */
const connections = new WeakMap<Server, Set<Socket>>();

function track(server: Server): void {
  const open = new Set<Socket>();
  connections.set(server, open);
  server.on("connection", (socket: Socket) => {
    open.add(socket);
    socket.on("close", () => open.delete(socket));
  });
}

/** Closes without waiting for clients that keep a connection open. */
export async function closeServer(server: Server): Promise<void> {
  const closed = new Promise<void>((resolve) => {
    server.close(() => resolve());
  });
  server.closeIdleConnections();
  // Answers that were ended a moment ago get a moment to leave.
  const force = setTimeout(() => {
    for (const socket of connections.get(server) ?? []) socket.destroy();
  }, 100);
  await closed;
  clearTimeout(force);
}
