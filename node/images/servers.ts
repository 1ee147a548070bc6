// Images of servers that this machine may have installed: redis, memcached and etcd run as the real programs, set up as
// their images are. Knows where Debian puts them; starts nothing.

import { existsSync } from "node:fs";
import type { Image } from "./types.js";

const TAGS = /^(?:latest|alpine|bookworm|trixie|\d+(?:\.\d+){0,2}(?:-[a-z0-9.]+)*)$/;

/** Where the machine has it, links of other programs to it not counted; undefined when it is not installed. */
function installed(program: string): string | undefined {
  return ["/usr/bin", "/usr/sbin"].map((at) => `${at}/${program}`).find((path) => existsSync(path));
}

/** As their images' entrypoints: options alone are options of the server. */
function entrypoint(server: string, options: string): string[] {
  const script = `case "$1" in ${options}) set -- ${server} "$@";; esac; exec "$@"`;
  return ["/bin/sh", "-c", script, "docker-entrypoint.sh"];
}

/** The server where the image has it; `prepare` changes the arguments to what the image's own build does without. */
function wrapper(program: string, debianPackage: string, prepare: string): Readonly<Record<string, string>> {
  const text = `#!/bin/sh
${prepare}
for program in /usr/bin/${program} /usr/sbin/${program}; do
  [ -x "$program" ] && exec "$program" "$@"
done
echo "this machine has no ${program}: apt-get install ${debianPackage}" >&2
exit 127
`;
  return { [`/usr/local/bin/${program}`]: text };
}

function server(program: string, debianPackage: string): Pick<Image, "missing"> {
  return {
    missing: () =>
      installed(program) === undefined
        ? `kubeplumb runs this image by the ${program} of this machine, which has none: apt-get install ${debianPackage} (Debian, Ubuntu)`
        : undefined,
  };
}

/** The image's own build answers other hosts without a password, unless it is told otherwise. */
const OPEN = `case " $* " in
  *protected-mode* | *--sentinel* | " -v " | " --version " | " -h " | " --help ") ;;
  *) grep -qs -- '^ *protected-mode' "$1" || set -- "$@" --protected-mode no ;;
esac`;

const REDIS: Omit<Image, "names" | "tags" | "cmd"> = {
  ...server("redis-server", "redis-server"),
  entrypoint: entrypoint("redis-server", "-*|*.conf"),
  files: () => wrapper("redis-server", "redis-server", OPEN),
  directories: ["/data"],
  workingDir: "/data",
};

export const redis: Image = {
  ...REDIS,
  names: ["redis", ...["registry.k8s.io", "k8s.gcr.io"].map((registry) => `${registry}/redis`)],
  tags: new RegExp(`${TAGS.source}|^e2e$`),
  cmd: ["redis-server"],
};

const GOOGLE = [
  "us-docker.pkg.dev/google-samples/containers/gke",
  "gcr.io/google_samples",
  "gcr.io/google-samples",
];

/** A replica of the guestbook: what it follows is the Service of the leader. */
const follower = (name: string, leader: string): Image => ({
  ...REDIS,
  names: GOOGLE.map((registry) => `${registry}/${name}`),
  cmd: ["/run.sh"],
  files: (tag) => ({
    ...REDIS.files?.(tag),
    "/run.sh": `#!/bin/sh
host=${leader}
[ "$GET_HOSTS_FROM" = env ] && host=$${leader.toUpperCase().replace("-", "_")}_SERVICE_HOST
exec redis-server --replicaof "$host" 6379
`,
  }),
});

export const redisFollower = follower("gb-redis-follower", "redis-leader");
export const redisSlave = follower("gb-redisslave", "redis-master");

export const etcd: Image = {
  ...server("etcd", "etcd-server"),
  names: ["registry.k8s.io/etcd", "k8s.gcr.io/etcd", "quay.io/coreos/etcd", "gcr.io/etcd-development/etcd"],
  entrypoint: [],
  cmd: ["/usr/local/bin/etcd"],
  files: () => wrapper("etcd", "etcd-server", ":"),
};

export const memcached: Image = {
  ...server("memcached", "memcached"),
  names: ["memcached"],
  tags: TAGS,
  entrypoint: entrypoint("memcached", "-*"),
  cmd: ["memcached"],
  // As root it wants to be told whom to become.
  files: () => wrapper("memcached", "memcached", '[ "$(id -u)" = 0 ] && set -- -u root "$@"'),
};
