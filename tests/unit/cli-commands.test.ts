// The kubeplumb command: arguments, exit codes, help, output, remote commands, logs. What needs a cluster is played by a
// small server on the cluster's own socket.

import { once } from "node:events";
import { appendFileSync, chmodSync, existsSync, mkdirSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { WebSocketServer } from "ws";
import { commands } from "../../cli/commands/index.js";
import { formatLogLine } from "../../cli/log-format.js";
import { parsePublish, publishedUrl } from "../../cli/ports.js";
import { selfCommand, shellLine } from "../../cli/programs.js";
import { Steps } from "../../cli/steps.js";
import { hasColor, type Output } from "../../cli/streams.js";
import { createStyle, formatAge, formatDuration } from "../../cli/style.js";
import { formatTable } from "../../cli/table.js";
import { tailFile } from "../../cli/tail.js";
import { clusterKubeconfig, directory, home, kubeplumb, pretendCluster, Sink } from "../helpers/cli.js";

t.test("help, version and wrong usage", async (t) => {
  const help = await kubeplumb([]);
  t.equal(help.code, 0);
  t.match(help.out, /^Usage: kubeplumb \[options\] \[command\]/);
  for (const { name, hidden, summary } of commands) {
    t.equal(help.out.includes(summary), !hidden, `${name} ${hidden ? "is hidden" : "is listed"}`);
  }
  for (const entry of commands.filter((one) => !one.hidden)) {
    const { code, out, err } = await kubeplumb([entry.name, "--help"]);
    t.strictSame([code, err], [0, ""]);
    t.match(out, new RegExp(`^Usage: kubeplumb ${entry.name} `));
    t.match(out, /\nExamples:\n {2}# .+\n {2}(kubeplumb|source)/, `${entry.name} has examples`);
  }
  t.equal((await kubeplumb(["help", "up"])).out, (await kubeplumb(["up", "--help"])).out);

  const version = await kubeplumb(["version", "-o", "json"]);
  t.match(JSON.parse(version.out), { version: /^\d+\.\d+\.\d+/, node: process.version });
  t.match((await kubeplumb(["--version"])).out, /^kubeplumb \d+\.\d+\.\d+ \(node v/);

  const wrong: [string[], RegExp][] = [
    [["statsu"], /^error: unknown command 'statsu'\n\(Did you mean status\?\)\nSee 'kubeplumb --help'\.\n$/],
    [["up", "--nod", "3"], /unknown option '--nod'\n\(Did you mean --nodes\?\)\nSee 'kubeplumb up --help'/],
    [
      ["up", "--nodes", "many"],
      /option '--nodes <count>': number of hosts "many": a whole number from 1 to 4096/,
    ],
    [["up", "--publish", "80"], /"80": \[ADDRESS:\]HOSTPORT:NODEPORT is expected/],
    [["up", "--api-port", "70000"], /port "70000": a whole number from 1 to 65535/],
    [["up", "blue"], /too many arguments/],
    [["status", "-o", "xml"], /Allowed choices are table, json/],
    [["shell"], /missing required argument 'target'/],
    [["exec", "node-1"], /the command is missing: it follows after --/],
    [["exec", "node-1", "ls", "--", "x"], /^error: too many arguments[^\n]*\nSee 'kubeplumb exec --help'/],
    [
      ["exec", "node-1", "ls"],
      /^error: too many arguments[^\n]*\nThe command to be run follows after --\.\nSee/,
    ],
    [
      ["exec", "node-1", "curl", "-s"],
      /unknown option '-s'\n(\(.*\n)?The command to be run follows after --\./,
    ],
    [
      ["help", "statsu"],
      /^error: unknown command 'statsu'\n\(Did you mean status\?\)\nSee 'kubeplumb --help'\.\n$/,
    ],
    [
      ["publish", "0:30080"],
      /^error: "0:30080": host port "0": a whole number from 1 to 65535 is expected\n/,
    ],
    [["completion", "tcsh"], /Allowed choices are bash, zsh, fish/],
    [["kubeconfig", "--kubeconfig", "x"], /--kubeconfig is the file that --merge writes to/],
    [["publish", "1:2:3:4"], /HOSTPORT:NODEPORT is expected/],
  ];
  for (const [argv, said] of wrong) {
    const { code, out, err } = await kubeplumb(argv);
    t.strictSame([code, out], [2, ""], argv.join(" "));
    t.match(err, said);
    t.notMatch(err, /\n {4}at /, "no stack");
  }
});

t.test("errors are one line; -v tells the rest; Ctrl-C is 130", async (t) => {
  const absent = await kubeplumb(["exec", "--name", "absent", "node-1", "--", "true"]);
  t.strictSame(absent, {
    code: 1,
    out: "",
    err: 'error: there is no cluster "absent"; kubeplumb up creates one\n',
  });
  const verbose = await kubeplumb(["shell", "-v", "--name", "absent", "node-1"]);
  t.equal(verbose.code, 1);
  t.match(verbose.err, /^error: there is no cluster "absent".*\n {4}at /);
  const { dir } = pretendCluster("still");
  const stopped = await kubeplumb(["exec", "--name", "still", "node-1", "--", "true"]);
  t.match(stopped, {
    code: 1,
    err: "error: cluster still does not run; 'kubeplumb up --name still' starts it\n",
  });
  t.match(await kubeplumb(["logs", "lab", "--name", "still"]), { code: 1, err: /^error: ENOENT.*lab\.log/ });
  writeFileSync(join(dir, "lab.log"), "one\n");
  writeFileSync(join(dir, "control.log"), "line\n".repeat(5000));
  const both = await kubeplumb(["logs", "--name", "still"]);
  t.match(both.out, /^(control line\n){5000}lab {5}one\n$/, "one after the other");
  const interrupt = new AbortController();
  const followed = await kubeplumb(["logs", "lab", "-f", "--name", "still"], {
    signal: interrupt.signal,
    onOutput: () => interrupt.abort(),
  });
  t.strictSame(followed, { code: 130, out: "one\n", err: "" });
  t.match(await kubeplumb(["logs", "labs", "--name", "still"]), { code: 2 });
});

t.test("commands that only look", async (t) => {
  pretendCluster("look");
  t.match(
    (await kubeplumb(["list"])).out.split("\n"),
    ["look", "still", ""].filter((name) => existsSync(join(home, name)) || !name),
  );
  const clusters = JSON.parse((await kubeplumb(["get", "clusters", "-o", "json"])).out);
  t.match(clusters, [{ name: "look", state: "stopped", context: "kubeplumb-look", nodes: 2 }]);
  t.equal((await kubeplumb(["get", "hosts", "--name", "look"])).out, "node-1\nnode-2\n");
  t.equal(
    (await kubeplumb(["get", "hosts", "--name", "look", "-o", "wide"])).out,
    "HOST     ADDRESS\nnode-1   192.168.56.11\nnode-2   192.168.56.12\n",
  );
  t.equal((await kubeplumb(["kubeconfig", "--name", "look"])).out, clusterKubeconfig("kubeplumb-look"));
  const status = await kubeplumb(["status", "--name", "look"]);
  t.equal(status.code, 1, "it does not run");
  t.match(status.out, /^Cluster look: stopped\n\n {2}API +https:\/\/127\.0\.0\.1:6443\n/);
  t.match(status.out, /NodePort +30080 at http:\/\/127\.0\.0\.1:8080/);
  t.match(status.out, /control +not running/);
  t.match(status.out, /HOST +ADDRESS +STATUS +PODS\nnode-1 +192\.168\.56\.11 +NotReady +0/);
  t.match(status.out, /! the lab process does not run/);
  t.match(JSON.parse((await kubeplumb(["status", "--name", "look", "-o", "json"])).out), {
    state: "stopped",
  });
  const nowhere = ["kubeconfig", "--name", "look", "--merge", "--kubeconfig", "/proc/nowhere/config"];
  t.match(await kubeplumb(nowhere), { code: 1, err: /^error: ENOENT: .*mkdir '\/proc\/nowhere'\n$/ });
  t.strictSame(await kubeplumb(["status", "--name", "nothing"]), {
    code: 1,
    out: "Cluster nothing: absent\n",
    err: "'kubeplumb up --name nothing' creates it\n",
  });
});

t.test("exec and shell: target, streams, exit code", async (t) => {
  const { labSocket, controlSocket } = pretendCluster("run");
  const seen: string[] = [];
  const outcomes: Record<string, unknown> = {
    true: { status: "Success" },
    false: {
      status: "Failure",
      reason: "NonZeroExitCode",
      details: { causes: [{ reason: "ExitCode", message: "3" }] },
    },
    missing: {
      status: "Failure",
      reason: "InternalError",
      message: 'exec: "missing": executable file not found in $PATH',
    },
    denied: { status: "Failure", reason: "InternalError", message: "fork/exec /x: permission denied" },
    broken: { status: "Failure", reason: "InternalError", message: "the host is on fire" },
  };
  const serve = async (path: string): Promise<Server> => {
    const server = createServer((req, res) => {
      const found = req.url === "/api/v1/namespaces/default/pods/web";
      const status = {
        kind: "Status",
        status: "Failure",
        reason: "NotFound",
        code: 404,
        message: "not found",
      };
      res.writeHead(found ? 200 : 404, { "content-type": "application/json" });
      res.end(JSON.stringify(found ? { metadata: { name: "web" } } : status));
    });
    const sockets = new WebSocketServer({ noServer: true, handleProtocols: () => "v5.channel.k8s.io" });
    server.on("upgrade", (req, socket, head) => {
      seen.push(req.url ?? "");
      sockets.handleUpgrade(req, socket, head, (ws) => {
        const url = new URL(req.url ?? "/", "http://x");
        const finish = () => {
          const outcome = outcomes[url.searchParams.get("command") ?? ""] ?? outcomes.true;
          ws.send(Buffer.concat([Buffer.of(3), Buffer.from(JSON.stringify(outcome))]));
        };
        ws.on("message", (data: Buffer) => {
          if (data[0] === 0) ws.send(Buffer.concat([Buffer.of(1), Buffer.from(`<${data.subarray(1)}>`)]));
          if (data[0] === 255) finish();
        });
        if (!url.searchParams.has("stdin")) finish();
      });
    });
    server.listen(path);
    await once(server, "listening");
    t.teardown(() => {
      for (const ws of sockets.clients) ws.terminate();
      server.closeAllConnections();
      server.close();
    });
    return server;
  };
  await Promise.all([serve(labSocket), serve(controlSocket)]);
  const exec = (argv: readonly string[], stdin?: string) =>
    kubeplumb(["exec", "--name", "run", ...argv], { stdin });

  t.strictSame(await exec(["node-1", "--", "true", "-n", "--", "x"], "hi"), {
    code: 0,
    out: "<hi>",
    err: "",
  });
  t.equal(
    seen.pop(),
    "/hosts/node-1/exec?command=true&command=-n&command=--&command=x&stdin=true&stdout=true&stderr=true",
    "what follows -- is the command, untouched",
  );
  t.match(await exec(["node-2", "--no-stdin", "--", "false"]), { code: 3, out: "" });
  t.equal(seen.pop(), "/hosts/node-2/exec?command=false&stdout=true&stderr=true");
  t.match(await exec(["node-1", "--", "missing"]), { code: 127, err: /not found in \$PATH/ });
  t.match(await exec(["node-1", "--", "denied"]), { code: 126, err: /permission denied/ });
  t.match(await exec(["node-1", "--", "broken"]), { code: 1, err: "error: the host is on fire\n" });
  seen.length = 0;
  await exec(["default/web", "-c", "app", "--", "true"]);
  await exec(["web", "--", "true"]);
  await exec(["-n", "kube-system", "node-1", "--", "true"]);
  await exec(["pod/node-1", "--", "true"]);
  await exec(["-t", "node-1", "--", "true"]);
  t.strictSame(
    seen.map((url) => url.split("?")[0]),
    [
      "/api/v1/namespaces/default/pods/web/exec",
      "/api/v1/namespaces/default/pods/web/exec",
      "/api/v1/namespaces/kube-system/pods/node-1/exec",
      "/api/v1/namespaces/default/pods/node-1/exec",
      "/hosts/node-1/exec",
    ],
  );
  t.match(seen[0], /container=app/);
  t.notMatch(seen[4], /tty/, "no terminal without one");
  t.match(await exec(["node-9", "--", "true"]), {
    code: 1,
    err: 'error: "node-9" is neither a host (node-1, node-2) nor a pod in namespace default\n',
  });
  t.match(await exec(["a/b/c", "--", "true"]), { code: 2 });
  t.match(await exec(["-n", "x", "y/z", "--", "true"]), {
    code: 2,
    err: /two namespaces: y in "y\/z" and x/,
  });
  t.match(await kubeplumb(["shell", "--name", "run", "node-1"], { stdin: "echo" }), {
    code: 0,
    out: "<echo>",
  });
  t.match(seen.pop(), /\/hosts\/node-1\/exec\?command=%2Fbin%2F(ba)?sh&stdin=true/);
});

t.test("the step list, on a terminal and not", async (t) => {
  const play = (isTTY: boolean, quiet = false, color = isTTY) => {
    const sink = new Sink();
    sink.columns = 30;
    const steps = new Steps(sink as Output, { style: createStyle(color), interactive: isTTY, quiet });
    steps.handle({ id: "a", title: "Control plane", state: "start" });
    steps.handle({ id: "a", title: "Control plane", state: "done", ms: 420 });
    steps.handle({ id: "b", title: "A title that is too long for the terminal", state: "start" });
    steps.handle({ id: "c", title: "Beside it", state: "start" });
    steps.handle({ id: "b", title: "Hosts", state: "done", ms: 61_500 });
    steps.handle({ id: "c", title: "Beside it", state: "failed", ms: 12_340, detail: "first\nsecond\n" });
    steps.handle({ id: "d", title: "Not finished", state: "start" });
    steps.close();
    return sink.text;
  };
  const unsized = new Sink();
  unsized.columns = 0;
  new Steps(unsized as Output, { style: createStyle(false), interactive: true }).start("Control plane");
  t.match(unsized.text, / ⠋ Control plane$/, "a terminal that does not tell its width");
  const plain = [
    " ✓ Control plane                               0.42s",
    " ✓ Hosts                                       1m02s",
    " ✗ Beside it                                   12.3s",
    "   first",
    "   second",
    "",
  ];
  t.equal(play(false), plain.join("\n"));
  t.equal(play(false, true), plain.slice(2).join("\n"), "quiet: only what failed");
  const clear = "\r\x1b[K";
  const spin = (frame: string, title: string) => `${clear} \x1b[36m${frame}\x1b[39m ${title}`;
  t.equal(
    play(true),
    [
      spin("⠋", "Control plane"),
      `${clear} \x1b[32m✓\x1b[39m Control plane                               \x1b[2m0.42s\x1b[22m\n`,
      spin("⠙", "A title that is too long …"),
      spin("⠹", "Beside it"),
      `${clear} \x1b[32m✓\x1b[39m Hosts                                       \x1b[2m1m02s\x1b[22m\n`,
      spin("⠸", "Beside it"),
      `${clear} \x1b[31m✗\x1b[39m Beside it                                   \x1b[2m12.3s\x1b[22m\n`,
      "   \x1b[2mfirst\x1b[22m\n   \x1b[2msecond\x1b[22m\n",
      spin("⠼", "Not finished"),
      clear,
    ].join(""),
  );
  t.notMatch(play(true, false, false), /\[[0-9]+m/, "NO_COLOR leaves the spinner its place, without colours");
});

t.test("tables, times, ports, command lines", async (t) => {
  t.equal(hasColor(new Sink(true) as Output, {}), true);
  t.equal(hasColor(new Sink() as Output, {}), false, "no terminal");
  for (const env of [{ NO_COLOR: "1" }, { TERM: "dumb" }, { CI: "true" }])
    t.equal(hasColor(new Sink(true) as Output, env), false, JSON.stringify(env));
  const { red } = createStyle(true);
  t.equal(
    formatTable(
      [
        ["A", "LONG"],
        [red("xyz"), "1"],
        ["", ""],
      ],
      " ",
    ),
    ` A     LONG\n ${red("xyz")}   1\n\n`,
  );
  t.equal(formatTable([]), "");
  t.strictSame([0, 999, 9994, 9996, 59_949, 60_000, 125_000].map(formatDuration), [
    "0.00s",
    "1.00s",
    "9.99s",
    "10.0s",
    "59.9s",
    "1m00s",
    "2m05s",
  ]);
  t.strictSame(
    [5, 119, 120, 10_800, 12_000, 200_000].map((s) => formatAge(s * 1000)),
    ["5s", "119s", "2m", "3h", "3h20m", "2d"],
  );
  t.strictSame(parsePublish("8080:30080"), { hostPort: 8080, nodePort: 30080 });
  t.strictSame(parsePublish("127.0.0.2:80:30080"), { hostPort: 80, nodePort: 30080, address: "127.0.0.2" });
  t.strictSame(parsePublish("[::1]:80:30080"), { hostPort: 80, nodePort: 30080, address: "::1" });
  for (const bad of ["", "80", "a:1", "1:b", "0:1", "1:65536", "::1:80:30080", "1:2:3:4"])
    t.throws(() => parsePublish(bad), bad);
  t.equal(publishedUrl({ hostPort: 80, nodePort: 1, address: "::1" }), "http://[::1]:80");
  t.equal(shellLine(["sh", "-c", "echo 'a' $b", ""]), `sh -c 'echo '\\''a'\\'' $b' ''`);
  const bin = join(directory, "bin");
  const npmBin = join(directory, "node_modules", ".bin");
  for (const one of [bin, npmBin]) {
    mkdirSync(one, { recursive: true });
    writeFileSync(join(one, "kubeplumb"), "");
    chmodSync(join(one, "kubeplumb"), 0o755);
  }
  t.equal(selfCommand({ PATH: npmBin }), "npx kubeplumb", "npm's own PATH is not the user's");
  t.equal(selfCommand({ PATH: `${npmBin}:${bin}` }), "kubeplumb");
});

t.test("logs: the end of a file, what is added, and how it reads", async (t) => {
  const path = join(directory, "some.log");
  const lines = Array.from({ length: 30_000 }, (_, index) => `line ${index} ü`);
  writeFileSync(path, `${lines.join("\n")}\n`);
  const stop = new AbortController();
  const take = async (count?: number) => {
    const found: string[] = [];
    for await (const line of tailFile(path, { lines: count, signal: stop.signal })) found.push(line);
    return found;
  };
  t.strictSame(await take(3), lines.slice(-3));
  t.strictSame(await take(0), []);
  t.strictSame(await take(29_999), lines.slice(1));
  t.strictSame(await take(50_000), lines);
  t.strictSame(await take(), lines);
  const followed: string[] = [];
  const following = (async () => {
    for await (const line of tailFile(path, { lines: 1, follow: true, signal: stop.signal })) {
      followed.push(line);
      if (line === "end") stop.abort();
    }
  })();
  while (followed.length < 1) await sleep(5);
  appendFileSync(path, "more\nha");
  while (followed.length < 2) await sleep(5);
  appendFileSync(path, "lf\n");
  while (followed.length < 3) await sleep(5);
  writeFileSync(path, "anew\nend\n");
  await following;
  t.strictSame(followed, [lines.at(-1), "more", "half", "anew", "end"]);

  const plain = createStyle(false);
  const entry = {
    level: 40,
    time: "2026-11-21T03:04:05.006",
    pid: 1,
    hostname: "h",
    name: "lab",
    part: "proxy",
    msg: "slow sync",
    node: "node-1",
    ms: 12,
    err: { message: "no lock" },
    note: "two words",
  };
  t.equal(
    formatLogLine(JSON.stringify(entry), plain),
    '03:04:05.006 WARN  proxy slow sync node=node-1 ms=12 err="no lock" note="two words"',
  );
  for (const other of ["plain text", "{broken", "{}", ""]) t.equal(formatLogLine(other, plain), other);
});
