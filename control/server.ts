// The control plane of a cluster, put together: store, kinds, API, listeners, controllers. Knows the order in which
// they start and stop.

import { randomUUID } from "node:crypto";
import { hostname } from "node:os";
import { join } from "node:path";
import { stringify } from "yaml";
import { type KubeClient, NODES } from "../common/client.js";
import { InformerFactory } from "../common/informer.js";
import { Cidr, hostPort } from "../common/ip.js";
import type { Stored } from "../common/k8s.js";
import type { Logger } from "../common/log.js";
import { ADMISSION } from "./api/admission.js";
import { Authorizer } from "./api/authorizer.js";
import { bootstrapUser, isBootstrapToken } from "./api/bootstrap-tokens.js";
import { objectCodec } from "./api/codec.js";
import type { KubeletConnector } from "./api/http/kubelet.js";
import type { NodeDialer } from "./api/http/proxy-dial.js";
import { ApiServer } from "./api/http/server.js";
import { LocalClient } from "./api/local.js";
import { Registry } from "./api/registry.js";
import { Schema } from "./api/schema.js";
import { TokenAuthority } from "./api/tokens.js";
import { certificateSigner } from "./certificate-requests.js";
import { ensureNamespaces, ensurePriorityClasses, ensureRoles } from "./controllers/bootstrap.js";
import { type ControllersOptions, startControllers } from "./controllers/index.js";
import { Election, leaderFailure } from "./controllers/leader.js";
import { kubeletTls } from "./kubelet-tls.js";
import { closeServer, listenSocket, listenTls, type TokenVerifier } from "./listeners.js";
import { kubeletReader } from "./metrics/kubelet-reader.js";
import { MetricsServer } from "./metrics/metrics-server.js";
import { loadPki, type Pki } from "./pki.js";
import { type Component, componentStatusDefinition } from "./resources/component-status.js";
import { createResources } from "./resources/index.js";
import { metricsDefinitions } from "./resources/metrics.js";
import { reviewDefinitions } from "./resources/reviews.js";
import { LmdbStore } from "./store/lmdb.js";
import type { Store } from "./store/store.js";

export type { KubeletConnector, NodeDialer };

export interface ControlOptions {
  /** Where the store and the certificates are kept. */
  dataDir: string;
  /** Opens the store, which is closed with the rest; default an LMDB in `dataDir`. */
  store?: () => Promise<Store<Stored>>;
  /** TLS; port 0 takes a free one. */
  listen: { host: string; port: number };
  /** Where pods reach the API server, when not at `listen`: the endpoint of the Service default/kubernetes. */
  advertise?: { ip: string; port: number };
  /** A unix socket on which everybody who may open it is the administrator. */
  socketPath?: string;
  clusterName: string;
  /** Of pods: one network, or one of each family. */
  clusterCIDRs?: readonly string[];
  /** Of IPv4; a Node's IPv6 subnet is always a /64. */
  nodeCIDRMaskSize?: number;
  /** Of ClusterIPs: one range, or one of each family, the default family first. */
  serviceCIDRs?: readonly string[];
  nodePortRange?: [number, number];
  /** What the names of Services end in. Default cluster.local. */
  clusterDomain?: string;
  /** Addresses for Services of type LoadBalancer, first-last, one range a family; default none. */
  loadBalancerPool?: string | undefined;
  /**
   * Where volumes of the default StorageClass are made: a directory of this machine that all nodes see. Default: there is
   * no such class.
   */
  volumesDir?: string | undefined;
  /** Default: by TLS at the addresses of the Nodes, for machines that join (docs/hosts.md). */
  kubelet?: KubeletConnector;
  /** How …/proxy reaches pods; default from this process, as kube-apiserver does, or without `kubelet` by the kubelets. */
  dial?: NodeDialer;
  /** More names and addresses that the server's certificate is to be for. */
  serverNames?: readonly string[];
  nodeMonitorGracePeriodSeconds?: number;
  defaultTolerationSeconds?: number;
  log: Logger;
}

