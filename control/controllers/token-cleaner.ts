// Removes bootstrap tokens that have expired (kube-controller-manager's tokencleaner). Knows Secrets.

import { SECRETS } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import type { Secret } from "../../common/k8s.js";
import type { ControllerContext } from "./context.js";
import { deleteIfPresent } from "./objects.js";
import type { Sweeper } from "./reconcile.js";
import { parseTime } from "./time.js";

const TYPE = "bootstrap.kubernetes.io/token";

export class TokenCleaner implements Sweeper {
  readonly periodMs = 10_000;
  readonly #context: ControllerContext;
  readonly #secrets: Informer<Secret>;

  constructor(context: ControllerContext) {
    this.#context = context;
    this.#secrets = context.informers.get(SECRETS);
  }

  async sweep(): Promise<void> {
    for (const secret of this.#secrets.list()) {
      if (secret.type !== TYPE) continue;
      const expiration = Buffer.from(secret.data?.expiration ?? "", "base64").toString();
      const end = parseTime(expiration);
      if (end !== undefined && end <= this.#context.now())
        await deleteIfPresent(this.#context.client, SECRETS, secret);
    }
  }
}
