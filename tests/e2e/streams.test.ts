// Streams through the API server, by real kubectls (the PATH's, and older ones that speak SPDY where this machine has
// them) and by a small SPDY client: port-forward, exec, attach, run, cp, logs. In a lab or on VMs.

import { execFile } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { connect } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import type { SpdyConnection } from "../../node/streams/spdy/connection.js";
import { onlyInLab } from "../helpers/cluster-under-test.js";
import { forwarded, spdyConnect, textOf } from "../helpers/spdy-client.js";
import {
  api,
  cluster,
  directory,
  fetchText,
  kubectl,
  lab,
  makePods,
  own,
  PODS_PATH,
  patience,
  pod,
  type Ran,
  run,
  settled,
  shell,
  sockets,
  start,
} from "../helpers/stream-pods.js";
import { becomes } from "../helpers/until.js";

/** kubectl of the PATH, for a lab also older ones of this machine: from 1.31 on it speaks WebSocket, before SPDY. */
const OLDER = "/usr/lib/google-cloud-sdk/bin";
const kubectls = [
  "kubectl",
  ...(lab ? ["1.27", "1.30"] : [])
    .map((version) => join(OLDER, `kubectl.${version}`))
    .filter((path) => existsSync(path)),
];

t.test("pods to stream to", makePods);

for (const program of kubectls) {
  const version = program.split("/").at(-1);
  t.test(`port-forward by ${version}`, async (t) => {
    const targets = { "pod/server": "80", "service/server": "8080", "deployment/web": "80" };
    for (const [target, port] of Object.entries(targets)) {
      const forward = start(program, ["port-forward", target, `:${port}`]);
      const [, local] = await forward.says(/127\.0\.0\.1:(\d+) -> 80/);
      const answers = await Promise.all(
        Array.from({ length: 20 }, () => fetchText(`http://127.0.0.1:${local}/`)),
      );
      t.ok(
        answers.every(({ status }) => status === (target === "deployment/web" ? 200 : 201)),
        `${target}: 20 connections at once`,
      );
      await forward.stop();
    }

    const several = start(program, ["port-forward", "pod/server", ":7", ":9", ":81"]);
    const [, echo] = await several.says(/127\.0\.0\.1:(\d+) -> 7\n/);
    const [, digest] = await several.says(/127\.0\.0\.1:(\d+) -> 9\n/);
    const [, closed] = await several.says(/127\.0\.0\.1:(\d+) -> 81\n/);
    const much = randomBytes(8 << 20);
    t.equal(
      await exchange(Number(digest), much),
      `${much.length} ${createHash("sha256").update(much).digest("hex")}`,
      "8 MiB and the end of it, then the answer",
    );
    t.equal(await exchange(Number(echo), "back again"), "back again");
    t.equal(await exchange(Number(closed), "anybody?").catch(() => ""), "");
    await several.says(
      /error forwarding port 81 to pod [0-9a-f]{64}, uid : .*failed to connect to localhost:81 .*IPv4: dial tcp4 127\.0\.0\.1:81: connect: connection refused IPv6 dial tcp6 \[::1\]:81: connect: connection refused/,
    );
    await several.stop();
  });

  t.test(`exec and cp by ${version}`, async (t) => {
    const script = "echo out; echo err >&2; cat; exit 3";
    for (let round = 0; round < 5; round++) {
      const result = await run(program, ["exec", "-i", "shell", "--", "sh", "-c", script], "typed");
      t.match(result, { exitCode: 3, stdout: "out\ntyped", stderr: /^err\n/ });
    }
    t.match(await run(program, ["exec", "shell", "--", "sh", "-c", "echo out; echo err >&2"]), {
      exitCode: 0,
      stdout: "out\n",
      stderr: "err\n",
    });
    t.match(await run(program, ["exec", "shell", "--", "no-such-program"]), {
      exitCode: 1,
      stderr: /"no-such-program": executable file not found in \$PATH/,
    });
    t.match(await run(program, ["exec", "shell", "-c", "other", "--", "true"]), {
      exitCode: 1,
      stderr: /container other is not valid for pod shell/,
    });
    const much = randomBytes(4 << 20);
    const back = await run(program, ["exec", "-i", "shell", "--", "cat"], much);
    t.ok(Buffer.from(back.stdout, "latin1").equals(much), "4 MiB there and back");

    const [from, to] = [join(directory, "from"), join(directory, "to")];
    writeFileSync(from, much);
    const there = "/tmp/copied";
    t.equal((await run(program, ["cp", from, `shell:${there}`])).exitCode, 0);
    t.equal((await run(program, ["cp", `shell:${there}`, to])).exitCode, 0);
    t.ok(readFileSync(to).equals(much), "cp");
  });

  t.test(`terminals, attach and run by ${version}`, async (t) => {
    const tty = await terminal(program, ["exec", "-it", "shell", "--", "sh", "-c", "tty; exit 4"]);
    t.match(tty, { exitCode: 4, stdout: /\/dev\/pts\/\d+/ });
    const once = ["--image=busybox", "--restart=Never", "--rm"];
    t.match(
      await run(program, ["run", "typed", ...once, "-i", "--", "sh", "-c", "cat; exit 5"], "some text\n"),
      { exitCode: 5, stdout: /some text\n/ },
    );
    t.match(await run(program, ["run", "quick", ...once, "--attach", "--", "echo", "no time to attach"]), {
      exitCode: 0,
      stdout: /no time to attach\n/,
    });
    const command = ["sh", "-c", "while :; do echo tick; sleep 0.1; done"];
    await run(program, ["run", "ticking", "--image=busybox", "--", ...command]);
    await kubectl("wait", "pod/ticking", "--for=condition=Ready", `--timeout=${patience}`);
    const attached = start(program, ["attach", "ticking"]);
    await attached.says(/tick\ntick\n/);
    await attached.stop();
    await kubectl("delete", "pod", "ticking", "--now");
  });
}