export interface Control {
  /** https://127.0.0.1:port */
  url: string;
  socketPath: string | undefined;
  port: number;
  /** PEM. */
  caCert: string;
  /** A kubeconfig (YAML) of the administrator, whose cluster, user and context have this name; `server` default `url`. */
  adminKubeconfig(contextName: string, server?: string): string;
  /** The API without a transport. */
  client: KubeClient;
  /** Ends watches and streams, stops the controllers, closes the store. */
  close(): Promise<void>;
}

/** Names by which clients reach the server: from the machine, and from pods by the Service default/kubernetes. */
function serverNames(
  { listen: { host }, advertise, clusterDomain = "cluster.local", serverNames: more = [] }: ControlOptions,
  serviceCIDR: string,
): string[] {
  const reachable = host === "0.0.0.0" || host === "::" ? [] : [host];
  if (advertise) reachable.push(advertise.ip);
  reachable.push(...more);
  const service = [
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    `kubernetes.default.svc.${clusterDomain}`,
  ];
  const all = ["127.0.0.1", "::1", "localhost", ...service, Cidr.parse(serviceCIDR).at(1), ...reachable];
  return [...new Set(all)];
}

function kubeconfig(name: string, server: string, { ca, admin }: Pki): string {
  const base64 = (text: string): string => Buffer.from(text).toString("base64");
  return stringify(
    {
      apiVersion: "v1",
      kind: "Config",
      clusters: [{ name, cluster: { server, "certificate-authority-data": base64(ca.cert) } }],
      users: [
        {
          name,
          user: { "client-certificate-data": base64(admin.cert), "client-key-data": base64(admin.key) },
        },
      ],
      contexts: [{ name, context: { cluster: name, user: name } }],
      "current-context": name,
      preferences: {},
    },
    { lineWidth: 0 },
  );
}

/** The controllers, of which the scheduler is one, run here, or on a shared store where the leader is. */
async function components(store: Store<Stored>, client: KubeClient): Promise<Component[]> {
  const failure = store.shared ? await leaderFailure(client) : undefined;
  return [
    { name: "controller-manager", failure },
    { name: store.shared ? "etcd-0" : "lmdb", failure: store.failure()?.message },
    { name: "scheduler", failure },
  ];
}

/** Runs the controllers while this control plane is the one to; each time on informers of their own. */
function takePart(
  client: KubeClient,
  lead: (informers: InformerFactory) => () => Promise<void>,
  log: Logger,
): () => Promise<void> {
  const election = new Election({
    client,
    identity: `${hostname()}_${randomUUID()}`,
    lead: () => {
      const informers = new InformerFactory(client, { log });
      const end = lead(informers);
      return async () => {
        await end();
        informers.stop();
      };
    },
    log,
  });
  return () => election.stop();
}

/**
 * Starts the control plane on its data directory.
 * @throws Error when the directory, the address or the socket cannot be used; nothing is left running then.
 */
