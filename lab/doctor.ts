// Tries everything a cluster needs on this machine, for real and in namespaces that are thrown away, and says what
// is missing and what to do about it. Changes nothing.

import { spawn } from "node:child_process";
import { accessSync, constants, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type FirewallRoles, firewallChecks } from "./firewall-checks.js";
import { hidesProc, isPrivileged, namespaceCommand } from "./launch.js";
import type { ProbeResult } from "./probe.js";
import { featureRemedy, install, namespaceRemedy } from "./remedies.js";

/** One thing that was tried. */
export interface Check {
  name: string;
  /** fail: `kubeplumb up` cannot work without it; warn: something that a user may want does not. */
  status: "ok" | "warn" | "fail";
  detail: string;
  /** What to do about it: the exact command where there is one. */
  remedy?: string;
}

const NODE_MINIMUM: [number, number] = [20, 19];
/** Each host, pod and connection holds a few descriptors. */
const OPEN_FILES_MINIMUM = 4096;

/**
 * Every check, in the order in which they build on one another. Throws nothing for what is missing.
 * @param roles what this machine is, or may become, in a cluster of machines.
 */
export async function doctor(roles: FirewallRoles): Promise<Check[]> {
  const checks = [nodeVersion(), ...commands(), openFiles()];
  const namespaces = await tryNamespaces();
  checks.push(...namespaces.checks);
  if (namespaces.usable) checks.push(...(await kernelFeatures(namespaces.pidNamespace)));
  checks.push(...(await userTools()));
  const hasIptables = findCommand("iptables") !== undefined;
  if (isPrivileged() && hasIptables) checks.push(...(await firewallChecks(roles)));
  return checks;
}

function nodeVersion(): Check {
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
  const enough = major > NODE_MINIMUM[0] || (major === NODE_MINIMUM[0] && minor >= NODE_MINIMUM[1]);
  const check: Check = {
    name: "Node.js",
    status: enough ? "ok" : "fail",
    detail: `v${process.versions.node}`,
  };
  return enough ? check : { ...check, remedy: `install Node.js ${NODE_MINIMUM.join(".")} or newer` };
}

/** Programs a lab starts by itself. */
const NEEDED: readonly (readonly [command: string, debianPackage: string])[] = [
  ["unshare", "util-linux"],
  ["nsenter", "util-linux"],
  ["setsid", "util-linux"],
  ["mount", "mount"],
  ["iptables", "iptables"],
  ["iptables-restore", "iptables"],
  ["iptables-save", "iptables"],
];

function commands(): Check[] {
  return NEEDED.map(([command, debianPackage]) => {
    const path = findCommand(command);
    if (path) return { name: command, status: "ok", detail: path };
    return { name: command, status: "fail", detail: "not found", remedy: install(debianPackage) };
  });
}

/** Full path of a program; sbin is looked at too, which is not on everybody's PATH. */
export function findCommand(command: string): string | undefined {
  const folders = [...(process.env.PATH ?? "").split(":"), "/usr/local/sbin", "/usr/sbin", "/sbin"];
  return folders
    .filter(Boolean)
    .map((folder) => join(folder, command))
    .find((path) => {
      try {
        accessSync(path, constants.X_OK);
        return true;
      } catch {
        // Not in this folder: the next one.
        return false;
      }
    });
}

function openFiles(): Check {
  const line = /^Max open files\s+(\S+)\s+(\S+)/m.exec(readFileSync("/proc/self/limits", "utf8"));
  // Node raises its own soft limit to the hard one.
  const hard = line?.[2] === "unlimited" ? Number.POSITIVE_INFINITY : Number(line?.[2]);
  const name = "open files limit";
  if (hard >= OPEN_FILES_MINIMUM) return { name, status: "ok", detail: String(hard) };
  const remedy = `ulimit -Hn ${OPEN_FILES_MINIMUM * 16} (as root), or LimitNOFILE= in the systemd unit`;
  return { name, status: "warn", detail: `${hard}: enough for a few hosts only`, remedy };
}

interface Namespaces {
  checks: Check[];
  usable: boolean;
  pidNamespace: boolean;
}

async function tryNamespaces(): Promise<Namespaces> {
  const checks: Check[] = [];
  const unusable = { checks, usable: false, pidNamespace: false };
  if (!findCommand("unshare")) return unusable;
  if (!isPrivileged()) {
    const user = await run(["unshare", "--user", "--map-root-user", "true"]);
    checks.push(userNamespaceCheck(user));
    if (user.code !== 0) return unusable;
  }
  for (const pidNamespace of [true, false]) {
    const result = await run(namespaceCommand(["true"], { pidNamespace }));
    if (result.code === 0) {
      checks.push(
        { name: "network and mount namespace", status: "ok", detail: "made" },
        procCheck(pidNamespace),
      );
      return { checks, usable: true, pidNamespace };
    }
    // What a lab does then, too: without a PID namespace of its own.
    if (pidNamespace && hidesProc(result.stderr)) continue;
    checks.push(namespacesCheck(result));
    break;
  }
  return unusable;
}

