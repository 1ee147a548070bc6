// What a container leaves to be told of its end: the file at its terminationMessagePath, else, when it failed and
// wants it so, the end of its log. As the kubelet's getTerminationMessage. Knows files, starts nothing.

import { chmodSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import type { Container } from "../../common/k8s.js";
import type { ContainerLog } from "../kubelet/container-log.js";

/** Bytes of a message from the file. */
const LONGEST_MESSAGE = 4096;
/** Bytes and lines of one from the log. */
const LONGEST_LOG = 2048;
const LOG_LINES = 80;

/** An empty file for one run, that whoever the container runs as may write. */
export function makeTerminationLog(path: string): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, "");
  chmodSync(path, 0o666);
}

function lastBytes(bytes: Buffer, most: number): string {
  return bytes.subarray(Math.max(0, bytes.length - most)).toString();
}

/** state.terminated.message of a run that has ended; undefined when it left nothing. `file` on this machine. */
export function terminationMessage(
  { terminationMessagePolicy: policy }: Pick<Container, "terminationMessagePolicy">,
  exitCode: number,
  file: string | undefined,
  log: Pick<ContainerLog, "read">,
): string | undefined {
  if (file === undefined) return undefined;
  let message: string;
  try {
    message = lastBytes(readFileSync(file), LONGEST_MESSAGE);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") {
      return `Error on reading termination log ${file}: ${(error as Error).message}`;
    }
    message = "";
  }
  if (!message && policy === "FallbackToLogsOnError" && exitCode !== 0) {
    message = lastBytes(Buffer.from(log.read({ tailLines: LOG_LINES })), LONGEST_LOG);
  }
  return message || undefined;
}
