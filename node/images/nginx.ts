// nginx with its default configuration: the welcome page or the files of a volume at /usr/share/nginx/html,
// access log to stdout, graceful end on SIGQUIT (the image's STOPSIGNAL), fast end on SIGTERM.

import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { readFile, stat } from "node:fs/promises";
import type { IncomingMessage, ServerResponse } from "node:http";
import { dirname, extname, normalize } from "node:path";
import { EmulatedProcess } from "./emulated.js";
import { bringsConfiguration, configuredNginx } from "./nginx-configured.js";
import type { ContainerContext, Image } from "./types.js";

const PORT = 80;
const ROOT = "/usr/share/nginx/html";
const DEFAULT_VERSION = "1.29.3";

/**
 * Versions and names of variants: 1.29, 1.27.3-alpine, stable, mainline-perl. Walk-throughs of rollouts that get stuck count
 * on 1.161 not to exist.
 */
const TAGS = /^(?:latest|stable|mainline|alpine|perl|otel|\d{1,2}(?:\.\d{1,2}){0,2})(?:-[a-z0-9.]+)*$/;

const WELCOME = `<!DOCTYPE html>
<html>
<head>
<title>Welcome to nginx!</title>
</head>
<body>
<h1>Welcome to nginx!</h1>
<p>This page is served by kubeplumb's emulation of nginx.</p>
</body>
</html>
`;

const TYPES: Record<string, string> = {
  ".html": "text/html",
  ".htm": "text/html",
  ".css": "text/css",
  ".js": "application/javascript",
  ".json": "application/json",
  ".txt": "text/plain",
  ".xml": "text/xml",
  ".svg": "image/svg+xml",
  ".png": "image/png",
  ".jpg": "image/jpeg",
};

const REASONS: Record<number, string> = {
  400: "Bad Request",
  403: "Forbidden",
  404: "Not Found",
  405: "Not Allowed",
  500: "Internal Server Error",
};

function errorPage(code: number, server: string): string {
  const title = `${code} ${REASONS[code]}`;
  return `<html>\r\n<head><title>${title}</title></head>\r\n<body>\r\n<center><h1>${title}</h1></center>\r\n<hr><center>${server}</center>\r\n</body>\r\n</html>\r\n`;
}

interface Answer {
  code: number;
  type: string;
  body: Buffer;
  headers?: Record<string, string>;
}

/** A combined-format time: 21/Nov/2026:03:49:00 +0000. */
export function logDate(now: Date): string {
  const month = now.toUTCString().slice(8, 11);
  const iso = now.toISOString();
  return `${iso.slice(8, 10)}/${month}/${iso.slice(0, 4)}:${iso.slice(11, 19)} +0000`;
}

async function find(context: ContainerContext, url: string, server: string): Promise<Answer> {
  const failed = (code: number): Answer => ({
    code,
    type: "text/html",
    body: Buffer.from(errorPage(code, server)),
  });
  let path: string;
  try {
    path = normalize(decodeURIComponent(url.split("?", 1)[0] ?? "/"));
  } catch {
    // A malformed escape: the client's fault, answered as such.
    return failed(400);
  }
  const wanted = path.endsWith("/") ? `${path}index.html` : path;
  const file = context.hostPath(ROOT + wanted);
  if (!file) return wanted === "/index.html" ? page(Buffer.from(WELCOME), ".html") : failed(404);
  try {
    const facts = await stat(file);
    if (facts.isDirectory()) {
      return { ...failed(404), code: 301, body: Buffer.alloc(0), headers: { Location: `${path}/` } };
    }
    return { ...page(await readFile(file), extname(file)), headers: validators(facts) };
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    // A directory is there, and no page to show for it: its contents are nobody's business.
    if (code === "ENOENT" && wanted !== path && existsSync(dirname(file))) return failed(403);
    if (code === "ENOENT" || code === "ENOTDIR") return failed(404);
    return failed(code === "EACCES" ? 403 : 500);
  }
}

function page(body: Buffer, extension: string): Answer {
  const etag = `"${createHash("sha1").update(body).digest("hex").slice(0, 12)}"`;
  const type = TYPES[extension] ?? "application/octet-stream";
  return { code: 200, type, body, headers: { ETag: etag, "Accept-Ranges": "bytes" } };
}

function validators(facts: { mtimeMs: number; size: number }): Record<string, string> {
  const etag = `"${Math.floor(facts.mtimeMs / 1000).toString(16)}-${facts.size.toString(16)}"`;
  return { ETag: etag, "Last-Modified": new Date(facts.mtimeMs).toUTCString(), "Accept-Ranges": "bytes" };
}

