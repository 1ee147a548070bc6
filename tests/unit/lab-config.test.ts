// The configuration of a cluster: what is filled in, what is taken over, what is refused and in which words, and what
// the command line says instead.

import { existsSync, readFileSync } from "node:fs";
import t from "tap";
import {
  bridgeAddresses,
  ConfigError,
  checkConfig,
  overrideConfig,
  parseConfig,
  publishProblem,
  resolveConfig,
} from "../../lab/config.js";

/** The messages of everything that is wrong with a YAML text. */
function problems(yaml: string): string[] {
  try {
    parseConfig(yaml, "c.yaml");
    return [];
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    return error.message.split("\n");
  }
}

t.test("an empty configuration is a whole one", async (t) => {
  const config = resolveConfig(parseConfig(""));
  t.equal(config.name, "kubeplumb");
  t.same(config.networking, {
    ipFamily: "ipv4",
    podSubnet: "10.244.0.0/16",
    serviceSubnet: "10.96.0.0/16",
    nodeSubnet: "192.168.56.0/21",
    loadBalancerPool: "192.168.56.200-192.168.56.250",
    iptables: "auto",
    nodePortRange: [30000, 32767],
  });
  t.same(
    config.nodes.map(({ name, ip }) => `${name} ${ip}`),
    ["node-1 192.168.56.11", "node-2 192.168.56.12", "node-3 192.168.56.13"],
  );
  t.same(config.controlPlane, {
    apiPort: 0,
    nodeMonitorGracePeriodSeconds: 40,
    defaultTolerationSeconds: 300,
  });
});

t.test("every field is taken over", async (t) => {
  const config = parseConfig(`
apiVersion: kubeplumb.dev/v1alpha1
kind: Cluster
name: blue
networking: { podSubnet: 10.0.0.0/14, serviceSubnet: 172.30.0.0/16, nodeSubnet: 192.168.0.0/24, iptables: legacy, nodePortRange: 30100-30200 }
nodes:
  - name: edge
    labels: { example.com/zone: a, empty: "" }
    taints: [{ key: dedicated, value: infra, effect: NoSchedule }]
  - {}
images:
  my/web:1: nginx
  my/tool: { command: [sh, -c], args: ["echo hi"], env: { A: "1" } }
publish: [{ hostPort: 8080, nodePort: 30100 }, { hostPort: 8080, nodePort: 30101, address: 127.0.0.2 }]
controlPlane: { apiPort: 6443, nodeMonitorGracePeriodSeconds: 5, defaultTolerationSeconds: 0 }
`);
  const resolved = resolveConfig(config);
  t.same(resolved.nodes, [
    {
      name: "edge",
      ip: "192.168.0.11",
      ips: ["192.168.0.11"],
      labels: { "example.com/zone": "a", empty: "" },
      taints: [{ key: "dedicated", value: "infra", effect: "NoSchedule" }],
    },
    { name: "node-2", ip: "192.168.0.12", ips: ["192.168.0.12"], labels: {}, taints: [] },
  ]);
  t.same(resolved.networking.nodePortRange, [30100, 30200]);
  t.same(resolved.images, {
    "my/web:1": "nginx",
    "my/tool": { command: ["sh", "-c"], args: ["echo hi"], env: { A: "1" } },
  });
  t.same(resolved.publish[0], { hostPort: 8080, nodePort: 30100, address: "127.0.0.1" });
  t.same(resolved.controlPlane, {
    apiPort: 6443,
    nodeMonitorGracePeriodSeconds: 5,
    defaultTolerationSeconds: 0,
  });
  t.same(checkConfig(config), config, "an object is read like a text");
  t.equal(resolveConfig(parseConfig("nodes: 5")).nodes.length, 5);
});

t.test("both families, and IPv6 alone", async (t) => {
  const resolve = (networking: object) => resolveConfig(checkConfig({ nodes: 2, networking }));
  const dual = resolve({ ipFamily: "dual" });
  t.match(dual.networking, {
    ipFamily: "dual",
    podSubnet: "10.244.0.0/16,fd00:10:244::/56",
    serviceSubnet: "10.96.0.0/16,fd00:10:96::/112",
    nodeSubnet: "192.168.56.0/21,fd00:192:168:56::/64",
  });
  t.match(dual.nodes, [
    { ip: "192.168.56.11", ips: ["192.168.56.11", "fd00:192:168:56::b"] },
    { ip: "192.168.56.12", ips: ["192.168.56.12", "fd00:192:168:56::c"] },
  ]);
  t.same(bridgeAddresses(dual), [
    { address: "192.168.56.1", prefix: 21 },
    { address: "fd00:192:168:56::1", prefix: 64 },
  ]);
  const six = resolve({ ipFamily: "ipv6", podSubnet: "fd01::/60" });
  t.match(six.networking, { podSubnet: "fd01::/60", serviceSubnet: "fd00:10:96::/112" });
  t.same(six.nodes[1]?.ips, ["fd00:192:168:56::c"]);
});

