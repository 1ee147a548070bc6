// Services as declared to the API engine: defaults, families, validation texts, allocation of addresses and ports
// over their life. No I/O.

import type { ServiceSpec } from "kubernetes-types/core/v1.js";
import t from "tap";
import { StatusError } from "../../common/client.js";
import type { Service, Stored } from "../../common/k8s.js";
import { Pool, staticBand } from "../../control/resources/allocator.js";
import { ServiceAllocator } from "../../control/resources/service-allocation.js";
import { errorText } from "../../control/resources/validation/field.js";
import { serviceWarnings } from "../../control/resources/warnings.js";
import { CONTEXT, causes, cells, created, type Kinds, kind, kinds, make, problems } from "./helpers/kinds.js";

const service = (spec: ServiceSpec = {}): Service => ({ spec: { ports: [{ port: 80 }], ...spec } });
const DUAL = kinds("10.96.0.0/16", "fd00:10:96::/112");
const POLICY = "spec.ipFamilyPolicy: Invalid value:";

/** One Service after another state of itself, as the engine would write it. */
class Life {
  readonly kinds: Kinds;
  /** What is stored; undefined before the first write. */
  stored: (Stored & Service) | undefined;

  constructor(
    from: Kinds,
    readonly name = "x",
  ) {
    this.kinds = from;
  }

  get spec(): ServiceSpec {
    return this.stored?.spec ?? {};
  }

  /** A PUT of exactly this, the first time a POST. Returns what is wrong with it. */
  put(service: Service): string[] {
    const d = kind("Service", this.kinds);
    const { stored } = this;
    const metadata = { name: this.name, namespace: "ns", ...stored?.metadata };
    const draft = structuredClone({ ...service, metadata }) as Stored & Service;
    return causes(() => {
      d.setDefaults?.(draft);
      if (stored) d.prepareForUpdate?.(draft, stored, CONTEXT);
      else d.prepareForCreate?.(draft, CONTEXT);
      const errors = d.validate(draft, stored).map(errorText);
      if (errors.length > 0) return errors;
      d.allocate?.(draft, stored).commit();
      this.stored = draft;
      return [];
    });
  }

  /** A merge patch of the spec. */
  patch(spec: Partial<ServiceSpec>): string[] {
    return this.put({ spec: { ...structuredClone(this.spec), ...spec } as ServiceSpec });
  }
}

t.test("warnings about a Service", async (t) => {
  const table: [ServiceSpec, string[]][] = [
    [{}, []],
    [
      { externalIPs: ["192.0.2.1", "::ffff:192.0.2.2", "2001:DB8:0::1"] },
      [
        'spec.externalIPs[1]: non-standard IP address "::ffff:192.0.2.2" will be considered invalid in a future Kubernetes release: use "192.0.2.2"',
        'spec.externalIPs[2]: IPv6 address "2001:DB8:0::1" should be in RFC 5952 canonical format ("2001:db8::1")',
        "spec.externalIPs is deprecated and may no longer be implemented in some clusters",
      ],
    ],
    [
      {
        clusterIP: "None",
        externalIPs: ["192.0.2.1"],
        sessionAffinity: "ClientIP",
        loadBalancerIP: "192.0.2.7",
      },
      [
        "spec.loadBalancerIP is ignored for headless services",
        "spec.externalIPs is ignored for headless services",
        "spec.SessionAffinity is ignored for headless services",
      ],
    ],
    [{ clusterIP: "None" }, []],
    [
      {
        type: "LoadBalancer",
        loadBalancerIP: "nonsense",
        loadBalancerSourceRanges: ["192.0.2.0/24", "192.0.2.8/24", "2001:db8:0::/64"],
      },
      [
        'spec.loadBalancerSourceRanges[1]: CIDR value "192.0.2.8/24" is ambiguous in this context (should be "192.0.2.0/24" or "192.0.2.8/32"?)',
        'spec.loadBalancerSourceRanges[2]: IPv6 CIDR value "2001:db8:0::/64" should be in RFC 5952 canonical format ("2001:db8::/64")',
      ],
    ],
    [
      { type: "ExternalName", externalName: "a.b", externalIPs: ["192.0.2.1"] },
      ['spec.externalIPs is ignored when spec.type is "ExternalName"'],
    ],
    [{ externalName: "a.b" }, ['spec.externalName is ignored when spec.type is not "ExternalName"']],
    [
      { trafficDistribution: "PreferClose" },
      ['spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone"'],
    ],
  ];
  for (const [spec, wanted] of table) {
    t.strictSame(serviceWarnings(created("Service", service(spec))), wanted, JSON.stringify(spec));
  }
  const hints = { annotations: { "service.kubernetes.io/topology-aware-hints": "Auto" } };
  t.strictSame(serviceWarnings({ metadata: hints, ...service() }), [
    "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use service.kubernetes.io/topology-mode instead",
  ]);
});

t.test("defaults of a Service", async (t) => {
  t.strictSame(created("Service", service()).spec, {
    ports: [{ port: 80, protocol: "TCP", targetPort: 80 }],
    sessionAffinity: "None",
    type: "ClusterIP",
    internalTrafficPolicy: "Cluster",
    ipFamilyPolicy: "SingleStack",
    ipFamilies: ["IPv4"],
  });
  t.match(created("Service", service({ sessionAffinity: "ClientIP" })).spec, {
    sessionAffinityConfig: { clientIP: { timeoutSeconds: 10800 } },
  });
  t.equal(created("Service", service({ type: "NodePort" })).spec?.externalTrafficPolicy, "Cluster");
  t.equal(created("Service", service({ type: "LoadBalancer" })).spec?.allocateLoadBalancerNodePorts, true);
  t.strictSame(created("Service", service({ clusterIP: "10.96.5.5" })).spec?.clusterIPs, ["10.96.5.5"]);
  const free = created("Service", { spec: { clusterIP: "None" } });
  t.match(free.spec, { ipFamilyPolicy: "RequireDualStack", ipFamilies: ["IPv4", "IPv6"] });
  t.strictSame(kind("Service").validate(free as Service), []);
  t.strictSame(created("Service", service()).status, { loadBalancer: {} });
});

/** Code and text of the error that `run` throws. */
function thrown(run: () => unknown): string {
  try {
    run();
    return "";
  } catch (error) {
    if (!(error instanceof StatusError)) throw error;
    return `${error.code} ${error.message}`;
  }
}

