// Services as declared to the API engine: warnings, defaults, validation texts, what a load balancer reports. No I/O.

import type { ServiceSpec } from "kubernetes-types/core/v1.js";
import t from "tap";
import type { Service, Stored } from "../../common/k8s.js";
import { errorText } from "../../control/resources/validation/field.js";
import { serviceWarnings } from "../../control/resources/warnings.js";
import { cells, created, kind, problems } from "./helpers/kinds.js";
import { service } from "./helpers/services.js";

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