t.test("what is wrong is named: file, line, column, field, value, what is allowed", async (t) => {
  t.same(problems("name: kubeplumb\nnodez: 3\n"), [
    "c.yaml:2:1: nodez: unknown field, allowed are apiVersion, kind, name, networking, dns, nodes, images, publish, controlPlane",
  ]);
  t.same(problems("networking:\n  podSubnet: 10.244.0.0/33\n"), [
    'c.yaml:2:14: networking.podSubnet: "10.244.0.0/33": an IPv4 network like 10.244.0.0/16 with a prefix from /8 to /24 is expected',
  ]);
  const cases: [yaml: string, expected: RegExp][] = [
    ["name: Blue_1", /name: "Blue_1": allowed are 1 to 63 of a-z, 0-9 and -/],
    ["apiVersion: v1", /apiVersion: "v1": allowed is kubeplumb\.dev\/v1alpha1/],
    ["kind: Pod", /kind: "Pod": allowed is Cluster/],
    ["nodes: 0", /nodes: 0: a whole number from 1 to 4096/],
    ["nodes: []", /nodes: \[\]: at least one host/],
    ["nodes: many", /nodes: "many": a number of hosts or a list/],
    [
      "nodes: 257",
      /nodes: 257: 257 hosts are too many for networking\.podSubnet 10\.244\.0\.0\/16: it has 256/,
    ],
    [
      "networking: { nodeSubnet: 10.1.0.0/27 }\nnodes: 21",
      /21 hosts are too many for networking\.nodeSubnet .* it has 20/,
    ],
    ["nodes: [{ name: a }, { name: a }]", /nodes\[1\]: .*two hosts are called a \(nodes\[0\] too\)/],
    ["nodes: [{ labels: { '-x': a } }]", /nodes\[0\]\.labels\["-x"\]: "a": label key "-x"/],
    ["nodes: [{ labels: { x: 1 } }]", /nodes\[0\]\.labels\.x: 1: a string is expected/],
    ["nodes: [{ labels: { x: 'a b' } }]", /a label value is up to 63/],
    ["nodes: [{ taints: [{ key: a }] }]", /nodes\[0\]\.taints\[0\]\.effect: is required: NoSchedule/],
    [
      "nodes: [{ taints: [{ key: a, effect: No }] }]",
      /effect: "No": allowed are NoSchedule, PreferNoSchedule, NoExecute/,
    ],
    [
      "networking: { serviceSubnet: 10.244.8.0/24 }",
      /serviceSubnet: .*overlaps networking\.podSubnet 10\.244\.0\.0\/16/,
    ],
    ["networking: { nodeSubnet: 10.96.0.0/12 }", /nodeSubnet: .*overlaps networking\.serviceSubnet/],
    [
      "networking: { podSubnet: 10.244.0.1/16 }",
      /bits are set beyond the prefix; the network is 10\.244\.0\.0\/16/,
    ],
    ["networking: { podSubnet: 127.0.0.0/16 }", /overlaps 127\.0\.0\.0\/8, which is reserved/],
    ["networking: { podSubnet: 'fd00::/64' }", /networking\.ipFamily is ipv4: expected is one IPv4 network$/],
    ["networking: { ipFamily: both }", /ipFamily: "both": allowed are ipv4, ipv6, dual/],
    [
      "networking: { ipFamily: dual, podSubnet: 10.244.0.0/16 }",
      /podSubnet: .*ipFamily is dual: expected is one IPv4 network, a comma and one IPv6 network$/,
    ],
    [
      "networking: { ipFamily: dual, nodeSubnet: 'fd01::/64,10.1.0.0/24', podSubnet: '10.2.0.0/16,fd02::/56' }",
      /nodeSubnet: .*expected is one IPv4 network, a comma and one IPv6 network$/,
    ],
    ["networking: { ipFamily: ipv6, podSubnet: 'fd00::/47' }", /an IPv6 network .* from \/48 to \/64/],
    ["networking: { ipFamily: ipv6, serviceSubnet: 'fd00::/64' }", /an IPv6 network .* from \/108 to \/124/],
    ["networking: { ipFamily: ipv6, nodeSubnet: 'fe80::/64' }", /overlaps fe80::\/10, which is reserved/],
    [
      "networking: { ipFamily: dual, nodeSubnet: '10.1.0.0/24,fd00:10:244::/64' }",
      /nodeSubnet: .*fd00:10:244::\/64 overlaps networking\.podSubnet fd00:10:244::\/56/,
    ],
    [
      "networking: { ipFamily: ipv6, podSubnet: 'fd00:1::/63' }\nnodes: 3",
      /3 hosts are too many for networking\.podSubnet fd00:1::\/63: it has 2 networks of \/64/,
    ],
    ["networking: { iptables: ebpf }", /iptables: "ebpf": allowed are auto, nft, legacy/],
    ["networking: { nodePortRange: 30000 }", /nodePortRange: 30000: a string is expected/],
    ["networking: { nodePortRange: 9-1 }", /nodePortRange: "9-1": first-last/],
    ["networking: []", /networking: \[\]: a mapping is expected/],
    ["images: { web: no/such:1 }", /1:16: images\.web: "no\/such:1": a known image is expected: .*, nginx, /],
    ["images: { web: { image: nothing } }", /images\.web\.image: "nothing": a known image is expected/],
    ["images: { web: { args: [a] } }", /images\.web: .*image .* or command .* is required/],
    ["images: { web: { command: [a, 1] } }", /images\.web\.command\[1\]: 1: a string is expected/],
    ["images: { web: { command: [a], env: { 1a: x } } }", /env\["1a"\]: "x": a variable name/],
    ["publish: [{ hostPort: 8080 }]", /publish\[0\]\.nodePort: is required/],
    ["publish: [{ hostPort: 0, nodePort: 30000 }]", /hostPort: 0: a whole number from 1 to 65535/],
    ["publish: [{ hostPort: 80, nodePort: 80 }]", /nodePort 80 is not in 30000-32767/],
    [
      "publish: [{ hostPort: 80, nodePort: 30080, address: 0.0.0.0 }]",
      /address: "0\.0\.0\.0": a loopback address/,
    ],
    [
      "publish: [{ hostPort: 80, nodePort: 30080 }, { hostPort: 80, nodePort: 30081 }]",
      /publish\[1\]: .*127\.0\.0\.1:80 is published twice \(publish\[0\] too\)/,
    ],
    ["controlPlane: { apiPort: 70000 }", /apiPort: 70000: a whole number from 1 to 65535/],
    ["name: a\n---\nname: b", /c\.yaml:3:1: .*one document is expected/],
    ["name: [a", /c\.yaml:1:\d+: malformed YAML/],
    ["name: a\nname: b", /malformed YAML: Map keys must be unique/],
    ["- a", /a mapping is expected/],
  ];
  for (const [yaml, expected] of cases) t.match(problems(yaml).join("\n"), expected, yaml);
  t.equal(problems("name: A\nnodes: x\nfoo: 1").length, 3, "everything is said at once");
});

