// SCTP Services against the real kernel: an association's first two packets through the rules, there and back. Made by
// hand and read from raw sockets, for few kernels have SCTP sockets; translating needs conntrack's SCTP only.

import { existsSync } from "node:fs";
import t, { type Test } from "tap";
import type { NetNs } from "../../dataplane/kernel/netns.js";
import { BRIDGE_IP, Cluster, Lab, NODE_IP, type Pod, VIP, variants } from "../helpers/proxy-lab.js";
import { type Arrived, RawSocket } from "../helpers/raw-socket.js";
import { CHUNK, decodeSctp, encodeSctp, type SctpPacket } from "../helpers/sctp.js";
import { service, slice } from "../helpers/service-objects.js";

t.setTimeout(240_000);

const IPPROTO_SCTP = 132;
const [PORT, NODE_PORT, TARGET_PORT, CLIENT_PORT] = [3868, 30_868, 13_868, 40_868];
const [CLIENT_TAG, SERVER_TAG] = [0x1111_1111, 0x2222_2222];

interface Way {
  from: NetNs;
  to: string;
  port: number;
  /** Which address the endpoint sees. */
  seen: string;
}

function packetOf(t: Test, arrived: Arrived | undefined, what: string): SctpPacket | undefined {
  if (!arrived) t.fail(`${what} has not arrived`);
  return arrived && decodeSctp(arrived.payload);
}

/** INIT to an address of the Service, INIT ACK from the endpoint, and what each side sees of them. */
async function associate(t: Test, endpoint: Pod, { from, to, port, seen }: Way): Promise<void> {
  using client = RawSocket.open(from, 4, IPPROTO_SCTP);
  using server = RawSocket.open(endpoint.ns, 4, IPPROTO_SCTP);
  const init = { sport: CLIENT_PORT, dport: port, tag: 0, chunk: CHUNK.init, initiateTag: CLIENT_TAG };
  client.send(to, encodeSctp(init));
  const atServer = await server.receive();
  const asked = packetOf(t, atServer, "INIT");
  if (!atServer || !asked) return;
  t.same([atServer.from, atServer.to], [seen, endpoint.ip], "INIT: addresses at the endpoint");
  t.match(
    asked,
    { dport: TARGET_PORT, tag: 0, chunk: CHUNK.init, initiateTag: CLIENT_TAG },
    "INIT: port and tag",
  );
  const answer = {
    ...{ sport: TARGET_PORT, dport: asked.sport, tag: CLIENT_TAG },
    ...{ chunk: CHUNK.initAck, initiateTag: SERVER_TAG },
  };
  server.send(atServer.from, encodeSctp(answer));
  const atClient = await client.receive();
  const answered = packetOf(t, atClient, "INIT ACK");
  t.equal(atClient?.from, to, "INIT ACK: from where the INIT went to");
  t.same(answered, { ...answer, sport: port, dport: CLIENT_PORT }, "INIT ACK: ports and tags");
}

if (!existsSync("/proc/sys/net/netfilter/nf_conntrack_sctp_timeout_closed")) {
  t.pass("this kernel's conntrack knows no SCTP");
} else {
  for (const variant of variants) {
    t.test(`${variant}: SCTP by ClusterIP and NodePort`, async (t) => {
      const lab = await Lab.create(2);
      t.teardown(() => lab.close());
      const [client, endpoint] = [lab.pod(0), lab.pod(1)];
      const { proxy } = new Cluster(lab.host, variant);
      t.teardown(() => proxy.stop());
      const ports = [{ name: "diameter", port: PORT, protocol: "SCTP", nodePort: NODE_PORT }];
      proxy.serviceChanged(undefined, service("default/hss", VIP[4], ports, { type: "NodePort" }));
      const target = [{ name: "diameter", port: TARGET_PORT, protocol: "SCTP" }];
      proxy.endpointSliceChanged(undefined, slice("default/hss", target, [endpoint.ip]));
      proxy.setSynced("services");
      proxy.setSynced("endpointslices");
      proxy.start();
      await proxy.flush();
      await associate(t, endpoint, { from: client.ns, to: VIP[4], port: PORT, seen: client.ip });
      await associate(t, endpoint, {
        from: lab.outside,
        to: NODE_IP[4],
        port: NODE_PORT,
        seen: BRIDGE_IP[4],
      });
      await associate(t, endpoint, { from: lab.outside, to: VIP[4], port: PORT, seen: BRIDGE_IP[4] });
      await associate(t, endpoint, { from: lab.host, to: VIP[4], port: PORT, seen: BRIDGE_IP[4] });
    });
  }
}
