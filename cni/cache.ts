// What the runtime remembers of each attachment: the configuration and the result of its ADD, in libcni's file layout
// (kind cniCacheV1), because DEL and CHECK get that result back. Written before ADD as well, so that nothing that was
// begun is forgotten.

import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Attachment, CniError, CODE } from "./types.js";

const KIND = "cniCacheV1";

export interface CachedAttachment {
  kind: typeof KIND;
  containerId: string;
  networkName: string;
  ifName: string;
  netns?: string;
  /** The configuration list as JSON, base64. */
  config: string;
  cniArgs?: [string, string][];
  capabilityArgs?: Record<string, unknown>;
  /** Absent while ADD has not come to its end. */
  result?: unknown;
}

export class ResultCache {
  readonly #dir: string;

  /** Files go to <stateDir>/results. */
  constructor(stateDir: string) {
    this.#dir = join(stateDir, "results");
  }

  #path(network: string, owner: Attachment): string {
    return join(this.#dir, `${network}-${owner.containerID}-${owner.ifname}`);
  }

  /** Throws CniError 5. */
  write(entry: Omit<CachedAttachment, "kind">): void {
    const path = this.#path(entry.networkName, { containerID: entry.containerId, ifname: entry.ifName });
    const fresh = `${path}.new-${process.pid}`;
    try {
      mkdirSync(this.#dir, { recursive: true });
      writeFileSync(fresh, JSON.stringify({ kind: KIND, ...entry }), { mode: 0o600 });
      renameSync(fresh, path);
    } catch (error) {
      const details = (error as Error).message;
      throw new CniError(CODE.io, `${path} cannot be written`, { details, cause: error });
    }
  }

  /** undefined when there is none. A file that is not ours or is damaged counts as none: DEL must work without. */
  read(network: string, owner: Attachment): CachedAttachment | undefined {
    return parse(this.#path(network, owner));
  }

  remove(network: string, owner: Attachment): void {
    rmSync(this.#path(network, owner), { force: true });
  }

  /** Of one network, or of all. */
  list(network?: string): CachedAttachment[] {
    return this.#names()
      .filter((name) => network === undefined || name.startsWith(`${network}-`))
      .map((name) => parse(join(this.#dir, name)))
      .filter((entry) => entry !== undefined)
      .filter(({ networkName }) => network === undefined || networkName === network);
  }

  /** The attachment to whatever network it is. */
  find({ containerID, ifname }: Attachment): CachedAttachment | undefined {
    const name = this.#names().find((one) => one.endsWith(`-${containerID}-${ifname}`));
    return name === undefined ? undefined : parse(join(this.#dir, name));
  }

  #names(): string[] {
    try {
      return readdirSync(this.#dir);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
      throw error;
    }
  }
}

function parse(path: string): CachedAttachment | undefined {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    if (["ENOENT", "ENOTDIR"].includes((error as NodeJS.ErrnoException).code ?? "")) return undefined;
    throw error;
  }
  try {
    const entry = JSON.parse(text) as Partial<CachedAttachment> | null;
    return entry?.kind === KIND ? (entry as CachedAttachment) : undefined;
  } catch {
    return undefined;
  }
}