t.test("families of a Service: what is filled in", async (t) => {
  const table: [string, Kinds, ServiceSpec, string, string[]][] = [
    ["nothing said", DUAL, {}, "SingleStack", ["IPv4"]],
    ["nothing said, IPv6 first", kinds("fd00::/112", "10.96.0.0/16"), {}, "SingleStack", ["IPv6"]],
    ["IPv6 alone", kinds("fd00::/112"), {}, "SingleStack", ["IPv6"]],
    ["a family", DUAL, { ipFamilies: ["IPv6"] }, "SingleStack", ["IPv6"]],
    ["prefer", DUAL, { ipFamilyPolicy: "PreferDualStack" }, "PreferDualStack", ["IPv4", "IPv6"]],
    [
      "prefer, one family in the cluster",
      kinds("10.96.0.0/16"),
      { ipFamilyPolicy: "PreferDualStack" },
      "PreferDualStack",
      ["IPv4"],
    ],
    ["require", DUAL, { ipFamilyPolicy: "RequireDualStack" }, "RequireDualStack", ["IPv4", "IPv6"]],
    [
      "the named family stays first",
      DUAL,
      { ipFamilyPolicy: "RequireDualStack", ipFamilies: ["IPv6"] },
      "RequireDualStack",
      ["IPv6", "IPv4"],
    ],
    ["an address names its family", DUAL, { clusterIP: "fd00:10:96::5" }, "SingleStack", ["IPv6"]],
    [
      "an address of the second family, dual",
      DUAL,
      { clusterIP: "fd00:10:96::6", ipFamilyPolicy: "PreferDualStack" },
      "PreferDualStack",
      ["IPv6", "IPv4"],
    ],
    ["headless with a selector", DUAL, { clusterIP: "None", selector: { a: "b" } }, "SingleStack", ["IPv4"]],
    ["headless without", DUAL, { clusterIP: "None" }, "RequireDualStack", ["IPv4", "IPv6"]],
    [
      "headless without, one family in the cluster",
      kinds("fd00::/112"),
      { clusterIP: "None" },
      "RequireDualStack",
      ["IPv6", "IPv4"],
    ],
    [
      "headless without, single",
      DUAL,
      { clusterIP: "None", ipFamilyPolicy: "SingleStack" },
      "SingleStack",
      ["IPv4"],
    ],
  ];
  for (const [name, from, spec, policy, families] of table) {
    const life = new Life(from);
    t.strictSame(life.put(service(spec)), [], name);
    t.strictSame([life.spec.ipFamilyPolicy, life.spec.ipFamilies], [policy, families], name);
    const ips = life.spec.clusterIPs ?? [];
    if (spec.clusterIP === "None") t.strictSame(ips, ["None"], name);
    else
      t.strictSame(
        ips.map((ip) => (ip.includes(":") ? "IPv6" : "IPv4")),
        families,
        `${name}: ${ips}`,
      );
    t.equal(life.spec.clusterIP, ips[0], name);
  }
  const named = new Life(DUAL);
  const external = { type: "ExternalName", externalName: "example.com", ports: [] };
  t.strictSame(named.put(service(external)), []);
  t.notOk(named.spec.ipFamilies || named.spec.ipFamilyPolicy || named.spec.clusterIP);
  t.strictSame(
    named.patch({ type: "ClusterIP", ports: [{ port: 80 }], ipFamilyPolicy: "PreferDualStack" }),
    [],
  );
  t.strictSame(named.spec.ipFamilies, ["IPv4", "IPv6"], "from ExternalName as if new");
  t.equal(named.spec.clusterIPs?.length, 2);
});

t.test("families of a Service: what is refused", async (t) => {
  const table: [ServiceSpec, string[]][] = [
    [
      { ipFamilies: ["IPv4", "IPv6"] },
      [
        `${POLICY} "SingleStack": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified`,
      ],
    ],
    [
      { clusterIP: "10.96.0.9", clusterIPs: ["10.96.0.9", "fd00:10:96::9"] },
      [
        `${POLICY} "SingleStack": must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified`,
      ],
    ],
    [
      { ipFamilies: ["IPv5"] },
      ['spec.ipFamilies[0]: Unsupported value: "IPv5": supported values: "IPv4", "IPv6"'],
    ],
    [
      { ipFamilies: ["IPv6", "IPv6"], ipFamilyPolicy: "PreferDualStack" },
      ['spec.ipFamilies[1]: Duplicate value: "IPv6"'],
    ],
    [
      { ipFamilyPolicy: "DualStack" },
      [
        'spec.ipFamilyPolicy: Unsupported value: "DualStack": supported values: "PreferDualStack", "RequireDualStack", "SingleStack"',
      ],
    ],
    [
      { clusterIP: "10.96.0.9", ipFamilies: ["IPv6"] },
      [
        'spec.clusterIPs[0]: Invalid value: "10.96.0.9": expected an IPv6 value as indicated by `ipFamilies[0]`',
      ],
    ],
    [
      { clusterIP: "10.96.0.9", clusterIPs: ["10.96.0.9", "10.96.0.8"], ipFamilyPolicy: "RequireDualStack" },
      [
        'spec.clusterIPs: Invalid value: ["10.96.0.9","10.96.0.8"]: may specify no more than one IP for each IP family',
      ],
    ],
    [
      { clusterIP: "None", clusterIPs: ["None", "fd00:10:96::9"] },
      [`spec.clusterIPs: Invalid value: ["None","fd00:10:96::9"]: 'None' must be the first and only value`],
    ],
  ];
  for (const [spec, texts] of table)
    t.strictSame(problems("Service", service(spec), DUAL), texts, JSON.stringify(spec));
  const single: [ServiceSpec, string[]][] = [
    [
      { clusterIP: "None", selector: { a: "b" }, ipFamilyPolicy: "RequireDualStack" },
      [`${POLICY} "RequireDualStack": this cluster is not configured for dual-stack services`],
    ],
    [
      { ipFamilies: ["IPv4"], ipFamilyPolicy: "RequireDualStack" },
      [`${POLICY} "RequireDualStack": this cluster is not configured for dual-stack services`],
    ],
    [{ ipFamilies: ["IPv4"] }, ['spec.ipFamilies[0]: Invalid value: "IPv4": not configured on this cluster']],
  ];
  const [first, ...rest] = single;
  t.strictSame(problems("Service", service(first?.[0])), first?.[1]);
  t.strictSame(problems("Service", service(rest[0]?.[0])), rest[0]?.[1]);
  t.strictSame(problems("Service", service(rest[1]?.[0]), kinds("fd00::/112")), rest[1]?.[1]);
});

