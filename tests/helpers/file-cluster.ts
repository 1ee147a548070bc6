// A cluster for a whole test file. Knows the cluster's handle only.

import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { type Cluster, createCluster } from "../../index.js";

export interface FileCluster {
  cluster: Cluster;
  /** Empty, of this test file. */
  directory: string;
}

/** A cluster and a folder, gone at the end of the test file. */
export async function fileCluster(nodes: number): Promise<FileCluster> {
  const cluster = await createCluster({ nodes });
  const directory = mkdtempSync(join(tmpdir(), "kubeplumb-e2e-"));
  t.teardown(async () => {
    await cluster.stop();
    rmSync(directory, { recursive: true, force: true });
  });
  return { cluster, directory };
}

/** A program for KUBE_EDITOR that changes the file by a sed script; its path. */
export function sedEditor(directory: string, script: string): string {
  const editor = join(directory, "editor.sh");
  writeFileSync(editor, `#!/bin/sh\nsed -i '${script}' "$1"\n`);
  chmodSync(editor, 0o755);
  return editor;
}
