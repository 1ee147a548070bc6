// Who has which ClusterIP and which node port. Reservations are taken before a write and kept or undone after it;
// the truth is the stored Services, from which restore() rebuilds everything. Knows Services, not the store.

import { SERVICES } from "../../common/client.js";
import type { KubeObject, Service, ServicePort, Stored } from "../../common/k8s.js";
import type { AddressRange, FamilyName } from "./address-range.js";
import { Pool, type RandomInt, staticBand } from "./allocator.js";
import {
  allocatesNodePorts,
  isHeadless,
  needsClusterIP,
  needsHealthCheckNodePort,
  needsNodePort,
} from "./service-defaults.js";
import { type Place, ServiceRanges } from "./service-ranges.js";
import type { FieldError, Reservation } from "./types.js";
import { internalStatus, invalid, invalidStatus } from "./validation/field.js";

/** KEP-3668: 16 to 128 ports, a 32nd of the range. */
const PORT_BAND = { min: 16, max: 128, step: 32 };

const ALLOCATED = "is already allocated";
/** The API's own Service: every pod has its address in the environment, so it must be the same for ever. */
const KUBERNETES = "default/kubernetes";

/** With the uid: a namesake that comes later is somebody else. With the time for those who ask who has what. */
function ownerOf({ metadata }: KubeObject): string {
  const name = `${metadata?.namespace ?? ""}/${metadata?.name ?? ""}`;
  return name === KUBERNETES ? name : `${name}/${metadata?.uid ?? ""}/${metadata?.creationTimestamp ?? ""}`;
}

interface Taken {
  pool: Pool;
  offset: number;
}

/** An address, and the Service that has it. */
export interface AllocatedIP {
  ip: string;
  namespace: string;
  name: string;
  uid: string;
  creationTimestamp: string;
}

/** One request's reservations, in the order in which they were made. */
class Transaction {
  readonly #taken: Taken[] = [];
  readonly owner: string;

  constructor(owner: string) {
    this.owner = owner;
  }

  /** False when somebody has it: another, or this very owner in an earlier reservation. */
  take(pool: Pool, offset: number): boolean {
    if (!pool.take(offset, this.owner)) return false;
    this.#taken.push({ pool, offset });
    return true;
  }

  takeAny(pool: Pool): number | undefined {
    const offset = pool.takeAny(this.owner);
    if (offset !== undefined) this.#taken.push({ pool, offset });
    return offset;
  }

  rollback(): void {
    for (const { pool, offset } of this.#taken.splice(0)) pool.release(offset, this.owner);
  }
}

export interface AllocationOptions {
  /** One, or one of each family, at most 20 host bits each: 10.96.0.0/16, fd00:10:96::/112. */
  serviceCIDRs: readonly string[];
  nodePortRange: readonly [number, number];
  random?: RandomInt;
}

/** ClusterIPs and node ports of all Services of a cluster. */
export class ServiceAllocator {
  readonly #ranges: ServiceRanges;
  /** Who default/kubernetes is now. */
  #kubernetes = { uid: "", creationTimestamp: "" };
  readonly #portRange: readonly [number, number];
  readonly #ports: Pool;

  /** @throws RangeError for a range that cannot be used, naming it. */
  constructor({ serviceCIDRs, nodePortRange, random }: AllocationOptions) {
    const [first, last] = nodePortRange;
    if (
      !(Number.isInteger(first) && Number.isInteger(last) && first >= 1 && first <= last && last <= 65535)
    ) {
      throw new RangeError(`node port range ${first}-${last} cannot be used: it must lie in 1-65535`);
    }
    const ports = last - first + 1;
    this.#portRange = nodePortRange;
    this.#ranges = new ServiceRanges(serviceCIDRs, random);
    this.#ports = new Pool(ports, staticBand(ports, PORT_BAND), random);
    this.#reserveFirst();
  }

  /** Of the ranges, the default one first. */
  get families(): FamilyName[] {
    return this.#ranges.families;
  }

  /** Of the cluster's own ranges, all families together. */
  get freeIPs(): number {
    return this.#ranges.free;
  }