t.test("families of a Service: a second one comes and goes", async (t) => {
  const from = kinds("10.96.0.0/16", "fd00:10:96::/112");
  const life = new Life(from);
  life.put(service());
  const [first = ""] = life.spec.clusterIPs ?? [];
  t.strictSame(life.patch({ ipFamilyPolicy: "RequireDualStack" }), [], "upgrade by the policy");
  const [primary, second = ""] = life.spec.clusterIPs ?? [];
  t.strictSame([primary, life.spec.ipFamilies], [first, ["IPv4", "IPv6"]]);
  t.match(second, /^fd00:10:96::/);

  t.strictSame(life.put(service({ selector: { a: "b" } })), [], "a manifest without families keeps them");
  t.strictSame([life.spec.clusterIPs, life.spec.ipFamilyPolicy], [[first, second], "RequireDualStack"]);
  t.strictSame(life.patch({ clusterIPs: [first, "fd00:10:96::77"] }), [
    `spec.clusterIPs[1]: Invalid value: ["${first}","fd00:10:96::77"]: may not change once set`,
  ]);
  t.strictSame(life.patch({ clusterIPs: [first] }), [
    `${POLICY} "RequireDualStack": must be 'SingleStack' to release the secondary cluster IP`,
  ]);
  t.strictSame(life.patch({ ipFamilies: ["IPv4"] }), [
    `${POLICY} "RequireDualStack": must be 'SingleStack' to release the secondary IP family`,
  ]);
  t.strictSame(life.patch({ ipFamilies: ["IPv6", "IPv4"], clusterIPs: [first, second] }), [
    `spec.clusterIPs[0]: Invalid value: "${first}": expected an IPv6 value as indicated by \`ipFamilies[0]\``,
    `spec.clusterIPs[1]: Invalid value: "${second}": expected an IPv4 value as indicated by \`ipFamilies[1]\``,
  ]);
  t.strictSame(life.patch({ ipFamilyPolicy: "PreferDualStack" }), []);
  t.strictSame(life.spec.clusterIPs, [first, second], "prefer keeps what there is");

  t.strictSame(life.patch({ ipFamilyPolicy: "SingleStack" }), [], "downgrade by the policy alone");
  t.strictSame([life.spec.clusterIPs, life.spec.ipFamilies], [[first], ["IPv4"]]);
  const heir = new Life(from, "heir");
  t.strictSame(heir.put(service({ clusterIP: second })), [], "the second address was given back");
  t.strictSame(heir.spec.ipFamilies, ["IPv6"]);
  const wish = { ipFamilyPolicy: "PreferDualStack", clusterIPs: [first, "fd00:10:96::77"] };
  t.strictSame(life.patch(wish), [], "upgrade with a wish");
  t.strictSame(life.spec.clusterIPs, [first, "fd00:10:96::77"]);
  const thief = new Life(from, "thief");
  t.match(thief.put(service({ clusterIP: "fd00:10:96::77" })), [/provided IP is already allocated$/]);
  t.strictSame(life.patch({ type: "ExternalName", externalName: "a.b" }), []);
  t.notOk(life.spec.clusterIPs || life.spec.ipFamilies || life.spec.ipFamilyPolicy);
  t.strictSame(thief.put(service({ clusterIP: "fd00:10:96::77" })), []);
  t.match(new Life(from, "out").put(service({ clusterIP: "fd00:10:97::1" })), [
    /the provided IP \(fd00:10:97::1\) is not in the valid range. The range of valid IPs is fd00:10:96::\/112$/,
  ]);

  const headless = new Life(from, "headless");
  headless.put(service({ clusterIP: "None", selector: { a: "b" } }));
  t.strictSame(headless.patch({ ipFamilyPolicy: "PreferDualStack", ipFamilies: ["IPv6"] }), []);
  t.strictSame(headless.spec.ipFamilies, ["IPv6", "IPv4"], "a headless Service may change its families");
  t.strictSame(cells("Service", headless.stored ?? {})["Cluster-IP"], "None");
  t.equal(cells("Service", thief.stored ?? {})["Cluster-IP"], "fd00:10:96::77");
});

t.test("families of a Service: a cluster that gains or loses a family", async (t) => {
  const dual = new Life(DUAL);
  dual.put(service({ ipFamilyPolicy: "PreferDualStack" }));
  const was = structuredClone(dual.spec);
  const afterLoss = new Life(kinds("10.96.0.0/16"));
  afterLoss.stored = dual.stored;
  t.strictSame(afterLoss.patch({ selector: { a: "b" } }), []);
  t.strictSame([afterLoss.spec.clusterIPs, afterLoss.spec.ipFamilies], [was.clusterIPs, was.ipFamilies]);
  t.strictSame(afterLoss.patch({ ipFamilyPolicy: "SingleStack" }), [], "it can still be let go");
  t.strictSame(afterLoss.spec.clusterIPs, was.clusterIPs?.slice(0, 1));

  const single = new Life(kinds("10.96.0.0/16"), "single");
  single.put(service({ ipFamilyPolicy: "PreferDualStack" }));
  const afterGain = new Life(kinds("10.96.0.0/16", "fd00::/112"), "single");
  afterGain.stored = single.stored;
  t.strictSame(afterGain.patch({ selector: { a: "b" } }), []);
  t.strictSame(afterGain.spec.ipFamilies, ["IPv4"], "prefer was settled at creation");
  t.strictSame(afterGain.patch({ ipFamilyPolicy: "RequireDualStack" }), []);
  t.equal(afterGain.spec.clusterIPs?.length, 2);

  const moved = new Life(kinds("10.97.0.0/16"));
  moved.stored = structuredClone(single.stored);
  t.strictSame(moved.patch({ selector: { a: "b" } }), [], "an address of a former range stays usable");
  t.strictSame(moved.spec.clusterIPs, single.spec.clusterIPs);
});

