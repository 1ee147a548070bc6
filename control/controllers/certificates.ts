// Approves the requests of nodes for certificates, signs what is approved, and removes requests that are done with. Knows
// CertificateSigningRequests and Nodes; what to decide is in certificate-plan.ts.

import { CERTIFICATE_SIGNING_REQUESTS, NODES } from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import type {
  CertificateSigningRequest,
  CertificateSigningRequestCondition,
  Node,
  Stored,
} from "../../common/k8s.js";
import type { WorkQueue } from "../../common/workqueue.js";
import {
  type RequestedIdentity,
  readCertificateRequest,
  type SignCertificate,
} from "../certificate-requests.js";
import { signingProblem, usageOf, verdictOf } from "./certificate-plan.js";
import type { ControllerContext } from "./context.js";
import { deleteIfPresent } from "./objects.js";
import { onSight, type Reconciler, type Sweeper } from "./reconcile.js";
import { parseTime } from "./time.js";

/** --cluster-signing-duration. */
const LONGEST_SECONDS = 365 * 24 * 3600;
const NODE_PREFIX = "system:node:";

export class CertificateController implements Reconciler {
  readonly #context: ControllerContext;
  readonly #requests: Informer<CertificateSigningRequest>;
  readonly #nodes: Informer<Node>;
  readonly #queue: WorkQueue;
  readonly #sign: SignCertificate;

  constructor(context: ControllerContext, queue: WorkQueue, { sign }: { sign: SignCertificate }) {
    this.#context = context;
    this.#requests = context.informers.get(CERTIFICATE_SIGNING_REQUESTS);
    this.#nodes = context.informers.get(NODES);
    this.#queue = queue;
    this.#sign = sign;
  }

  watch(): void {
    this.#requests.subscribe(onSight((request) => this.#queue.add(request.metadata.name)));
  }

  async reconcile(name: string): Promise<void> {
    const request = this.#requests.get(name);
    if (!request || request.metadata.deletionTimestamp || request.status?.certificate) return;
    const conditions = request.status?.conditions ?? [];
    if (conditions.some(({ type }) => type === "Denied" || type === "Failed")) return;
    const usage = usageOf(request.spec.signerName);
    if (!usage) return;
    const pem = Buffer.from(request.spec.request, "base64").toString();
    const identity = await readCertificateRequest(pem).catch((error: Error) => error);
    if (identity instanceof Error) return await this.#fail(request, identity.message);
    if (!conditions.some(({ type }) => type === "Approved")) return await this.#judge(request, identity);
    const problem = signingProblem(request, identity);
    if (problem) return await this.#fail(request, problem);
    const seconds = Math.min(request.spec.expirationSeconds ?? LONGEST_SECONDS, LONGEST_SECONDS);
    const certificate = Buffer.from(await this.#sign(pem, { usage, seconds })).toString("base64");
    await this.#write(request, { certificate }, "status");
  }

  async #judge(request: Stored<CertificateSigningRequest>, identity: RequestedIdentity): Promise<void> {
    const node = this.#nodes.get(identity.commonName.slice(NODE_PREFIX.length));
    const verdict = verdictOf(request, identity, node);
    if (verdict) await this.#condition(request, { ...verdict, status: "True" }, "approval");
  }

  #fail(request: Stored<CertificateSigningRequest>, message: string): Promise<void> {
    const failed = { type: "Failed", status: "True", reason: "SignerValidationFailure", message };
    return this.#condition(request, failed, "status");
  }

  #condition(
    request: Stored<CertificateSigningRequest>,
    condition: CertificateSigningRequestCondition,
    subresource: "approval" | "status",
  ): Promise<void> {
    const conditions = [...(request.status?.conditions ?? []), condition];
    return this.#write(request, { conditions }, subresource);
  }

  async #write(
    { metadata, status }: Stored<CertificateSigningRequest>,
    change: CertificateSigningRequest["status"],
    subresource: "approval" | "status",
  ): Promise<void> {
    const { name, resourceVersion } = metadata;
    const patch = { metadata: { resourceVersion }, status: { ...status, ...change } };
    await this.#context.client.patch(CERTIFICATE_SIGNING_REQUESTS, name, "merge", patch, { subresource });
  }
}

const HOUR_MS = 3_600_000;

/** kube-controller-manager's csrcleaner: decided requests for an hour, others for a day. */
export class CertificateCleaner implements Sweeper {
  readonly periodMs = HOUR_MS;
  readonly #context: ControllerContext;
  readonly #requests: Informer<CertificateSigningRequest>;

  constructor(context: ControllerContext) {
    this.#context = context;
    this.#requests = context.informers.get(CERTIFICATE_SIGNING_REQUESTS);
  }

  async sweep(): Promise<void> {
    for (const request of this.#requests.list()) {
      const since = parseTime(request.metadata.creationTimestamp) ?? 0;
      const age = this.#context.now() - since;
      const limit = (request.status?.conditions?.length ?? 0) > 0 ? HOUR_MS : 24 * HOUR_MS;
      if (age > limit) await deleteIfPresent(this.#context.client, CERTIFICATE_SIGNING_REQUESTS, request);
    }
  }
}
