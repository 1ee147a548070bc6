// Who has which ClusterIP and which node port. Reservations are taken before a write and kept or undone after it;
// the truth is the stored Services, from which restore() rebuilds everything. Knows Services, not the store.

import { SERVICES } from "../../common/client.js";
import { Cidr, formatIp, parseIp } from "../../common/ip.js";
import type { KubeObject, Service, ServicePort, Stored } from "../../common/k8s.js";
import { Pool, type RandomInt, staticBand } from "./allocator.js";
import { needsClusterIP, needsHealthCheckNodePort, needsNodePort } from "./service-defaults.js";
import type { FieldError, Reservation } from "./types.js";
import { internalStatus, invalid, invalidStatus } from "./validation/field.js";

/** KEP-3070: 16 to 256 addresses, a sixteenth of the range. */
const IP_BAND = { min: 16, max: 256, step: 16 };
/** KEP-3668: 16 to 128 ports, a 32nd of the range. */
const PORT_BAND = { min: 16, max: 128, step: 32 };
/** The real server's limit for a service range (20 bits). */
const MAX_HOST_BITS = 20;

const ALLOCATED = "is already allocated";
/** The API's own Service: every pod has its address in the environment, so it must be the same for ever. */
const KUBERNETES = "default/kubernetes";
const FIRST = 0;

/** With the uid: a namesake that comes later is somebody else. */
function ownerOf({ metadata }: KubeObject): string {
  const name = `${metadata?.namespace ?? ""}/${metadata?.name ?? ""}`;
  return name === KUBERNETES ? name : `${name}/${metadata?.uid ?? ""}`;
}

interface Taken {
  pool: Pool;
  offset: number;
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
  /** IPv4, at most 20 host bits: "10.96.0.0/16". */
  serviceCIDR: string;
  nodePortRange: readonly [number, number];
  random?: RandomInt;
}

/** ClusterIPs and node ports of all Services of a cluster. */
export class ServiceAllocator {
  readonly #cidr: Cidr;
  readonly #portRange: readonly [number, number];
  /** Offset 0 is the first address after the network's own. */
  readonly #ips: Pool;
  readonly #ports: Pool;

  /** @throws RangeError for a range that cannot be used, naming it. */
  constructor({ serviceCIDR, nodePortRange, random }: AllocationOptions) {
    const cidr = Cidr.parse(serviceCIDR);
    if (cidr.family !== 4 || cidr.prefix < 32 - MAX_HOST_BITS || cidr.prefix > 30) {
      const text = `IPv4 with a prefix of /${32 - MAX_HOST_BITS} to /30`;
      throw new RangeError(`service CIDR ${serviceCIDR} cannot be used: it must be ${text}`);
    }
    const [first, last] = nodePortRange;
    if (
      !(Number.isInteger(first) && Number.isInteger(last) && first >= 1 && first <= last && last <= 65535)
    ) {
      throw new RangeError(`node port range ${first}-${last} cannot be used: it must lie in 1-65535`);
    }
    this.#cidr = cidr;
    this.#portRange = nodePortRange;
    // Without the network's and the broadcast address.
    const addresses = Number(cidr.size) - 2;
    const ports = last - first + 1;
    this.#ips = new Pool(addresses, staticBand(Number(cidr.size), IP_BAND), random);
    this.#ports = new Pool(ports, staticBand(ports, PORT_BAND), random);
    this.#ips.take(FIRST, KUBERNETES);
  }

