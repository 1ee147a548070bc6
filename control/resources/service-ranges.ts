// The ranges of ClusterIPs: the cluster's own, and those of ServiceCIDRs that came later. They may overlap, so an address
// has a place in each that contains it. Knows addresses and who holds them, no Services.

import { type AddressRange, type FamilyName, parseServiceCIDRs } from "./address-range.js";
import type { Pool, RandomInt } from "./allocator.js";

/** The ServiceCIDR of the cluster's own ranges. */
const DEFAULT_SERVICE_CIDR = "kubernetes";
const FIRST = 0;

/** An address in one of the ranges that contain it. */
export interface Place {
  ip: string;
  /** Of the range and the offset. */
  key: string;
  pool: Pool;
  offset: number;
}

export class ServiceRanges {
  /** The address of the Service default/kubernetes. */
  readonly first: string;
  readonly #own: readonly AddressRange[];
  readonly #random: RandomInt | undefined;
  /** By name of the ServiceCIDR; the cluster's own are there before it is. */
  readonly #named = new Map<string, { ranges: readonly AddressRange[]; retired: boolean }>();
  /** The same in one list. */
  #all: readonly AddressRange[];

  /** @throws RangeError for a range that cannot be used, naming it. */
  constructor(serviceCIDRs: readonly string[], random: RandomInt | undefined) {
    this.#own = parseServiceCIDRs(serviceCIDRs, random);
    this.#random = random;
    this.#all = this.#own;
    this.first = this.#own[0]?.at(FIRST) ?? "";
    this.#named.set(DEFAULT_SERVICE_CIDR, { ranges: this.#own, retired: false });
  }

  /** Of the cluster's own ranges, the default one first. */
  get families(): FamilyName[] {
    return this.#own.map(({ family }) => family);
  }

  /** Free addresses of the cluster's own ranges. */
  get free(): number {
    return this.#own.reduce((sum, { pool }) => sum + pool.free, 0);
  }

  /**
   * Takes the ranges of a ServiceCIDR into use. From a retired one nobody gets an address any more; who has one keeps
   * it.
   * @throws RangeError for a range that cannot be used.
   */
  set(name: string, cidrs: readonly string[], retired: boolean): void {
    const known = this.#named.get(name);
    if (known) {
      known.retired = retired;
      return;
    }
    const ranges = cidrs.flatMap((cidr) => parseServiceCIDRs([cidr], this.#random));
    for (const range of ranges) {
      for (const [ip, owner] of this.taken()) {
        const offset = range.offsetOf(ip);
        if (offset !== undefined) range.pool.take(offset, owner);
      }
    }
    this.#named.set(name, { ranges, retired });
    this.#all = [...this.#all, ...ranges];
  }

  /** The ServiceCIDR is gone. The cluster's own ranges only rest: they come back with the next one of their name. */
  remove(name: string): void {
    const gone = this.#named.get(name);
    if (!gone) return;
    if (name === DEFAULT_SERVICE_CIDR) {
      gone.retired = true;
      return;
    }
    this.#named.delete(name);
    this.#all = this.#all.filter((range) => !gone.ranges.includes(range));
  }

  /** Those from which a Service may get an address now. */
  usable(family: string): AddressRange[] {
    return [...this.#named.values()]
      .filter(({ retired }) => !retired)
      .flatMap(({ ranges }) => ranges.filter((range) => range.family === family));
  }

  placesOf(ip: string): Place[] {
    return this.#all.flatMap((range, n) => {
      const offset = range.offsetOf(ip);
      return offset === undefined ? [] : [{ ip, key: `${n}/${offset}`, pool: range.pool, offset }];
    });
  }

  /** Those beside the one in `range`. The cluster's own ranges are of different families: then there is none. */
  otherPlaces(ip: string, range: AddressRange): Place[] {
    return this.#all === this.#own ? [] : this.placesOf(ip).filter(({ pool }) => pool !== range.pool);
  }

  ownerOf(ip: string): string | undefined {
    const [place] = this.placesOf(ip);
    return place?.pool.ownerOf(place.offset);
  }

  /** Every address that somebody has, once. */
  *taken(): Generator<[ip: string, owner: string]> {
    for (const [n, range] of this.#all.entries()) {
      const before = this.#all.slice(0, n);
      for (const [offset, owner] of range.pool.taken()) {
        const ip = range.at(offset);
        if (!before.some((other) => other.offsetOf(ip) !== undefined)) yield [ip, owner];
      }
    }
  }

  clear(): void {
    for (const { pool } of this.#all) pool.clear();
  }
}