  /** The ranges, for the ServiceCIDRs that change them. */
  get ranges(): Pick<ServiceRanges, "set" | "remove"> {
    return this.#ranges;
  }

  /** Every address that a Service has, each once. */
  *allocated(): Generator<AllocatedIP> {
    for (const [ip, owner] of this.#ranges.taken()) {
      const found = this.#allocatedTo(ip, owner);
      if (found) yield found;
    }
  }

  /** Who has an address; undefined when nobody has. */
  allocatedIP(ip: string): AllocatedIP | undefined {
    const owner = this.#ranges.ownerOf(ip);
    return owner === undefined ? undefined : this.#allocatedTo(ip, owner);
  }

  #allocatedTo(ip: string, owner: string): AllocatedIP | undefined {
    const [namespace = "", name = "", uid = "", creationTimestamp = ""] = owner.split("/");
    if (owner !== KUBERNETES) return { ip, namespace, name, uid, creationTimestamp };
    return this.#kubernetes.uid ? { ip, namespace, name, ...this.#kubernetes } : undefined;
  }

  get freePorts(): number {
    return this.#ports.free;
  }

  /**
   * Takes what `draft` needs beyond what `old` has, and writes it into the draft. When it throws, nothing is
   * taken.
   * @throws StatusError 422 naming the field, or 500 when a range is used up.
   */
  allocate(draft: Service, old: Stored<Service> | undefined): Reservation {
    const owner = ownerOf(draft);
    const transaction = new Transaction(owner);
    const before = old ? this.#holdings(old) : NOTHING;
    try {
      this.#allocateIPs(draft, old, before.ips, transaction);
      this.#allocatePorts(draft, old, before.ports, transaction);
      this.#allocateHealthCheckPort(draft, old, transaction);
    } catch (error) {
      transaction.rollback();
      throw error;
    }
    const after = this.#holdings(draft);
    return {
      commit: () => {
        if (owner === KUBERNETES) this.#knowKubernetes(draft);
        for (const [key, ip] of before.ips) if (!after.ips.has(key)) this.#releaseIP(ip, owner);
        for (const offset of before.ports) if (!after.ports.has(offset)) this.#ports.release(offset, owner);
      },
      rollback: () => transaction.rollback(),
    };
  }

  /** Forgets everything and takes what the stored Services have; the first of two claimants keeps it. */
  restore(services: readonly Stored<Service>[]): void {
    this.#ranges.clear();
    this.#ports.clear();
    this.#reserveFirst();
    for (const service of services) {
      const owner = ownerOf(service);
      if (owner === KUBERNETES) this.#knowKubernetes(service);
      const { ips, ports } = this.#holdings(service);
      for (const { pool, offset } of ips.values()) pool.take(offset, owner);
      for (const offset of ports) this.#ports.take(offset, owner);
    }
  }

  /**
   * Takes what a stored Service has got, whoever has reserved it here; gives back what it had. What this process has
   * written itself is done already.
   */
  observed(now: Stored<Service> | undefined, before: Stored<Service> | undefined): void {
    const has = now ? this.#holdings(now) : NOTHING;
    if (now) {
      const owner = ownerOf(now);
      if (owner === KUBERNETES) this.#knowKubernetes(now);
      for (const { pool, offset } of has.ips.values()) pool.assign(offset, owner);
      for (const offset of has.ports) this.#ports.assign(offset, owner);
    }
    if (!before) return;
    const owner = ownerOf(before);
    const had = this.#holdings(before);
    for (const [key, ip] of had.ips) if (!has.ips.has(key)) this.#releaseIP(ip, owner);
    for (const offset of had.ports) if (!has.ports.has(offset)) this.#ports.release(offset, owner);
  }

  released(service: Stored<Service>): void {
    const owner = ownerOf(service);
    const { ips, ports } = this.#holdings(service);
    for (const ip of ips.values()) this.#releaseIP(ip, owner);
    for (const offset of ports) this.#ports.release(offset, owner);
  }

  /** The first address stays with default/kubernetes even while that Service does not exist. */
  #reserveFirst(): void {
    for (const { pool, offset } of this.#ranges.placesOf(this.#ranges.first)) pool.take(offset, KUBERNETES);
  }

