// Gives every namespace its ServiceAccount "default". Knows Namespaces and ServiceAccounts.

import { isAlreadyExists, isNotFound, NAMESPACES, SERVICE_ACCOUNTS } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import type { Namespace, ServiceAccount, Stored } from "../../common/k8s.js";
import { WorkQueue } from "../../common/workqueue.js";
import type { Controller, ControllerContext } from "./context.js";
import { isNamespaceTerminating } from "./objects.js";

const NAME = "default";

export class ServiceAccountController implements Controller {
  readonly name = "service-account";
  readonly #context: ControllerContext;
  readonly #namespaces: Informer<Namespace>;
  readonly #accounts: Informer<ServiceAccount>;
  readonly #queue: WorkQueue;

  constructor(context: ControllerContext) {
    this.#context = context;
    this.#namespaces = context.informers.get(NAMESPACES);
    this.#accounts = context.informers.get(SERVICE_ACCOUNTS);
    this.#queue = new WorkQueue({
      name: this.name,
      worker: (namespace) => this.#sync(namespace),
      concurrency: 4,
      log: context.log.child({ controller: this.name }),
    });
  }

  start(): void {
    const enqueue = (namespace: Stored<Namespace>) => this.#queue.add(namespace.metadata.name);
    this.#namespaces.subscribe({ add: enqueue, update: (_old, now) => enqueue(now) });
    this.#accounts.subscribe({
      delete: ({ metadata }) => {
        if (metadata.name === NAME && metadata.namespace) this.#queue.add(metadata.namespace);
      },
    });
    this.#queue.start();
  }

  stop(): Promise<void> {
    return this.#queue.stop();
  }

  async #sync(namespace: string): Promise<void> {
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
      if (isAlreadyExists(error) || isNotFound(error) || isNamespaceTerminating(error)) return;
      throw error;
    }
  }
}