t.test("load balancers: health check port, node ports, class", async (t) => {
  const from = kinds("10.96.0.0/16");
  const life = new Life(from);
  const balanced = { type: "LoadBalancer", externalTrafficPolicy: "Local" };
  t.strictSame(life.put(service({ ...balanced, healthCheckNodePort: 31234 })), []);
  t.equal(life.spec.healthCheckNodePort, 31234, "the wished one");
  t.strictSame(life.patch({ healthCheckNodePort: 31235 }), [
    "spec.healthCheckNodePort: Forbidden: field is immutable",
  ]);
  t.strictSame(life.put(service(balanced)), [], "left out, so kept");
  t.equal(life.spec.healthCheckNodePort, 31234);
  t.equal(
    thrown(() => new Life(from, "thief").put(service({ ...balanced, healthCheckNodePort: 31234 }))),
    "500 Internal error occurred: failed to allocate requested HealthCheck NodePort 31234: provided port is already allocated",
  );
  t.equal(
    thrown(() => new Life(from, "thief").put(service({ ...balanced, healthCheckNodePort: 80 }))),
    "500 Internal error occurred: failed to allocate requested HealthCheck NodePort 80: provided port is not in the valid range. The range of valid ports is 30000-32767",
  );
  t.match(new Life(from, "np").put(service({ type: "NodePort", ports: [{ port: 80, nodePort: 31234 }] })), [
    /nodePort: Invalid value: 31234: provided port is already allocated$/,
  ]);
  t.strictSame(life.patch({ externalTrafficPolicy: "Cluster" }), []);
  t.notOk(life.spec.healthCheckNodePort, "no use without Local");
  t.strictSame(
    new Life(from, "np").put(service({ type: "NodePort", ports: [{ port: 80, nodePort: 31234 }] })),
    [],
  );

  t.strictSame(life.patch({ loadBalancerClass: "example.com/lb" }), [
    'spec.loadBalancerClass: Invalid value: "example.com/lb": may not change once set',
  ]);
  t.ok(life.spec.ports?.[0]?.nodePort);
  t.strictSame(life.patch({ allocateLoadBalancerNodePorts: false }), []);
  t.ok(life.spec.ports?.[0]?.nodePort, "what is named stays");
  t.strictSame(life.patch({ ports: [{ port: 80, protocol: "TCP" }] }), []);
  t.notOk(life.spec.ports?.[0]?.nodePort, "what is left out goes");
  t.strictSame(life.patch({ ports: [{ port: 80, nodePort: 31235 }] }), []);
  t.equal(life.spec.ports?.[0]?.nodePort, 31235, "a wish is granted all the same");
  t.strictSame(life.patch({ type: "ClusterIP" }), []);
  t.notOk(life.spec.allocateLoadBalancerNodePorts ?? life.spec.externalTrafficPolicy);
  t.strictSame(
    new Life(from, "heir").put(service({ type: "NodePort", ports: [{ port: 80, nodePort: 31235 }] })),
    [],
  );
});

t.test("node ports follow the port's name; one number for TCP and UDP", async (t) => {
  const from = kinds("10.96.0.0/16");
  const life = new Life(from);
  const dns = (tcp: number, udp: number) =>
    service({
      type: "NodePort",
      ports: [
        { name: "t", port: tcp, nodePort: 30053 },
        { name: "u", port: udp, protocol: "UDP" },
      ],
    });
  t.strictSame(life.put(dns(53, 53)), []);
  t.strictSame(
    life.spec.ports?.map((p) => p.nodePort),
    [30053, 30053],
    "the wish of the one is the other's too",
  );
  const bare = dns(5353, 5353);
  for (const port of bare.spec?.ports ?? []) delete port.nodePort;
  t.strictSame(life.put(bare), []);
  t.strictSame(
    life.spec.ports?.map((p) => `${p.port}:${p.nodePort}/${p.protocol}`),
    ["5353:30053/TCP", "5353:30053/UDP"],
    "another number of the port, the same node port",
  );
  t.strictSame(life.patch({ ports: life.spec.ports?.slice(0, 1) }), []);
  const swapped = [
    { name: "t", port: 53 },
    { name: "v", port: 54, nodePort: 30053 },
  ];
  t.strictSame(life.patch({ ports: swapped }), []);
  t.not(life.spec.ports?.[0]?.nodePort, 30053, "given to another port by name");
  t.equal(life.spec.ports?.[1]?.nodePort, 30053);
  t.match(
    new Life(from, "other").put(
      service({ type: "NodePort", ports: [{ port: 53, protocol: "UDP", nodePort: 30053 }] }),
    ),
    [/provided port is already allocated$/],
  );
  t.strictSame(
    life.patch({
      ports: [...(life.spec.ports ?? []), { name: "u", port: 53, protocol: "UDP", nodePort: 30053 }],
    }),
    [],
    "one's own port for the other protocol",
  );
  t.strictSame(life.patch({ type: "ClusterIP", ports: [{ port: 53, protocol: "UDP" }] }), []);
  t.strictSame(
    new Life(from, "other").put(service({ type: "NodePort", ports: [{ port: 53, nodePort: 30053 }] })),
    [],
  );
});

t.test("what a load balancer reports", async (t) => {
  const d = kind("Service");
  const report = (ingress: object[], type = "LoadBalancer") => {
    const old = created("Service", service({ type })) as Stored<Service> & Service;
    const draft = { ...structuredClone(old), status: { loadBalancer: { ingress } } } as Stored & Service;
    d.setDefaults?.(draft);
    return { draft, wrong: d.validate(draft, old).map(errorText) };
  };
  const { draft, wrong } = report([
    { ip: "192.0.2.1" },
    { ip: "192.0.2.2", ipMode: "Proxy" },
    { hostname: "lb.example" },
  ]);
  t.strictSame(wrong, []);
  t.strictSame(
    draft.status?.loadBalancer?.ingress?.map((i) => i.ipMode),
    ["VIP", "Proxy", undefined],
  );
  t.equal(cells("Service", draft)["External-IP"], "192.0.2.1,192.0.2.2,lb.example");
  const at = "status.loadBalancer.ingress[0]";
  const table: [object, string | RegExp][] = [
    [
      { ip: "192.0.2.999" },
      `${at}.ip: Invalid value: "192.0.2.999": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`,
    ],
    [
      { ip: "192.0.2.1", ipMode: "NAT" },
      `${at}.ipMode: Unsupported value: "NAT": supported values: "Proxy", "VIP"`,
    ],
    [
      { hostname: "a.b", ipMode: "VIP" },
      `${at}.ipMode: Forbidden: may not be specified when \`ip\` is not set`,
    ],
    [{ hostname: "a_b" }, /hostname: Invalid value: "a_b": a lowercase RFC 1123 subdomain/],
    [
      { hostname: "192.0.2.1" },
      `${at}.hostname: Invalid value: "192.0.2.1": must be a DNS name, not an IP address`,
    ],
  ];
  for (const [ingress, text] of table) t.match(report([ingress]).wrong, [text], JSON.stringify(ingress));
  t.strictSame(report([{ ip: "192.0.2.1", ipMode: "VIP" }], "NodePort").wrong, [
    'status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is "LoadBalancer"',
  ]);
});

