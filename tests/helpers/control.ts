// A whole control process for tests, in this process: TLS on loopback, a socket, a store in a temporary folder.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ApiClient } from "../../client/api-client.js";
import { silentLogger } from "../../common/log.js";
import { type Control, startControl } from "../../control/server.js";

/** Started and gone with the test; `admin` speaks to its socket. */
export async function controlFor(test: {
  teardown(fn: () => unknown): unknown;
}): Promise<{ control: Control; admin: ApiClient; keyFile: string }> {
  const dir = mkdtempSync(join(tmpdir(), "kubeplumb-control-"));
  const socketPath = join(dir, "control.sock");
  const control = await startControl({
    dataDir: join(dir, "data"),
    listen: { host: "127.0.0.1", port: 0 },
    socketPath,
    clusterName: "test",
    kubelet: () => ({ socketPath: "/nowhere", pathPrefix: "" }),
    log: silentLogger,
  });
  const admin = new ApiClient({ socketPath });
  test.teardown(async () => {
    await admin.close();
    await control.close();
    rmSync(dir, { recursive: true, force: true });
  });
  return { control, admin, keyFile: join(dir, "data/pki/sa.key") };
}
