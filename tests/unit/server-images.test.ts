// Images of servers that the machine may have: how their arguments reach the program, what is said without it, and the
// guestbook in front of a server that speaks redis' protocol.

import { execFileSync } from "node:child_process";
import { chmodSync, existsSync, writeFileSync } from "node:fs";
import { type AddressInfo, connect, createServer } from "node:net";
import { join } from "node:path";
import t, { type Test } from "tap";
import { answer } from "../../node/images/guestbook.js";
import { commandLine, resolveImage, unknownImageMessage } from "../../node/images/index.js";
import type { ContainerContext, Image } from "../../node/images/types.js";
import { tempDir } from "../helpers/temp-dir.js";

const image = (reference: string): Image => {
  const found = resolveImage(reference, { hasCommand: true });
  if (!found || found === "invalid") throw new Error(`no ${reference}`);
  return found.image;
};

const EVERYBODY = { mode: 0o755 };

/** What the program in the image gets to see, when the container is given these arguments. */
function seen(t: Test, reference: string, program: string, args: string[]): string {
  const dir = tempDir(t);
  writeFileSync(join(dir, "real"), '#!/bin/sh\necho "$@"\n', EVERYBODY);
  const one = image(reference);
  const files = one.files?.("1") ?? {};
  for (const [path, text] of Object.entries(files)) {
    const name = join(dir, path.slice(path.lastIndexOf("/") + 1));
    writeFileSync(name, text.replaceAll(`/usr/bin/${program}`, join(dir, "real")), EVERYBODY);
    chmodSync(name, 0o755);
  }
  const [first = "", ...rest] = commandLine(one, { args }).map((word) =>
    word.replace(/^\/(run\.sh)$/, `${dir}/$1`),
  );
  const env = { PATH: `${dir}:/usr/bin:/bin`, REDIS_LEADER_SERVICE_HOST: "10.96.1.1" };
  return execFileSync(first, rest, { env, encoding: "utf8" }).trim();
}

t.test("redis: arguments as its image takes them, open to other hosts unless told otherwise", async (t) => {
  const config = join(tempDir(t), "redis.conf");
  writeFileSync(config, "maxmemory 2mb\n");
  const closed = join(tempDir(t), "redis.conf");
  writeFileSync(closed, "protected-mode yes\n");
  const open = "--protected-mode no";
  for (const [args, wanted] of [
    [[], open],
    [["--port", "7000"], `--port 7000 ${open}`],
    [[config], `${config} ${open}`],
    [["redis-server", config], `${config} ${open}`],
    [[closed], closed],
    [["--protected-mode", "yes"], "--protected-mode yes"],
    [["--version"], "--version"],
    [["echo", "else"], "else"],
  ] as const)
    t.equal(seen(t, "redis:7", "redis-server", [...args]), wanted, args.join(" "));
  const follower = "us-docker.pkg.dev/google-samples/containers/gke/gb-redis-follower:v2";
  t.equal(seen(t, follower, "redis-server", []), `--replicaof redis-leader 6379 ${open}`);
  const user = process.getuid?.() === 0 ? "-u root " : "";
  t.equal(seen(t, "memcached:1.6-alpine", "memcached", ["-m", "64"]), `${user}-m 64`);
});

t.test("tags, and what is said when the machine has no such program", async (t) => {
  for (const reference of [
    "redis:7",
    "redis:6.0.5",
    "redis:8.0.2-alpine",
    "docker.io/library/redis",
    "memcached:1.6",
  ]) {
    const program = reference.includes("redis") ? "redis-server" : "memcached";
    const has = existsSync(`/usr/bin/${program}`);
    const found = resolveImage(reference, { hasCommand: false });
    t.equal(found !== undefined, has, reference);
    const told = unknownImageMessage(reference);
    if (has) t.match(told, /^kubeplumb has no image/);
    else t.match(told, new RegExp(`apt-get install ${program}`));
  }
  t.equal(
    resolveImage("bitnami/redis", { hasCommand: false }),
    undefined,
    "another image with another entrypoint",
  );
  t.equal(resolveImage("redis:nonsense", { hasCommand: false }), undefined);
  t.ok(resolveImage("redis:7", { hasCommand: true }), "a client, say");
});

