// Addresses and blocks of both families, hosts with ports, and netlink's messages as bytes.

import t from "tap";
import { bytesToIp, Cidr, formatIp, hostPort, ipFamily, ipToBytes, parseIp } from "../../common/ip.js";
import { MessageWriter, parseAttributes, parseMessages } from "../../dataplane/kernel/netlink/codec.js";

t.test("addresses: canonical IPv4 only, IPv6 as RFC 5952", async (t) => {
  t.strictSame(parseIp("10.9.8.7"), { family: 4, value: 0x0a090807n });
  for (const bad of [
    "",
    "1.2.3",
    "1.2.3.4.5",
    "01.2.3.4",
    "256.1.1.1",
    "1.2.3.4 ",
    "a",
    "1.2.3.-4",
    "1.2.3.4/8",
  ]) {
    t.throws(() => parseIp(bad), { name: "RangeError", message: JSON.stringify(bad) }, `IPv4 ${bad}`);
    t.equal(ipFamily(bad), 0);
  }
  for (const bad of [
    ":",
    ":::",
    "1::2::3",
    "1:2:3:4:5:6:7",
    "1:2:3:4:5:6:7:8:9",
    "12345::",
    "::1%eth0",
    "::1.2.3",
  ]) {
    t.throws(() => parseIp(bad), RangeError, `IPv6 ${bad}`);
  }
  const canonical = {
    "::": "::",
    "::1": "::1",
    "2001:DB8:0:0:0:0:0:1": "2001:db8::1",
    "1:0:0:2:0:0:0:3": "1:0:0:2::3",
    "1:0:3:4:5:6:7:8": "1:0:3:4:5:6:7:8",
    "1:0:0:0:5:0:0:0": "1::5:0:0:0",
    "::ffff:10.0.0.1": "::ffff:10.0.0.1",
    "fe80:0::": "fe80::",
  };
  for (const [text, wanted] of Object.entries(canonical)) {
    t.equal(formatIp(parseIp(text).value, 6), wanted);
    t.equal(bytesToIp(ipToBytes(text)), wanted);
  }
  t.equal(ipFamily("10.0.0.1"), 4);
  t.equal(ipFamily("::1"), 6);
  t.throws(() => formatIp(1n << 32n, 4), RangeError);
  t.equal(hostPort("10.0.0.1", 80), "10.0.0.1:80");
  t.equal(hostPort("fd00::1", 80), "[fd00::1]:80");
  t.throws(() => bytesToIp(new Uint8Array(5)), RangeError);
});

t.test("blocks", async (t) => {
  const block = Cidr.parse("10.244.1.7/16");
  t.match(block, { family: 4, prefix: 16, base: 0x0af40000n });
  t.equal(String(block), "10.244.0.0/16");
  t.equal(JSON.stringify({ block }), '{"block":"10.244.0.0/16"}');
  t.strictSame(
    [block.size, block.mask, block.network, block.broadcast],
    [65536n, "255.255.0.0", "10.244.0.0", "10.244.255.255"],
  );
  t.equal(block.at(257), "10.244.1.1");
  t.equal(block.at(-1), "10.244.255.255");
  t.throws(() => block.at(65536), RangeError);
  t.equal(block.indexOf("10.244.1.0"), 256n);
  t.equal(block.indexOf("10.245.0.0"), -1n);
  t.equal(block.indexOf("::1"), -1n);
  t.ok(block.contains("10.244.9.9") && block.contains("10.244.1.0/24") && block.contains(block));
  t.notOk(block.contains("10.243.255.255") || block.contains("10.0.0.0/8") || block.contains("::1"));
  t.ok(Cidr.parse("10.0.0.0/8").overlaps(block) && block.overlaps(Cidr.parse("10.0.0.0/8")));
  t.notOk(block.overlaps(Cidr.parse("10.245.0.0/16")));
  const subnets = [...block.subnets(24)];
  t.equal(subnets.length, 256);
  t.equal(String(subnets[255]), "10.244.255.0/24");
  t.throws(() => [...block.subnets(8)], RangeError);
  t.ok(Cidr.parse("0.0.0.0/0").contains("255.255.255.255"));
  t.equal(String(Cidr.parse("2001:db8::5/64")), "2001:db8::/64");
  for (const bad of [
    "10.0.0.0",
    "10.0.0.0/33",
    "10.0.0.0/-1",
    "10.0.0.0/08",
    "10.0.0/8",
    "::/129",
    "x/8",
    "10.0.0.0/",
  ]) {
    t.throws(() => Cidr.parse(bad), { name: "RangeError", message: JSON.stringify(bad) }, bad);
  }
});

t.test("netlink messages survive the way there and back", async (t) => {
  const writer = new MessageWriter();
  const long = "x".repeat(3000);
  const message = writer
    .begin(16, 5, 7)
    .fixed(16, (at) => at.writeInt32LE(42, 4))
    .string(3, "eth0")
    .nest(18, (w) => w.string(1, "veth").nest(2, (inner) => inner.u32(1, 99).u16be(2, 8472).u8(3, 1)))
    .string(20, long)
    .end();
  t.equal(message.readUInt32LE(0), message.length);
  const [found, ...rest] = parseMessages(Buffer.concat([message, message]));
  t.equal(rest.length, 1);
  t.match(found, { type: 16, flags: 5, seq: 7 });
  const attributes = parseAttributes(found?.body as Buffer, 16);
  t.equal(attributes.get(3)?.toString(), "eth0\0");
  t.equal(attributes.get(20)?.length, 3001);
  const data = parseAttributes(parseAttributes(attributes.get(18) as Buffer).get(2) as Buffer);
  t.strictSame([data.get(1)?.readUInt32LE(0), data.get(2)?.readUInt16BE(0), data.get(3)?.[0]], [99, 8472, 1]);
  t.throws(() => [...parseMessages(Buffer.alloc(16))], RangeError);
});
