// Families, node ports and load balancers of a Service as it is written again and again. No I/O.

import type { ServiceSpec } from "kubernetes-types/core/v1.js";
import t from "tap";
import { cells, type Kinds, kinds, problems } from "./helpers/kinds.js";
import { DUAL, Life, POLICY, service, thrown } from "./helpers/services.js";

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
