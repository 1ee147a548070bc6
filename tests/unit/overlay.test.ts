// What the overlay wants of the kernel, without one: its peers, flannel's rules and flannel's file.

import t from "tap";
import { Cidr } from "../../common/ip.js";
import type { Node, Stored } from "../../common/k8s.js";
import { annotationsFor, desiredPeers, formatSubnetEnv } from "../../dataplane/overlay/index.js";
import { chains } from "../../dataplane/overlay/rules.js";

const V4 = { network: Cidr.parse("10.244.0.0/16"), podCIDR: Cidr.parse("10.244.7.0/24") };
const V6 = { network: Cidr.parse("fd00:10:244::/56"), podCIDR: Cidr.parse("fd00:10:244:7::/64") };

t.test("subnet.env is flannel's", async (t) => {
  const v4 = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.7.1/24\n";
  const v6 = "FLANNEL_IPV6_NETWORK=fd00:10:244::/56\nFLANNEL_IPV6_SUBNET=fd00:10:244:7::1/64\n";
  const end = "FLANNEL_MTU=1430\nFLANNEL_IPMASQ=true\n";
  t.equal(formatSubnetEnv({ subnets: [V4], mtu: 1430 }), v4 + end);
  t.equal(formatSubnetEnv({ subnets: [V6], mtu: 1430 }), v6 + end);
  t.equal(formatSubnetEnv({ subnets: [V6, V4], mtu: 1430 }), v4 + v6 + end, "IPv4 first");
});

const MAC = (n: number) => `02:00:00:00:00:0${n}`;
const PREFIX = "flannel.alpha.coreos.com/";

function node(
  n: number,
  change: { podCIDR?: string; annotations?: Record<string, string>; age?: number } = {},
) {
  const { age = n } = change;
  return {
    apiVersion: "v1",
    kind: "Node",
    metadata: {
      name: `node-${n}`,
      uid: `${n}`,
      resourceVersion: "1",
      creationTimestamp: `2026-01-01T00:00:0${age}Z`,
      annotations: {
        ...annotationsFor([{ publicIP: `192.168.56.1${n}`, vtepMAC: MAC(n) }]),
        ...change.annotations,
      },
    },
    spec: { podCIDR: change.podCIDR ?? `10.244.${n}.0/24` },
  } satisfies Stored<Node>;
}

