// The lab process: started by lab/launch.ts inside namespaces of its own, one for each cluster.

import { basename, dirname } from "node:path";
import { createLogger } from "../../common/log.js";
import { ChildChannel } from "../../lab/channel.js";
import { startLab } from "../../lab/lab.js";
import { clusterPaths, readConfig } from "../../lab/state.js";
import { startNodeAgent } from "../../node/index.js";

const dir = process.argv.find((argument) => argument.startsWith("--kubeplumb-lab="))?.split("=")[1];
if (!dir) throw new Error("this program is started by kubeplumb up");

process.umask(0o022);
const log = createLogger("lab");
const channel = new ChildChannel(() => {
  log.info("whoever started this lab has gone: ending");
  process.exit(0);
});

log.debug({ ms: Math.round(performance.now()) }, "code loaded");
try {
  const paths = clusterPaths(basename(dir), dirname(dir));
  const config = readConfig(paths);
  if (!config) throw new Error(`${paths.config} is missing or unreadable`);
  const lab = await startLab({
    config,
    paths,
    startAgent: startNodeAgent,
    log,
    onHosts: (ms) => channel.send({ event: "hosts", ms }),
    onStop: () => void end(),
  });
  const end = async () => {
    await lab.close({ graceful: true });
    process.exit(0);
  };
  channel.send({ event: "ready" });
} catch (error) {
  log.fatal({ err: error }, "the lab did not start");
  await channel.fail(error);
  process.exit(1);
}