async function serve(
  context: ContainerContext,
  server: string,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const { method = "GET", url = "/", headers } = request;
  const allowed = method === "GET" || method === "HEAD";
  const answer: Answer = allowed
    ? await find(context, url, server)
    : { code: 405, type: "text/html", body: Buffer.from(errorPage(405, server)) };
  response.writeHead(answer.code, {
    Server: server,
    "Content-Type": answer.type,
    "Content-Length": answer.body.length,
    ...answer.headers,
  });
  response.end(method === "HEAD" ? undefined : answer.body);
  const sent = method === "HEAD" ? 0 : answer.body.length;
  const quoted = (value: string | undefined) => `"${value ?? "-"}"`;
  context.stdout(
    `${request.socket.remoteAddress} - - [${logDate(new Date())}] "${method} ${url} HTTP/${request.httpVersion}" ${answer.code} ${sent} ${quoted(headers.referer)} ${quoted(headers["user-agent"])} ${quoted(headers["x-forwarded-for"] as string | undefined)}\n`,
  );
}

const versionOf = (tag: string): string => /^\d+\.\d+(\.\d+)?/.exec(tag)?.[0] ?? DEFAULT_VERSION;

/** To read: what the emulation does. */
const CONFIGURATION = `
# What kubeplumb's emulation of nginx does. It does not read this file.

user  nginx;
worker_processes  1;

error_log  /var/log/nginx/error.log notice;
pid        /run/nginx.pid;

events {
    worker_connections  1024;
}

http {
    access_log  /var/log/nginx/access.log  main;
    keepalive_timeout  60;

    server {
        listen  80;
        root    ${ROOT};
        index   index.html;
    }
}
`;

/** What people type in a container: the version, and signals to the running one. */
const command = (version: string): string => `#!/bin/sh
tell() {
  for process in /proc/[0-9]*; do
    [ "$process" = "/proc/$$" ] && continue
    [ "$(cat "$process/comm" 2>/dev/null)" = nginx ] && exec kill "-$1" "\${process#/proc/}"
  done
  echo 'nginx: [error] open() "/run/nginx.pid" failed (2: No such file or directory)' >&2
  exit 1
}
case "$1 $2" in
  "-v " | "-V ") echo "nginx version: nginx/${version}" >&2 ;;
  "-t ")
    echo "nginx: the configuration file /etc/nginx/nginx.conf syntax is ok" >&2
    echo "nginx: configuration file /etc/nginx/nginx.conf test is successful" >&2 ;;
  "-s quit") tell QUIT ;;
  "-s stop") tell TERM ;;
  "-s reload") tell HUP ;;
  *) echo "nginx: kubeplumb's emulation knows -v, -V, -t and -s quit, stop and reload" >&2; exit 1 ;;
esac
`;

export const nginx: Image = {
  names: ["nginx", "registry.k8s.io/nginx-slim", "k8s.gcr.io/nginx-slim"],
  tags: TAGS,
  entrypoint: ["/docker-entrypoint.sh"],
  cmd: ["nginx", "-g", "daemon off;"],
  env: { NGINX_VERSION: DEFAULT_VERSION },
  files: (tag) => ({
    [`${ROOT}/index.html`]: WELCOME,
    "/etc/nginx/nginx.conf": CONFIGURATION,
    "/usr/sbin/nginx": command(versionOf(tag)),
  }),
  mounted: (targets) =>
    bringsConfiguration(targets) ? configuredNginx({ [`${ROOT}/index.html`]: WELCOME }) : undefined,
  stopSignal: "SIGQUIT",
  processes: (argv) => [
    `nginx: master process ${argv.slice(argv.findIndex((arg) => arg.endsWith("nginx"))).join(" ")}`,
    "nginx: worker process",
  ],
  program: (argv) =>
    argv.some((arg) => arg === "nginx" || arg.endsWith("/nginx")) &&
    !argv.some((arg) => ["-c", "-s", "-t", "-v", "-V"].includes(arg))
      ? async (context) => {
          const version = versionOf(context.tag);
          const process = new EmulatedProcess(context, {
            onTerm: 0,
            onQuit: (self) => void self.shutDown(0),
          });
          await process.http(PORT, (request, response) => {
            void serve(context, `nginx/${version}`, request, response);
          });
          return process;
        }
      : undefined,
};
