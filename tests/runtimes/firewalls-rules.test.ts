// Machines of a cluster with rules that kubeplumb's own cannot make up for: a table of /etc/nftables.conf, and iptables in
// the form that kubeplumb does not use. The doctor says what to insert; that, done word for word, is enough.

import t from "tap";
import { type FirewallCluster, withFirewallCluster } from "../helpers/firewall-machines.js";
import type { Machine } from "../helpers/machines.js";

/** As a careful administrator's: nothing in, nothing through, but what is answered. */
const CAREFUL = `table inet filter {
  chain input {
    type filter hook input priority filter; policy drop;
    ct state established,related accept
    iifname lo accept
    meta l4proto { icmp, ipv6-icmp } accept
    tcp dport 22 accept
  }
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
  }
}
`;

await withFirewallCluster(suite);

async function suite(cluster: FirewallCluster): Promise<void> {
  const { machines } = cluster;
  const [one, two] = cluster.nodes;
  const sh = (machine: Machine, script: string) => cluster.must(machine, "sh", "-ec", script);

  const hasLegacy = /legacy/.test(await sh(two, "iptables --version"));

  t.test("a table of /etc/nftables.conf that drops", async (t) => {
    for (const machine of machines) await sh(machine, `nft -f - <<'END'\n${CAREFUL}END`);
    await cluster.isCut(t, "dropped");
    for (const [first] of await Promise.all(machines.map((machine) => cluster.doctor(machine)))) {
      t.match(first, { status: "warn", remedy: /^nft insert rule inet filter input iifname eth1 / });
      t.match(first?.remedy, / {3}\(and keep that where this machine keeps its rules\)$/);
    }
    await cluster.followAll();
    await cluster.works(t, "with the rules that the doctor said");
    await cluster.isSilent(t);
    await sh(one, "mount --bind /dev/null /usr/sbin/nft");
    t.match(await cluster.doctor(one), [
      { status: "warn", detail: /inet filter could not be looked at: nft cannot/ },
    ]);
    // Each change makes the node look again.
    await sh(one, "iptables -N SOMETHING");
    await cluster.log(one).logged(/a firewall could not be looked at.*inet filter/);
    await sh(one, "iptables -X SOMETHING; umount /usr/sbin/nft");
    for (const machine of machines) await sh(machine, "nft delete table inet filter");
  });

  const skip = hasLegacy ? false : "this kernel has no legacy tables";
  t.test("rules in the other form of iptables, which nobody sees in iptables-save", { skip }, async (t) => {
    const other = { one: "iptables-legacy", two: "iptables-nft" };
    for (const node of [one, two]) await sh(node, `${other[node.name as "one" | "two"]} -P FORWARD DROP`);
    await cluster.isCut(t, "FORWARD DROP in the other form");
    for (const node of [one, two]) {
      const command = other[node.name as "one" | "two"];
      t.match(
        (await cluster.doctor(node)).find(({ name }) => name === "iptables variants"),
        { status: "warn", detail: new RegExp(`there are rules of ${command} too`) },
        node.name,
      );
    }
    await cluster.followAll();
    await cluster.works(t, "with the rules that the doctor said");
  });
}
