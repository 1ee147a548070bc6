// Folders of tests.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** An empty folder, gone with the test. */
export function tempDir(test: { teardown(fn: () => unknown): unknown }): string {
  const dir = mkdtempSync(join(tmpdir(), "kubeplumb-test-"));
  test.teardown(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}