  #knowKubernetes({ metadata }: KubeObject): void {
    this.#kubernetes = { uid: metadata?.uid ?? "", creationTimestamp: metadata?.creationTimestamp ?? "" };
  }

  #releaseIP({ ip, pool, offset }: Place, owner: string): void {
    if (owner !== KUBERNETES || ip !== this.#ranges.first) pool.release(offset, owner);
  }

  /** Offsets that a Service's fields name and that lie in the ranges. */
  #holdings({ spec }: Pick<Service, "spec">): Holdings {
    const ips = new Map<string, Place>();
    const ports = new Set<number>();
    if (!spec) return NOTHING;
    if (needsClusterIP({ spec })) {
      for (const ip of spec.clusterIPs ?? (spec.clusterIP ? [spec.clusterIP] : [])) {
        // None, or an address of a range that the cluster no longer has: nothing of ours to hold.
        for (const place of this.#ranges.placesOf(ip)) ips.set(place.key, place);
      }
    }
    const numbers = needsNodePort({ spec }) ? (spec.ports ?? []).map((p) => p.nodePort ?? 0) : [];
    if (needsHealthCheckNodePort({ spec })) numbers.push(spec.healthCheckNodePort ?? 0);
    for (const port of numbers) {
      const offset = this.#portOffset(port);
      if (offset !== undefined) ports.add(offset);
    }
    return { ips, ports };
  }

  #portOffset(port: number): number | undefined {
    const [first, last] = this.#portRange;
    return port >= first && port <= last ? port - first : undefined;
  }

  /** One address for each of spec.ipFamilies; what the Service had stays untouched, whatever the ranges are now. */
  #allocateIPs(
    draft: Service,
    old: Stored<Service> | undefined,
    held: Holdings["ips"],
    transaction: Transaction,
  ): void {
    const { spec } = draft;
    if (!spec || !needsClusterIP(draft) || isHeadless(draft)) return;
    const before = old && needsClusterIP(old) ? old.spec?.clusterIPs : undefined;
    const ips = (spec.ipFamilies ?? []).map((family, i) => {
      const wanted = spec.clusterIPs?.[i];
      if (wanted && wanted === before?.[i]) return wanted;
      const ranges = this.#ranges.usable(family);
      if (!this.families.some((one) => one === family)) {
        throw internalStatus(`no service range of family ${family}`);
      }
      if (!wanted) return this.#anyIP(ranges, transaction);
      this.#takeIP(draft, ranges, wanted, { held, transaction });
      return wanted;
    });
    spec.clusterIP = ips[0];
    spec.clusterIPs = ips;
  }

  #takeIP(
    draft: Service,
    ranges: readonly AddressRange[],
    wanted: string,
    { held, transaction }: { held: Holdings["ips"]; transaction: Transaction },
  ): void {
    const fail = (why: string) => {
      const ips = draft.spec?.clusterIPs ?? [wanted];
      return this.#refuse(draft, "spec.clusterIPs", ips, `failed to allocate IP ${wanted}: ${why}`);
    };
    if (!ranges.some((range) => range.offsetOf(wanted) !== undefined)) {
      const valid = ranges.map(({ cidr }) => cidr).join(",");
      const text = `the provided IP (${wanted}) is not in the valid range. The range of valid IPs is ${valid}`;
      throw fail(text);
    }
    if (!this.#takePlaces(wanted, transaction, held)) throw fail(`provided IP ${ALLOCATED}`);
  }

  /** In each of the ranges that have the address, since they may overlap. False when it is somebody's. */
  #takePlaces(ip: string, transaction: Transaction, held: Holdings["ips"] = NOTHING.ips): boolean {
    return this.#ranges.placesOf(ip).every(({ key, pool, offset }) => {
      const isOwn = transaction.owner === KUBERNETES && pool.ownerOf(offset) === KUBERNETES;
      return held.has(key) || isOwn || transaction.take(pool, offset);
    });
  }

  #anyIP(ranges: readonly AddressRange[], transaction: Transaction): string {
    const { first } = this.#ranges;
    if (transaction.owner === KUBERNETES && ranges.some((range) => range.offsetOf(first) !== undefined))
      return first;
    for (const range of ranges) {
      const offset = transaction.takeAny(range.pool);
      if (offset === undefined) continue;
      const ip = range.at(offset);
      if (this.#ranges.otherPlaces(ip, range).every((other) => transaction.take(other.pool, other.offset)))
        return ip;
    }
    throw internalStatus("failed to allocate a serviceIP: range is full");
  }

  #allocatePorts(
    draft: Service,
    old: Stored<Service> | undefined,
    held: ReadonlySet<number>,
    transaction: Transaction,
  ): void {
    const { spec } = draft;
    if (!spec || !needsNodePort(draft)) return;
    const ports = spec.ports ?? [];
    const mine = new Set<number>();
    for (const [i, port] of ports.entries()) {
      if (port.nodePort)
        this.#takePort(draft, `spec.ports[${i}].nodePort`, port.nodePort, { held, mine, transaction });
    }
    if (!allocatesNodePorts(draft)) return;
    for (const port of ports) {
      if (port.nodePort) continue;
      // At creation, TCP and UDP of one port number share one node port, as users of DNS expect.
      const twin = old ? undefined : twinOf(port, ports);
      if (twin) {
        port.nodePort = twin;
        continue;
      }
      port.nodePort = this.#anyPort(transaction, "failed to allocate a nodePort: range is full");
    }
  }

  /** Once: it cannot change while the Service needs it. */
  #allocateHealthCheckPort(draft: Service, old: Stored<Service> | undefined, transaction: Transaction): void {
    const { spec } = draft;
    if (!spec || !needsHealthCheckNodePort(draft) || (old && needsHealthCheckNodePort(old))) return;
    const wanted = spec.healthCheckNodePort;
    if (!wanted) {
      const full = "failed to allocate a HealthCheck NodePort 0: range is full";
      spec.healthCheckNodePort = this.#anyPort(transaction, full);
      return;
    }
    const problem = this.#tryPort(wanted, transaction);
    // The real server, too, calls this one an internal error.
    if (problem)
      throw internalStatus(`failed to allocate requested HealthCheck NodePort ${wanted}: ${problem}`);
  }

  #takePort(
    draft: Service,
    field: string,
    port: number,
    state: { held: ReadonlySet<number>; mine: Set<number>; transaction: Transaction },
  ): void {
    const offset = this.#portOffset(port) ?? -1;
    if (state.held.has(offset) || state.mine.has(offset)) return;
    const problem = this.#tryPort(port, state.transaction);
    if (problem) throw this.#refuse(draft, field, port, problem);
    state.mine.add(offset);
  }

  /** What is wrong, when the port cannot be had. */
  #tryPort(port: number, transaction: Transaction): string | undefined {
    const offset = this.#portOffset(port);
    if (offset === undefined) {
      const range = this.#portRange.join("-");
      return `provided port is not in the valid range. The range of valid ports is ${range}`;
    }
    return transaction.take(this.#ports, offset) ? undefined : `provided port ${ALLOCATED}`;
  }

  #anyPort(transaction: Transaction, full: string): number {
    const offset = transaction.takeAny(this.#ports);
    if (offset === undefined) throw internalStatus(full);
    return this.#portRange[0] + offset;
  }

  #refuse(draft: Service, field: string, value: unknown, detail: string): Error {
    const errors: FieldError[] = [invalid(field, value, detail)];
    return invalidStatus(SERVICES, draft.metadata?.name ?? "", errors);
  }
}

interface Holdings {
  /** By {@link Place.key}. */
  ips: ReadonlyMap<string, Place>;
  ports: ReadonlySet<number>;
}

const NOTHING: Holdings = { ips: new Map(), ports: new Set() };

function twinOf(port: ServicePort, ports: readonly ServicePort[]): number | undefined {
  return ports.find((p) => p !== port && p.port === port.port && p.protocol !== port.protocol && p.nodePort)
    ?.nodePort;
}
