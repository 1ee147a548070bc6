// Publishes the cluster's CA certificate as ConfigMap kube-root-ca.crt in every namespace, for pods that talk to the API
// server, and puts it back. Knows Namespaces and ConfigMaps.

import { CONFIG_MAPS, isAlreadyExists, NAMESPACES } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import { type ConfigMap, keyOf, type Namespace, type Stored } from "../../common/k8s.js";
import type { WorkQueue } from "../../common/workqueue.js";
import type { ControllerContext } from "./context.js";
import { isNamespaceTerminating } from "./objects.js";
import { onSight, type Reconciler } from "./reconcile.js";

const NAME = "kube-root-ca.crt";
const KEY = "ca.crt";
const DESCRIPTION =
  "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

export class RootCaController implements Reconciler {
  readonly #context: ControllerContext;
  readonly #caCert: string;
  readonly #namespaces: Informer<Namespace>;
  readonly #configMaps: Informer<ConfigMap>;
  readonly #queue: WorkQueue;

  constructor(context: ControllerContext, queue: WorkQueue, { caCert }: { caCert: string }) {
    this.#context = context;
    this.#caCert = caCert;
    this.#namespaces = context.informers.get(NAMESPACES);
    this.#configMaps = context.informers.get(CONFIG_MAPS);
    this.#queue = queue;
  }

  watch(): void {
    this.#namespaces.subscribe(onSight((namespace) => this.#queue.add(keyOf(namespace))));
    const changed = ({ metadata }: Stored) => {
      if (metadata.name === NAME && metadata.namespace) this.#queue.add(metadata.namespace);
    };
    this.#configMaps.subscribe({ update: (_old, now) => changed(now), delete: changed });
  }

  async reconcile(namespace: string): Promise<void> {
    const home = this.#namespaces.get(namespace);
    if (!home || home.metadata.deletionTimestamp) return;
    const present = this.#configMaps.get(`${namespace}/${NAME}`);
    const data = { [KEY]: this.#caCert };
    const { client } = this.#context;
    if (present) {
      const isRight = present.data?.[KEY] === this.#caCert && Object.keys(present.data).length === 1;
      if (!isRight) await client.update(CONFIG_MAPS, { ...present, data } as ConfigMap, { namespace });
      return;
    }
    const wanted: ConfigMap = {
      apiVersion: "v1",
      kind: "ConfigMap",
      metadata: { name: NAME, namespace, annotations: { "kubernetes.io/description": DESCRIPTION } },
      data,
    };
    try {
      await client.create(CONFIG_MAPS, wanted, { namespace });
    } catch (error) {
      if (!isAlreadyExists(error) && !isNamespaceTerminating(error)) throw error;
    }
  }
}