function procCheck(mounted: boolean): Check {
  const name = "PID namespace with /proc";
  if (mounted) return { name, status: "ok", detail: "made" };
  return {
    name,
    status: "warn",
    detail:
      "parts of this machine's /proc are hidden (a container?), so a user namespace may mount no other: the lab shares the PID namespace",
    remedy: "start the container with --security-opt systempaths=unconfined, or --privileged",
  };
}

function namespacesCheck({ stderr }: RunResult): Check {
  const name = "network and mount namespace";
  const reason = namespaceRemedy(isPrivileged());
  const remedy = reason?.remedy ?? "run kubeplumb as root, or the container it is in with --privileged";
  return { name, status: "fail", detail: withCause(reason?.cause, stderr), remedy };
}

function userNamespaceCheck({ code, stderr }: RunResult): Check {
  const name = "user namespace";
  if (code === 0) return { name, status: "ok", detail: "made without root" };
  const reason = namespaceRemedy(false);
  const remedy = reason?.remedy ?? "run kubeplumb with sudo";
  return { name, status: "fail", detail: withCause(reason?.cause, stderr), remedy };
}

function withCause(cause: string | undefined, stderr: string): string {
  return [cause, stderr || "refused"].filter(Boolean).join(": ");
}

async function kernelFeatures(pidNamespace: boolean): Promise<Check[]> {
  const script = fileURLToPath(new URL("./probe.js", import.meta.url));
  const argv = namespaceCommand([process.execPath, script, "--kubeplumb-probe"], { pidNamespace });
  const { stdout, stderr, code } = await run(argv);
  const results = stdout
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line) as ProbeResult);
  // That the programs are missing has been said.
  const news = results.filter(({ id }) => id !== "iptables" || findCommand("iptables"));
  const checks = news.map(featureCheck);
  if (code !== 0) {
    const said = /^.*Error.*$/m.exec(stderr)?.[0] ?? stderr;
    checks.push({ name: "kernel features", status: "fail", detail: said || `exit code ${code}` });
  }
  return checks;
}

function featureCheck({ id, detail, error }: ProbeResult): Check {
  if (error === undefined) return { name: id, status: "ok", detail: detail ?? "works" };
  return { name: id, status: "fail", detail: error, remedy: featureRemedy(id, error, isPrivileged()) };
}

/** What people use with a cluster, not the cluster itself. */
async function userTools(): Promise<Check[]> {
  const tool = (command: string, debianPackage: string): Check => {
    const path = findCommand(command);
    if (path) return { name: command, status: "ok", detail: path };
    const detail = `not found: kubeplumb exec HOST -- ${command} will not work`;
    return { name: command, status: "warn", detail, remedy: install(debianPackage) };
  };
  return [tool("ping", "iputils-ping"), tool("curl", "curl"), tool("ip", "iproute2"), await kubectl()];
}

async function kubectl(): Promise<Check> {
  const name = "kubectl";
  if (!findCommand(name)) {
    const detail = "not found: kubeplumb has its own client for the demo, kubectl shows more";
    return { name, status: "warn", detail, remedy: "see https://kubernetes.io/docs/tasks/tools/" };
  }
  const { code, stdout, stderr } = await run(["kubectl", "version", "--client", "--output=json"]);
  const version = /"gitVersion":\s*"(v[^"]+)"/.exec(stdout)?.[1];
  if (code !== 0 || !version) return { name, status: "warn", detail: stderr || "does not tell its version" };
  return { name, status: "ok", detail: version };
}

interface RunResult {
  code: number;
  stdout: string;
  stderr: string;
}

const RUN_TIMEOUT_MS = 30_000;

/** Runs a command to its end; one that cannot be started counts as failed. */
function run([command = "", ...args]: readonly string[]): Promise<RunResult> {
  return new Promise((resolve) => {
    const env = { ...process.env, PATH: `${process.env.PATH ?? ""}:/usr/sbin:/sbin` };
    const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"], env, timeout: RUN_TIMEOUT_MS });
    let [stdout, stderr] = ["", ""];
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      stdout += text;
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr += text;
    });
    child.once("error", (error) => resolve({ code: 127, stdout, stderr: error.message }));
    child.once("close", (code) => resolve({ code: code ?? 128, stdout, stderr: stderr.trim() }));
  });
}
