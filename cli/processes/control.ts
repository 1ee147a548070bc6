// The control process: API server, controllers and store, and the relays for published ports. Outside every
// namespace; listens on loopback and on unix sockets only.

import { rmSync, writeFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import { createLogger } from "../../common/log.js";
import { compileAtFirstCall } from "../../common/v8.js";
import { startControl } from "../../control/server.js";
import { ChildChannel } from "../../lab/channel.js";
import { removeTree } from "../../lab/files.js";
import { stopProcess } from "../../lab/launch.js";
import { startPublishing } from "../../lab/publishing.js";
import { API_PORT, bridgeAddresses, NODE_CIDR_MASK_SIZE, networksOf } from "../../lab/resolve.js";
import { type ClusterPaths, clusterPaths, contextName, readConfig, removeHome } from "../../lab/state.js";
import { dialFromHost } from "../../lab/tunnel.js";

const dir = process.argv.find((argument) => argument.startsWith("--kubeplumb-control="))?.split("=")[1];
if (!dir) throw new Error("this program is started by kubeplumb up");
const paths = clusterPaths(basename(dir), dirname(dir));
const log = createLogger("control");

const channel = new ChildChannel(() => {
  log.info("whoever started this cluster has gone: ending");
  if (process.argv.includes("--ephemeral")) void removeAll(paths).finally(() => process.exit(0));
  else process.exit(0);
});

/** An ephemeral cluster leaves nothing, even when the program that made it was killed. */
async function removeAll({ dir, lock, home }: ClusterPaths): Promise<void> {
  await stopProcess(paths, "lab");
  removeTree(dir);
  rmSync(lock, { force: true });
  removeHome(home);
}

log.debug({ ms: Math.round(performance.now()) }, "code loaded");
try {
  const config = readConfig(paths);
  if (!config) throw new Error(`${paths.config} is missing or unreadable`);
  const { networking, controlPlane, dns } = config;
  // Left by a killed predecessor; `up` has made sure that it is dead.
  rmSync(paths.controlSocket, { force: true });
  const control = await startControl({
    dataDir: paths.data,
    listen: { host: "127.0.0.1", port: controlPlane.apiPort },
    advertise: { ip: bridgeAddresses(config)[0]?.address ?? "", port: API_PORT },
    socketPath: paths.controlSocket,
    clusterName: config.name,
    clusterCIDRs: networksOf(networking.podSubnet).map(String),
    nodeCIDRMaskSize: NODE_CIDR_MASK_SIZE[4],
    serviceCIDRs: networksOf(networking.serviceSubnet).map(String),
    nodePortRange: networking.nodePortRange,
    loadBalancerPool: networking.loadBalancerPool,
    volumesDir: paths.volumes,
    ...(dns ? { clusterDomain: dns.domain } : {}),
    kubelet: (node) => ({ socketPath: paths.labSocket, pathPrefix: `/nodes/${node.metadata.name}` }),
    dial: (node, ip, port) => dialFromHost(paths.labSocket, node, ip, port),
    nodeMonitorGracePeriodSeconds: controlPlane.nodeMonitorGracePeriodSeconds,
    defaultTolerationSeconds: controlPlane.defaultTolerationSeconds,
    log,
  });
  writeFileSync(paths.kubeconfig, control.adminKubeconfig(contextName(config.name)), { mode: 0o600 });
  await startPublishing({
    paths,
    client: control.client,
    published: config.publish,
    apiPort: control.port,
    log,
  });
  log.info({ ms: Math.round(performance.now()), port: control.port }, "control is ready");
  channel.send({ event: "ready", apiPort: control.port });
  compileAtFirstCall();
} catch (error) {
  log.fatal({ err: error }, "control did not start");
  await channel.fail(error);
  process.exit(1);
}
