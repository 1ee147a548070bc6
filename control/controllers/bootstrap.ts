// What every cluster has from the start: the system namespaces, the system priority classes, the roles, and the Service
// default/kubernetes with its endpoints, through which the API server is reached from within. Put back when somebody removes it. Knows those objects.

import {
  CLUSTER_ROLE_BINDINGS,
  CLUSTER_ROLES,
  ENDPOINT_SLICES,
  ENDPOINTS,
  isAlreadyExists,
  isNotFound,
  type KubeClient,
  NAMESPACES,
  PRIORITY_CLASSES,
  type Resource,
  SERVICES,
} from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import { Cidr, ipFamily } from "../../common/ip.js";
import type { EndpointSlice, Endpoints, KubeObject, Namespace, Service, Stored } from "../../common/k8s.js";
import type { WorkQueue } from "../../common/workqueue.js";
import { BOOTSTRAP_BINDINGS, BOOTSTRAP_ROLES } from "../resources/bootstrap-roles.js";
import { SYSTEM_PRIORITY_CLASSES } from "../resources/priority-class.js";
import { semanticallyEqual } from "./canonical.js";
import type { ControllerContext } from "./context.js";
import { SERVICE_NAME } from "./endpointslice-plan.js";
import type { Reconciler } from "./reconcile.js";

export interface BootstrapOptions {
  /** The Service default/kubernetes has the first address of the first one. */
  serviceCIDRs: readonly string[];
  /** Where the API server listens. */
  serverAddresses: { ip: string; port: number };
}

const SYSTEM_NAMESPACES = ["default", "kube-system", "kube-public", "kube-node-lease"];
const NAMESPACE = "default";
const NAME = "kubernetes";
const PORT_NAME = "https";
/** Endpoints with this label are not copied into slices: they have one of their own. */
const SKIP_MIRROR = "endpointslice.kubernetes.io/skip-mirror";
const LABELS = { component: "apiserver", provider: "kubernetes" };

function kubernetesService({ serviceCIDRs, serverAddresses }: BootstrapOptions): Service {
  return {
    apiVersion: "v1",
    kind: "Service",
    metadata: { name: NAME, namespace: NAMESPACE, labels: LABELS },
    spec: {
      type: "ClusterIP",
      clusterIP: Cidr.parse(serviceCIDRs[0] ?? "").at(1),
      ports: [{ name: PORT_NAME, protocol: "TCP", port: 443, targetPort: serverAddresses.port }],
      sessionAffinity: "None",
    },
  };
}

/** The API allows no endpoint on loopback, since a pod's loopback is its own: then there is none to reach. */
function reachable(ip: string): boolean {
  if (ipFamily(ip) === 4) return !ip.startsWith("127.") && ip !== "0.0.0.0";
  return ipFamily(ip) === 6 && ip !== "::1" && ip !== "::";
}

function kubernetesEndpoints({ serverAddresses: { ip, port } }: BootstrapOptions): Endpoints {
  const subset = { addresses: [{ ip }], ports: [{ name: PORT_NAME, port, protocol: "TCP" }] };
  return {
    apiVersion: "v1",
    kind: "Endpoints",
    metadata: { name: NAME, namespace: NAMESPACE, labels: { [SKIP_MIRROR]: "true" } },
    subsets: reachable(ip) ? [subset] : [],
  };
}

function kubernetesSlice({ serverAddresses: { ip, port } }: BootstrapOptions): EndpointSlice {
  return {
    apiVersion: "discovery.k8s.io/v1",
    kind: "EndpointSlice",
    metadata: { name: NAME, namespace: NAMESPACE, labels: { [SERVICE_NAME]: NAME } },
    addressType: ipFamily(ip) === 6 ? "IPv6" : "IPv4",
    ports: [{ name: PORT_NAME, port, protocol: "TCP" }],
    endpoints: reachable(ip) ? [{ addresses: [ip], conditions: { ready: true } }] : [],
  };
}

/** Creates the system namespaces that are missing. @throws StatusError */
export async function ensureNamespaces(client: KubeClient): Promise<void> {
  for (const name of SYSTEM_NAMESPACES) {
    const namespace: Namespace = { apiVersion: "v1", kind: "Namespace", metadata: { name } };
    try {
      await client.create(NAMESPACES, namespace);
    } catch (error) {
      if (!isAlreadyExists(error)) throw error;
    }
  }
}

