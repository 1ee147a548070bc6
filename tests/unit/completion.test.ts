// Completion: what may follow a command line, and the scripts in the real shells, each asked as it is asked at a TAB.

import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import t from "tap";
import { commands } from "../../cli/commands/index.js";
import { complete } from "../../cli/completion/candidates.js";
import { completionScript, SHELLS, type Shell } from "../../cli/completion/scripts.js";
import { findProgram } from "../../cli/programs.js";
import { directory, installCommand, kubeplumb, pretendCluster } from "../helpers/cli.js";

t.test("what may follow", async (t) => {
  const providers = {
    clusters: async () => ["kubeplumb", "blue"],
    hosts: async (cluster: string) => [`${cluster}-1`, `${cluster}-2`],
    targets: async (cluster: string) => [`${cluster}-1`, "default/web-0"],
    pods: async (cluster: string) => [`default/${cluster}-pod`, "shop/cart-0"],
    services: async (cluster: string) => ["default/web", "shop/web", `shop/${cluster}-cart`],
  };
  const of = async (...words: string[]) => {
    const { candidates, files } = await complete(words, commands, providers, "kubeplumb");
    return [...candidates.map(({ value }) => value), ...(files ? [":files"] : [])];
  };
  t.strictSame(await of("st"), ["status"]);
  t.ok((await of("")).includes("help"));
  t.notOk((await of("")).includes("__complete"));
  t.strictSame(await of("-q", "ve"), ["version"]);
  t.strictSame(await of("--ver"), ["--version", "--verbose"]);
  t.strictSame(await of("up", "--ver"), ["--verbose"], "the version is asked for before a command");
  t.strictSame(await of("help", "dow"), ["down"]);
  t.strictSame(await of("up", "--no"), ["--nodes"]);
  t.strictSame(await of("up", "--nodes", "3", "--nod"), [], "once is enough");
  t.strictSame(await of("up", "--publish", "1:2", "--pub"), ["--publish"], "this one may be repeated");
  t.strictSame(await of("up", "--config", ""), [":files"]);
  t.strictSame(await of("down", "--name", "b"), ["blue"]);
  t.strictSame(await of("down", "--name=b"), ["--name=blue"]);
  t.strictSame(await of("down", "--name", "=", "b"), ["blue"], "as bash cuts it");
  t.strictSame(await of("status", "-o", ""), ["table", "json"]);
  t.strictSame(await of("exec", ""), ["kubeplumb-1", "default/web-0"]);
  t.strictSame(await of("exec", "--name", "blue", "b"), ["blue-1"], "of the cluster that is named");
  t.strictSame(await of("exec", "kubeplumb-1", ""), ["--"]);
  t.strictSame(await of("exec", "kubeplumb-1", "--", "cat", ""), [":files"], "somebody else's command");
  t.strictSame(
    await of("explain", ""),
    ["web", "shop/web", "shop/kubeplumb-cart"],
    "Services, as they are taken",
  );
  t.strictSame(await of("explain", "de"), ["default/web"], "with the namespace for who begins so");
  t.strictSame(await of("explain", "-n", "shop", ""), ["web", "kubeplumb-cart", "default/web"]);
  t.strictSame(await of("explain", "--namespace=shop", "--name", "blue", "b"), ["blue-cart"]);
  t.strictSame(await of("explain", "web", "--from", ""), [
    ...["node/kubeplumb-1", "node/kubeplumb-2"],
    ...["pod/kubeplumb-pod", "pod/shop/cart-0"],
    "external",
  ]);
  t.strictSame(await of("explain", "web", "--from", "pod/d"), ["pod/default/kubeplumb-pod"]);
  t.strictSame(await of("explain", "web", "-n", "shop", "--from=pod/c"), ["--from=pod/cart-0"]);
  t.strictSame(await of("explain", "web", "--from", "e"), ["external"]);
  t.strictSame(await of("explain", "web", ""), [], "one destination");
  t.strictSame(await of("rules", "kubeplumb-1", "s"), ["shop/web", "shop/kubeplumb-cart"]);
  t.strictSame(await of("completion", ""), [...SHELLS]);
  t.strictSame(await of("nonsense", ""), []);
  for (const { load, name } of commands) t.ok((await load()).default.examples.length > 0, name);

  const { controlSocket } = pretendCluster("tab");
  t.equal((await kubeplumb(["__complete", "--", "exec", "--name", "tab", "node-"])).out, "node-1\nnode-2\n");
  const tab = async (...words: string[]) => (await kubeplumb(["__complete", "--", ...words])).out.split("\n");
  const named = (namespace: string, name: string, spec = {}) => ({ metadata: { namespace, name }, spec });
  const lists: Record<string, object[]> = {
    "/api/v1/services": [
      named("default", "web", { clusterIP: "10.96.0.10" }),
      named("shop", "web", { clusterIP: "10.96.0.11" }),
      named("shop", "headless", { clusterIP: "None" }),
      named("shop", "alias", { type: "ExternalName", externalName: "example.org" }),
    ],
    "/api/v1/pods": [named("default", "web-0"), named("shop", "web-0")],
  };
  const server = createServer((req, res) => {
    const items = lists[req.url?.split("?")[0] ?? ""];
    res.writeHead(items ? 200 : 404, { "content-type": "application/json" });
    res.end(JSON.stringify({ apiVersion: "v1", kind: "List", metadata: { resourceVersion: "1" }, items }));
  }).listen(controlSocket);
  await once(server, "listening");
  t.strictSame(await tab("explain", "--name", "tab", ""), ["web", "shop/web", ""], "what has rules");
  t.strictSame(await tab("explain", "web", "--name", "tab", "--from", "pod/"), [
    ...["pod/web-0", "pod/default/web-0", "pod/shop/web-0"],
    "",
  ]);
  t.strictSame(await tab("exec", "--name", "tab", "s"), ["shop/web-0", ""]);
  server.closeAllConnections();
  server.close();
  await once(server, "close");
  t.strictSame(await tab("explain", "--name", "tab", ""), [""], "nobody to ask");
});

