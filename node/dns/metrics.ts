// The plugin "prometheus": counts of questions and replies, under CoreDNS' names. Knows numbers only.

import { Counter, Histogram, Registry } from "prom-client";
import type { Transport } from "./wire.js";

export interface Observation {
  /** "dns://:53". */
  server: string;
  zone: string;
  transport: Transport;
  /** 1: IPv4, 2: IPv6. */
  family: 1 | 2;
  type: string;
  rcode: string;
  seconds: number;
}

/** Types that have a line of their own; others are counted together. */
const TYPES = new Set(["A", "AAAA", "CNAME", "MX", "NS", "PTR", "SOA", "SRV", "TXT"]);
const BUCKETS = Array.from({ length: 16 }, (_, n) => 0.00025 * 2 ** n);

export class DnsMetrics {
  readonly #registry = new Registry();
  readonly #requests = new Counter({
    name: "coredns_dns_requests_total",
    help: "Counter of DNS requests made per zone, protocol and family.",
    labelNames: ["server", "zone", "view", "proto", "family", "type"] as const,
    registers: [this.#registry],
  });
  readonly #responses = new Counter({
    name: "coredns_dns_responses_total",
    help: "Counter of response status codes.",
    labelNames: ["server", "zone", "view", "rcode"] as const,
    registers: [this.#registry],
  });
  readonly #duration = new Histogram({
    name: "coredns_dns_request_duration_seconds",
    help: "Histogram of the time (in seconds) each request took per zone.",
    labelNames: ["server", "zone", "view"] as const,
    buckets: BUCKETS,
    registers: [this.#registry],
  });

  observe({ server, zone, transport: proto, family, type, rcode, seconds }: Observation): void {
    const own = { server, zone, view: "" };
    const known = TYPES.has(type) ? type : "other";
    this.#requests.inc({ ...own, proto, family: String(family), type: known });
    this.#responses.inc({ ...own, rcode });
    this.#duration.observe(own, seconds);
  }

  /** In Prometheus' text format. */
  text(): Promise<string> {
    return this.#registry.metrics();
  }

  get contentType(): string {
    return this.#registry.contentType;
  }
}
