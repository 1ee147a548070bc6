// Services, EndpointSlices and a Node that change by chance, every feature that decides about rules among them: for
// tests that hold a series of small syncs against one big one.

import type { EndpointSlice, Node, Service, Stored } from "../../common/k8s.js";
import type { NodePlace, ServiceProxy } from "../../dataplane/proxy/index.js";
import type { ApiObject } from "./proxy-memory.js";
import { random } from "./random.js";
import { node, service, slice } from "./service-objects.js";

const PORTS = [
  { name: "http", port: 80, nodePort: 30080 },
  { name: "dns", port: 53, protocol: "TCP" },
  { name: "dns-udp", port: 53, protocol: "SCTP" },
];

type Sink = Pick<ServiceProxy, "serviceChanged" | "endpointSliceChanged" | "nodeChanged">;

export class RandomServices {
  readonly #pick: (below: number) => number;
  readonly #family: 4 | 6;
  readonly #sink: Sink;
  readonly #services = new Map<string, Stored<Service>>();
  readonly #slices = new Map<string, Stored<EndpointSlice>>();
  #zone: string | undefined;

  constructor(seed: number, sink: Sink, family: 4 | 6 = 4) {
    this.#pick = random(seed);
    this.#sink = sink;
    this.#family = family;
  }

  /** What there is now, in an order that has nothing to do with how it came about. */
  get objects(): ApiObject[] {
    return [...this.#services.values(), ...this.#slices.values()].reverse();
  }

  get place(): NodePlace {
    return { name: "node-1", zone: this.#zone };
  }

  /** Everything there is, to a proxy that knows nothing yet. */
  tellAll(sink: Sink): void {
    for (const slice of this.#slices.values()) sink.endpointSliceChanged(undefined, slice);
    for (const service of this.#services.values()) sink.serviceChanged(undefined, service);
    sink.nodeChanged(this.#node());
  }

  /** Changes one thing. */
  step(): void {
    const kind = this.#pick(12);
    if (kind === 0) this.#changeNode();
    else if (kind < 5) this.#changeService();
    else this.#changeSlice();
  }

  #choose<T>(...options: T[]): T {
    return options[this.#pick(options.length)] as T;
  }

  #ip(net: string, a: number, b: number): string {
    const [four = "", six = ""] = net.split(" ");
    return this.#family === 4 ? `${four}.${a}.${b}` : `${six}:${a}::${b + 1}`;
  }

  #changeNode(): void {
    this.#zone = this.#choose("zone-a", "zone-b", undefined);
    this.#sink.nodeChanged(this.#node());
  }

  #node(): Stored<Node> {
    const labels: Record<string, string> = this.#zone ? { "topology.kubernetes.io/zone": this.#zone } : {};
    return node("node-1", { labels });
  }

  #changeService(): void {
    const i = this.#pick(6);
    const name = `default/s${i}`;
    const now = this.#pick(4) ? this.#service(name, i) : undefined;
    this.#sink.serviceChanged(this.#services.get(name), now);
    if (now) this.#services.set(name, now);
    else this.#services.delete(name);
  }

  #service(name: string, i: number): Stored<Service> {
    const maybe = (of: number) => this.#pick(of) === 0;
    const ports = PORTS.slice(this.#pick(3));
    const ranges = ["203.0.113.0/24", "192.168.56.0/24", "2001:db8::/32", "fd00:56::/64"];
    return service(
      name,
      this.#ip("10.96 fd00:96", this.#pick(2), i),
      ports.map((port) => ({ ...port, ...(port.nodePort && { nodePort: 30_080 + i }) })),
      {
        type: this.#choose("NodePort", "LoadBalancer"),
        sessionAffinity: this.#choose("None", "ClientIP"),
        externalTrafficPolicy: this.#choose("Cluster", "Local"),
        internalTrafficPolicy: this.#choose("Cluster", "Local"),
        ...(maybe(3) && { externalIPs: ["198.51.100.1", "2001:db8:1::1"] }),
        ...(maybe(2) && { ingress: [{ ip: `5.6.7.${i}` }, { ip: `2001:db8:5::${i + 1}` }] }),
        ...(maybe(2) && { loadBalancerSourceRanges: ranges.slice(this.#pick(4)) }),
        ...(maybe(2) && { healthCheckNodePort: 32_000 + i }),
        ...(maybe(6) && { labels: { "service.kubernetes.io/service-proxy-name": "other" } }),
      },
    );
  }

  #changeSlice(): void {
    const service = `default/s${this.#pick(6)}`;
    const name = `${service}-${this.#pick(2)}`;
    const now = this.#pick(5) ? this.#slice(service, name) : undefined;
    this.#sink.endpointSliceChanged(this.#slices.get(name), now);
    if (now) this.#slices.set(name, now);
    else this.#slices.delete(name);
  }

  #slice(service: string, name: string): Stored<EndpointSlice> {
    // Hints are on all endpoints of a slice or on none, most of the time.
    const hinted = this.#pick(3);
    const endpoints = Array.from({ length: this.#pick(4) }, () => ({
      ip: this.#ip("10.244 fd00:244", this.#pick(2), this.#pick(5)),
      node: this.#choose("node-1", "node-2"),
      conditions: this.#choose(
        { ready: true },
        { ready: true },
        { ready: false },
        { ready: false, serving: true, terminating: true },
      ),
      ...(hinted > 0 && this.#pick(8) && { zones: [this.#choose("zone-a", "zone-b")] }),
      ...(hinted > 1 && { nodes: [this.#choose("node-1", "node-2")] }),
    }));
    const ports = PORTS.map((port) => ({ name: port.name, port: port.port + 8000, ...protocolOf(port) }));
    return slice(service, ports, endpoints, { name, addressType: `IPv${this.#family}` });
  }
}

function protocolOf({ protocol }: { protocol?: string }): { protocol?: string } {
  return protocol === undefined ? {} : { protocol };
}
