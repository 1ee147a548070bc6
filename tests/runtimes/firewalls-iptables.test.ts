// Machines of a cluster behind firewalls that are rules of iptables: Docker's, and ufw. What must work by itself works;
// where the administrator has to do something, the node and the doctor say what, and that, done word for word, is enough.

import t from "tap";
import { type FirewallCluster, withFirewallCluster } from "../helpers/firewall-machines.js";
import { eventually } from "../helpers/until.js";

/** As dockerd 20.10.24 (Debian 12) writes them when it starts. */
const DOCKER = `*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-I FORWARD -i docker0 -o docker0 -j ACCEPT
-I FORWARD -i docker0 ! -o docker0 -j ACCEPT
-I FORWARD -o docker0 -j DOCKER
-I FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-I FORWARD -j DOCKER-ISOLATION-STAGE-1
-I FORWARD -j DOCKER-USER
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
COMMIT
`;

await withFirewallCluster(suite);

async function suite(cluster: FirewallCluster): Promise<void> {
  const [one, two] = cluster.nodes;
  const sh = (machine: typeof one, script: string) => cluster.must(machine, "sh", "-ec", script);

  t.test("Docker: everything works", async (t) => {
    for (const node of [one, two]) await sh(node, `iptables-restore --noflush <<'END'\n${DOCKER}END`);
    await cluster.works(t, "with Docker's rules");
    await cluster.isSilent(t);
    // As who restarts Docker, or another firewall, may do.
    for (const node of [one, two]) await sh(node, "iptables -F FORWARD");
    await cluster.works(t, "after a flush of FORWARD");
    for (const node of [one, two]) await sh(node, "iptables -P FORWARD ACCEPT");
  });

  t.test("ufw: says what to allow, and with it works", async (t) => {
    for (const machine of cluster.machines) await sh(machine, "ufw --force enable");
    await cluster.isCut(t, "ufw as it comes");
    for (const node of [one, two])
      t.match(
        await cluster.log(node).logged(/WARN .*a firewall stops what the cluster needs.*ufw allow 8472\/udp/),
        /firewall/,
      );
    await cluster.log(cluster.control).logged(/a firewall stops.*ufw allow 6443\/tcp/);
    const forNode = ["ufw allow 8472/udp", "ufw allow 10250/tcp"];
    t.strictSame(await cluster.followAll(), [["ufw allow 6443/tcp"], forNode, forNode]);
    await cluster.works(t, "ufw, with what the doctor said");
    await cluster.isSilent(t);
    for (const machine of cluster.machines)
      await cluster.log(machine).logged(/INFO .*a firewall lets through again what the cluster needs/);
    await eventually(async () =>
      /VXLAN .*ufw allow 8472\/udp/.test(
        await cluster.kubectl(["get", "events", "--field-selector=reason=FirewallBlocks"]),
      ),
    );
    t.match(await cluster.kubectl(["describe", "node", "one"]), /Warning +FirewallBlocks .*ufw allow/);
  });

  t.test("ufw that rejects what is routed, before our rules are asked", async (t) => {
    for (const node of [one, two]) {
      await sh(node, "ufw default reject routed");
      // ufw first, then the overlay: as after a reboot.
      await sh(node, 'iptables -D FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD');
      await eventually(async () => /FLANNEL-FWD\n$/.test(await sh(node, "iptables -S FORWARD")));
    }
    await cluster.isCut(t, "routed is rejected");
    const forNode = ["ufw route allow in on cni0 && ufw route allow out on cni0"];
    t.strictSame(await cluster.followAll(), [[], forNode, forNode]);
    await cluster.works(t, "ufw, with routes allowed");
    for (const machine of cluster.machines) await sh(machine, "ufw reload");
    await cluster.works(t, "after ufw reload");
    for (const machine of cluster.machines) await sh(machine, "ufw --force disable");
    await cluster.works(t, "without ufw again");
  });
}