/** The folder that the shells find the command in, and the one that they stand in. */
const bin = join(directory, "bin");
const folder = join(directory, "folder");
installCommand(bin);
mkdirSync(folder);
writeFileSync(join(folder, "my file.yaml"), "");
for (const shell of SHELLS) writeFileSync(join(bin, `completion.${shell}`), completionScript(shell));
pretendCluster("tab");

const missing = (shell: Shell) =>
  findProgram(shell, process.env) ? false : `${shell} is not on this machine`;

/** What the shell prints; fails with what it says. */
function inShell(shell: Shell, argv: readonly string[]): string {
  const env = { ...process.env, PATH: `${bin}:${process.env.PATH}`, HOME: directory, TERM: "dumb" };
  const options = { cwd: folder, env, encoding: "utf8", timeout: 60_000 } as const;
  const { stdout, stderr, status, error } = spawnSync(shell, argv, options);
  if (error) throw error;
  if (status !== 0 || stderr) throw new Error(`${shell}: exit code ${status}: ${stderr}${stdout}`);
  return stdout;
}

/** bash: the words as readline cuts them. Inserting an answer is readline's part. */
function bash(words: readonly string[]): string[] {
  const script = `. "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _kubeplumb; printf '%s\\n' "\${COMPREPLY[@]}"`;
  const out = inShell("bash", ["--norc", "-c", script, "bash", join(bin, "completion.bash"), ...words]);
  return out.split("\n").filter(Boolean);
}

t.test("bash", async (t) => {
  t.strictSame(bash(["kubeplumb", "exec", "--name", "tab", "node-"]), ["node-1", "node-2"]);
  t.strictSame(bash(["kubeplumb", "sta"]), ["status"], "descriptions are not for bash");
  t.strictSame(bash(["kubeplumb", "down", "--name", "="]), ["tab"], "--name=");
  t.strictSame(bash(["kubeplumb", "down", "--name", "=", "t"]), ["tab"], "--name=t");
  t.strictSame(bash(["kubeplumb", "down", "--name", '"t']), ["tab"], "in quotes");
  t.strictSame(bash(["~/bin/kubeplumb", "sta"]), ["status"]);
  t.strictSame(bash(["kubeplumb", "up", "--config", "my"]), ["my file.yaml"]);
  t.strictSame(bash(["kubeplumb", "nonsense", ""]), []);
});

/** A real zsh at a terminal: types the line and a TAB, answers with the line that stands there then. */
const ZSH_DRIVER = `
zmodload zsh/zpty
zpty inner zsh -f -i
zpty -w inner "autoload -Uz compinit; compinit -u -D; source $1"
zpty -w inner 'show() { print -r -- "<line>$BUFFER<end>"; BUFFER= }; zle -N show; bindkey "^X" show; print rea""dy'
zpty -r inner out '*ready*'
for line in "$@[2,-1]"; do
  zpty -w -n inner "$line"$'\t\x18'
  zpty -r inner out '*<end>*'
  print -r -- "\${\${out##*<line>}%%<end>*}"
done
zpty -d inner
`;

t.test("zsh", { skip: missing("zsh") }, async (t) => {
  const expected: Record<string, string> = {
    "kubeplumb sta": "kubeplumb status ",
    "kubeplumb exec --name tab n": "kubeplumb exec --name tab node-",
    "kubeplumb down --name=": "kubeplumb down --name=tab ",
    'kubeplumb down --name "t': 'kubeplumb down --name "tab" ',
    "~/bin/kubeplumb sta": "~/bin/kubeplumb status ",
    "kubeplumb up --config m": "kubeplumb up --config my\\ file.yaml ",
    "kubeplumb up --config=my\\ f": "kubeplumb up --config=my\\ file.yaml ",
    "kubeplumb nonsense ": "kubeplumb nonsense ",
  };
  const lines = Object.keys(expected);
  const out = inShell("zsh", ["-f", "-c", ZSH_DRIVER, "zsh", join(bin, "completion.zsh"), ...lines]);
  t.strictSame(out.split("\n").slice(0, -1), Object.values(expected));
});

t.test("fish", { skip: missing("fish") }, async (t) => {
  const fish = (line: string) =>
    inShell("fish", [
      "--no-config",
      "-c",
      'source $argv[1]; complete -C "$argv[2]"',
      join(bin, "completion.fish"),
      line,
    ])
      .split("\n")
      .filter(Boolean);
  t.strictSame(fish("kubeplumb sta"), ["status\tshow how a cluster is"]);
  t.strictSame(fish("kubeplumb exec --name tab n"), ["node-1", "node-2"]);
  t.strictSame(fish("kubeplumb down --name="), ["--name=tab"]);
  t.strictSame(fish('kubeplumb down --name "t'), ["tab"]);
  t.strictSame(fish("~/bin/kubeplumb sta"), ["status\tshow how a cluster is"]);
  t.strictSame(fish("kubeplumb up --config m"), ["my file.yaml"]);
  t.strictSame(fish("kubeplumb up --config=my\\ f"), ["--config=my file.yaml"]);
  t.strictSame(fish("kubeplumb nonsense "), []);
});
