// The WebSocket protocol of exec and attach, and terminals: by the bytes, against a real process.

import { execFileSync, spawn, spawnSync } from "node:child_process";
import {
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeSync,
} from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import koffi from "koffi";
import t from "tap";
import { WebSocket } from "ws";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { ContainerRoot } from "../../node/process/container-root.js";
import { type LaunchedProcess, launch } from "../../node/process/launch.js";
import { DEFAULT_CAPABILITIES, type Privileges } from "../../node/process/privileges.js";
import { parseStat, startReaper } from "../../node/reaper.js";
import { openPty } from "../../node/streams/pty.js";
import { serveRemoteCommand } from "../../node/streams/remote-command.js";
import { UpgradeError } from "../../node/streams/upgrade.js";
import { remoteCommand } from "../unit/helpers/node-harness.js";

const ns = NetNs.create("streams");
const scratch = mkdtempSync(join(tmpdir(), "kubeplumb-streams-"));
const root = ContainerRoot.create({
  ns,
  scratch: join(scratch, "root"),
  mounts: [],
  files: {},
  warn: (message) => t.comment(message),
});
const PRIVILEGES: Privileges = {
  uid: 0,
  gid: 0,
  groups: [],
  capabilities: DEFAULT_CAPABILITIES,
  noNewPrivileges: false,
};
const launched: LaunchedProcess[] = [];
const server: Server = createServer();
server.on("upgrade", (req, socket, head) => {
  serveRemoteCommand(req, socket, head, async ({ command, tty, stdin }) => {
    if (command[0] === "forbidden") throw new UpgradeError(403, "Forbidden", "not you");
    if (command[0] === "broken") throw new Error("it broke");
    const process = launch({
      ns,
      root,
      hostname: "streams",
      privileges: PRIVILEGES,
      argv: command,
      env: { PATH: "/usr/bin:/bin", TERM: "xterm", PS1: "$ " },
      stdin,
      tty,
      warn: (message) => t.comment(message),
    });
    launched.push(process);
    await process.started;
    return {
      stdin: process.stdin,
      stdout: process.stdout,
      stderr: process.stderr,
      resize: (columns, rows) => process.resize(columns, rows),
      exited: process.exited,
      abandon: () => process.signal("SIGKILL"),
    };
  });
});
await new Promise<void>((resolve) => server.listen(join(scratch, "sock"), resolve));
t.teardown(() => {
  server.close();
  server.closeAllConnections();
  root.close();
  ns.close();
  rmSync(scratch, { recursive: true, force: true });
});

function url(command: string[], flags = "stdout=true&stderr=true"): string {
  const query = command.map((word) => `command=${encodeURIComponent(word)}`).join("&");
  return `ws+unix://${join(scratch, "sock")}:/exec?${query}&${flags}`;
}

t.test("output, exit codes and the status channel", async (t) => {
  for (const protocol of ["v5.channel.k8s.io", "v4.channel.k8s.io"]) {
    const result = await remoteCommand(url(["sh", "-c", "echo out; echo err >&2; exit 9"]), { protocol });
    t.match(result, {
      exitCode: 9,
      stdout: "out\n",
      stderr: "err\n",
      status: {
        metadata: {},
        status: "Failure",
        reason: "NonZeroExitCode",
        message: "command terminated with non-zero exit code: exit status 9",
      },
    });
  }
  t.same((await remoteCommand(url(["true"]))).status, { metadata: {}, status: "Success" });
  t.match(
    await remoteCommand(url(["sh", "-c", "kill -9 $$"])),
    { exitCode: 0 },
    "the first process is immune to itself",
  );
  t.match(await remoteCommand(url(["broken"])), { status: { status: "Failure", message: "it broke" } });
  await t.rejects(remoteCommand(url(["forbidden"])), { message: /^403: .*"message":"not you"/ });
  await t.rejects(remoteCommand(url(["true"], "")), {
    message: /^400: .*at least 1 of stdin, stdout, stderr/,
  });
  await t.rejects(remoteCommand(url(["true"]), { protocol: "v1.other" }), {
    message: /^403: .*v5\.channel\.k8s\.io/,
  });
});

t.test("stdin: much data, and its end (v5)", async (t) => {
  const much = Buffer.alloc(3_000_000, "0123456789abcdef");
  const both = "stdin=true&stdout=true&stderr=true";
  const result = await remoteCommand(url(["sh", "-c", "wc -c; echo done"], both), { stdin: much });
  t.match(result, { exitCode: 0, stdout: "3000000\ndone\n" });
  const back = await remoteCommand(url(["cat"], both), { stdin: much });
  t.equal(back.stdout.length, much.length);
  t.equal(back.stdout, much.toString());
  t.match(await remoteCommand(url(["cat"])), { exitCode: 0, stdout: "" }, "without stdin: /dev/null");
});

