// A whole control process for tests, in this process: TLS on loopback, a socket, a store in a temporary folder.

import { join } from "node:path";
import { ApiClient } from "../../client/api-client.js";
import { silentLogger } from "../../common/log.js";
import { type Control, startControl } from "../../control/server.js";
import { tempDir } from "./temp-dir.js";

/** Started and gone with the test; `admin` speaks to its socket. `dir`: what an earlier one has left there is taken up. */
export async function controlFor(
  test: { teardown(fn: () => unknown): unknown },
  { dir = tempDir(test), serviceCIDRs }: { dir?: string; serviceCIDRs?: string[] } = {},
): Promise<{ control: Control; admin: ApiClient; keyFile: string; socketPath: string }> {
  const socketPath = join(dir, "control.sock");
  const control = await startControl({
    dataDir: join(dir, "data"),
    listen: { host: "127.0.0.1", port: 0 },
    socketPath,
    clusterName: "test",
    ...(serviceCIDRs && { serviceCIDRs }),
    kubelet: () => ({ socketPath: "/nowhere", pathPrefix: "" }),
    log: silentLogger,
  });
  const admin = new ApiClient({ socketPath });
  test.teardown(async () => {
    await admin.close();
    await control.close();
  });
  return { control, admin, keyFile: join(dir, "data/pki/sa.key"), socketPath };
}
