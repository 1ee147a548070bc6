// nginx in a pod that brings a configuration of its own: the nginx of this machine reads it, with what the image has
// around it. Without such a volume nginx is emulated (nginx.ts).

import type { Image } from "./types.js";

const CONFIGURATION = "/etc/nginx";

/** The image's defaults, but for the user: a lab without root knows no other, so that all are root. */
const NGINX_CONF = `user  root;
worker_processes  1;

error_log  /var/log/nginx/error.log notice;
pid        /run/nginx.pid;

events {
    worker_connections  1024;
}

http {
    include       /etc/nginx/mime.types;
    default_type  application/octet-stream;

    log_format  main  '$remote_addr - $remote_user [$time_local] "$request" '
                      '$status $body_bytes_sent "$http_referer" '
                      '"$http_user_agent" "$http_x_forwarded_for"';
    access_log  /var/log/nginx/access.log  main;

    sendfile           on;
    keepalive_timeout  65;

    include /etc/nginx/conf.d/*.conf;
}
`;

const DEFAULT_SERVER = `server {
    listen       80;
    server_name  localhost;

    location / {
        root   /usr/share/nginx/html;
        index  index.html index.htm;
    }
}
`;

/** Its directories, the log files that are the container's output, and the user that configurations name. */
const PROGRAM = `#!/bin/sh
{
  mkdir -p /var/log/nginx /var/lib/nginx /var/cache/nginx
  [ -e /var/log/nginx/access.log ] || ln -s /dev/stdout /var/log/nginx/access.log
  [ -e /var/log/nginx/error.log ] || ln -s /dev/stderr /var/log/nginx/error.log
  for file in passwd group; do
    grep -q '^nginx:' /etc/$file && continue
    rest=; [ $file = passwd ] && rest=:nginx:/nonexistent:/bin/false
    { cat /etc/$file; echo "nginx:x:0:\${rest:+0}$rest"; } > /etc/$file.new && mv /etc/$file.new /etc/$file
  done
} 2>/dev/null
[ -x /usr/sbin/nginx ] && exec /usr/sbin/nginx "$@"
echo "the pod mounts something at ${CONFIGURATION}, which the nginx of this machine would read, and there is none: apt-get install nginx" >&2
exit 127
`;

/** Whether a volume has something for nginx to read. */
export function bringsConfiguration(targets: readonly string[]): boolean {
  return targets.some((target) => target === CONFIGURATION || target.startsWith(`${CONFIGURATION}/`));
}

/** @param files of the image, which it has either way. */
export function configuredNginx(files: Readonly<Record<string, string>>): Image {
  return {
    names: [],
    entrypoint: ["/docker-entrypoint.sh"],
    cmd: ["nginx", "-g", "daemon off;"],
    stopSignal: "SIGQUIT",
    files: () => ({
      ...files,
      "/docker-entrypoint.sh": '#!/bin/sh\nexec "$@"\n',
      "/usr/local/sbin/nginx": PROGRAM,
      [`${CONFIGURATION}/nginx.conf`]: NGINX_CONF,
      [`${CONFIGURATION}/conf.d/default.conf`]: DEFAULT_SERVER,
    }),
  };
}

const RELOADER = "/home/auto-reload-nginx.sh";

/** Of the page "Connecting Applications with Services": reads its configuration again whenever it has changed. */
export const nginxHttps: Image = {
  ...configuredNginx({
    "/usr/share/nginx/html/index2.html":
      "<!DOCTYPE html>\n<title>Welcome to nginx!</title>\n<h1>Hello World</h1>\n",
    [RELOADER]: `#!/bin/sh
state() { cat /etc/nginx/conf.d/* /etc/nginx/ssl/* 2>/dev/null | cksum; }
nginx -g 'daemon off;' &
nginx=$!
trap 'kill -QUIT $nginx; wait $nginx; exit' TERM QUIT
seen=$(state)
while kill -0 $nginx; do
  sleep 1 & wait $!
  now=$(state)
  [ "$now" = "$seen" ] || nginx -s reload
  seen=$now
done
`,
  }),
  names: ["bprashanth/nginxhttps", "ymqytw/nginxhttps"],
  entrypoint: [],
  cmd: [RELOADER],
  stopSignal: "SIGTERM",
};