t.test("what is wrong with a Service", async (t) => {
  const table: [ServiceSpec, (string | RegExp)[]][] = [
    [{ ports: [] }, ["spec.ports: Required value"]],
    [{ ports: [], clusterIP: "None" }, []],
    [
      { type: "nodeport" },
      [
        'spec.type: Unsupported value: "nodeport": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"',
      ],
    ],
    [
      { ports: [{ port: 80 }, { port: 81 }] },
      ["spec.ports[0].name: Required value", "spec.ports[1].name: Required value"],
    ],
    [
      {
        ports: [
          { port: 80, name: "a" },
          { port: 81, name: "a" },
        ],
      },
      ['spec.ports[1].name: Duplicate value: "a"'],
    ],
    [
      {
        ports: [
          { port: 80, name: "a" },
          { port: 80, name: "b" },
        ],
      },
      ['spec.ports[1]: Duplicate value: {"port":80,"protocol":"TCP"}'],
    ],
    [
      {
        ports: [
          { port: 53, name: "a" },
          { port: 53, name: "b", protocol: "UDP" },
        ],
      },
      [],
    ],
    [
      { ports: [{ port: 0, targetPort: 80 }] },
      ["spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"],
    ],
    [
      { ports: [{ port: 80, protocol: "HTTP" }] },
      ['spec.ports[0].protocol: Unsupported value: "HTTP": supported values: "SCTP", "TCP", "UDP"'],
    ],
    [
      { ports: [{ port: 80, targetPort: "this-is-far-too-long" }] },
      ['spec.ports[0].targetPort: Invalid value: "this-is-far-too-long": must be no more than 15 bytes'],
    ],
    [
      { ports: [{ port: 80, nodePort: 30080 }] },
      ["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
    ],
    [
      {
        type: "NodePort",
        ports: [
          { port: 80, name: "a", nodePort: 30080 },
          { port: 81, name: "b", nodePort: 30080 },
        ],
      },
      ["spec.ports[1].nodePort: Duplicate value: 30080"],
    ],
    [
      { type: "NodePort", clusterIP: "None" },
      ["spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"],
    ],
    [
      { clusterIP: "10.96.0.999" },
      [
        'spec.clusterIPs[0]: Invalid value: "10.96.0.999": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)',
      ],
    ],
    [
      { clusterIPs: ["10.96.0.9"] },
      ['spec.clusterIPs: Invalid value: ["10.96.0.9"]: must be empty when `clusterIP` is not specified'],
    ],
    [
      { clusterIP: "10.96.0.9", clusterIPs: ["10.96.0.8"] },
      ['spec.clusterIPs: Invalid value: ["10.96.0.8"]: first value must match `clusterIP`'],
    ],
    [{ ipFamilies: ["IPv6"] }, ['spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster']],
    [
      { ipFamilyPolicy: "RequireDualStack" },
      [
        'spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services',
      ],
    ],
    [{ ipFamilyPolicy: "PreferDualStack" }, []],
    [
      { ipFamilyPolicy: "PreferDualStack", clusterIP: "10.96.0.9", clusterIPs: ["10.96.0.9", "fd00::9"] },
      ['spec.clusterIPs[1]: Invalid value: ["10.96.0.9","fd00::9"]: IPv6 is not configured on this cluster'],
    ],
    [{ type: "ExternalName" }, ["spec.externalName: Required value"]],
    [{ type: "ExternalName", externalName: "example.com.", ports: [] }, []],
    [
      { type: "ExternalName", externalName: "example.com", clusterIP: "10.96.0.9" },
      ["spec.clusterIPs: Forbidden: may not be set for ExternalName services"],
    ],
    [
      { sessionAffinity: "ClientIP", sessionAffinityConfig: { clientIP: { timeoutSeconds: 90000 } } },
      [
        "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 90000: must be greater than 0 and less than 86400",
      ],
    ],
    [
      { sessionAffinity: "clientip" },
      ['spec.sessionAffinity: Unsupported value: "clientip": supported values: "ClientIP", "None"'],
    ],
    [
      { externalTrafficPolicy: "Local" },
      [
        'spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services',
      ],
    ],
    [
      { internalTrafficPolicy: "Near" },
      ['spec.internalTrafficPolicy: Unsupported value: "Near": supported values: "Cluster", "Local"'],
    ],
    [
      { externalIPs: ["127.0.0.1"] },
      [
        'spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)',
      ],
    ],
    [
      { healthCheckNodePort: 31000 },
      [
        "spec.healthCheckNodePort: Invalid value: 31000: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
      ],
    ],
    [
      { loadBalancerSourceRanges: ["10.0.0.0/8"] },
      ["spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'"],
    ],
    [
      { type: "LoadBalancer", loadBalancerSourceRanges: [" 10.0.0.0/8 ", "10.0.0.0/33"] },
      [
        'spec.LoadBalancerSourceRanges[1]: Invalid value: "10.0.0.0/33": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)',
      ],
    ],
    [
      { loadBalancerClass: "example.com/lb", allocateLoadBalancerNodePorts: true },
      [
        "spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'",
        "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
      ],
    ],
    [
      { type: "LoadBalancer", loadBalancerClass: "a b" },
      [/^spec\.loadBalancerClass: Invalid value: "a b": name part/],
    ],
    [
      { type: "LoadBalancer", ports: [{ port: 10250 }] },
      [
        "spec.ports[0]: Invalid value: 10250: may not expose port 10250 externally since it is used by kubelet",
      ],
    ],
    [{ type: "NodePort", ports: [{ port: 10250 }] }, []],
    [
      { trafficDistribution: "Random" },
      [
        'spec.trafficDistribution: Unsupported value: "Random": supported values: "PreferClose", "PreferSameNode", "PreferSameZone"',
      ],
    ],
    [{ trafficDistribution: "PreferSameNode", publishNotReadyAddresses: true }, []],
    [{ ports: [{ port: 80, appProtocol: "kubernetes.io/h2c" }] }, []],
    [
      { ports: [{ port: 80, appProtocol: "not ok" }] },
      [/^spec\.ports\[0\]\.appProtocol: Invalid value: "not ok": name part/],
    ],
    [
      { type: "NodePort", externalTrafficPolicy: "Near" },
      ['spec.externalTrafficPolicy: Unsupported value: "Near": supported values: "Cluster", "Local"'],
    ],
    [{ externalIPs: ["192.0.2.1"], externalTrafficPolicy: "Local" }, []],
    [
      { externalIPs: ["192.0.2.1", "fe80::1", "192.0.2"] },
      [
        'spec.externalIPs[1]: Invalid value: "fe80::1": may not be in the link-local range (169.254.0.0/16, fe80::/10)',
        'spec.externalIPs[2]: Invalid value: "192.0.2": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)',
      ],
    ],
    [
      { sessionAffinity: "ClientIP", sessionAffinityConfig: { clientIP: { timeoutSeconds: 0 } } },
      [
        "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: must be greater than 0 and less than 86400",
      ],
    ],
    [{ selector: { "a b": "c" } }, [/^spec\.selector: Invalid value: "a b": name part must consist of/]],
  ];
  for (const [spec, texts] of table) {
    const found = problems("Service", service(spec));
    t.equal(found.length, texts.length, `${JSON.stringify(spec)}\n${found.join("\n")}`);
    t.match(found, texts);
  }
  t.ok(kind("Service").validateName?.("9a").length);
  const annotated = (ranges: string, type: string) => {
    const annotations = { "service.beta.kubernetes.io/load-balancer-source-ranges": ranges };
    return problems("Service", {
      ...service({ type }),
      metadata: { name: "x", namespace: "ns", annotations },
    });
  };
  const at = "metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]";
  t.strictSame(annotated("10.0.0.0/8, 192.168.0.0/16", "LoadBalancer"), []);
  t.strictSame(annotated("", "LoadBalancer"), []);
  t.strictSame(annotated("10.0.0.0/8,x", "ClusterIP"), [
    `${at}: Forbidden: may only be used when \`type\` is 'LoadBalancer'`,
    `${at}: Invalid value: "x": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)`,
  ]);
});

t.test("pools", async (t) => {
  t.equal(staticBand(65536, { min: 16, max: 256, step: 16 }), 256);
  t.equal(staticBand(2768, { min: 16, max: 128, step: 32 }), 86);
  t.equal(staticBand(64, { min: 16, max: 256, step: 16 }), 16);
  t.equal(staticBand(8, { min: 16, max: 256, step: 16 }), 0);
  const pool = new Pool(100, 20);
  const seen = new Set<number>();
  for (let i = 0; i < 80; i++) seen.add(pool.takeAny("a") ?? -1);
  t.ok(seen.size === 80 && Math.min(...seen) >= 20, "the upper band first");
  for (let i = 0; i < 20; i++) seen.add(pool.takeAny("a") ?? -1);
  t.equal(seen.size, 100);
  t.equal(pool.takeAny("a"), undefined, "exhausted");
  pool.release(50, "b");
  t.equal(pool.free, 0, "another's is not given back");
  pool.release(50, "a");
  t.equal(pool.takeAny("b"), 50);
  t.equal(pool.ownerOf(50), "b");
  t.throws(() => pool.take(100, "a"), RangeError);
  const first = new Set(Array.from({ length: 20 }, () => new Pool(10_000, 0).takeAny("a")));
  t.ok(first.size > 10, "random, not sequential");
});

t.test("allocation of a Service", async (t) => {
  const make = (random?: (below: number) => number) =>
    new ServiceAllocator({ serviceCIDRs: ["10.96.0.0/16"], nodePortRange: [30000, 32767], random });
  const named = (name: string, spec: ServiceSpec, namespace = "ns") => {
    const draft = created("Service", { ...service(spec), metadata: { name, namespace } });
    return draft as Stored<Service> & Service;
  };
  const a = make();
  const all = a.freeIPs;
  t.equal(all, 65536 - 3, "without network, broadcast and the first address");

  const one = named("one", { type: "NodePort" });
  a.allocate(one, undefined).commit();
  t.match(one.spec?.clusterIP, /^10\.96\.\d+\.\d+$/);
  t.strictSame(one.spec?.clusterIPs, [one.spec?.clusterIP]);
  const port = one.spec?.ports?.[0]?.nodePort ?? 0;
  t.ok(port >= 30086 && port <= 32767, `from the upper band: ${port}`);
  const octets = (one.spec?.clusterIP ?? "").split(".").map(Number);
  t.ok((octets[2] ?? 0) * 256 + (octets[3] ?? 0) > 256, "from the upper band");

  t.equal(
    thrown(() => a.allocate(named("two", { clusterIP: one.spec?.clusterIP }), undefined)),
    `422 Service "two" is invalid: spec.clusterIPs: Invalid value: ["${one.spec?.clusterIP}"]: failed to allocate IP ${one.spec?.clusterIP}: provided IP is already allocated`,
  );
  for (const ip of ["10.0.0.1", "10.96.0.0", "10.96.255.255"]) {
    t.equal(
      thrown(() => a.allocate(named("two", { clusterIP: ip }), undefined)),
      `422 Service "two" is invalid: spec.clusterIPs: Invalid value: ["${ip}"]: failed to allocate IP ${ip}: the provided IP (${ip}) is not in the valid range. The range of valid IPs is 10.96.0.0/16`,
    );
  }
  t.match(
    thrown(() => a.allocate(named("two", { clusterIP: "10.96.0.1" }), undefined)),
    /already allocated/,
  );
  const wants = (nodePort: number) => named("two", { type: "NodePort", ports: [{ port: 80, nodePort }] });
  t.equal(
    thrown(() => a.allocate(wants(port), undefined)),
    `422 Service "two" is invalid: spec.ports[0].nodePort: Invalid value: ${port}: provided port is already allocated`,
  );
  t.equal(
    thrown(() => a.allocate(wants(29999), undefined)),
    '422 Service "two" is invalid: spec.ports[0].nodePort: Invalid value: 29999: provided port is not in the valid range. The range of valid ports is 30000-32767',
  );
  t.equal(a.freeIPs, all - 1, "what was refused holds nothing");
  t.equal(a.freePorts, 2767);

  const api = named("kubernetes", {}, "default");
  a.allocate(api, undefined).commit();
  t.equal(api.spec?.clusterIP, "10.96.0.1");
  a.released(api);
  t.match(
    thrown(() => a.allocate(named("two", { clusterIP: "10.96.0.1" }), undefined)),
    /already allocated/,
  );
  const again = named("kubernetes", { clusterIP: "10.96.0.1" }, "default");
  a.allocate(again, undefined).commit();

  const twins = named("dns", {
    type: "NodePort",
    ports: [
      { port: 53, name: "t" },
      { port: 53, name: "u", protocol: "UDP" },
      { port: 9153, name: "m" },
    ],
  });
  a.allocate(twins, undefined).commit();
  const [tcp, udp, metrics] = twins.spec?.ports ?? [];
  t.equal(tcp?.nodePort, udp?.nodePort, "TCP and UDP of one port share the node port");
  t.not(tcp?.nodePort, metrics?.nodePort);

  const first = named("same", {});
  first.metadata.uid = "1";
  const second = named("same", {});
  second.metadata.uid = "2";
  a.allocate(first, undefined).commit();
  a.allocate(second, undefined).commit();
  const between = a.freeIPs;
  a.released(structuredClone({ ...second, metadata: first.metadata }));
  t.equal(a.freeIPs, between, "a namesake's address is another's");
  a.released(first);
  a.released(second);

  const dry = named("dry", { type: "LoadBalancer", externalTrafficPolicy: "Local" });
  const [ips, ports] = [a.freeIPs, a.freePorts];
  const reservation = a.allocate(dry, undefined);
  t.ok((dry.spec?.healthCheckNodePort ?? 0) >= 30000);
  t.strictSame([a.freeIPs, a.freePorts], [ips - 1, ports - 2]);
  reservation.rollback();
  t.strictSame([a.freeIPs, a.freePorts], [ips, ports]);
  reservation.rollback();
  t.strictSame([a.freeIPs, a.freePorts], [ips, ports], "rolling back twice is harmless");

  for (const spec of [{ clusterIP: "None" }, { type: "ExternalName", externalName: "a.b", ports: [] }]) {
    a.allocate(named("none", spec), undefined).commit();
  }
  const bare = named("bare", { type: "LoadBalancer", allocateLoadBalancerNodePorts: false });
  a.allocate(bare, undefined).commit();
  t.notOk(bare.spec?.ports?.[0]?.nodePort);
  t.strictSame([a.freeIPs, a.freePorts], [ips - 1, ports]);
});

t.test("allocation over the life of a Service, as the engine drives it", async (t) => {
  const d = kind("Service", kinds("10.96.0.0/24"));
  let stored = make("Service", service({ type: "NodePort" })) as unknown as Stored & Service;
  const write = (change: (s: Service) => void, create = false) => {
    const draft = structuredClone(stored);
    change(draft);
    d.setDefaults?.(draft);
    if (create) d.prepareForCreate?.(draft, CONTEXT);
    else d.prepareForUpdate?.(draft, stored, CONTEXT);
    const errors = d.validate(draft, create ? undefined : stored).map(errorText);
    if (errors.length > 0) return errors;
    d.allocate?.(draft, create ? undefined : stored).commit();
    stored = draft;
    return [];
  };
  const spec = () => stored.spec ?? {};
  t.strictSame(
    write(() => undefined, true),
    [],
  );
  const { clusterIP } = spec();
  const nodePort = spec().ports?.[0]?.nodePort;
  t.ok(clusterIP && nodePort);

  write((s) => {
    s.spec = { type: "NodePort", ports: [{ port: 80 }], selector: { a: "b" } };
  });
  t.equal(spec().clusterIP, clusterIP, "left out, so kept");
  t.equal(spec().ports?.[0]?.nodePort, nodePort);
  t.strictSame(
    write((s) => {
      if (s.spec) s.spec.clusterIP = "10.96.0.77";
    }),
    ['spec.clusterIPs[0]: Invalid value: ["10.96.0.77"]: may not change once set'],
  );

  write((s) => {
    if (s.spec) s.spec.type = "ClusterIP";
  });
  t.notOk(spec().ports?.[0]?.nodePort, "ClusterIP has no node port");
  t.notOk(spec().externalTrafficPolicy);
  const taken = make("Service", service({ type: "NodePort", ports: [{ port: 80, nodePort }] }));
  taken.metadata = { name: "y", namespace: "ns" };
  d.setDefaults?.(taken);
  d.prepareForCreate?.(taken, CONTEXT);
  d.allocate?.(taken, undefined).commit();
  t.pass("the node port was given back");

  write((s) => {
    if (s.spec) s.spec = { ...s.spec, type: "ExternalName", externalName: "example.com" };
  });
  t.match(spec(), { type: "ExternalName" });
  t.notOk(spec().clusterIP || spec().clusterIPs || spec().ipFamilies);
  const heir = make("Service", service({ clusterIP, clusterIPs: [clusterIP ?? ""] }));
  heir.metadata = { name: "z", namespace: "ns" };
  d.setDefaults?.(heir);
  d.prepareForCreate?.(heir, CONTEXT);
  d.allocate?.(heir, undefined).commit();
  t.pass("the ClusterIP was given back");

  write((s) => {
    if (s.spec) s.spec.type = "LoadBalancer";
    if (s.spec) s.spec.externalTrafficPolicy = "Local";
  });
  t.ok(spec().clusterIP && spec().clusterIP !== clusterIP);
  t.ok(spec().healthCheckNodePort && spec().ports?.[0]?.nodePort);
  write((s) => {
    if (s.spec) s.spec.externalTrafficPolicy = "Cluster";
  });
  t.notOk(spec().healthCheckNodePort);
});

t.test("exhaustion and restore", async (t) => {
  const small = { serviceCIDRs: ["10.0.0.0/29"], nodePortRange: [30000, 30002] as [number, number] };
  const a = new ServiceAllocator(small);
  const objects: Stored<Service>[] = [];
  const add = (name: string, spec: ServiceSpec) => {
    const draft = created("Service", { ...service(spec), metadata: { name, namespace: "ns" } });
    a.allocate(draft, undefined).commit();
    objects.push(draft);
  };
  for (let i = 0; i < 5; i++) add(`s${i}`, i < 3 ? { type: "NodePort" } : {});
  t.equal(new Set(objects.map((o) => o.spec?.clusterIP)).size, 5);
  t.throws(() => add("more", {}), {
    code: 500,
    message: "Internal error occurred: failed to allocate a serviceIP: range is full",
  });
  const gone = objects.pop() as Stored<Service>;
  a.released(gone);
  t.throws(() => add("np", { type: "NodePort" }), {
    code: 500,
    message: /failed to allocate a nodePort: range is full/,
  });
  t.equal(a.freeIPs, 1, "the address taken before the port failed was given back");

  const b = new ServiceAllocator(small);
  b.restore(objects);
  t.equal(b.freeIPs, 1);
  t.equal(b.freePorts, 0);
  b.restore([]);
  t.equal(b.freeIPs, 5);
  const stale = [
    created("Service", {
      spec: { type: "ClusterIP", clusterIP: "192.168.0.1", clusterIPs: ["192.168.0.1"] },
    }),
  ];
  b.restore(stale as Stored<Service>[]);
  t.equal(b.freeIPs, 5, "an address of another range holds nothing");
  for (const text of [
    "10.0.0.0/8",
    "10.0.0.0/31",
    "fd00::/64",
    "fd00::/127",
    "nonsense",
    "10.0.0.0/24,10.1.0.0/24",
  ]) {
    const serviceCIDRs = text.split(",");
    t.throws(() => new ServiceAllocator({ ...small, serviceCIDRs }), RangeError, text);
  }
  t.throws(() => new ServiceAllocator({ ...small, nodePortRange: [10, 5] }), RangeError);

  const tiny = { ...small, serviceCIDRs: ["10.0.0.0/28", "fd00::/126"] };
  const c = new ServiceAllocator(tiny);
  t.strictSame(c.families, ["IPv4", "IPv6"]);
  t.equal(c.freeIPs, 13 + 3, "IPv6 has no broadcast address, and its first one is anybody's");
  const both = ["a", "b", "c"].map((name) => {
    const spec = { ipFamilyPolicy: "RequireDualStack" };
    const draft = created("Service", { ...service(spec), metadata: { name, namespace: "ns" } }, DUAL);
    c.allocate(draft, undefined).commit();
    return draft;
  });
  t.same(new Set(both.map((o) => o.spec?.clusterIPs?.[1])), new Set(["fd00::1", "fd00::2", "fd00::3"]));
  const fourth = created("Service", service({ ipFamilyPolicy: "RequireDualStack" }), DUAL);
  t.throws(() => c.allocate(fourth, undefined), { code: 500, message: /failed to allocate a serviceIP/ });
  t.equal(c.freeIPs, 13 - 3, "the IPv4 address that came first was given back");
  const d = new ServiceAllocator(tiny);
  d.restore(both);
  t.equal(d.freeIPs, 10, "after a restart");
  t.throws(() => d.allocate(created("Service", service({ ipFamilies: ["IPv6"] }), DUAL), undefined), {
    code: 500,
  });
});

t.test("never two owners of one address or port, whatever happens", async (t) => {
  // A small linear congruential generator: the same run every time.
  let seed = 20260101;
  const random = (below: number) => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return Math.floor((seed / 2 ** 32) * below);
  };
  const a = new ServiceAllocator({
    serviceCIDRs: ["10.0.0.0/26", "fd00::/122"],
    nodePortRange: [30000, 30039],
    random,
  });
  const stored = new Map<string, Stored<Service>>();
  const POLICIES = ["SingleStack", "PreferDualStack", "RequireDualStack"];
  const types = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];
  let refusals = 0;
  for (let step = 0; step < 4000; step++) {
    const name = `s${random(50)}`;
    const old = stored.get(name);
    if (old && random(4) === 0) {
      stored.delete(name);
      a.released(old);
      continue;
    }
    const type = types[random(4)] ?? "ClusterIP";
    const spec: ServiceSpec = {
      type,
      externalName: "a.b",
      ports: Array.from({ length: 1 + random(3) }, (_, i) => ({
        name: `p${i}`,
        port: 80 + i,
        ...(type !== "ClusterIP" && type !== "ExternalName" && random(4) === 0
          ? { nodePort: 30000 + random(40) }
          : {}),
      })),
      ...(type === "LoadBalancer" && random(2) === 0 ? { externalTrafficPolicy: "Local" } : {}),
      ...(!old && type === "ClusterIP" && random(5) === 0
        ? { clusterIP: random(2) ? "None" : `10.0.0.${random(64)}` }
        : {}),
      ...(type === "ExternalName" ? {} : { ipFamilyPolicy: POLICIES[random(3)] }),
    };
    const d = kind("Service", DUAL);
    const draft = make("Service", {
      spec,
      metadata: { name, namespace: "ns" },
    }) as unknown as Stored<Service> & Service;
    d.setDefaults?.(draft);
    if (old) d.prepareForUpdate?.(draft, old, CONTEXT);
    else d.prepareForCreate?.(draft, CONTEXT);
    if (d.validate(draft, old).length > 0) continue;
    try {
      const reservation = a.allocate(draft, old);
      if (random(4) === 0) {
        reservation.rollback();
        continue;
      }
      reservation.commit();
    } catch (error) {
      if (!(error instanceof StatusError)) throw error;
      refusals++;
      continue;
    }
    stored.set(name, draft);
    if (step % 500 === 0) a.restore([...stored.values()]);
    const ips = [...stored.values()].flatMap((s) => s.spec?.clusterIPs ?? []).filter((ip) => ip !== "None");
    const ports = [...stored.values()].flatMap((s) => [
      ...new Set(
        [...(s.spec?.ports ?? []).map((p) => p.nodePort ?? 0), s.spec?.healthCheckNodePort ?? 0].filter(
          (n) => n,
        ),
      ),
    ]);
    const twice = ips.length !== new Set(ips).size || ports.length !== new Set(ports).size;
    const leaked = a.freeIPs !== 61 + 63 - ips.length || a.freePorts !== 40 - ports.length;
    if (twice || leaked) {
      t.fail(`step ${step}: ${twice ? "two owners" : "a leak"}`, {
        ips,
        ports,
        free: [a.freeIPs, a.freePorts],
      });
      return;
    }
  }
  t.ok(refusals > 20 && stored.size > 10, `${refusals} refusals, ${stored.size} Services left`);
});

t.test("a range that is mostly taken stays quick", async (t) => {
  const pool = new Pool(65_534, 256);
  for (let i = 0; i < 65_500; i++) pool.takeAny(`s${i}`);
  t.equal(pool.free, 34);
  for (let i = 0; i < 20_000; i++) {
    const offset = pool.takeAny("x");
    if (offset === undefined) return t.fail("no offset although 34 are free");
    pool.release(offset, "x");
  }
  t.equal(pool.free, 34);
});
