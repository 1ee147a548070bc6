// kubeplumb node: this machine as a node of a cluster of kubeplumb control.

import { hostname } from "node:os";
import { ipFamily } from "../../common/ip.js";
import { type CommandSpec, UsageError } from "../command.js";
import { aborted, daemonLog, serveUntilAsked } from "../daemon.js";
import { CNI_CONF, CONTAINERD, NODE_DATA, RUN } from "../host-paths.js";
import { parseEndpoint } from "../runtime-endpoint.js";

interface Options {
  server?: string;
  token?: string;
  discoveryTokenCaCertHash?: string;
  name?: string;
  nodeIp?: string;
  iface?: string;
  runtime: "emulated" | "containerd";
  containerRuntimeEndpoint?: string;
}

/** RFC 1123, as the names of Nodes. */
const NAME = /^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$/;

const spec: CommandSpec<Options> = {
  description:
    "Joins at its first start, with a token; from then on it has a certificate of its own. Needs root. When it is\nstopped emulated pods end; rules, bridge and overlay stay, as those of kube-proxy and flannel do.",
  options: [
    {
      flags: "--server <url>",
      description: "the API server: https://192.168.56.10:6443",
      parse: parseServer,
    },
    { flags: "--token <token>", description: "of kubeplumb token create; also by $KUBEPLUMB_TOKEN" },
    {
      flags: "--discovery-token-ca-cert-hash <hash>",
      description: "sha256:… of the public key of the cluster's CA",
      parse: parseHash,
    },
    { flags: "--name <name>", description: "of the Node; default: the hostname", parse: parseName },
    {
      flags: "--node-ip <ip>",
      description:
        "the address by which other nodes reach this one; default: that by which it reaches the server",
      parse: parseAddress,
    },
    { flags: "--iface <interface>", description: "the same, told by the interface" },
    {
      flags: "--runtime <runtime>",
      description: "what runs pods; containers of containerd go on when the node is stopped",
      choices: ["emulated", "containerd"],
      default: "emulated",
    },
    {
      flags: "--container-runtime-endpoint <endpoint>",
      description: `of --runtime containerd: where it answers (default: ${CONTAINERD})`,
      parse: parseEndpoint,
    },
  ],
  examples: [
    [
      "join",
      "kubeplumb node --server https://192.168.56.10:6443 --token abcdef.0123456789abcdef --discovery-token-ca-cert-hash sha256:…",
    ],
    ["come back", "kubeplumb node --server https://192.168.56.10:6443"],
    ["with real containers", "kubeplumb node --server https://192.168.56.10:6443 --runtime containerd"],
    ["as a service of systemd", "kubeplumb install node -- --server …"],
  ],
  async run(context, _args, options) {
    const { server, nodeIp: nodeIP, iface, discoveryTokenCaCertHash: caHash } = options;
    const { runtime, containerRuntimeEndpoint: endpoint } = options;
    if (runtime !== "containerd" && endpoint)
      throw new UsageError("--container-runtime-endpoint is for --runtime containerd");
    if (!server) throw new UsageError("--server is needed: the address of the API server");
    if (process.getuid?.() !== 0)
      throw new Error("kubeplumb node needs root: it programs this machine's network");
    process.umask(0o022);
    const log = daemonLog("node", context);
    // Not for `kubeplumb install`, which reads the options above.
    const { startMachineNode } = await import("../../node/machine/node.js");
    const node = await startMachineNode(
      {
        name: options.name ?? parseName(hostname().toLowerCase()),
        server,
        token: options.token ?? context.streams.env.KUBEPLUMB_TOKEN,
        caHash,
        nodeIP,
        iface,
        dataDir: NODE_DATA,
        runDir: RUN,
        cniConfDir: CNI_CONF,
        runtimeEndpoint: runtime === "containerd" ? (endpoint ?? CONTAINERD) : undefined,
        log,
      },
      context.signal,
    );
    try {
      await Promise.race([node.ready, aborted(context.signal)]);
      if (!context.signal.aborted) {
        log.info("the node is Ready");
        await serveUntilAsked(context, log);
      }
    } finally {
      await node.stop();
    }
    return 0;
  },
};

function parseServer(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url?.protocol !== "https:")
    throw new Error(`${JSON.stringify(text)}: https://ADDRESS:PORT is expected`);
  return url.origin;
}

function parseHash(text: string): string {
  if (!/^sha256:[0-9a-f]{64}$/i.test(text))
    throw new Error(`${JSON.stringify(text)}: sha256: and 64 hexadecimal digits are expected`);
  return text.toLowerCase();
}

function parseName(text: string): string {
  if (!NAME.test(text)) throw new Error(`${JSON.stringify(text)} is no name for a Node (RFC 1123 subdomain)`);
  return text;
}

function parseAddress(text: string): string {
  if (!ipFamily(text)) throw new Error(`${JSON.stringify(text)} is no IP address`);
  return text;
}

export default spec as CommandSpec;