  get freeIPs(): number {
    return this.#ips.free;
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
      this.#allocateIP(draft, before.ips, transaction);
      this.#allocatePorts(draft, old, before.ports, transaction);
      this.#allocateHealthCheckPort(draft, before.ports, transaction);
    } catch (error) {
      transaction.rollback();
      throw error;
    }
    const after = this.#holdings(draft);
    return {
      commit: () => {
        for (const offset of before.ips) if (!after.ips.has(offset)) this.#releaseIP(offset, owner);
        for (const offset of before.ports) if (!after.ports.has(offset)) this.#ports.release(offset, owner);
      },
      rollback: () => transaction.rollback(),
    };
  }

  /** Forgets everything and takes what the stored Services have; the first of two claimants keeps it. */
  restore(services: readonly Stored<Service>[]): void {
    this.#ips.clear();
    this.#ports.clear();
    this.#ips.take(FIRST, KUBERNETES);
    for (const service of services) {
      const owner = ownerOf(service);
      const { ips, ports } = this.#holdings(service);
      for (const offset of ips) this.#ips.take(offset, owner);
      for (const offset of ports) this.#ports.take(offset, owner);
    }
  }

  released(service: Stored<Service>): void {
    const owner = ownerOf(service);
    const { ips, ports } = this.#holdings(service);
    for (const offset of ips) this.#releaseIP(offset, owner);
    for (const offset of ports) this.#ports.release(offset, owner);
  }

  /** The first address stays with default/kubernetes even while that Service does not exist. */
  #releaseIP(offset: number, owner: string): void {
    if (offset !== FIRST) this.#ips.release(offset, owner);
  }

  /** Offsets that a Service's fields name and that lie in the ranges. */
  #holdings({ spec }: Pick<Service, "spec">): Holdings {
    const ips = new Set<number>();
    const ports = new Set<number>();
    if (!spec) return NOTHING;
    if (needsClusterIP({ spec })) {
      for (const ip of spec.clusterIPs ?? (spec.clusterIP ? [spec.clusterIP] : [])) {
        const offset = this.#ipOffset(ip);
        if (offset !== undefined) ips.add(offset);
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

  #ipOffset(ip: string): number | undefined {
    if (ip === "" || ip === "None") return undefined;
    let address: ReturnType<typeof parseIp>;
    try {
      address = parseIp(ip);
    } catch (error) {
      // Stored before validation was what it is now: nothing of ours to hold.
      if (error instanceof RangeError) return undefined;
      throw error;
    }
    if (address.family !== 4) return undefined;
    const offset = Number(address.value - this.#cidr.base) - 1;
    return offset >= 0 && offset < this.#ips.size ? offset : undefined;
  }

  #portOffset(port: number): number | undefined {
    const [first, last] = this.#portRange;
    return port >= first && port <= last ? port - first : undefined;
  }

  #allocateIP(draft: Service, held: ReadonlySet<number>, transaction: Transaction): void {
    const { spec } = draft;
    if (!spec || !needsClusterIP(draft) || spec.clusterIP === "None") return;
    const wanted = spec.clusterIPs?.[0] ?? spec.clusterIP;
    if (wanted) {
      const fail = (why: string) =>
        this.#refuse(
          draft,
          "spec.clusterIPs",
          spec.clusterIPs ?? [wanted],
          `failed to allocate IP ${wanted}: ${why}`,
        );
      const offset = this.#ipOffset(wanted);
      if (offset === undefined) {
        throw fail(
          `the provided IP (${wanted}) is not in the valid range. The range of valid IPs is ${this.#cidr}`,
        );
      }
      if (held.has(offset)) return;
      if (this.#ips.ownerOf(offset) === KUBERNETES && transaction.owner === KUBERNETES) return;
      if (!transaction.take(this.#ips, offset)) {
        throw fail(`provided IP ${ALLOCATED}`);
      }
      return;
    }
    const offset = transaction.owner === KUBERNETES ? FIRST : transaction.takeAny(this.#ips);
    if (offset === undefined) throw internalStatus("failed to allocate a serviceIP: range is full");
    const ip = formatIp(this.#cidr.base + BigInt(offset + 1), 4);
    spec.clusterIP = ip;
    spec.clusterIPs = [ip];
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
    const automatic = spec.type === "NodePort" || spec.allocateLoadBalancerNodePorts !== false;
    if (!automatic) return;
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

  #allocateHealthCheckPort(draft: Service, held: ReadonlySet<number>, transaction: Transaction): void {
    const { spec } = draft;
    if (!spec || !needsHealthCheckNodePort(draft)) return;
    if (spec.healthCheckNodePort) {
      const mine = new Set<number>();
      this.#takePort(draft, "spec.healthCheckNodePort", spec.healthCheckNodePort, {
        held,
        mine,
        transaction,
      });
      return;
    }
    const full = "failed to allocate a HealthCheck NodePort: range is full";
    spec.healthCheckNodePort = this.#anyPort(transaction, full);
  }

  #takePort(
    draft: Service,
    field: string,
    port: number,
    state: { held: ReadonlySet<number>; mine: Set<number>; transaction: Transaction },
  ): void {
    const offset = this.#portOffset(port);
    if (offset === undefined) {
      const range = this.#portRange.join("-");
      const text = `provided port is not in the valid range. The range of valid ports is ${range}`;
      throw this.#refuse(draft, field, port, text);
    }
    if (state.held.has(offset) || state.mine.has(offset)) return;
    if (!state.transaction.take(this.#ports, offset)) {
      throw this.#refuse(draft, field, port, `provided port ${ALLOCATED}`);
    }
    state.mine.add(offset);
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
  ips: ReadonlySet<number>;
  ports: ReadonlySet<number>;
}

const NOTHING: Holdings = { ips: new Set(), ports: new Set() };

function twinOf(port: ServicePort, ports: readonly ServicePort[]): number | undefined {
  return ports.find((p) => p !== port && p.port === port.port && p.protocol !== port.protocol && p.nodePort)
    ?.nodePort;
}
