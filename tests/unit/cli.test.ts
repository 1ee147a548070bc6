// The kubeplumb command: arguments, exit codes, help, step list, kubeconfig files, remote commands and the demo's
// parts. What needs a cluster is played by a small server on the cluster's own socket.

import { execFileSync, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  appendFileSync,
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createServer, type Server } from "node:http";
import { dirname, join } from "node:path";
import { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import t from "tap";
import { WebSocketServer } from "ws";
import { commands } from "../../cli/commands/index.js";
import type { Action } from "../../cli/demo/action.js";
import { httpCommand } from "../../cli/demo/http.js";
import { createOwnClient } from "../../cli/demo/own-client.js";
import { answeredBy } from "../../cli/demo/tour.js";
import { Transcript } from "../../cli/demo/transcript.js";
import { kubeconfigFiles, mergeContext, removeContext } from "../../cli/kubeconfig-file.js";
import { formatLogLine } from "../../cli/log-format.js";
import { parsePublish, publishedUrl } from "../../cli/ports.js";
import { selfCommand, shellLine } from "../../cli/programs.js";
import { Steps } from "../../cli/steps.js";
import { hasColor, type Output } from "../../cli/streams.js";
import { createStyle, formatAge, formatDuration } from "../../cli/style.js";
import { formatTable } from "../../cli/table.js";
import { tailFile } from "../../cli/tail.js";
import { parseKubeconfig } from "../../client/kubeconfig.js";
import { clusterInfo } from "../../lab/lifecycle.js";
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

t.test("which kubeconfig files count", async (t) => {
  t.strictSame(kubeconfigFiles({ HOME: "/h" }), ["/h/.kube/config"]);
  t.strictSame(kubeconfigFiles({ HOME: "/h", KUBECONFIG: "" }), ["/h/.kube/config"]);
  t.strictSame(kubeconfigFiles({ HOME: "/h", KUBECONFIG: ":/a::/b:/a" }), ["/a", "/b"]);
  t.strictSame(kubeconfigFiles({ HOME: "/h", KUBECONFIG: "/a" }, "/x"), ["/x"]);
});

t.test("merging into a kubeconfig and taking out again", async (t) => {
  const at = (...parts: string[]) => join(directory, "kube", ...parts);
  const own = clusterKubeconfig("kubeplumb-a");
  const read = (path: string) => readFileSync(path, "utf8");
  const merge = async (files: string[], source = own) =>
    (await mergeContext(files, source, "kubeplumb-a")).changed;

  const fresh = at("new", "deep", "config");
  t.strictSame(await merge([fresh]), [fresh]);
  t.equal(statSync(fresh).mode & 0o777, 0o600);
  t.strictSame(readdirSync(dirname(fresh)), ["config"], "neither lock nor draft remains");
  const parsed = parseKubeconfig(read(fresh));
  t.equal(parsed.currentContext, "kubeplumb-a");
  t.strictSame(parsed.contexts.get("kubeplumb-a"), { cluster: "kubeplumb-a", user: "kubeplumb-a" });
  t.match(read(fresh), /^clusters:\n- cluster:/m, "lists as kubectl writes them");
  t.ok(
    read(fresh)
      .split("\n")
      .some((line) => line.length > 300),
    "base64 is not folded",
  );
  t.strictSame(await merge([fresh]), [], "the same again changes nothing");
  t.strictSame(await merge([fresh], clusterKubeconfig("kubeplumb-a", "https://127.0.0.1:7000")), [fresh]);
  t.equal(parseKubeconfig(read(fresh)).clusters.get("kubeplumb-a")?.server, "https://127.0.0.1:7000");
  t.equal(read(fresh).match(/name: kubeplumb-a/g)?.length, 3, "replaced, not doubled");

  const mine = `# my clusters
apiVersion: v1
kind: Config
preferences: {}
clusters:
  # the one at work
  - name: work
    cluster:
      server: https://work.example # do not touch
contexts:
  - name: work
    context: {cluster: work, user: me}
current-context: work
users:
  - name: me
    user:
      token: "0123"
extra: [kept]
`;
  const existing = at("mine");
  writeFileSync(existing, mine, { mode: 0o644 });
  const link = at("link");
  symlinkSync(existing, link);
  await merge([link]);
  const merged = read(existing);
  for (const line of mine.split("\n").filter((one) => one && !one.startsWith("current-context"))) {
    t.ok(merged.includes(line), `kept: ${line}`);
  }
  t.match(merged, /^current-context: kubeplumb-a$/m);
  t.equal(statSync(existing).mode & 0o777, 0o600, "there are keys inside now");
  t.ok(statSync(link).ino === statSync(existing).ino, "a symbolic link stays one");
  if (process.getuid?.() === 0) {
    const theirs = at("theirs");
    writeFileSync(theirs, "");
    chownSync(theirs, 1234, 1234);
    await merge([theirs]);
    t.match(statSync(theirs), { uid: 1234, gid: 1234 }, "root takes nobody's file away");
  }
  t.strictSame(await removeContext([link, at("absent")], "kubeplumb-a"), [link]);
  t.equal(read(existing), mine.replace("current-context: work", 'current-context: ""'));
  const before = statSync(existing).mtimeMs;
  t.strictSame(await removeContext([existing], "kubeplumb-a"), []);
  t.equal(statSync(existing).mtimeMs, before, "not touched when there is nothing to take out");
  await merge([existing]);
  writeFileSync(existing, read(existing).replace("current-context: kubeplumb-a", "current-context: work"));
  await removeContext([existing], "kubeplumb-a");
  t.match(read(existing), /^current-context: work$/m, "another current context stays");

  // A list of files: existing one first, entries where they are, current-context where it is decided.
  const [none, first, second] = [at("none"), at("first"), at("second")];
  writeFileSync(first, "");
  writeFileSync(second, "current-context: other\ncontexts: []\n");
  t.strictSame(await merge([none, first, second]), [first, second]);
  t.match(parseKubeconfig(read(first)), { currentContext: undefined });
  t.ok(parseKubeconfig(read(first)).contexts.has("kubeplumb-a"));
  t.equal(parseKubeconfig(read(second)).currentContext, "kubeplumb-a");
  t.equal(existsSync(none), false);
  t.strictSame(
    await merge([second, first], clusterKubeconfig("kubeplumb-a", "https://127.0.0.1:1")),
    [first],
    "changed in the file that has it",
  );
  t.strictSame(await merge([at("x"), at("y")]), [at("y")], "none exists: the last");
  t.strictSame((await removeContext([first, second], "kubeplumb-a")).sort(), [first, second].sort());
  writeFileSync(at("comment"), "# only a comment\n");
  await merge([at("comment")]);
  t.match(read(at("comment")), /^# only a comment\n/);

  for (const [text, said] of [
    ["clusters: [\n", /bad: line \d+: /],
    ["clusters: {}\n", /bad: clusters is not a list/],
    ["- a\n", /bad is no kubeconfig: a mapping is expected/],
    ["a: 1\n---\nb: 2\n", /bad: one YAML document is expected/],
  ] as const) {
    writeFileSync(at("bad"), text);
    await t.rejects(merge([at("bad")]), said);
    t.equal(read(at("bad")), text, "unchanged");
    t.equal(existsSync(at("bad.lock")), false);
  }
});

t.test("the lock of a kubeconfig is kubectl's", async (t) => {
  const path = join(directory, "kube", "locked");
  const own = clusterKubeconfig("kubeplumb-a");
  writeFileSync(`${path}.lock`, "");
  let done = false;
  const merging = mergeContext([path], own, "kubeplumb-a").then(() => {
    done = true;
  });
  await sleep(150);
  t.equal(done, false, "waits while another one writes");
  rmSync(`${path}.lock`);
  await merging;
  t.ok(existsSync(path));
  const names = Array.from({ length: 12 }, (_, index) => `kubeplumb-${index}`);
  await Promise.all(names.map((name) => mergeContext([path], clusterKubeconfig(name), name)));
  const contexts = parseKubeconfig(readFileSync(path, "utf8")).contexts;
  t.strictSame(
    names.filter((name) => !contexts.has(name)),
    [],
    "twelve at once, none is lost",
  );
});

t.test("kubeconfig --merge and down, by the command", async (t) => {
  const { dir } = pretendCluster("merge");
  const [config, other] = [join(directory, "user-config"), join(directory, "other-config")];
  const env = { KUBECONFIG: config };
  t.match(await kubeplumb(["kubeconfig", "--name", "merge", "--merge"], { env }), {
    code: 0,
    out: "",
    err: /is in .*user-config/,
  });
  t.match(await kubeplumb(["kubeconfig", "--name", "merge", "--merge", "-q"], { env }), {
    code: 0,
    out: "",
    err: "",
  });
  await kubeplumb(["kubeconfig", "--name", "merge", "--merge", "--kubeconfig", other], { env });
  if (existsSync("/usr/bin/kubectl")) {
    const said = execFileSync("/usr/bin/kubectl", ["--kubeconfig", config, "config", "current-context"]);
    t.equal(said.toString(), "kubeplumb-merge\n", "kubectl reads what we write");
  }
  t.match(await kubeplumb(["down", "--name", "merge"], { env }), {
    code: 0,
    out: "",
    err: / ✓ Cluster merge is removed/,
  });
  t.equal(existsSync(dir), false);
  for (const path of [config, other]) t.notOk(existsSync(path), "taken out wherever it was written");
  t.match(await kubeplumb(["down", "--name", "merge"], { env }), {
    code: 0,
    err: / ✓ There is no cluster merge/,
  });
  const unreadable = join(directory, "unreadable");
  mkdirSync(unreadable);
  const strange = await kubeplumb(["down", "--name", "merge"], { env: { KUBECONFIG: unreadable } });
  t.match(strange, { code: 0, err: /! kubeconfig .*unreadable cannot be read/ });
  const asked = await kubeplumb(["down", "--name", "merge", "--kubeconfig", unreadable]);
  t.match(asked, {
    code: 1,
    err: /✓ There is no cluster merge.*error: kubeconfig .* cannot be read: Error: EISDIR/s,
  });
});

t.test("down takes away what kubeplumb made, and nothing else", async (t) => {
  const folder = join(directory, "made");
  const connected = async (name: string, config: string) => {
    pretendCluster(name);
    await kubeplumb(["kubeconfig", "--name", name, "--merge", "--kubeconfig", config]);
    t.ok(existsSync(config), name);
  };
  const down = (name: string) => kubeplumb(["down", "--name", name], { env: { KUBECONFIG: "/dev/null" } });

  const own = join(folder, "deep", ".kube", "config");
  await connected("first", own);
  await connected("second", own);
  await down("first");
  t.match(readFileSync(own, "utf8"), /kubeplumb-second/, "while another cluster is in it, it stays");
  t.match(await down("second"), { code: 0 });
  t.notOk(existsSync(folder), "then it goes, with the folders that were made for it");

  const kube = join(folder, "kube");
  mkdirSync(kube, { recursive: true });
  const config = join(kube, "config");
  await connected("first", config);
  await down("first");
  t.strictSame(readdirSync(kube), [], "a folder that was there before stays");
  for (const before of ["", "apiVersion: v1\nkind: Config\n"]) {
    writeFileSync(config, before);
    await connected("first", config);
    await down("first");
    t.ok(existsSync(config), "so does a file, an empty one too");
  }
  rmSync(config);

  for (const [what, change] of [
    ["a context", (text: string) => text.replace("contexts:\n", "contexts:\n- name: x\n  context: {}\n")],
    ["a current context", (text: string) => text.replace(/current-context: .*/, "current-context: work")],
    ["a comment", (text: string) => `# mine\n${text}`],
    ["a setting", (text: string) => `${text}preferences: { colors: true }\n`],
  ] as const) {
    await connected("first", config);
    const text = readFileSync(config, "utf8");
    writeFileSync(config, change(text));
    t.not(readFileSync(config, "utf8"), text, what);
    await down("first");
    t.ok(existsSync(config), `${what} that somebody has added stays`);
    rmSync(config);
  }
  await connected("first", config);
  writeFileSync(config, "apiVersion: v1\nkind: Config\npreferences: {}\ncontexts: null\n");
  await down("first");
  t.notOk(existsSync(config), "emptied by kubectl: it goes");
  await connected("first", config);
  rmSync(config);
  symlinkSync(join(folder, "target"), config);
  writeFileSync(join(folder, "target"), "");
  t.match(await down("first"), { code: 0, err: /removed/ });
  t.ok(existsSync(config), "a link that took its place stays");
  await connected("second", join(folder, "gone", "config"));
  rmSync(join(folder, "gone"), { recursive: true });
  t.match(await down("second"), { code: 0, err: /^ ✓ Cluster second is removed[^\n]*\n$/ }, "gone already");
});

t.test("up checks the kubeconfig and the configuration before anything begins", async (t) => {
  const bad = join(directory, "bad-config");
  writeFileSync(bad, "contexts: 5\n");
  const env = { KUBECONFIG: bad };
  t.match(await kubeplumb(["up", "--name", "never"], { env }), {
    code: 1,
    err: /bad-config: contexts is not a list/,
  });
  const yaml = join(directory, "cluster.yaml");
  writeFileSync(yaml, "kind: Cluster\nnodez: 3\n");
  t.match(await kubeplumb(["up", "--name", "never", "--config", yaml]), {
    code: 1,
    err: /cluster\.yaml.*nodez/s,
  });
  t.match(await kubeplumb(["up", "--name", "never", "--config", "-"], { stdin: "nodes: 0" }), {
    code: 1,
    err: /nodes/,
  });
  t.match(await kubeplumb(["up", "--name", "never", "--config", join(directory, "no.yaml")]), {
    code: 1,
    err: /^error: configuration .*no\.yaml cannot be read: .*no such file[^\n]*\n$/,
  });
  t.equal(existsSync(join(home, "never")), false);
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

t.test("the demo shows what it runs and believes nothing unseen", async (t) => {
  const [stdout, stderr] = [new Sink(), new Sink()];
  const interrupt = new AbortController();
  const plain = createStyle(false);
  const transcript = new Transcript({
    streams: { stdin: Readable.from([]), stdout: stdout as Output, stderr: stderr as Output, env: {} },
    signal: interrupt.signal,
    quiet: false,
    verbose: false,
    style: plain,
    noteStyle: plain,
    rest: undefined,
    print: (text) => void stdout.write(text.endsWith("\n") ? text : `${text}\n`),
    note: (text) => void stderr.write(`${text}\n`),
    steps: () => new Steps(stderr as Output, { style: plain, interactive: false }),
  });
  const reply = (pod: string) => `Hello Kubernetes bootcamp! | Running on: ${pod} | v=1\n`;
  let attempts = 0;
  const action: Action = {
    line: "curl -s 10.96.0.1:8080",
    run: async () => (++attempts < 3 ? { exitCode: 7, output: "" } : { exitCode: 0, output: reply("a") }),
  };
  await transcript.step("ClusterIP", async () => {
    await transcript.runUntil(action, answeredBy([{ name: "a" }]));
    return "ClusterIP answers";
  });
  t.equal(attempts, 3, "repeated until it is right");
  t.equal(stdout.text, `$ curl -s 10.96.0.1:8080\n${reply("a")}`, "shown once, with the real output");
  t.match(stderr.text, /^\n ✓ ClusterIP answers +\d+\.\d\ds\n$/);
  await t.rejects(
    transcript.step("Wrong", async () => {
      await transcript.run({ line: "false", run: async () => ({ exitCode: 1, output: "no\n" }) });
      return undefined;
    }),
    /false: exit code 1/,
  );
  t.match(stderr.text, / ✗ Wrong/);
  interrupt.abort(new Error("stop"));
  await t.rejects(transcript.run(action), /stop/);

  for (const [name, words] of [
    ["kubeplumb", ""],
    ["blue", " --name blue"],
  ] as const) {
    pretendCluster(name);
    const info = clusterInfo(name, home);
    if (!info) throw new Error(name);
    const client = createOwnClient(info, "npx kubeplumb");
    t.equal(
      client.exec("web", ["ls"]).line,
      `npx kubeplumb exec${words} default/web -- ls`,
      "as it has to be typed",
    );
    await client.close();
  }

  const check = answeredBy([{ name: "a" }, { name: "b" }]);
  t.equal(check({ exitCode: 0, output: reply("b") }), undefined);
  t.match(check({ exitCode: 0, output: reply("c") }), /comes from c, which is none of the pods/);
  t.match(check({ exitCode: 0, output: "<html>" }), /not the reply/);
  t.match(check({ exitCode: 28, output: reply("a") }), /exit code 28/);
  const bin = join(directory, "tools");
  mkdirSync(bin);
  t.strictSame(httpCommand("10.0.0.1:80", { PATH: bin }).slice(0, 2), ["node", "-e"]);
  for (const tool of ["wget", "curl"]) {
    writeFileSync(join(bin, tool), "", { mode: 0o755 });
    t.equal(httpCommand("10.0.0.1:80", { PATH: bin })[0], tool);
  }
});

t.test("the bin says what to do when nothing is built", async (t) => {
  const checkout = join(directory, "checkout");
  mkdirSync(join(checkout, "bin"), { recursive: true });
  let root = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(root, "bin", "kubeplumb.mjs"))) root = dirname(root);
  copyFileSync(join(root, "bin", "kubeplumb.mjs"), join(checkout, "bin", "kubeplumb.mjs"));
  const start = () =>
    spawnSync(process.execPath, [join(checkout, "bin", "kubeplumb.mjs"), "x"], { encoding: "utf8" });
  t.match(start(), { status: 1, stdout: "", stderr: /^error: kubeplumb is not built yet .*npm start.*\n$/ });
  mkdirSync(join(checkout, "dist", "cli"), { recursive: true });
  writeFileSync(join(checkout, "package.json"), '{"type":"module"}');
  writeFileSync(
    join(checkout, "dist", "cli", "main.js"),
    "export async function main() { process.exit(7); }",
  );
  t.equal(start().status, 7);
});