/** Creates the priority classes that every cluster has. @throws StatusError */
export async function ensurePriorityClasses(client: KubeClient): Promise<void> {
  await ensure(client, PRIORITY_CLASSES, SYSTEM_PRIORITY_CLASSES);
}

/** Creates the ClusterRoles and bindings that every cluster has; one that somebody has changed stays so. @throws StatusError */
export async function ensureRoles(client: KubeClient): Promise<void> {
  await ensure(client, CLUSTER_ROLES, BOOTSTRAP_ROLES);
  await ensure(client, CLUSTER_ROLE_BINDINGS, BOOTSTRAP_BINDINGS);
}

async function ensure<T extends KubeObject>(
  client: KubeClient,
  resource: Resource<T>,
  objects: readonly T[],
): Promise<void> {
  for (const object of objects) {
    try {
      await client.create(resource, structuredClone(object));
    } catch (error) {
      if (!isAlreadyExists(error)) throw error;
    }
  }
}

export class BootstrapController implements Reconciler {
  readonly #context: ControllerContext;
  readonly #options: BootstrapOptions;
  readonly #namespaces: Informer<Namespace>;
  readonly #services: Informer<Service>;
  readonly #endpoints: Informer<Endpoints>;
  readonly #slices: Informer<EndpointSlice>;
  readonly #queue: WorkQueue;

  constructor(context: ControllerContext, queue: WorkQueue, options: BootstrapOptions) {
    this.#context = context;
    this.#options = options;
    this.#namespaces = context.informers.get(NAMESPACES);
    this.#services = context.informers.get(SERVICES);
    this.#endpoints = context.informers.get(ENDPOINTS);
    this.#slices = context.informers.get(ENDPOINT_SLICES);
    this.#queue = queue;
  }

  watch(): void {
    this.#namespaces.subscribe({
      // The Service cannot be written before its namespace is there.
      add: ({ metadata }) => {
        if (metadata.name === NAMESPACE) this.#queue.add("service");
      },
      delete: () => this.#queue.add("namespaces"),
    });
    const mine = ({ metadata }: Stored) => {
      if (metadata.name === NAME && metadata.namespace === NAMESPACE) this.#queue.add("service");
    };
    const handler = { update: (_old: Stored, now: Stored) => mine(now), delete: mine };
    this.#services.subscribe(handler);
    this.#endpoints.subscribe(handler);
    this.#slices.subscribe(handler);
    this.#queue.add("namespaces");
  }

  /** `what` is "namespaces" or "service". */
  async reconcile(what: string): Promise<void> {
    if (what === "namespaces") await ensureNamespaces(this.#context.client);
    else await this.#publish();
  }

  async #publish(): Promise<void> {
    const service = kubernetesService(this.#options);
    const ports = service.spec?.ports;
    await this.#ensure(SERVICES, service, (present: Stored<Service>) =>
      present.spec?.ports?.[0]?.targetPort === ports?.[0]?.targetPort
        ? undefined
        : { ...present, spec: { ...present.spec, ports } },
    );
    const endpoints = kubernetesEndpoints(this.#options);
    await this.#ensure(ENDPOINTS, endpoints, (present: Stored<Endpoints>) =>
      semanticallyEqual(present.subsets ?? [], endpoints.subsets)
        ? undefined
        : { ...present, subsets: endpoints.subsets ?? [] },
    );
    const slice = kubernetesSlice(this.#options);
    await this.#ensure(ENDPOINT_SLICES, slice, (present: Stored<EndpointSlice>) =>
      semanticallyEqual([present.ports, present.endpoints ?? []], [slice.ports, slice.endpoints])
        ? undefined
        : { ...present, ports: slice.ports ?? [], endpoints: slice.endpoints },
    );
  }

  /** @param change The object as it should be; undefined when it is right. */
  async #ensure<T extends KubeObject>(
    resource: Resource<T>,
    wanted: T,
    change: (present: Stored<T>) => Stored<T> | undefined,
  ): Promise<void> {
    const { client } = this.#context;
    try {
      const present = await client.get(resource, NAME, NAMESPACE);
      const changed = change(present);
      if (changed) await client.update(resource, changed as unknown as T, { namespace: NAMESPACE });
    } catch (error) {
      if (!isNotFound(error)) throw error;
      await client.create(resource, wanted, { namespace: NAMESPACE });
    }
  }
}
