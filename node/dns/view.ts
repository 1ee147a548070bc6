// The cluster as the DNS server sees it: informers of Services, EndpointSlices, Namespaces and, when names of pods are
// to be verified, Pods. Keeps of each object what names are made of.

import { ENDPOINT_SLICES, NAMESPACES, PODS, type Resource, SERVICES } from "../../common/client.js";
import type { Informer, InformerFactory } from "../../common/informer.js";
import type { EndpointSlice, KubeObject, Namespace, Pod, Service, Stored } from "../../common/k8s.js";
import { comparableAddress } from "./names.js";
import type { ClusterView, Slice } from "./zone.js";

const SERVICE_NAME = "kubernetes.io/service-name";
const BY_ADDRESS = "dns:address";
const BY_SERVICE = "dns:service";

/** What identifies an object, and what informers need. */
function identity<T extends KubeObject>({ apiVersion, kind, metadata }: Stored<T>) {
  const { name, namespace, uid, resourceVersion, creationTimestamp } = metadata;
  return {
    apiVersion,
    kind,
    metadata: { name, uid, resourceVersion, creationTimestamp, ...(namespace ? { namespace } : {}) },
  };
}

const keptService = (service: Stored<Service>): Stored<Service> => {
  const { type, clusterIP, clusterIPs, ports, externalName } = service.spec ?? {};
  return { ...identity(service), spec: { type, clusterIP, clusterIPs, ports, externalName } };
};

const keptSlice = (slice: Stored<EndpointSlice>): Stored<EndpointSlice> => {
  const { addressType, endpoints = [], ports } = slice;
  const { metadata, ...own } = identity(slice);
  const service = slice.metadata.labels?.[SERVICE_NAME];
  return {
    ...own,
    metadata: { ...metadata, labels: service ? { [SERVICE_NAME]: service } : {} },
    addressType,
    ports,
    endpoints: endpoints.map(({ addresses, conditions, hostname, targetRef }) => ({
      addresses,
      conditions,
      hostname,
      targetRef: targetRef && { name: targetRef.name },
    })),
  };
};

const keptPod = (pod: Stored<Pod>): Stored<Pod> => ({
  ...identity(pod),
  status: { podIP: pod.status?.podIP, podIPs: pod.status?.podIPs, phase: pod.status?.phase },
});

const addressesOf = (list: readonly (string | undefined)[]): string[] =>
  list.filter((one): one is string => !!one && /^[\d.]+$|:/.test(one)).map(comparableAddress);

export class InformerView implements ClusterView {
  readonly #namespaces: Informer<Namespace>;
  readonly #services: Informer<Service>;
  readonly #slices: Informer<EndpointSlice>;
  readonly #pods: Informer<Pod> | undefined;
  readonly #all: Informer<KubeObject>[] = [];
  #changed = Date.now();

  constructor(informers: InformerFactory, { pods }: { pods: boolean }) {
    this.#namespaces = this.#follow(informers, NAMESPACES, identity);
    this.#services = this.#follow(informers, SERVICES, keptService);
    this.#slices = this.#follow(informers, ENDPOINT_SLICES, keptSlice);
    this.#pods = pods ? this.#follow(informers, PODS, keptPod) : undefined;
    this.#services.addIndex(BY_ADDRESS, ({ spec }) => addressesOf(spec?.clusterIPs ?? [spec?.clusterIP]));
    this.#slices.addIndex(BY_ADDRESS, ({ endpoints }) =>
      addressesOf(endpoints.flatMap(({ addresses }) => addresses)),
    );
    this.#slices.addIndex(BY_SERVICE, ({ metadata: { namespace, labels } }) => [
      `${namespace}/${labels?.[SERVICE_NAME]}`,
    ]);
    this.#pods?.addIndex(BY_ADDRESS, ({ status }) =>
      ["Succeeded", "Failed"].includes(status?.phase ?? "")
        ? []
        : addressesOf(status?.podIPs?.map(({ ip }) => ip) ?? [status?.podIP]),
    );
  }

  #follow<T extends KubeObject>(
    informers: InformerFactory,
    resource: Resource<T>,
    keep: (object: Stored<T>) => unknown,
  ): Informer<T> {
    const informer = informers.get(resource, { transform: keep as (object: Stored) => Stored });
    const note = () => {
      this.#changed = Date.now();
    };
    informer.subscribe({ add: note, update: note, delete: note });
    this.#all.push(informer as unknown as Informer<KubeObject>);
    return informer;
  }

  /** Whether it follows Pods too. */
  get withPods(): boolean {
    return this.#pods !== undefined;
  }

  get synced(): boolean {
    return this.#all.every((informer) => informer.hasSynced);
  }

  /** Resolves when everything is known. */
  async ready(): Promise<void> {
    await Promise.all(this.#all.map((informer) => informer.synced));
  }

  get serial(): number {
    return Math.floor(this.#changed / 1000);
  }

  hasNamespace(name: string): boolean {
    return this.#namespaces.get(name) !== undefined;
  }

  service(namespace: string, name: string): Stored<Service> | undefined {
    return this.#services.get(`${namespace}/${name}`);
  }

  slices(namespace: string, service: string): readonly Slice[] {
    return this.#slices.byIndex(BY_SERVICE, `${namespace}/${service}`);
  }

  serviceByAddress(address: string): Stored<Service> | undefined {
    return this.#services.byIndex(BY_ADDRESS, address)[0];
  }

  slicesByAddress(address: string): readonly Slice[] {
    return this.#slices.byIndex(BY_ADDRESS, address);
  }

  podsByAddress(address: string): readonly Stored<Pod>[] {
    return this.#pods?.byIndex(BY_ADDRESS, address) ?? [];
  }
}