t.test("a terminal: prompt, size, hang-up", async (t) => {
  const tty = "stdin=true&stdout=true&tty=true";
  let step = 0;
  const result = await remoteCommand(url(["sh", "-i"], tty), {
    onOutput: (stdout, send) => {
      if (step === 0 && stdout.includes("$ ")) {
        step = 1;
        send(4, JSON.stringify({ Width: 132, Height: 43 }));
        send(0, "stty size; tty; echo marker-$((40 + 2))\n");
      }
      if (step === 1 && stdout.includes("marker-42")) {
        step = 2;
        send(0, "exit 4\n");
      }
    },
  });
  t.equal(result.exitCode, 4);
  t.match(result.stdout, /43 132\r\n\/dev\/pts\/\d+\r\nmarker-42\r\n/);
  t.equal(result.stderr, "", "everything comes by stdout");

  let sent = false;
  const interrupted = await remoteCommand(
    url(["sh", "-c", "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.05; done"], tty),
    {
      onOutput: (stdout, send) => {
        // Once: the terminal throws away what it has not shown yet with each.
        if (!sent && stdout.includes("ready")) send(0, "\x03");
        sent = stdout.includes("ready");
      },
    },
  );
  t.match(interrupted, { exitCode: 5, stdout: /caught/ }, "Ctrl-C is a signal");
});

t.test("a client that goes away takes its process along", async (t) => {
  const ws = new WebSocket(url(["sleep", "1000"]), ["v5.channel.k8s.io"]);
  await new Promise((resolve) => ws.once("message", resolve));
  const process = launched.at(-1);
  t.ok(process?.commandPid());
  ws.terminate();
  t.match(await process?.exited, { exitCode: 137 });
});

t.test("a plain pseudo-terminal", async (t) => {
  const pty = openPty();
  pty.resize(50, 20);
  const child = spawn("setsid", ["--ctty", "sh", "-c", "stty size; read line; echo got $line"], {
    stdio: [pty.slave, pty.slave, pty.slave],
  });
  pty.closeSlave();
  pty.stdin.write("typed\n");
  let text = "";
  pty.stdout.on("data", (chunk: Buffer) => {
    text += chunk.toString();
  });
  const heard = new Promise((resolve) => pty.stdout.once("end", resolve));
  await new Promise((resolve) => child.once("exit", resolve));
  await pty.drained();
  await heard;
  t.match(text, /20 50\r\n/);
  t.match(text, /got typed\r\n/);
});

t.test("a namespace's server is reached from inside only", async (t) => {
  const inner = createServer((_req, res) => res.end("inside"));
  const { netlink } = { netlink: (await import("../../dataplane/kernel/rtnetlink.js")).RtNetlink.open(ns) };
  await netlink.setLink("lo", { up: true });
  netlink.close();
  await ns.listen(inner, { host: "127.0.0.1", port: 0 });
  const { port } = inner.address() as AddressInfo;
  const result = await remoteCommand(url(["curl", "-s", `http://127.0.0.1:${port}/`]));
  t.match(result, { exitCode: 0, stdout: "inside" });
  inner.close();
  inner.closeAllConnections();
});