export async function startControl(options: ControlOptions): Promise<Control> {
  const { dataDir, listen, socketPath, log } = options;
  const serviceCIDRs = options.serviceCIDRs ?? ["10.96.0.0/16"];
  const [serviceCIDR = ""] = serviceCIDRs;
  const openStore: NonNullable<ControlOptions["store"]> =
    options.store ?? (() => LmdbStore.open<Stored>({ path: join(dataDir, "store"), codec: objectCodec }));
  const undo: (() => Promise<void> | void)[] = [];
  const close = async (): Promise<void> => {
    for (const step of undo.splice(0).reverse()) await step();
  };
  try {
    const [store, pki] = await Promise.all([
      openStore(),
      loadPki({ dir: join(dataDir, "pki"), serverNames: serverNames(options, serviceCIDR) }),
    ]);
    undo.push(() => store.close());
    const definitions = createResources({
      serviceCIDRs,
      nodePortRange: options.nodePortRange ?? [30000, 32767],
      defaultTolerationSeconds: options.defaultTolerationSeconds ?? 300,
    });
    const schema = Schema.load();
    const tokens = new TokenAuthority({ store, key: pki.serviceAccountKey });
    const authorizer = new Authorizer(store);
    definitions.push(
      ...reviewDefinitions({
        verify: (token, audiences) => tokens.verify(token, audiences),
        review: (user, asked) => authorizer.review(user, asked),
        rulesFor: (user, namespace) => authorizer.roles.rulesFor(user, namespace),
      }),
    );
    const { connect: kubelet, dial } = options.kubelet
      ? { connect: options.kubelet, dial: options.dial }
      : kubeletTls(pki, (name) => client.get(NODES, name));
    const metrics = new MetricsServer({ read: kubeletReader(kubelet), log });
    definitions.push(...metricsDefinitions(metrics));
    definitions.push(componentStatusDefinition(() => components(store, client)));
    const registry = await Registry.open({ store, schema, definitions, admission: ADMISSION, tokens, log });
    const client = new LocalClient(registry);
    await ensureNamespaces(client);
    await ensurePriorityClasses(client);
    await ensureRoles(client);

    const host = listen.host === "0.0.0.0" || listen.host === "::" ? "127.0.0.1" : listen.host;
    let port = listen.port;
    const address = (): string => `${host.includes(":") ? `[${host}]` : host}:${port}`;
    const api = new ApiServer({
      registry,
      kubelet,
      ...(dial ? { dial } : {}),
      address,
      log,
    });
    const verifier: TokenVerifier = {
      verify: async (token) =>
        isBootstrapToken(token) ? { user: await bootstrapUser(store, token) } : await tokens.verify(token),
    };
    const tls = await listenTls(api, pki, listen, verifier, log);
    port = tls.port;
    undo.push(() => closeServer(tls.server));
    if (socketPath !== undefined) {
      const server = await listenSocket(api, socketPath, log);
      undo.push(() => closeServer(server));
    }
    undo.push(() => api.close());

    const { ip, port: publicPort } = options.advertise ?? { ip: host, port };
    const informers = new InformerFactory(client, { log });
    undo.push(() => informers.stop());
    metrics.start(informers);
    undo.push(() => metrics.stop());
    const controllersOptions: Omit<ControllersOptions, "informers"> = {
      podMetrics: (namespace) => metrics.podMetrics(namespace),
      client,
      clusterCIDRs: options.clusterCIDRs ?? ["10.244.0.0/16"],
      nodeCIDRMaskSize: options.nodeCIDRMaskSize ?? 24,
      nodeMonitorGracePeriodSeconds: options.nodeMonitorGracePeriodSeconds ?? 40,
      serverAddresses: { ip, port: publicPort },
      serviceCIDRs,
      loadBalancerPool: options.loadBalancerPool,
      volumesDir: options.volumesDir,
      caCert: pki.ca.cert,
      sign: certificateSigner(pki.ca),
      join: options.kubelet
        ? undefined
        : {
            publicUrl: `https://${hostPort(ip, publicPort)}`,
            clusterDomain: options.clusterDomain ?? "cluster.local",
            clusterDNS: Cidr.parse(serviceCIDR).at(10),
          },
      tokens,
      log,
    };
    const lead = (factory: InformerFactory) => {
      const controllers = startControllers({ ...controllersOptions, informers: factory });
      return () => controllers.stop();
    };
    undo.push(store.shared ? takePart(client, lead, log) : lead(informers));
    informers.start();
    const url = `https://${address()}`;
    log.info({ url, socketPath, clusterName: options.clusterName }, "control plane started");
    return {
      url,
      socketPath,
      port,
      caCert: pki.ca.cert,
      adminKubeconfig: (contextName, server = url) => kubeconfig(contextName, server, pki),
      client,
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}