t.test("nginx is the machine's own when the pod brings a configuration", async (t) => {
  const nginx = image("nginx:1.29");
  t.equal(nginx.mounted?.(["/usr/share/nginx/html", "/etc/nginxes"]), undefined);
  for (const target of ["/etc/nginx", "/etc/nginx/conf.d", "/etc/nginx/nginx.conf"]) {
    const real = nginx.mounted?.([target]);
    t.equal(real?.program, undefined, target);
    t.same(Object.keys(real?.files?.("1.29") ?? {}).sort(), [
      "/docker-entrypoint.sh",
      "/etc/nginx/conf.d/default.conf",
      "/etc/nginx/nginx.conf",
      "/usr/local/sbin/nginx",
      "/usr/share/nginx/html/index.html",
    ]);
  }
});

/** SET, GET and errors of redis, in pieces as small as they come. */
async function redisServer(t: Test): Promise<{ port: number; data: Map<string, string> }> {
  const data = new Map<string, string>();
  const reply = ([verb = "", key = "", value = ""]: string[]): string => {
    if (data.has("broken")) return "-LOADING Redis is loading the dataset in memory\r\n";
    if (verb === "SET") data.set(key, value);
    if (verb === "SET") return "+OK\r\n";
    const found = data.get(key);
    return found === undefined ? "$-1\r\n" : `$${Buffer.byteLength(found)}\r\n${found}\r\n`;
  };
  const server = createServer(async (socket) => {
    socket.setNoDelay(true);
    for await (const chunk of socket) {
      const words = String(chunk)
        .split("\r\n")
        .filter((_, i) => i > 0 && i % 2 === 0);
      for (const byte of Buffer.from(reply(words))) {
        socket.write(Buffer.of(byte));
        await new Promise((resolve) => setImmediate(resolve));
      }
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.teardown(() => server.close());
  return { port: (server.address() as AddressInfo).port, data };
}

t.test("the guestbook writes to the leader and reads of a follower", async (t) => {
  const leader = await redisServer(t);
  const follower = await redisServer(t);
  const hosts: Record<string, number> = { "10.96.1.1": leader.port, "10.96.1.2": follower.port };
  const errors: string[] = [];
  const context = (tag: string) =>
    ({
      tag,
      podIPs: ["10.244.0.2"],
      env: { GET_HOSTS_FROM: "dns" },
      exec: async ([, , name = ""]: string[]) => {
        const hosts = /leader|master/.test(name) ? "10.96.1.1" : "10.96.1.2";
        return { exitCode: 0, output: `${hosts} STREAM ${name}\n` };
      },
      ns: { connect: ({ host }: { host: string }) => connect(hosts[host] ?? 1, "127.0.0.1") },
      stderr: (text: string) => errors.push(text),
    }) as unknown as ContainerContext;
  const ask = (path: string, tag = "v5") => answer(context(tag), new URL(path, "http://guestbook"));
  t.match(await ask("/"), { code: 200, body: /<h2>Guestbook<\/h2>/ });
  t.match(await ask("/guestbook.php?cmd=get&key=messages"), { code: 200, body: '{"data": ""}' });
  t.match(await ask("/guestbook.php?cmd=set&key=messages&value=a,%C3%B6%22"), {
    body: '{"message": "Updated"}',
  });
  t.same([...leader.data], [["guestbook", 'a,ö"']]);
  t.match(await ask("/guestbook.php?cmd=get"), { body: '{"data": ""}' }, "the follower has not followed");
  follower.data.set("guestbook", 'a,ö"');
  t.match(await ask("/guestbook.php?cmd=get"), { body: '{"data": "a,ö\\""}' });
  await ask("/guestbook.php?cmd=set&key=messages&value=old", "v4");
  t.equal(leader.data.get("messages"), "old", "before v5 the page names the key");
  leader.data.set("broken", "");
  t.match(await ask("/guestbook.php?cmd=set&value=b"), { code: 500 });
  t.match(errors, [/LOADING Redis is loading/]);
  t.match(await ask("/nothing"), { code: 404 });
});