/** Until `condition` holds; tells whether it did. */
async function until(condition: () => boolean): Promise<boolean> {
  for (const end = Date.now() + 60_000; !condition() && Date.now() < end; ) {
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return condition();
}

function statOf(pid: number): ReturnType<typeof parseStat> {
  try {
    return parseStat(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch {
    return undefined;
  }
}

/** Text of a program that launches a command in `launched`, `shared` at /shared; what comes after is the caller's. */
function launcher(argv: string[], env: object, shared: string): string {
  const at = (path: string) => JSON.stringify(new URL(`../../${path}`, import.meta.url).href);
  const mounts = [{ source: shared, target: "/shared" }];
  const options = { mounts, files: {}, scratch: join(scratch, "agent") };
  return `
    import { writeSync } from "node:fs";
    import { NetNs } from ${at("dataplane/kernel/netns.js")};
    import { ContainerRoot } from ${at("node/process/container-root.js")};
    import { launch } from ${at("node/process/launch.js")};
    const own = { ns: NetNs.current(), warn() {} };
    const root = ContainerRoot.create({ ...${JSON.stringify(options)}, ...own });
    const launched = launch({ ...${JSON.stringify({ hostname: "agent", privileges: PRIVILEGES, argv, env, stdin: false })}, ...own, root });
    writeSync(1, launched.pid + "\\n");`;
}

const asModule = (text: string): string[] => ["--input-type=module", "-e", text];

t.test("the reaper takes orphans and leaves libuv's children alone", async (t) => {
  // Orphans come to this process, as they come to the first one of a PID namespace.
  const PR_SET_CHILD_SUBREAPER = 36;
  const prctl = koffi.load("libc.so.6").func("int prctl(int option, unsigned long value)");
  t.equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
  const zombies = () =>
    readdirSync("/proc").filter((name) => {
      const stat = /^\d+$/.test(name) ? statOf(Number(name)) : undefined;
      return stat?.state === "Z" && stat.ppid === process.pid;
    });
  await new Promise((resolve) => spawn("sh", ["-c", "sleep 0.1 & exit 0"]).once("exit", resolve));
  t.ok(await until(() => zombies().length === 1), "an orphan is left as a zombie");
  const stop = startReaper({ intervalMs: 5 });
  const codes = await Promise.all(
    Array.from(
      { length: 20 },
      (_, i) => new Promise((resolve) => spawn("sh", ["-c", `exit ${i}`]).once("exit", resolve)),
    ),
  );
  t.ok(await until(() => zombies().length === 0), "and is reaped");
  stop();
  t.same(
    codes,
    Array.from({ length: 20 }, (_, i) => i),
  );
});

t.test("a killed agent takes its containers along, whenever it is killed", async (t) => {
  const env = { PATH: "/usr/bin:/bin" };
  const die = `process.kill(process.pid, "SIGKILL");`;
  const killed = (text: string): number => {
    const { stdout, signal } = spawnSync(process.execPath, asModule(text), { encoding: "utf8" });
    t.equal(signal, "SIGKILL");
    return Number(stdout);
  };
  const ended = (pid: number) => until(() => (statOf(pid)?.state ?? "Z") === "Z");
  const late = killed(`${launcher(["sleep", "1000"], env, scratch)}\nawait launched.started; ${die}`);
  t.ok(await ended(late), "its command runs");

  // Where the loader of every program looks first, a pipe: it waits there until somebody writes.
  const libraries = join(scratch, "libraries");
  const pipe = join(libraries, "libc.so.6");
  mkdirSync(libraries);
  execFileSync("mkfifo", [pipe]);
  const waiting = launcher(["sleep", "1000"], { ...env, LD_LIBRARY_PATH: "/shared" }, libraries);
  const early = killed(`${waiting}\n${die}`);
  let writer = -1;
  const isRead = (): boolean => {
    if (writer >= 0) return true;
    try {
      writer = openSync(pipe, constants.O_WRONLY | constants.O_NONBLOCK);
      return true;
    } catch (error) {
      // Nobody waits for it yet.
      if ((error as NodeJS.ErrnoException).code === "ENXIO") return false;
      throw error;
    }
  };
  t.ok(await until(isRead), "left behind: it has asked for nothing yet");
  rmSync(pipe);
  // A library of another kind of machine (32 bits), which is passed over.
  writeSync(writer, Buffer.from("\x7fELF\x01\x01\x01".padEnd(64, "\0"), "latin1"));
  closeSync(writer);
  t.ok(await ended(early), "just started");
});

t.test("with one id in the user namespace tar keeps no owners", async (t) => {
  const shared = join(scratch, "untarred");
  mkdirSync(shared);
  const printed = (argv: string[], env: object): string => {
    const text = `${launcher(argv, { PATH: "/usr/bin:/bin", ...env }, shared)}
      launched.stdout.pipe(process.stdout);
      launched.stderr.pipe(process.stderr);`;
    const args = ["-Urnm", process.execPath, ...asModule(text)];
    return spawnSync("unshare", args, { encoding: "utf8" }).stdout.replace(/^\d+\n/, "");
  };
  t.equal(printed(["printenv", "TAR_OPTIONS"], {}), "--no-same-owner\n");
  t.equal(printed(["printenv", "TAR_OPTIONS"], { TAR_OPTIONS: "-v" }), "-v\n", "the container's own stands");
  const made = "tar -cf - --owner=4711 /etc/hostname 2>/dev/null | tar -xf - -C /shared && echo done";
  t.equal(printed(["sh", "-c", made], {}), "done\n");
  t.ok(existsSync(join(shared, "etc/hostname")));
});
