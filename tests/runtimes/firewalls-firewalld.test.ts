// Machines of a cluster behind firewalld, whose rules are a table of nf_tables of its own: no rule of iptables helps there.
// The node and the doctor say what to allow and what to trust; that, done word for word, is enough.

import t from "tap";
import { type FirewallCluster, withFirewallCluster } from "../helpers/firewall-machines.js";
import type { Machine } from "../helpers/machines.js";
import { eventually } from "../helpers/until.js";

/** Everybody may do everything: it is a bus for firewalld alone, and starts nothing by itself. */
const BUS = `<busconfig>
<type>system</type>
<listen>unix:path=/run/dbus/system_bus_socket</listen>
<policy context="default">
<allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_type="signal"/>
<allow send_requested_reply="true" send_type="method_return"/><allow send_requested_reply="true" send_type="error"/>
<allow receive_type="method_call"/><allow receive_type="method_return"/>
<allow receive_type="error"/><allow receive_type="signal"/>
</policy>
</busconfig>
`;

await withFirewallCluster(suite);

async function startFirewalld(cluster: FirewallCluster, machine: Machine): Promise<void> {
  await cluster.must(machine, "sh", "-ec", `mkdir -p /run/dbus && cat > /etc/bus.conf <<'END'\n${BUS}END`);
  cluster.startOn(machine, "dbus-daemon", "--config-file=/etc/bus.conf", "--nofork", "--nopidfile");
  await eventually(async () => (await machine.run("test", "-S", "/run/dbus/system_bus_socket")).code === 0);
  const daemon = cluster.startOn(machine, "firewalld", "--nofork", "--nopid");
  await eventually(async () => {
    if (daemon.child.exitCode !== null) throw new Error(`firewalld ended: ${daemon.log()}`);
    return (await machine.run("firewall-cmd", "--state")).code === 0;
  });
}

async function suite(cluster: FirewallCluster): Promise<void> {
  const { nodes, machines, control } = cluster;
  const sh = (machine: Machine, script: string) => cluster.must(machine, "sh", "-ec", script);

  t.test("firewalld: says what to allow and what to trust, and with it works", async (t) => {
    await Promise.all(machines.map((machine) => startFirewalld(cluster, machine)));
    await cluster.isCut(t, "firewalld as it comes");
    for (const node of nodes)
      await cluster
        .log(node)
        .logged(
          /WARN .*a firewall stops what the cluster needs.*firewall-cmd --zone=trusted --add-interface=cni0/,
        );
    await cluster.log(control).logged(/a firewall stops.*--zone=public --add-port=6443\/tcp/);
    const lines = await cluster.followAll();
    const both = (...changes: string[]) =>
      changes
        .flatMap((change) => [`firewall-cmd ${change}`, `firewall-cmd --permanent ${change}`])
        .join(" && ");
    const forNode = [
      both("--zone=public --add-port=8472/udp"),
      both("--zone=public --add-port=10250/tcp"),
      both("--zone=trusted --add-interface=cni0", "--zone=trusted --add-interface=flannel.1"),
    ];
    t.strictSame(lines, [[both("--zone=public --add-port=6443/tcp")], forNode, forNode]);
    await cluster.works(t, "firewalld, with what the doctor said");
    await cluster.isSilent(t);
    // It takes the rules of iptables away, too: they come back.
    await Promise.all(machines.map((machine) => sh(machine, "firewall-cmd --reload")));
    await cluster.works(t, "after a reload");
  });
}
