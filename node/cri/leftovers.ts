// Pods in a container runtime outlive the node agent. Whoever runs pods elsewhere from now on, or takes kubeplumb off the
// machine, ends them: which runtime has them is kept in a file. Knows that file, and the runtime's sandboxes.

import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { Logger } from "../../common/log.js";
import { writeFileAtomically } from "../machine/key-pair.js";
import { CriClient } from "./client.js";
import { LABEL } from "./config.js";
import { removeSandbox } from "./sandbox.js";

interface Record {
  endpoint: string;
  node: string;
}

const pathIn = (dataDir: string): string => join(dataDir, "container-runtime.json");

/** From now on that runtime has this node's pods. */
export function recordRuntime(dataDir: string, record: Record): void {
  writeFileAtomically(pathIn(dataDir), `${JSON.stringify(record)}\n`);
}

/** Ends all pods that a runtime other than `but` has of this machine's node; while it does not answer they stay. */
export async function endLeftPods(dataDir: string, log: Logger, but?: string): Promise<void> {
  const record = readRecord(pathIn(dataDir));
  if (!record || record.endpoint === but) return;
  const client = new CriClient(record.endpoint);
  try {
    const sandboxes = await client.listSandboxes({ [LABEL.node]: record.node });
    await Promise.all(sandboxes.map(({ id }) => removeSandbox(client, id)));
    rmSync(pathIn(dataDir));
    if (sandboxes.length > 0)
      log.info({ endpoint: record.endpoint, pods: sandboxes.length }, "pods of the container runtime ended");
  } catch (error) {
    log.warn({ err: error, endpoint: record.endpoint }, "pods of the container runtime could not be ended");
  } finally {
    client.close();
  }
}

function readRecord(path: string): Record | undefined {
  try {
    return JSON.parse(readFileSync(path, "utf8")) as Record;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
