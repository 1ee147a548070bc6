// Fills Secrets of type kubernetes.io/service-account-token with a token that does not end, the CA and the namespace,
// and removes them with their account. Knows Secrets and ServiceAccounts.

import { isNotFound, SECRETS, SERVICE_ACCOUNTS } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import { keyOf, type Secret, type ServiceAccount, type Stored } from "../../common/k8s.js";
import type { WorkQueue } from "../../common/workqueue.js";
import type { ControllerContext } from "./context.js";
import type { Reconciler } from "./reconcile.js";

const TYPE = "kubernetes.io/service-account-token";
const ACCOUNT = "kubernetes.io/service-account.name";
const ACCOUNT_UID = "kubernetes.io/service-account.uid";

interface Named {
  name: string;
  uid: string;
}

/** Signs tokens: control/api's TokenAuthority. */
export interface TokenIssuer {
  issue(
    subject: { namespace: string; account: Named; secret: Named },
    audiences: undefined,
    seconds: number,
  ): Promise<{ token: string }>;
}

export interface TokenSecretOptions {
  /** PEM. */
  caCert: string;
  tokens: TokenIssuer;
}

export class TokenSecretController implements Reconciler {
  readonly #context: ControllerContext;
  readonly #options: TokenSecretOptions;
  readonly #secrets: Informer<Secret>;
  readonly #accounts: Informer<ServiceAccount>;
  readonly #queue: WorkQueue;

  constructor(context: ControllerContext, queue: WorkQueue, options: TokenSecretOptions) {
    this.#context = context;
    this.#options = options;
    this.#secrets = context.informers.get(SECRETS);
    this.#accounts = context.informers.get(SERVICE_ACCOUNTS);
    this.#queue = queue;
  }

  watch(): void {
    const seen = (secret: Stored<Secret>) => {
      if (secret.type === TYPE) this.#queue.add(keyOf(secret));
    };
    this.#secrets.subscribe({ add: seen, update: (_old, now) => seen(now) });
    const account = ({ metadata }: Stored<ServiceAccount>) => {
      for (const secret of this.#secrets.list())
        if (secret.metadata.namespace === metadata.namespace) seen(secret);
    };
    this.#accounts.subscribe({ add: account, delete: account });
  }

  async reconcile(key: string): Promise<void> {
    const secret = this.#secrets.get(key);
    if (secret?.type !== TYPE || secret.metadata.deletionTimestamp) return;
    const { name, namespace = "", uid, annotations = {} } = secret.metadata;
    const account = this.#accounts.get(`${namespace}/${annotations[ACCOUNT]}`);
    const known = annotations[ACCOUNT_UID];
    if (!account || (known !== undefined && known !== account.metadata.uid)) {
      // Its account is gone: so is what the token was for. One that never had an account waits for it.
      if (known !== undefined) await this.#remove(secret);
      return;
    }
    const { data = {} } = secret;
    if (known !== undefined && data.token && data["ca.crt"] && data.namespace) return;
    const { client } = this.#context;
    const { caCert, tokens } = this.#options;
    const base64 = (text: string): string => Buffer.from(text).toString("base64");
    const subject = {
      namespace,
      account: { name: account.metadata.name, uid: account.metadata.uid },
      secret: { name, uid },
    };
    const token =
      data.token || base64((await tokens.issue(subject, undefined, Number.POSITIVE_INFINITY)).token);
    const filled = {
      ...secret,
      metadata: { ...secret.metadata, annotations: { ...annotations, [ACCOUNT_UID]: account.metadata.uid } },
      data: { ...data, "ca.crt": base64(caCert), namespace: base64(namespace), token },
    };
    await client.update(SECRETS, filled as Secret, { namespace });
  }

  async #remove({ metadata: { name, namespace = "", uid } }: Stored<Secret>): Promise<void> {
    try {
      await this.#context.client.delete(SECRETS, name, { namespace, preconditions: { uid } });
    } catch (error) {
      if (!isNotFound(error)) throw error;
    }
  }
}