t.test("the published JSON Schema names the fields that the reader takes", async (t) => {
  interface Schema {
    properties?: Record<string, Schema>;
    items?: Schema;
    oneOf?: Schema[];
    additionalProperties?: Schema | boolean;
  }
  // From dist/tests/unit as from a folder of .build: the schema stands beside its source.
  const path = ["../../../", "../../../../"].map(
    (up) => new URL(`${up}lab/cluster.schema.json`, import.meta.url),
  );
  const schema = JSON.parse(readFileSync(path.find((url) => existsSync(url)) ?? "", "utf8")) as Schema;
  const named = (at: Schema | undefined) => Object.keys(at?.properties ?? {}).join(", ");
  const { networking, nodes, images, publish, controlPlane } = schema.properties ?? {};
  const node = nodes?.oneOf?.[1]?.items;
  const image = (images?.additionalProperties as Schema | undefined)?.oneOf?.[1];
  const places: [yaml: string, at: Schema | undefined][] = [
    ["zzz: 1", schema],
    ["networking: { zzz: 1 }", networking],
    ["nodes: [{ zzz: 1 }]", node],
    ["nodes: [{ taints: [{ key: a, effect: NoExecute, zzz: 1 }] }]", node?.properties?.taints?.items],
    ["images: { a: { image: b, zzz: 1 } }", image],
    ["publish: [{ hostPort: 1, nodePort: 30000, zzz: 1 }]", publish?.items],
    ["controlPlane: { zzz: 1 }", controlPlane],
  ];
  for (const [yaml, at] of places) {
    t.match(problems(yaml)[0], new RegExp(`unknown field, allowed are ${named(at)}$`), yaml);
  }
});

t.test("the command line wins over the configuration", async (t) => {
  const config = parseConfig(
    "name: blue\nnodes: [{ name: a, labels: { x: y } }, { name: b }]\npublish: [{ hostPort: 1, nodePort: 30001 }]",
  );
  const names = (nodes: number) =>
    resolveConfig(overrideConfig(config, { nodes })).nodes.map(({ name }) => name);
  t.same(names(1), ["a"]);
  t.same(names(3), ["a", "b", "node-3"]);
  const other = overrideConfig(config, {
    name: "red",
    publish: [{ hostPort: 2, nodePort: 30002 }],
    apiPort: 7000,
  });
  t.equal(other.name, "red");
  t.same(
    other.publish?.map(({ hostPort }) => hostPort),
    [1, 2],
  );
  t.equal(other.controlPlane?.apiPort, 7000);
  t.throws(() => overrideConfig(config, { nodes: 1.5 }), /options: nodes: 1.5: a whole number/);
  t.throws(() => overrideConfig({}, { name: "-" }), /options: name: "-": allowed are/);
});

t.test("a single published port is judged like one of the configuration", async (t) => {
  const config = resolveConfig({});
  t.equal(publishProblem({ hostPort: 8080, nodePort: 30080 }, config), undefined);
  t.match(publishProblem({ hostPort: 0, nodePort: 30080 }, config), /hostPort 0: a whole number/);
  t.match(publishProblem({ hostPort: 8080, nodePort: 1 }, config), /nodePort 1 is not in 30000-32767/);
  t.match(publishProblem({ hostPort: 8080, nodePort: 30080, address: "8.8.8.8" }, config), /loopback/);
});
