// kubeplumb control: the API server and the controllers as a daemon, for nodes on machines of their own.

import { mkdirSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { Cidr, hostPort, ipFamily } from "../../common/ip.js";
import type { Logger } from "../../common/log.js";
import { compileAtFirstCall } from "../../common/v8.js";
import { objectCodec } from "../../control/api/codec.js";
import { startControl } from "../../control/server.js";
import { openStore, parseStoreSpec } from "../../control/store/open.js";
import { controlNeeds } from "../../dataplane/firewall/index.js";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { installClusterDns } from "../../lab/cluster-dns.js";
import { isPrivileged } from "../../lab/launch.js";
import { FirewallWatch } from "../../node/host/firewall-watch.js";
import {
  chooseAdvertised,
  type MachineAddress,
  machineAddresses,
  outerAddresses,
} from "../../node/host/uplink.js";
import { type CommandSpec, integer, UsageError } from "../command.js";
import { daemonLog, serveUntilAsked } from "../daemon.js";
import { type EtcdFlags, etcdOptions, explainedEtcdError, readEtcdTls } from "../etcd-tls.js";
import { ADMIN_CONTEXT, ADMIN_KUBECONFIG, CONTROL_DATA, RUN } from "../host-paths.js";

interface Options extends EtcdFlags {
  listen: { host: string; port: number };
  advertiseAddress?: string;
  dataDir: string;
  store?: string;
  clusterCidr: string[];
  serviceCidr: string[];
  kubeconfig?: string;
}

const DOMAIN = "cluster.local";
/** Those of pods, whichever family this machine has; see watchFirewall. */
const CLUSTER_CIDRS = ["10.244.0.0/16", "fd00:10:244::/56"];
const SERVICE_CIDRS = ["10.96.0.0/16"];
/** In the data directory. */
const DNS_MARK = "cluster-dns";

/** HOST:PORT, [HOST]:PORT. */
function parseListen(text: string): { host: string; port: number } {
  const [, v6, plain, port = ""] = /^(?:\[([^\]]+)\]|([^:]*)):(\d+)$/.exec(text) ?? [];
  const host = v6 ?? plain ?? "";
  if (!ipFamily(host)) throw new Error(`${JSON.stringify(text)}: ADDRESS:PORT is expected, as 0.0.0.0:6443`);
  return { host, port: integer(port, "port", 1, 65_535) };
}

function parseNetworks(text: string): string[] {
  return text.split(",").map((one) => Cidr.parse(one).toString());
}

function parseAddress(text: string): string {
  if (!ipFamily(text)) throw new Error(`${JSON.stringify(text)} is no IP address`);
  return text;
}

const spec: CommandSpec<Options> = {
  description:
    "Runs until it is stopped. At its first start it makes the cluster's certificates, with the addresses of this\nmachine in them. Nodes join with: kubeplumb token create --print-join-command",
  options: [
    {
      flags: "--listen <address>",
      description: "where it listens, with TLS (default: 0.0.0.0:6443)",
      parse: parseListen,
    },
    {
      flags: "--advertise-address <ip>",
      description: "where nodes and pods find it; default: the machine's address, when it has one",
      parse: parseAddress,
    },
    {
      flags: "--data-dir <dir>",
      description: "certificates and, without --store, the store",
      default: CONTROL_DATA,
      complete: "files",
    },
    {
      flags: "--store <store>",
      description: "lmdb:DIR or etcd:URL,URL… (default: lmdb in the data directory)",
      parse: (text) => parseStoreSpec(text) && text,
    },
    ...etcdOptions,
    {
      flags: "--cluster-cidr <networks>",
      description: "of pods, one a family (default: 10.244.0.0/16)",
      parse: parseNetworks,
    },
    {
      flags: "--service-cidr <networks>",
      description: "of ClusterIPs, one a family (default: 10.96.0.0/16)",
      parse: parseNetworks,
    },
    {
      flags: "--kubeconfig <file>",
      description:
        "where the administrator's kubeconfig is written (default: admin.kubeconfig in the data directory)",
      complete: "files",
    },
  ],
  examples: [
    ["on a machine with one address", "kubeplumb control"],
    ["where there are several", "kubeplumb control --advertise-address 192.168.56.10"],
    ["with the state in etcd", "kubeplumb control --store etcd:http://127.0.0.1:2379"],
    [
      "in an etcd of three, with TLS",
      "kubeplumb control --store etcd:https://10.0.0.1:2379,https://10.0.0.2:2379,https://10.0.0.3:2379 --etcd-cafile ca.crt --etcd-certfile client.crt --etcd-keyfile client.key",
    ],
    ["as a service of systemd", "kubeplumb install control -- --advertise-address 192.168.56.10"],
  ],
  async run(context, _args, options) {
    const {
      dataDir,
      store = `lmdb:${join(options.dataDir, "store")}`,
      clusterCidr,
      serviceCidr: serviceCIDRs = SERVICE_CIDRS,
    } = options;
    const kind = parseStoreSpec(store);
    const tls = readEtcdTls(options, kind);
    const { host, port } = options.listen ?? { host: "0.0.0.0", port: 6443 };
    const all = machineAddresses();
    const isEverywhere = host === "0.0.0.0" || host === "::";
    const ip = options.advertiseAddress ?? (isEverywhere ? advertised() : host);
    const log = daemonLog("control", context);
    const control = await startControl({
      dataDir,
      listen: { host, port },
      advertise: { ip, port },
      serverNames: isEverywhere ? outerAddresses(all).map(({ address }) => address) : [],
      clusterName: ADMIN_CONTEXT,
      clusterDomain: DOMAIN,
      ...(clusterCidr ? { clusterCIDRs: clusterCidr } : {}),
      serviceCIDRs,
      store: () =>
        openStore(store, { codec: objectCodec, tls }).catch(async (error) => {
          throw await explainedEtcdError(error, options, kind, tls);
        }),
      log,
    });
    let firewall: FirewallWatch | undefined;
    try {
      const server = `https://${hostPort(ip, port)}`;
      const path = options.kubeconfig ?? join(dataDir, ADMIN_KUBECONFIG);
      writePrivate(path, control.adminKubeconfig(ADMIN_CONTEXT, server));
      log.info({ server, kubeconfig: path }, "ready");
      compileAtFirstCall();
      const dns = { domain: DOMAIN, serviceSubnet: serviceCIDRs.join(","), log };
      void installClusterDns(control.client, join(dataDir, DNS_MARK), dns);
      const uplink = all.find(({ address }) => address === ip);
      // As a service it may not see the rules (cli/install/files.ts): the doctor does.
      if (uplink && isPrivileged()) firewall = watchFirewall(uplink, port, log);
      await serveUntilAsked(context, log);
    } finally {
      await firewall?.stop();
      await control.close();
    }
    return 0;
  },
};

/** Of the API server's port; where pods are is no matter of this machine's, so any network will do. */
function watchFirewall({ iface, address }: MachineAddress, port: number, log: Logger): FirewallWatch {
  const watch = new FirewallWatch({
    ns: NetNs.current(),
    where: { runDir: RUN, uplink: iface, ips: [address], networks: CLUSTER_CIDRS },
    needs: (place) => controlNeeds(place, port),
    log,
  });
  watch.start();
  return watch;
}

function advertised(): string {
  try {
    return chooseAdvertised(machineAddresses());
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

function writePrivate(path: string, text: string): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(`${path}.tmp`, text, { mode: 0o600 });
  renameSync(`${path}.tmp`, path);
}

export default spec as CommandSpec;