t.test("peers: one for each other node that can be one", async (t) => {
  const self = {
    nodeName: "node-1",
    publicIP: "192.168.56.11",
    podCIDR: Cidr.parse("10.244.1.0/24"),
    vtepMAC: MAC(1),
    network: Cidr.parse("10.244.0.0/16"),
  };
  const decide = (...nodes: Stored<Node>[]) => {
    const { peers, ...rest } = desiredPeers(nodes, self);
    return {
      peers: peers.map((p) => `${p.node} ${p.podCIDR} ${p.vtepIP} ${p.vtepMAC} ${p.publicIP}`),
      ...rest,
    };
  };
  const two = "node-2 10.244.2.0/24 10.244.2.0 02:00:00:00:00:02 192.168.56.12";
  const three = "node-3 10.244.3.0/24 10.244.3.0 02:00:00:00:00:03 192.168.56.13";
  t.strictSame(decide(), { peers: [], problems: [] });
  t.strictSame(
    decide(node(3), node(1), node(2)),
    { peers: [two, three], problems: [] },
    "whatever the order",
  );
  const silent = { ...node(3), metadata: { ...node(3).metadata, annotations: {} } };
  t.strictSame(
    decide(node(1), node(2), silent),
    { peers: [two], problems: [] },
    "not announced yet is no problem",
  );
  t.strictSame(decide(node(2), { ...node(3), spec: {} }), { peers: [two], problems: [] });
  t.strictSame(
    decide(node(1), node(2, { annotations: { [`${PREFIX}public-ip-overwrite`]: "203.0.113.2" } })).peers,
    [two.replace("192.168.56.12", "203.0.113.2")],
  );

  const problem = (bad: Stored<Node>, message: RegExp) => {
    const decided = decide(node(1), node(2), bad);
    t.strictSame(decided.peers, [two], String(message));
    t.equal(decided.problems.length, 1);
    t.match(decided.problems[0], message);
    t.equal(decided.refusal, undefined);
  };
  problem(
    node(3, { podCIDR: "10.99.3.0/24" }),
    /node-3: podCIDR 10\.99\.3\.0\/24 is not inside .*10\.244\.0\.0\/16/,
  );
  problem(node(3, { podCIDR: "10.244.2.128/25" }), /node-3 has the same podCIDR .* as the older Node node-2/);
  problem(node(3, { podCIDR: "nonsense" }), /node-3: spec\.podCIDR: "nonsense"/);
  problem(
    node(3, { annotations: { [`${PREFIX}public-ip`]: "192.168.56.12" } }),
    /same public IP .*Node node-2/,
  );
  problem(
    node(3, { annotations: { [`${PREFIX}public-ip`]: "192.168.56.11" } }),
    /same public IP .*Node node-1/,
  );
  problem(
    node(3, { annotations: { [`${PREFIX}public-ip`]: "here" } }),
    /public-ip must be an IPv4 address, not "here"/,
  );
  problem(
    node(3, { annotations: { [`${PREFIX}backend-type`]: "wireguard" } }),
    /must be vxlan, not wireguard/,
  );
  problem(node(3, { annotations: { [`${PREFIX}backend-data`]: "{" } }), /is not JSON/);
  problem(
    node(3, { annotations: { [`${PREFIX}backend-data`]: '{"VNI":7,"VtepMAC":"x"}' } }),
    /must be \{"VNI":1/,
  );
  problem(
    node(3, { annotations: { [`${PREFIX}backend-data`]: `{"VNI":1,"VtepMAC":"${MAC(2)}"}` } }),
    /same VTEP MAC/,
  );

  const older = node(3, { age: 0, annotations: { [`${PREFIX}public-ip`]: "192.168.56.11" } });
  t.match(
    decide(node(1), older).refusal,
    /node-1 has the same public IP 192\.168\.56\.11 as the older Node node-3/,
  );
  t.match(
    decide(older).refusal,
    /node-1 has the same/,
    "also before the own Node is known: it will be the newest",
  );
});

t.test("peers of both families, each from its own block and annotations", async (t) => {
  const dual = (n: number, annotations: Record<string, string> = {}): Stored<Node> => {
    const block = `fd00:10:244:${n}::/64`;
    const plain = node(n, { annotations });
    return { ...plain, spec: { podCIDR: plain.spec.podCIDR, podCIDRs: [plain.spec.podCIDR, block] } };
  };
  const second = (n: number) => annotationsFor([{ publicIP: `fd00:56::1${n}`, vtepMAC: MAC(n + 4) }]);
  t.strictSame(annotationsFor([{ publicIP: "fd00:56::12", vtepMAC: MAC(6) }]), {
    [`${PREFIX}backend-type`]: "vxlan",
    [`${PREFIX}kube-subnet-manager`]: "true",
    [`${PREFIX}backend-v6-data`]: `{"VNI":1,"VtepMAC":"${MAC(6)}"}`,
    [`${PREFIX}public-ipv6`]: "fd00:56::12",
  });
  const self = {
    nodeName: "node-1",
    publicIP: "fd00:56::11",
    podCIDR: Cidr.parse("fd00:10:244:1::/64"),
    vtepMAC: MAC(5),
    network: Cidr.parse("fd00:10:244::/56"),
  };
  const decide = (...nodes: Stored<Node>[]) => {
    const { peers, ...rest } = desiredPeers(nodes, self);
    return {
      peers: peers.map((p) => `${p.node} ${p.podCIDR} ${p.vtepIP} ${p.vtepMAC} ${p.publicIP}`),
      ...rest,
    };
  };
  const two = "node-2 fd00:10:244:2::/64 fd00:10:244:2:: 02:00:00:00:00:06 fd00:56::12";
  t.strictSame(decide(dual(2, second(2))), { peers: [two], problems: [] });
  const only6 = { ...dual(2, second(2)), spec: { podCIDR: "fd00:10:244:2::/64" } };
  t.strictSame(decide(only6), { peers: [two], problems: [] }, "podCIDR may be the IPv6 one");
  t.strictSame(decide(dual(3)), { peers: [], problems: [] }, "has announced IPv4 only so far");
  t.strictSame(decide(node(3, { annotations: second(3) })), { peers: [], problems: [] }, "has no IPv6 block");
  t.strictSame(decide(dual(2, { ...second(2), [`${PREFIX}public-ipv6-overwrite`]: "2001:db8::2" })).peers, [
    two.replace("fd00:56::12", "2001:db8::2"),
  ]);
  t.match(decide(dual(3, { ...second(3), [`${PREFIX}public-ipv6`]: "192.168.56.13" })).problems, [
    /public-ipv6 must be an IPv6 address, not "192\.168\.56\.13"/,
  ]);
  t.match(decide(dual(2, second(2)), dual(3, { ...second(3), ...second(2) })).problems, [
    /node-3 has the same public IP fd00:56::12 as the older Node node-2/,
  ]);
});

t.test("flannel's rules", async (t) => {
  const facts = { network: Cidr.parse("10.244.0.0/16"), podCIDR: Cidr.parse("10.244.1.0/24") };
  const text = (randomFully: boolean) =>
    chains({ ...facts, randomFully })
      .find(({ table }) => table === "nat")
      ?.rules.map(({ args }) => args.filter((word) => !/comment|flanneld|^-m$/.test(word)).join(" "));
  t.strictSame(text(true), [
    "mark --mark 0x4000/0x4000 -j RETURN",
    "-s 10.244.1.0/24 -d 10.244.0.0/16 -j RETURN",
    "-s 10.244.0.0/16 -d 10.244.1.0/24 -j RETURN",
    "! -s 10.244.0.0/16 -d 10.244.1.0/24 -j RETURN",
    "-s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully",
    "! -s 10.244.0.0/16 -d 10.244.0.0/16 -j MASQUERADE --random-fully",
  ]);
  t.notMatch(text(false)?.join("\n"), /random/);
  const six = JSON.stringify(chains({ ...V6, randomFully: true }));
  t.match(six, /"-s","fd00:10:244::\/56","!","-d","ff00::\/8"/);
});
