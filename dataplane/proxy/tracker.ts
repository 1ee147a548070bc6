// Follows Services and EndpointSlices and says which service ports changed since the last look.
// Work is proportional to what changed: slices are merged per Service, when somebody asks, once for many events.

import { isDeepStrictEqual } from "node:util";
import { type EndpointSlice, keyOf, type Service, type Stored } from "../../common/k8s.js";
import {
  type EndpointsByPort,
  mergeSlices,
  portKey,
  serviceOfSlice,
  sliceEndpoints,
  triggerTime,
} from "./endpoints.js";
import type { PortState, ServicePort } from "./model.js";
import { servicePorts } from "./service.js";

export interface Change {
  /** Absent: the port is new. */
  readonly before: PortState | undefined;
  /** Absent: the port is gone. */
  readonly now: PortState | undefined;
}

export interface Changes {
  /** Keys of service ports that differ from what the last {@link ChangeTracker.take} left. */
  readonly dirty: ReadonlyMap<string, Change>;
  /** Trigger times (ms) of the slices behind these changes: network programming latency is counted from them. */
  readonly triggerTimes: readonly number[];
}

export interface TrackerOptions {
  nodeName: string;
  family: 4 | 6;
  /** Trigger times before this (ms) tell nothing about this proxy. */
  startTime: number;
}

/** Mutable inside, immutable outside: every PortState handed out stays as it is. */
export class ChangeTracker {
  readonly #options: TrackerOptions;
  readonly #services = new Map<string, readonly ServicePort[]>();
  readonly #slices = new Map<string, Map<string, EndpointsByPort>>();
  readonly #ports = new Map<string, PortState>();
  readonly #keys = new Map<string, readonly string[]>();
  readonly #pendingServices = new Set<string>();
  readonly #pendingSlices = new Set<string>();
  readonly #triggerTimes = new Map<string, number[]>();

  constructor(options: TrackerOptions) {
    this.#options = options;
  }

  /** Every service port as of the last {@link take}. */
  get ports(): ReadonlyMap<string, PortState> {
    return this.#ports;
  }

  /** Services with changes that nobody took yet. */
  get pending(): { services: number; endpoints: number } {
    return { services: this.#pendingServices.size, endpoints: this.#pendingSlices.size };
  }

  /** Add (no old), update, delete (no new). False when nothing that the proxy looks at changed. */
  serviceChanged(old: Stored<Service> | undefined, now: Stored<Service> | undefined): boolean {
    const object = now ?? old;
    if (!object) return false;
    const name = keyOf(object);
    const ports = now ? servicePorts(now, this.#options.family) : [];
    const known = this.#services.get(name) ?? [];
    if (isDeepStrictEqual(ports, known)) return false;
    if (ports.length) this.#services.set(name, ports);
    else this.#services.delete(name);
    this.#pendingServices.add(name);
    return true;
  }

  /** The same for an EndpointSlice; a slice may even move to another Service. */
  endpointSliceChanged(
    old: Stored<EndpointSlice> | undefined,
    now: Stored<EndpointSlice> | undefined,
  ): boolean {
    const { family, nodeName } = this.#options;
    const oldService = old && serviceOfSlice(old, family);
    const service = now && serviceOfSlice(now, family);
    let changed = false;
    if (old && oldService && oldService !== service) {
      changed = this.#setSlice(oldService, old.metadata.name, undefined);
    }
    if (now && service && this.#setSlice(service, now.metadata.name, sliceEndpoints(now, family, nodeName))) {
      changed = true;
      this.#noteTrigger(service, triggerTime(now));
    }
    return changed;
  }

  #setSlice(service: string, name: string, endpoints: EndpointsByPort | undefined): boolean {
    const slices = this.#slices.get(service) ?? new Map<string, EndpointsByPort>();
    if (isDeepStrictEqual(slices.get(name), endpoints)) return false;
    if (endpoints) slices.set(name, endpoints);
    else slices.delete(name);
    if (slices.size) this.#slices.set(service, slices);
    else this.#slices.delete(service);
    this.#pendingSlices.add(service);
    return true;
  }

  #noteTrigger(service: string, time: number | undefined): void {
    if (time === undefined || time < this.#options.startTime) return;
    const times = this.#triggerTimes.get(service);
    if (times) times.push(time);
    else this.#triggerTimes.set(service, [time]);
  }

  /** Brings {@link ports} up to date and returns what differs; nothing is pending afterwards. */
  take(): Changes {
    const dirty = new Map<string, Change>();
    const triggerTimes: number[] = [];
    for (const service of new Set([...this.#pendingServices, ...this.#pendingSlices])) {
      const size = dirty.size;
      this.#refresh(service, dirty);
      if (dirty.size > size) triggerTimes.push(...(this.#triggerTimes.get(service) ?? []));
    }
    this.#pendingServices.clear();
    this.#pendingSlices.clear();
    this.#triggerTimes.clear();
    return { dirty, triggerTimes };
  }

  #refresh(service: string, dirty: Map<string, Change>): void {
    const ports = this.#services.get(service) ?? [];
    // By name: of two endpoints with one address the same one must win whatever came first.
    const slices = [...(this.#slices.get(service) ?? [])].sort(([a], [b]) => (a < b ? -1 : 1));
    const endpoints = mergeSlices(slices.map(([, slice]) => slice));
    const keys = new Set(this.#keys.get(service));
    for (const port of ports) {
      keys.delete(port.key);
      const now = { port, endpoints: endpoints.get(portKey(port.portName, port.protocol)) ?? [] };
      const before = this.#ports.get(port.key);
      if (before && isDeepStrictEqual(before, now)) continue;
      this.#ports.set(port.key, now);
      dirty.set(port.key, { before, now });
    }
    for (const key of keys) {
      dirty.set(key, { before: this.#ports.get(key), now: undefined });
      this.#ports.delete(key);
    }
    if (ports.length)
      this.#keys.set(
        service,
        ports.map(({ key }) => key),
      );
    else this.#keys.delete(service);
  }
}
