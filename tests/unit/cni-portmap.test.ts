// Host ports on paper: the rules that follow from a configuration, the kernel's form of a multiport match, and the way
// of a packet through them as explain tells it.

import t from "tap";
import { parsePortmapConf, podRules, sharedRules } from "../../cni/portmap-rules.js";
import { parseSave, type Rule, renderTables, shapeOf } from "../../dataplane/iptables/index.js";
import { MATCHES, Options } from "../../dataplane/iptables/nft-extensions.js";
import { type Host, noteOf, outcomes, walk } from "../../dataplane/trace/index.js";

const NODE = "192.168.56.11";
const HOST: Host = {
  addresses: [
    { ip: "127.0.0.1", prefix: 8, device: "lo", scope: "host" },
    { ip: NODE, prefix: 24, device: "eth0", scope: "global" },
    { ip: "10.244.1.1", prefix: 24, device: "cni0", scope: "global" },
  ],
  routes: [
    { to: "192.168.56.0/24", device: "eth0", src: NODE },
    { to: "10.244.1.0/24", device: "cni0" },
  ],
  forwarding: true,
  routeLocalnet: true,
};

const conf = parsePortmapConf({
  cniVersion: "1.1.0",
  name: "kubeplumb",
  type: "kubeplumb-portmap",
  runtimeConfig: {
    portMappings: [
      { hostPort: 8080, containerPort: 80, protocol: "TCP" },
      { hostPort: 8443, containerPort: 443, protocol: "TCP", hostIP: NODE },
    ],
  },
});

function ruleset() {
  const { chains, jumps } = sharedRules(conf);
  const { chain, leads } = podRules(conf, "0123456789abcdef", { ip: "10.244.1.7", cidr: "10.244.1.0/24" });
  const words = ({ chain: at, rule }: { chain: string; rule: readonly string[] }) =>
    `-A ${at} ${rule.map((word) => (/[\s"]/.test(word) ? JSON.stringify(word) : word)).join(" ")}`;
  const lines = [...leads, ...jumps].map(words);
  const builtIn = ["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"].map((name) => ({
    ...{ table: "nat" as const, name, policy: "ACCEPT", rules: [] },
  }));
  return parseSave(renderTables([{ table: "nat", chains: [...builtIn, ...chains, chain], lines }]));
}

t.test("the way of a packet", async (t) => {
  const rules = ruleset();
  const to = (packet: object) => {
    const [only, ...more] = outcomes(
      walk(rules, HOST, { protocol: "tcp", dst: NODE, dport: 8080, ...packet } as never),
    );
    t.equal(more.length, 0, "nothing is left open");
    return only?.end;
  };
  t.match(to({ src: "192.168.56.1", input: "eth0" }), {
    fate: "leaves",
    device: "cni0",
    packet: { src: "192.168.56.1", dst: "10.244.1.7", dport: 80 },
    masqueraded: false,
  });
  t.match(
    to({ src: "10.244.1.7", input: "cni0" }),
    { masqueraded: true, packet: { src: "10.244.1.1" } },
    "hairpin",
  );
  t.match(to({ src: "127.0.0.1", dst: "127.0.0.1" }), { masqueraded: true, packet: { dst: "10.244.1.7" } });
  t.match(
    to({ src: "127.0.0.1", dst: "127.0.0.1", dport: 8443 }),
    { fate: "local" },
    "hostIP is another address",
  );
  t.match(to({ src: "192.168.56.1", input: "eth0", dport: 81 }), { fate: "local" });
});

t.test("notes", async (t) => {
  const names = { owners: new Map(), ports: [], addresses: new Map(), places: new Map() } as never;
  const nat = ruleset().get("nat");
  const notes = (chain: string) =>
    (nat?.get(chain)?.rules ?? []).map((rule: Rule) => noteOf({ table: "nat", chain, rule }, names));
  t.strictSame(notes("PREROUTING"), ["to this node itself: a pod's host port?"]);
  t.strictSame(notes("POSTROUTING"), ["on the way out: is it marked by a host port?"]);
  t.strictSame(notes("CNI-HOSTPORT-DNAT"), ["host port 8080,8443 of container 0123456789ab"]);
  const own = [...(nat?.keys() ?? [])].find((name) => name.startsWith("CNI-DN-")) ?? "";
  t.strictSame(notes(own).slice(0, 3), [
    "from the pod's own block, or from loopback: masquerade",
    "from the pod's own block, or from loopback: masquerade",
    "DNAT to the pod",
  ]);
});

t.test("a multiport match in the kernel's form and back", async (t) => {
  const format = MATCHES.get("multiport");
  for (const words of [
    ["--dports", "443,53,80:90"],
    ["!", "--sports", "1"],
    ["--ports", "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15"],
  ]) {
    const [match] = shapeOf({
      args: ["-p", "tcp", "-m", "multiport", ...words, "-j", "ACCEPT"],
    }).matches.filter(({ name }) => name === "multiport");
    const options = new Options(match as never);
    const info = Buffer.from(format?.encode(options, 4) ?? []);
    options.finish();
    t.equal(info.length, 48);
    t.strictSame(format?.decode(info, 4), words);
  }
});
