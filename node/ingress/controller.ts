// The Ingress controller: follows the API, keeps the routing table, writes where Ingresses are to be reached, and
// serves their hosts on ports 80 and 443 of its pod. What is decided about requests is in routes.ts and proxy.ts.

import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { setTimeout as sleep } from "node:timers/promises";
import { createSecureContext, type SecureContext } from "node:tls";
import {
  ENDPOINT_SLICES,
  INGRESS_CLASSES,
  INGRESSES,
  isNotFound,
  type KubeClient,
  SECRETS,
  SERVICES,
} from "../../common/client.js";
import { type Informer, InformerFactory } from "../../common/informer.js";
import type {
  EndpointSlice,
  Ingress,
  IngressClass,
  KubeObject,
  Secret,
  Service,
  Stored,
} from "../../common/k8s.js";
import { keyOf } from "../../common/k8s.js";
import { silentLogger } from "../../common/log.js";
import { WorkQueue } from "../../common/workqueue.js";
import type { EmulatedProcess } from "../images/emulated.js";
import { resolveHost } from "../images/resolve.js";
import type { ContainerContext } from "../images/types.js";
import { EventRecorder } from "../pods/events.js";
import { type Target, targetsOf } from "./backends.js";
import { ownCertificate, SecretContexts } from "./certificates.js";
import { IngressProxy } from "./proxy.js";
import { type Backend, buildTable, isOfClass, type RoutingTable, secretFor } from "./routes.js";

const SERVICE_NAME = "kubernetes.io/service-name";
const BY_SERVICE = "service";
/** nginx's keepalive_timeout: longer than any client of ours waits. */
const KEEP_ALIVE_MS = 75_000;
/** How long requests are still taken after SIGTERM: until every host's rules have heard that the pod goes. */
const LAME_DUCK_MS = 2000;

export interface ControllerSettings {
  /** spec.controller of the IngressClasses that are served. */
  controllerClass: string;
  /** namespace/name of the Service under whose addresses Ingresses are to be reached. */
  publishService: string | undefined;
  /** Lines about requests on stdout. */
  accessLog: boolean;
}

export class IngressController {
  readonly #context: ContainerContext;
  readonly #settings: ControllerSettings;
  readonly #client: KubeClient;
  readonly #informers: InformerFactory;
  readonly #ingresses: Informer<Ingress>;
  readonly #classes: Informer<IngressClass>;
  readonly #services: Informer<Service>;
  readonly #slices: Informer<EndpointSlice>;
  readonly #secrets: Informer<Secret>;
  readonly #events: EventRecorder;
  readonly #contexts = new SecretContexts();
  readonly #proxy: IngressProxy;
  readonly #status: WorkQueue;
  readonly #targets = new Map<string, Target[]>();
  /** Generation by uid. */
  readonly #announced = new Map<string, number>();
  #table: RoutingTable | undefined;

