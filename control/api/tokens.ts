// Tokens of service accounts: JWTs that are issued on request (TokenRequest) and looked at when a request brings one.
// Claims, checks and texts as the real server's. Knows the store and keys, no HTTP.

import {
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  randomUUID,
} from "node:crypto";
import type { JWTPayload } from "jose";
import type { Stored } from "../../common/k8s.js";
import type { Store } from "../store/store.js";
import type { User } from "./engine.js";

/** Who issues tokens, and whom they are for when nothing is said: service-account-issuer, api-audiences. */
export const ISSUER = "https://kubernetes.default.svc.cluster.local";
const ALGORITHM = "ES256";
/** A signature that was found good is not looked at again for this long; whether the account is still there, is. */
const CACHE_MS = 10_000;
const MAX_CACHED = 10_000;

interface Named {
  name: string;
  uid: string;
}

/** What a token says beside times. */
export interface TokenSubject {
  namespace: string;
  account: Named;
  /** The token is good as long as this object is there. */
  pod?: Named;
  secret?: Named;
  node?: Named;
}

interface PrivateClaims {
  "kubernetes.io"?: {
    namespace: string;
    serviceaccount: Named;
    pod?: Named;
    secret?: Named;
    node?: Named;
  };
  jti?: string;
}

type Claims = PrivateClaims & JWTPayload;

export interface Verified {
  user: User;
  /** Those of the ones that were asked for that the token has. */
  audiences: string[];
}

/** Why a token is refused; the text is for a TokenReview, a request just gets its 401. */
export class TokenError extends Error {
  override readonly name = "TokenError";
}

export class TokenAuthority {
  readonly #store: Store<Stored>;
  readonly #private: KeyObject;
  readonly #public: KeyObject;
  readonly #now: () => number;
  readonly #good = new Map<string, { claims: Claims; until: number }>();

  /** @param key PEM of a P-256 key; without one tokens are good for the life of this process. */
  constructor({
    store,
    key,
    now = Date.now,
  }: {
    store: Store<Stored>;
    key?: string | undefined;
    now?: () => number;
  }) {
    this.#store = store;
    this.#private =
      key === undefined
        ? generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey
        : createPrivateKey(key);
    this.#public = createPublicKey(this.#private);
    this.#now = now;
  }

  /**
   * @param audiences Whom it is for; undefined: this API server.
   * @param seconds Of life; Infinity for the old kind that is kept in a Secret. */
  async issue(
    { namespace, account, pod, secret, node }: TokenSubject,
    audiences: readonly string[] | undefined,
    seconds: number,
  ): Promise<{ token: string; expiresAt: number }> {
    const { SignJWT } = await import("jose/jwt/sign");
    const at = Math.floor(this.#now() / 1000);
    const claims: PrivateClaims = {
      "kubernetes.io": {
        namespace,
        serviceaccount: account,
        ...(pod ? { pod } : {}),
        ...(secret ? { secret } : {}),
        ...(node ? { node } : {}),
      },
    };
    const jwt = new SignJWT({ ...claims })
      .setProtectedHeader({ alg: ALGORITHM, typ: "JWT" })
      .setIssuer(ISSUER)
      .setSubject(userName(namespace, account.name))
      .setAudience([...(audiences ?? [ISSUER])])
      .setJti(randomUUID())
      .setIssuedAt(at)
      .setNotBefore(at);
    if (Number.isFinite(seconds)) jwt.setExpirationTime(at + seconds);
    return { token: await jwt.sign(this.#private), expiresAt: (at + seconds) * 1000 };
  }

  /**
   * Whom a token stands for.
   * @throws TokenError when it is not ours, out of time, for others, or what it is bound to is gone.
   */
  async verify(token: string, audiences: readonly string[] = [ISSUER]): Promise<Verified> {
    const payload = await this.#claims(token);
    const of = payload["kubernetes.io"];
    if (!of || payload.sub !== userName(of.namespace, of.serviceaccount.name))
      throw new TokenError("service account token has no claims of a service account");
    const meant = [payload.aud ?? []].flat().filter((one) => audiences.includes(one));
    if (meant.length === 0)
      throw new TokenError(
        `token audiences [${[payload.aud ?? []].flat().join(" ")}] is invalid for the target audiences [${audiences.join(" ")}]`,
      );
    const { namespace, serviceaccount, pod, secret, node } = of;
    await this.#alive("serviceaccounts", namespace, serviceaccount, "service account");
    if (pod) await this.#alive("pods", namespace, pod, "pod");
    if (secret) await this.#alive("secrets", namespace, secret, "secret");
    return {
      audiences: meant,
      user: {
        name: userName(namespace, serviceaccount.name),
        uid: serviceaccount.uid,
        groups: ["system:serviceaccounts", `system:serviceaccounts:${namespace}`, "system:authenticated"],
        extra: {
          ...(payload.jti ? { "authentication.kubernetes.io/credential-id": [`JTI=${payload.jti}`] } : {}),
          ...(node
            ? {
                "authentication.kubernetes.io/node-name": [node.name],
                "authentication.kubernetes.io/node-uid": [node.uid],
              }
            : {}),
          ...(pod
            ? {
                "authentication.kubernetes.io/pod-name": [pod.name],
                "authentication.kubernetes.io/pod-uid": [pod.uid],
              }
            : {}),
        },
      },
    };
  }

  async #claims(token: string): Promise<Claims> {
    const now = this.#now();
    const kept = this.#good.get(token);
    if (kept && kept.until > now) return kept.claims;
    this.#good.delete(token);
    const { jwtVerify } = await import("jose/jwt/verify");
    const options = { algorithms: [ALGORITHM], issuer: ISSUER, currentDate: new Date(now) };
    const { payload } = await jwtVerify<PrivateClaims>(token, this.#public, options).catch((error: Error) => {
      throw new TokenError(error.message, { cause: error });
    });
    if (this.#good.size >= MAX_CACHED) this.#good.clear();
    const end = (payload.exp ?? Number.POSITIVE_INFINITY) * 1000;
    this.#good.set(token, { claims: payload, until: Math.min(now + CACHE_MS, end) });
    return payload;
  }

  async #alive(plural: string, namespace: string, { name, uid }: Named, what: string): Promise<void> {
    const entry = await this.#store.get(`/registry/${plural}/${namespace}/${name}`);
    if (!entry) throw new TokenError(`${what} ${namespace}/${name} has been deleted`);
    if (entry.value.metadata.uid !== uid)
      throw new TokenError(`${what} UID (${entry.value.metadata.uid}) does not match claim (${uid})`);
  }
}

const userName = (namespace: string, account: string): string =>
  `system:serviceaccount:${namespace}:${account}`;
