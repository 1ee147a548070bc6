// Publishes what a machine needs that wants to join: kube-public/cluster-info (address and CA, for everybody, as kubeadm
// has it), and for nodes what they must know of the cluster's networks. Knows ConfigMaps and Namespaces.

import { stringify } from "yaml";
import { CONFIG_MAPS, isAlreadyExists, NAMESPACES } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import { type ConfigMap, keyOf, type Namespace, type Stored } from "../../common/k8s.js";
import type { WorkQueue } from "../../common/workqueue.js";
import { NODE_CONFIG } from "../api/authorizer.js";
import type { ControllerContext } from "./context.js";
import { isNamespaceTerminating } from "./objects.js";
import { onChange, type Reconciler } from "./reconcile.js";

export interface ClusterInfoOptions {
  /** https://192.168.56.10:6443, as machines of the cluster reach it. */
  publicUrl: string;
  /** PEM. */
  caCert: string;
  clusterCIDRs: readonly string[];
  clusterDomain: string;
  /** Where pods ask for names: the address of Service kube-dns. */
  clusterDNS: string;
}

function wanted(options: ClusterInfoOptions): ConfigMap[] {
  const { publicUrl, caCert, clusterCIDRs, clusterDomain, clusterDNS } = options;
  const ca = Buffer.from(caCert).toString("base64");
  const kubeconfig = {
    apiVersion: "v1",
    kind: "Config",
    clusters: [{ name: "", cluster: { server: publicUrl, "certificate-authority-data": ca } }],
    contexts: null,
    "current-context": "",
    preferences: {},
    users: null,
  };
  return [
    {
      metadata: { namespace: "kube-public", name: "cluster-info" },
      data: { kubeconfig: stringify(kubeconfig, { lineWidth: 0 }) },
    },
    {
      metadata: { ...NODE_CONFIG },
      data: { clusterCIDRs: clusterCIDRs.join(","), clusterDomain, clusterDNS },
    },
  ];
}

export class ClusterInfoController implements Reconciler {
  readonly #context: ControllerContext;
  readonly #wanted: ReadonlyMap<string, ConfigMap>;
  readonly #configMaps: Informer<ConfigMap>;
  readonly #namespaces: Informer<Namespace>;
  readonly #queue: WorkQueue;

  constructor(context: ControllerContext, queue: WorkQueue, options: ClusterInfoOptions) {
    this.#context = context;
    this.#wanted = new Map(wanted(options).map((one) => [keyOf(one as Stored<ConfigMap>), one]));
    this.#configMaps = context.informers.get(CONFIG_MAPS);
    this.#namespaces = context.informers.get(NAMESPACES);
    this.#queue = queue;
  }

  watch(): void {
    this.#configMaps.subscribe(
      onChange((one) => this.#wanted.has(keyOf(one)) && this.#queue.add(keyOf(one))),
    );
    this.#namespaces.subscribe({ add: () => [...this.#wanted.keys()].map((key) => this.#queue.add(key)) });
    for (const key of this.#wanted.keys()) this.#queue.add(key);
  }

  async reconcile(key: string): Promise<void> {
    const object = this.#wanted.get(key);
    if (!object) return;
    const { namespace = "", name = "" } = object.metadata ?? {};
    const present = this.#configMaps.get(key);
    const { client } = this.#context;
    const data = { ...present?.data, ...object.data };
    if (present) {
      const isRight = JSON.stringify(present.data) === JSON.stringify(data);
      if (!isRight) await client.patch(CONFIG_MAPS, name, "merge", { data }, { namespace });
      return;
    }
    try {
      await client.create(CONFIG_MAPS, object, { namespace });
    } catch (error) {
      if (!isAlreadyExists(error) && !isNamespaceTerminating(error)) throw error;
    }
  }
}