  constructor(context: ContainerContext, client: KubeClient, settings: ControllerSettings) {
    this.#context = context;
    this.#settings = settings;
    this.#client = client;
    this.#informers = new InformerFactory(client);
    this.#ingresses = this.#informers.get(INGRESSES);
    this.#classes = this.#informers.get(INGRESS_CLASSES);
    this.#services = this.#informers.get(SERVICES);
    this.#slices = this.#informers.get(ENDPOINT_SLICES);
    this.#secrets = this.#informers.get(SECRETS);
    this.#slices.addIndex(BY_SERVICE, ({ metadata: { namespace, labels } }) => [
      `${namespace}/${labels?.[SERVICE_NAME]}`,
    ]);
    const component = "kubeplumb-ingress-controller";
    this.#events = new EventRecorder({ client, component, host: context.nodeName, log: silentLogger });
    this.#status = new WorkQueue({
      name: "status",
      worker: (key) => this.#writeStatus(key),
      log: silentLogger,
    });
    this.#proxy = new IngressProxy({
      ns: context.ns,
      table: () => this.#routing(),
      targets: (backend) => this.#targetsOf(backend),
      resolve: (host) => resolveHost(context, host),
      ...(settings.accessLog ? { onAnswer: (...answer) => this.#log(...answer) } : {}),
    });
  }

  /** Whether everything that routes depend on is known. */
  get ready(): boolean {
    return [this.#ingresses, this.#classes, this.#services, this.#slices, this.#secrets].every(
      ({ hasSynced }) => hasSynced,
    );
  }

  /** Follows the API and listens; resolves when it does both, or when the process has ended. */
  async start(process: EmulatedProcess): Promise<void> {
    this.#subscribe();
    this.#informers.start();
    await Promise.race([this.#informers.synced(), process.exited]);
    if (process.over) return;
    this.#status.start();
    const own = await ownCertificate();
    const tls = {
      ...own,
      ALPNProtocols: ["http/1.1"],
      SNICallback: (name: string, done: (error: Error | null, context?: SecureContext) => void) =>
        done(null, this.#secureContext(name) ?? fallback),
    };
    const fallback = createSecureContext(own);
    // What is thrown there is a mistake of ours: it costs one connection, not the process.
    const handler = (secure: boolean) => (request: IncomingMessage, response: ServerResponse) => {
      this.#proxy.handle(request, response, secure).catch(() => response.destroy());
    };
    const make = (secure: boolean) => () => {
      const server = secure ? createTlsServer(tls, handler(true)) : createServer(handler(false));
      server.keepAliveTimeout = KEEP_ALIVE_MS;
      server.requestTimeout = 0;
      server.on("upgrade", (request, socket, head) => {
        this.#proxy.upgrade(request, socket, head, secure).catch(() => socket.destroy());
      });
      return server;
    };
    await process.listen(80, make(false));
    await process.listen(443, make(true));
  }

  /** Goes on serving for a moment, then lets requests in progress end. */
  async terminate(process: EmulatedProcess): Promise<void> {
    this.#context.stdout("Received SIGTERM, shutting down\n");
    await sleep(LAME_DUCK_MS);
    await process.shutDown(0);
  }

  async close(): Promise<void> {
    this.#proxy.close();
    this.#events.stop();
    this.#informers.stop();
    await this.#status.stop();
  }

  #subscribe(): void {
    const changed = () => {
      this.#table = undefined;
    };
    const eachOf = (keys: () => Iterable<Stored<Ingress>>) => {
      for (const ingress of keys()) this.#status.add(keyOf(ingress));
    };
    const all = () => {
      changed();
      eachOf(() => this.#ingresses.list());
    };
    this.#classes.subscribe({ add: all, update: all, delete: all });
    this.#ingresses.subscribe({
      add: (ingress) => {
        changed();
        this.#status.add(keyOf(ingress));
      },
      update: (_old, now) => {
        changed();
        this.#status.add(keyOf(now));
      },
      delete: ({ metadata }) => {
        changed();
        this.#announced.delete(metadata.uid);
      },
    });
    const moved = <T extends KubeObject>(object: Stored<T>) => {
      // Who answers is worked out again when it is asked for.
      this.#targets.clear();
      if (keyOf(object) === this.#settings.publishService) eachOf(() => this.#ingresses.list());
    };
    this.#services.subscribe({ add: moved, update: (_old, now) => moved(now), delete: moved });
    const clear = () => this.#targets.clear();
    this.#slices.subscribe({ add: clear, update: clear, delete: clear });
  }

  /** Says once for each generation that the Ingress is served. */
  #announce(ingress: Stored<Ingress>): void {
    const { apiVersion, kind, metadata } = ingress;
    const { name, namespace, uid, generation = 0 } = metadata;
    if (this.#announced.get(uid) === generation) return;
    this.#announced.set(uid, generation);
    const target = { apiVersion, kind, name, uid, ...(namespace ? { namespace } : {}) };
    this.#events.record(target, "Normal", "Sync", "Scheduled for sync");
    this.#context.stdout(`Found valid IngressClass ${ingress.spec?.ingressClassName}: ${keyOf(ingress)}\n`);
  }

  #classNames(): Set<string> {
    const { controllerClass } = this.#settings;
    const ours = this.#classes.list().filter(({ spec }) => spec?.controller === controllerClass);
    return new Set(ours.map(({ metadata }) => metadata.name));
  }

  #isOurs(ingress: Stored<Ingress>): boolean {
    return isOfClass(ingress, this.#classNames());
  }

  #routing(): RoutingTable {
    const classes = this.#classNames();
    this.#table ??= buildTable(this.#ingresses.list().filter((ingress) => isOfClass(ingress, classes)));
    return this.#table;
  }

  #targetsOf(backend: Backend): Target[] {
    const { namespace, service, port } = backend;
    const key = `${namespace}/${service}`;
    const cached = this.#targets.get(`${key}:${port}`);
    if (cached) return cached;
    const targets = targetsOf(backend, this.#services.get(key), this.#slices.byIndex(BY_SERVICE, key));
    this.#targets.set(`${key}:${port}`, targets);
    return targets;
  }

  #secureContext(host: string): SecureContext | undefined {
    const key = secretFor(this.#routing(), host.toLowerCase());
    const secret = key === undefined ? undefined : this.#secrets.get(key);
    return secret && this.#contexts.get(secret);
  }

  /** status.loadBalancer of an Ingress: the addresses of our own Service; nothing when it is not ours any more. */
  async #writeStatus(key: string): Promise<void> {
    const ingress = this.#ingresses.get(key);
    const { publishService } = this.#settings;
    if (!ingress || !this.#isOurs(ingress)) return;
    this.#announce(ingress);
    if (!publishService) return;
    const service = this.#services.get(publishService);
    const addresses = (service?.status?.loadBalancer?.ingress ?? []).flatMap(({ ip }) => (ip ? [ip] : []));
    const present = (ingress.status?.loadBalancer?.ingress ?? []).map(({ ip }) => ip);
    if (addresses.join() === present.join()) return;
    const status = { loadBalancer: { ingress: addresses.map((ip) => ({ ip })) } };
    const { name, namespace } = ingress.metadata;
    const where = { subresource: "status" as const, ...(namespace ? { namespace } : {}) };
    try {
      await this.#client.patch(INGRESSES, name, "merge", { status }, where);
    } catch (error) {
      if (!isNotFound(error)) throw error;
    }
  }

  #log(request: IncomingMessage, status: number, target: string): void {
    const { socket, method, url, httpVersion, headers } = request;
    const time = new Date().toISOString();
    const what = `"${method} ${url} HTTP/${httpVersion}" ${status}`;
    const agent = JSON.stringify(headers["user-agent"] ?? "-");
    this.#context.stdout(
      `${socket.remoteAddress} - [${time}] ${what} ${agent} [${headers.host}] ${target}\n`,
    );
  }
}
