// The kubeplumb command: kubeconfig files, what up checks and down takes away, the demo's parts, the bin.

import { execFileSync, spawnSync } from "node:child_process";
import {
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
import { dirname, join } from "node:path";
import { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import t from "tap";
import type { Action } from "../../cli/demo/action.js";
import { httpCommand } from "../../cli/demo/http.js";
import { createOwnClient } from "../../cli/demo/own-client.js";
import { answeredBy } from "../../cli/demo/tour.js";
import { Transcript } from "../../cli/demo/transcript.js";
import { kubeconfigFiles, mergeContext, removeContext } from "../../cli/kubeconfig-file.js";
import { Steps } from "../../cli/steps.js";
import type { Output } from "../../cli/streams.js";
import { createStyle } from "../../cli/style.js";
import { parseKubeconfig } from "../../client/kubeconfig.js";
import { clusterInfo } from "../../lab/lifecycle.js";
import { clusterKubeconfig, directory, home, kubeplumb, pretendCluster, Sink } from "../helpers/cli.js";

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
