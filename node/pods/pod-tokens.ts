// The service account tokens of one pod: asked for when a volume needs them, kept, and asked for again well before they
// end (the kubelet's rule: after 80 % of their life, or a day). Knows the client, no files.

import { type KubeClient, SERVICE_ACCOUNTS } from "../../common/client.js";
import type { KubeObject, Pod, Stored } from "../../common/k8s.js";

export interface TokenProjection {
  audience?: string;
  /** Default 3600. */
  expirationSeconds?: number;
}

/** authentication.k8s.io/v1 TokenRequest, as far as it is used here. */
interface TokenAnswer extends KubeObject {
  status?: { token?: string; expirationTimestamp?: string };
}

const DEFAULT_SECONDS = 3600;
const DAY_MS = 24 * 3600_000;

export class PodTokens {
  readonly #client: KubeClient;
  readonly #now: () => number;
  readonly #kept = new Map<string, { token: string; renewAt: number }>();

  constructor(client: KubeClient, now: () => number = Date.now) {
    this.#client = client;
    this.#now = now;
  }

  /** @throws StatusError as the API server refuses it: NotFound when the account is gone. */
  async get(
    pod: Stored<Pod>,
    { audience = "", expirationSeconds = DEFAULT_SECONDS }: TokenProjection,
  ): Promise<string> {
    const key = `${expirationSeconds} ${audience}`;
    const kept = this.#kept.get(key);
    const now = this.#now();
    if (kept && now < kept.renewAt) return kept.token;
    const { name, namespace = "", uid } = pod.metadata;
    const request = {
      apiVersion: "authentication.k8s.io/v1",
      kind: "TokenRequest",
      metadata: { name: pod.spec?.serviceAccountName || "default" },
      spec: {
        audiences: audience ? [audience] : [],
        expirationSeconds,
        boundObjectRef: { apiVersion: "v1", kind: "Pod", name, uid },
      },
    };
    const { status } = (await this.#client.create<KubeObject>(SERVICE_ACCOUNTS, request, {
      namespace,
      subresource: "token",
    })) as TokenAnswer;
    const token = status?.token ?? "";
    const life = Date.parse(status?.expirationTimestamp ?? "") - now;
    this.#kept.set(key, { token, renewAt: now + Math.min(0.8 * life, DAY_MS) });
    return token;
  }
}
