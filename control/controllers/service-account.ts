// Gives every namespace its ServiceAccount "default". Knows Namespaces and ServiceAccounts.

import { isAlreadyExists, NAMESPACES, SERVICE_ACCOUNTS } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import { keyOf, type Namespace, type ServiceAccount } from "../../common/k8s.js";
import type { WorkQueue } from "../../common/workqueue.js";
import type { ControllerContext } from "./context.js";
import { isNamespaceTerminating } from "./objects.js";
import { onSight, type Reconciler } from "./reconcile.js";

const NAME = "default";

export class ServiceAccountController implements Reconciler {
  readonly #context: ControllerContext;
  readonly #namespaces: Informer<Namespace>;
  readonly #accounts: Informer<ServiceAccount>;
  readonly #queue: WorkQueue;

  constructor(context: ControllerContext, queue: WorkQueue) {
    this.#context = context;
    this.#namespaces = context.informers.get(NAMESPACES);
    this.#accounts = context.informers.get(SERVICE_ACCOUNTS);
    this.#queue = queue;
  }

  watch(): void {
    this.#namespaces.subscribe(onSight((namespace) => this.#queue.add(keyOf(namespace))));
    this.#accounts.subscribe({
      delete: ({ metadata }) => {
        if (metadata.name === NAME && metadata.namespace) this.#queue.add(metadata.namespace);
      },
    });
  }

  async reconcile(namespace: string): Promise<void> {
    const present = this.#namespaces.get(namespace);
    if (!present || present.metadata.deletionTimestamp) return;
    if (this.#accounts.get(`${namespace}/${NAME}`)) return;
    const account: ServiceAccount = {
      apiVersion: "v1",
      kind: "ServiceAccount",
      metadata: { name: NAME, namespace },
    };
    try {
      await this.#context.client.create(SERVICE_ACCOUNTS, account, { namespace });
    } catch (error) {
      if (!isAlreadyExists(error) && !isNamespaceTerminating(error)) throw error;
    }
  }
}
