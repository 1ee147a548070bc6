// Which family of a dual-stack cluster is the primary one: what follows for the networks that are not given.

import t from "tap";
import { checkConfig, resolveConfig } from "../../lab/config.js";

const networks = (networking: object) => {
  const { podSubnet, serviceSubnet, nodeSubnet } = resolveConfig(checkConfig({ networking })).networking;
  return { podSubnet, serviceSubnet, nodeSubnet };
};

t.test("the family that is given first is first everywhere", async (t) => {
  const six = {
    podSubnet: "fd00:10:244::/56,10.244.0.0/16",
    serviceSubnet: "fd00:10:96::/112,10.96.0.0/16",
    nodeSubnet: "fd00:192:168:56::/64,192.168.56.0/21",
  };
  for (const field of ["podSubnet", "serviceSubnet", "nodeSubnet"] as const)
    t.same(networks({ ipFamily: "dual", [field]: six[field] }), six, `by ${field}`);
  t.same(networks({ ipFamily: "dual", ...six }), six);
  t.match(networks({ ipFamily: "dual", podSubnet: "10.244.0.0/16,fd00:10:244::/56" }), {
    serviceSubnet: "10.96.0.0/16,fd00:10:96::/112",
  });
  const config = checkConfig({
    nodes: 1,
    networking: { ipFamily: "dual", serviceSubnet: six.serviceSubnet },
  });
  t.match(resolveConfig(config).nodes, [
    { ip: "fd00:192:168:56::b", ips: ["fd00:192:168:56::b", "192.168.56.11"] },
  ]);
});

t.test("two orders in one cluster", async (t) => {
  const mixed = (networking: object) => () =>
    checkConfig({ networking: { ipFamily: "dual", ...networking } });
  t.throws(
    mixed({ serviceSubnet: "fd00:10:96::/112,10.96.0.0/16", podSubnet: "10.244.0.0/16,fd00:10:244::/56" }),
    { message: /podSubnet: .*expected is one IPv6 network, a comma and one IPv4 network$/ },
  );
  t.throws(mixed({ serviceSubnet: "fd00:10:96::/112" }), {
    message: /serviceSubnet: .*expected is one IPv6 network, a comma and one IPv4 network$/,
  });
});