/** A command on a terminal of its own, made by script(1). */
function terminal(program: string, args: readonly string[]): Promise<Ran> {
  const line = [program, ...own, ...args].map((word) => `'${word}'`).join(" ");
  return new Promise((resolve) => {
    const child = execFile(
      "script",
      ["-qec", line, "/dev/null"],
      { timeout: 120_000 },
      (error, stdout, stderr) => resolve({ exitCode: error ? Number(error.code ?? -1) : 0, stdout, stderr }),
    );
    child.stdin?.end();
  });
}

/** Sends, ends, and takes the answer. */
function exchange(port: number, data: Buffer | string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
    let text = "";
    socket.on("data", (chunk) => {
      text += chunk.toString();
    });
    socket.once("error", reject);
    socket.once("end", () => {
      resolve(text);
      socket.destroy();
    });
    socket.end(data);
  });
}
const portForward = async (): Promise<SpdyConnection> => {
  const path = `${PODS_PATH}/server/portforward`;
  return (await spdyConnect(api(), path, ["portforward.k8s.io"])).connection;
};

t.test(
  "port-forward by SPDY: each direction ends on its own, a slow reader holds back only itself",
  async (t) => {
    const connection = await portForward();
    const goodbye = forwarded(connection, 10);
    t.equal(await textOf(goodbye.data), "goodbye");
    t.equal(await textOf(goodbye.error), "", "no error");
    goodbye.data.end("still here");
    const heard = async () => (await kubectl("logs", "server")).includes("after goodbye: 10");
    t.ok(await cluster.waitUntil(heard), "the pod's end came first, ours after more data");

    const stuck = forwarded(connection, 11);
    let written = false;
    stuck.data.write(Buffer.alloc(32 << 20), () => {
      written = true;
    });
    await sleep(300);
    t.notOk(written, "nobody reads it");
    const beside = forwarded(connection, 7);
    beside.data.end("beside it");
    t.equal(await textOf(beside.data), "beside it");
    stuck.data.destroy();

    const refused = forwarded(connection, 81);
    t.match(
      await textOf(refused.error),
      /^error forwarding port 81 to pod [0-9a-f]{64}, uid : failed to execute/,
    );
    t.equal(await textOf(refused.data), "");
    const reset = forwarded(connection, 12);
    t.match(await textOf(reset.error), /^error forwarding port 12 to pod .*ECONNRESET/);
    for (const headers of [
      {},
      { streamtype: ["data"], requestid: ["x"], port: ["0"] },
      { streamtype: ["other"] },
    ]) {
      const bad = connection.open(headers as Record<string, string[]>);
      await textOf(bad);
      t.ok(bad.destroyed, `refused: ${JSON.stringify(headers)}`);
    }
    connection.destroy();

    const other = spdyConnect(api(), `${PODS_PATH}/server/portforward`, ["v9.k8s.io"]);
    await t.rejects(other, {
      message: /^403: .*client supports \[v9\.k8s\.io\], server accepts \[portforward/,
    });
    const gone = spdyConnect(api(), `${PODS_PATH}/nosuch/portforward`, ["portforward.k8s.io"]);
    await t.rejects(gone, { message: /^404: .*pods \\"nosuch\\" not found/ });
  },
);

t.test("exec by SPDY: every version of its streams", async (t) => {
  const exec = async (protocols: string[], script: string, tty = false) => {
    const query = new URLSearchParams([
      ...["sh", "-c", script].map((word): [string, string] => ["command", word]),
      ["stdin", "true"],
      ["stdout", "true"],
      ...(tty ? [["tty", "true"] as [string, string]] : [["stderr", "true"] as [string, string]]),
    ]);
    const path = `${PODS_PATH}/shell/exec?${query}`;
    const { connection, protocol } = await spdyConnect(api(), path, protocols);
    const open = (streamtype: string) => connection.open({ streamtype: [streamtype] });
    const [error, stdin, stdout] = [open("error"), open("stdin"), open("stdout")];
    const third = open(tty ? "resize" : "stderr");
    return { connection, protocol, error, stdin, stdout, third };
  };
  const { connection, protocol, ...v4 } = await exec(
    ["v4.channel.k8s.io", "channel.k8s.io"],
    "cat; echo no >&2; exit 7",
  );
  t.equal(protocol, "v4.channel.k8s.io");
  v4.stdin.end("typed");
  t.same(await Promise.all([textOf(v4.stdout), textOf(v4.third)]), ["typed", "no\n"]);
  t.match(JSON.parse(await textOf(v4.error)), {
    reason: "NonZeroExitCode",
    details: { causes: [{ message: "7" }] },
  });
  connection.destroy();

  for (const old of ["v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"]) {
    const failed = await exec([old], "exit 7");
    t.match(await textOf(failed.error), /^command terminated with non-zero exit code: exit status 7$/, old);
    failed.connection.destroy();
    const good = await exec([old], "true");
    t.equal(await textOf(good.error), "");
    good.connection.destroy();
  }

  const terminal = await exec(
    ["v4.channel.k8s.io"],
    'read line; while [ "$(stty size)" != "43 132" ]; do sleep 0.1; done; stty size',
    true,
  );
  terminal.third.write('{"Width":132,"Hei');
  terminal.third.write('ght":43}\n');
  terminal.stdin.write("go\n");
  t.match(await textOf(terminal.stdout), /43 132\r\n/);
  terminal.connection.destroy();
});

const inLab = { skip: onlyInLab() };
t.test("sizes that come as a terminal ends, and clients that talk nonsense, do no harm", inLab, async (t) => {
  const before = lab?.pids();
  const socketPath = lab?.info.controlSocket;
  const tty = `${PODS_PATH}/shell/exec?command=true&stdin=true&stdout=true&tty=true`;
  const resizing = async (): Promise<void> => {
    const { connection } = await spdyConnect(api(), tty, ["v4.channel.k8s.io"]);
    const open = (streamtype: string) => connection.open({ streamtype: [streamtype] });
    const [error, , stdout, resize] = [open("error"), open("stdin"), open("stdout"), open("resize")];
    const timer = setInterval(() => {
      for (let i = 0; i < 20; i++) resize.write('{"Width":80,"Height":24}');
    }, 0);
    void textOf(stdout);
    await Promise.race([textOf(error), connection.closed]);
    clearInterval(timer);
    connection.destroy();
  };
  for (let round = 0; round < 8; round++) await Promise.all(Array.from({ length: 5 }, resizing));

  const nonsense = (upgrade: Record<string, string>, path: string): Promise<void> =>
    new Promise((resolve) => {
      const req = request({
        socketPath,
        method: "GET",
        path,
        headers: { connection: "Upgrade", ...upgrade },
      });
      req.once("response", () => resolve()).once("error", () => resolve());
      req.once("upgrade", (_res, socket) => {
        socket.on("error", () => {});
        socket.once("close", () => resolve());
        socket.resume();
        socket.write(randomBytes(2000));
        setTimeout(() => socket.destroy(), 50);
      });
      req.end();
    });
  const webSocket = (protocol: string) => ({
    upgrade: "websocket",
    "sec-websocket-key": randomBytes(16).toString("base64"),
    "sec-websocket-version": "13",
    "sec-websocket-protocol": protocol,
  });
  const spdy = (protocol: string) => ({ upgrade: "SPDY/3.1", "x-stream-protocol-version": protocol });
  for (let round = 0; round < 10; round++)
    await Promise.all([
      nonsense(webSocket("v5.channel.k8s.io"), tty),
      nonsense(spdy("v4.channel.k8s.io"), tty),
      nonsense(webSocket("SPDY/3.1+portforward.k8s.io"), `${PODS_PATH}/server/portforward`),
      nonsense(spdy("portforward.k8s.io"), `${PODS_PATH}/server/portforward`),
      nonsense({ upgrade: "nonsense" }, `${PODS_PATH}/server/portforward`),
      nonsense({ upgrade: "nonsense" }, `${PODS_PATH}/server/proxy/`),
      nonsense({ ...webSocket(""), "sec-websocket-key": "bad" }, `${PODS_PATH}/server/proxy/socket`),
    ]);
  t.equal(await kubectl("exec", "shell", "--", "echo", "alive"), "alive");
  t.same(lab?.pids(), before, "the same processes");
});

t.test("200 port-forward connections opened and cut leave no socket behind", inLab, async (t) => {
  const warm = await portForward();
  await textOf(forwarded(warm, 81).error);
  warm.destroy();
  await sleep(200);
  const before = sockets();
  const connections = await Promise.all(Array.from({ length: 10 }, portForward));
  const streams = connections.flatMap((connection) =>
    Array.from({ length: 20 }, () => forwarded(connection, 7).data),
  );
  for (const stream of streams) stream.write("hello");
  await Promise.all(streams.map((stream) => new Promise((resolve) => stream.once("data", resolve))));
  t.ok((sockets().lab ?? 0) >= (before.lab ?? 0) + 200, `while they are open: ${JSON.stringify(sockets())}`);
  // Some are reset, some ended, the rest go with their connections.
  for (const [i, stream] of streams.entries()) {
    if (i % 3 === 0) stream.destroy();
    else if (i % 3 === 1) stream.end();
  }
  await sleep(50);
  for (const connection of connections) connection.destroy();
  await becomes(t, `back to ${JSON.stringify(before)}`, () => settled(before));
  t.comment(JSON.stringify(sockets()));

  const forward = start("kubectl", ["port-forward", "pod/server", ":7"]);
  const [, port] = await forward.says(/127\.0\.0\.1:(\d+) -> 7/);
  const clients = Array.from({ length: 200 }, () => connect(Number(port), "127.0.0.1"));
  for (const client of clients) client.write("hello");
  await Promise.all(clients.map((client) => new Promise((resolve) => client.once("data", resolve))));
  for (const [i, client] of clients.entries()) i % 2 ? client.resetAndDestroy() : client.destroy();
  await becomes(t, "kubectl's clients are gone, and their sockets in the pod", () => settled(before));
  forward.child.kill("SIGKILL");
  await becomes(t, "and kubectl", () => settled(before));
});

t.test("logs", async (t) => {
  t.equal(await kubectl("logs", "logs", "-c", "a"), "a1\na2\na3");
  t.equal(await kubectl("logs", "logs", "-c", "prepare"), "prepared");
  t.equal(await kubectl("logs", "logs", "-c", "a", "--tail=2"), "a2\na3");
  t.equal(await kubectl("logs", "logs", "-c", "a", "--since=1h", "--limit-bytes=4"), "a1\na");
  t.equal(await kubectl("logs", "logs", "-c", "a", "--since-time=2999-01-01T00:00:00Z"), "");
  t.match(await kubectl("logs", "logs", "-c", "b", "--timestamps"), /^\d{4}-\d\d-\d\dT[\d:]+\.\d{9}Z b1$/);
  t.same((await kubectl("logs", "logs", "--all-containers", "--prefix")).split("\n").sort(), [
    "[pod/logs/a] a1",
    "[pod/logs/a] a2",
    "[pod/logs/a] a3",
    "[pod/logs/b] b1",
    "[pod/logs/prepare] prepared",
  ]);
  t.match(
    await kubectl("logs", "-l", "app in (logs, server)", "--all-containers", "--prefix", "--tail=1"),
    /\[pod\/server\/main\]/,
  );
  t.match(await run("kubectl", ["logs", "logs", "-c", "a", "-p"]), {
    exitCode: 1,
    stderr: /previous terminated container "a" in pod "logs" not found/,
  });
  await cluster.apply([pod("failing", [shell("main", "echo first or second; exit 1")])] as never);
  await cluster.waitUntil(
    async () =>
      (await kubectl(
        "get",
        "pod",
        "failing",
        "-o",
        "jsonpath={.status.containerStatuses[0].restartCount}",
      )) === "1",
  );
  t.equal(await kubectl("logs", "failing", "-p"), "first or second");
  await cluster.apply([
    pod("short", [shell("main", "for i in 1 2 3; do echo $i; sleep 0.3; done")], { restartPolicy: "Never" }),
  ] as never);
  await cluster.waitUntil(async () => (await run("kubectl", ["logs", "short"])).stdout.startsWith("1"));
  t.equal(await kubectl("logs", "-f", "short"), "1\n2\n3", "followed to the end of the container");
});
