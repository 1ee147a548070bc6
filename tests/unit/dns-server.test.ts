// DNS messages as bytes and in streams, the plugins of a server block, and odd messages.

import { decode, encode, type Packet } from "dns-packet";
import t from "tap";
import { clusterDnsObjects, corefile } from "../../lab/cluster-dns.js";
import { checkConfig, resolveConfig } from "../../lab/config.js";
import { dnsAddresses } from "../../lab/resolve.js";
import { ReplyCache } from "../../node/dns/cache.js";
import { Chain, shuffled } from "../../node/dns/chain.js";
import { askHosts, readHosts } from "../../node/dns/hosts.js";
import { DnsMetrics } from "../../node/dns/metrics.js";
import { type Record as DnsRecord, RCODE, type Reply } from "../../node/dns/reply.js";
import { DnsServer } from "../../node/dns/server.js";
import { readSettings } from "../../node/dns/settings.js";
import { MessageReader, withLength } from "../../node/dns/stream.js";
import { type Query, readQuery, writeReply } from "../../node/dns/wire.js";
import { lookup } from "../../node/dns/zone.js";
import { withinLimits } from "../../node/pods/files.js";
import { CONFIG, D, REVERSE_6, text, VIEW } from "./helpers/dns-view.js";

const query = (packet: Packet) =>
  readQuery(encode({ type: "query", id: 7, flags: 0x100, ...packet })) as Query;
const flagsOf = (message: Buffer) => message.readUInt16BE(2);

t.test("queries as bytes", async (t) => {
  const good = encode({ type: "query", id: 7, questions: [{ name: "A.b", type: "A" }] });
  t.match(readQuery(good), { id: 7, name: "A.b", type: "A", edns: undefined });
  t.equal(readQuery(good.subarray(0, 11)), undefined, "no header, no answer");
  const changed = (at: number, value: number) => {
    const copy = Buffer.from(good);
    copy.writeUInt16BE(value, at);
    return readQuery(copy) as Buffer;
  };
  t.equal(changed(2, 0x8000), undefined, "answers are not answered");
  t.equal(flagsOf(changed(2, 0x2100)), 0xa104, "NOTIMP for what is no query");
  t.equal(flagsOf(changed(4, 2)), 0x8001, "FORMERR for two questions");
  t.equal(flagsOf(changed(4, 0)), 0x8001);
  t.equal(flagsOf(changed(10, 3)), 0x8001, "and for what nobody sends");
  t.equal(flagsOf(readQuery(good.subarray(0, -2)) as Buffer), 0x8001, "half a question");
  t.equal(flagsOf(changed(good.length - 2, 3)) & 0xf, RCODE.REFUSED, "class CH");
  const self = Buffer.from(good);
  self.writeUInt16BE(0xc00c, 12);
  t.equal(flagsOf(readQuery(self) as Buffer), 0x8001, "a name that points to itself");
  const opt = { type: "OPT", name: ".", udpPayloadSize: 1232, flags: 0x8000, extendedRcode: 0, options: [] };
  const bad = query({
    questions: [{ name: "a", type: "A" }],
    additionals: [{ ...opt, ednsVersion: 1, flag_do: true } as never],
  }) as unknown as Buffer;
  const answer = decode(bad);
  t.equal(flagsOf(bad) & 0xf, 0);
  t.match(answer.additionals?.[0], { type: "OPT", extendedRcode: 1, ednsVersion: 0 }, "BADVERS");
});

const many = (count: number): Reply => ({
  rcode: 0,
  authoritative: true,
  answers: Array.from({ length: count }, (_, n) => ({
    name: "db.default.svc.cluster.local",
    type: "A",
    ttl: 30,
    data: `10.244.${n >> 8}.${n & 255}`,
  })),
  authorities: [],
  additionals: [],
});

t.test("replies as bytes", async (t) => {
  const questions = [{ name: "DB.default.svc.cluster.local", type: "A" as const }];
  const plain = query({ questions });
  const small = writeReply(plain, many(2), "udp");
  t.equal(flagsOf(small), 0x8500, "qr aa rd; no ra");
  t.match(decode(small), { id: 7, questions, answers: many(2).answers });

  const cut = writeReply(plain, many(100), "udp");
  t.ok(cut.length <= 512);
  const seen = decode(cut);
  t.ok(seen.flag_tc);
  t.match(seen.answers, many(seen.answers?.length ?? 0).answers);
  t.ok((seen.answers?.length ?? 0) > 25, "compressed: more than 512 / 44 of them");

  const edns = {
    type: "OPT",
    name: ".",
    udpPayloadSize: 1232,
    extendedRcode: 0,
    ednsVersion: 0,
    flags: 0x8000,
  };
  const options = [
    { code: 10, data: Buffer.from("12345678") },
    { code: 8, data: Buffer.from([0, 1, 0, 0]) },
  ];
  const large = query({ questions, additionals: [{ ...edns, flag_do: true, options } as never] });
  const fuller = writeReply(large, many(100), "udp");
  t.ok(fuller.length <= 1232 && fuller.length > 1200);
  const [opt] = decode(fuller).additionals ?? [];
  t.match(opt, { type: "OPT", udpPayloadSize: 1232, flag_do: true, options: [{ code: 10 }] });
  t.equal(
    (opt as unknown as { options: unknown[] }).options.length,
    1,
    "a cookie goes back, a subnet does not",
  );
  t.ok(decode(fuller).flag_tc, "OPT stays when records go");

  const whole = writeReply(plain, many(100), "tcp");
  t.notOk(decode(whole).flag_tc);
  t.same(decode(whole).answers?.length, 100);

  const soa = lookup(CONFIG, VIEW, { name: `nope.${D}`, type: "A" }, []) as Reply;
  const packed = writeReply(
    query({ questions: [{ name: `nope.${D}`, type: "A" }] }),
    { ...soa, additionals: many(40).answers },
    "udp",
  );
  t.match(decode(packed).authorities?.[0], {
    name: "cluster.local",
    type: "SOA",
    data: { mname: "ns.dns.cluster.local", rname: "hostmaster.cluster.local", minimum: 30 },
  });
});

t.test("messages in a stream", async (t) => {
  const got: string[] = [];
  const reader = new MessageReader((message) => got.push(message.toString()));
  const bytes = Buffer.concat([withLength(Buffer.from("one")), withLength(Buffer.from("three"))]);
  for (const byte of bytes.subarray(0, 7)) reader.push(Buffer.from([byte]));
  t.same(got, ["one"]);
  reader.push(bytes.subarray(7));
  t.same(got, ["one", "three"]);
});

t.test("hosts", async (t) => {
  const [settings] = readSettings(
    ". {\n hosts {\n 10.0.0.1 One.test two.test # c\n fd00::1 one.test\n fallthrough\n }\n}",
    "C",
  );
  if (!settings?.hosts) return t.fail("no hosts");
  const { hosts } = settings;
  const table = readHosts(hosts.inline, hosts.zones);
  const answers = (name: string, type: string) => askHosts(table, hosts, { name, type })?.answers.map(text);
  t.same(answers("one.TEST", "A"), ["one.TEST 3600 A 10.0.0.1"]);
  t.same(answers("one.test", "AAAA"), ["one.test 3600 AAAA fd00::1"]);
  t.same(answers("two.test", "AAAA"), [], "it has another address");
  t.same(answers("1.0.0.10.in-addr.arpa", "PTR"), [
    "1.0.0.10.in-addr.arpa 3600 PTR one.test",
    "1.0.0.10.in-addr.arpa 3600 PTR two.test",
  ]);
  t.same(answers("three.test", "A"), undefined);
  t.equal(
    askHosts(table, { ...hosts, fallthrough: [] }, { name: "three.test", type: "A" })?.rcode,
    RCODE.SERVFAIL,
  );
});

t.test("cache", async (t) => {
  let now = 1000;
  const [settings] = readSettings(". {\n cache 30 {\n disable success off.test\n success 2\n }\n}", "C");
  if (!settings?.cache) return t.fail("no cache");
  const cache = new ReplyCache(settings.cache, () => now);
  const reply = (ttl: number): Reply => ({
    ...many(1),
    answers: many(1).answers.map((one) => ({ ...one, ttl })),
  });
  t.equal(cache.put("k", "a.test", reply(3600)).answers[0]?.ttl, 30, "no longer than the cache keeps it");
  now += 10_500;
  t.equal(cache.get("k")?.answers[0]?.ttl, 20);
  now += 20_000;
  t.equal(cache.get("k"), undefined);
  cache.put("off", "x.off.test", reply(60));
  t.equal(cache.get("off"), undefined);
  for (const key of ["1", "2", "3"]) cache.put(key, "a.test", reply(60));
  t.same(
    ["1", "2", "3"].map((key) => cache.get(key) !== undefined),
    [false, true, true],
  );
});

t.test("a server block", async (t) => {
  const lines: string[] = [];
  const server = (file: string) => {
    const made = new DnsServer(53, { metrics: new DnsMetrics(), print: (line) => lines.push(line) });
    made.use(
      readSettings(file, "C").map(
        (settings) =>
          new Chain(settings, {
            view: VIEW,
            self: [],
            hosts: settings.hosts && readHosts(settings.hosts.inline, settings.hosts.zones),
            forwarders: [],
            server: (...asked) => made.resolve(...asked),
            loops: () => {},
          }),
      ),
    );
    return (name: string) => {
      const bytes = encode({ type: "query", id: 1, questions: [{ name, type: "A" }] });
      return decode(made.handle(bytes, { address: "10.244.0.9", port: 4000 }, "udp") as Buffer);
    };
  };
  const all = server(corefile("cluster.local"));
  t.match(all(`web.${D}`).answers, [{ data: "10.96.0.20", ttl: 30 }]);
  t.match(all("example.org"), { rcode: "SERVFAIL", flag_aa: false, authorities: [] }, "nobody else is asked");
  t.same(lines, ["[ERROR] plugin/errors: 2 example.org. A: plugin/loop: no next plugin found"]);
  t.match(all(`ext.${D}`), { rcode: "NOERROR", answers: [{ type: "CNAME", data: "example.org" }] });
  t.match(
    server(`${corefile("cluster.local")}\nexample.org {\n hosts {\n 10.7.7.7 example.org\n }\n}`)(`ext.${D}`)
      .answers,
    [
      { type: "CNAME", ttl: 30 },
      { name: "example.org", data: "10.7.7.7" },
    ],
    "a CNAME leads into another block",
  );
  const first = () => (all(`db.${D}`).answers?.[0] as { data: string } | undefined)?.data;
  t.equal(new Set(Array.from({ length: 100 }, first)).size, 2, "one first, then another");
  lines.length = 0;
  const own = server("cluster.local {\n log\n kubernetes\n}");
  t.match(own("example.org"), { rcode: "REFUSED" });
  t.match(own(`nope.${D}`), { rcode: "NXDOMAIN" });
  t.match(
    lines[0],
    /^\[INFO\] 10\.244\.0\.9:4000 - 1 "A IN nope\.default\.svc\.cluster\.local\. udp 48 false 512" NXDOMAIN qr,aa \d+ 0\.\d{9}s$/,
  );
});

t.test("no message, however odd, ends the server", async (t) => {
  const print = () => {};
  const server = new DnsServer(53, { metrics: new DnsMetrics(), print });
  const parts = { self: [], hosts: undefined, forwarders: [], loops: print };
  const whole = (...asked: Parameters<DnsServer["resolve"]>) => server.resolve(...asked);
  server.use(
    readSettings(corefile("cluster.local").replace("errors", "errors\n log"), "C").map(
      (settings) => new Chain(settings, { ...parts, view: VIEW, server: whole }),
    ),
  );
  const names = [
    `db.${D}`,
    `_http._tcp.db.${D}`,
    "fe80--1%lo.default.pod.cluster.local",
    `a\nb.${D}`,
    REVERSE_6,
  ];
  const opt = { type: "OPT", name: ".", udpPayloadSize: 600, extendedRcode: 0, ednsVersion: 0, flags: 0 };
  const options = [{ code: 10, data: Buffer.from("12345678") }];
  const queries = names.map((name) =>
    encode({
      type: "query",
      id: 1,
      questions: [{ name, type: "SRV" }],
      additionals: [{ ...opt, flag_do: false, options } as never],
    }),
  );
  let seed = 1;
  const random = (below: number) => {
    seed = (seed * 48_271) % 2_147_483_647;
    return seed % below;
  };
  const codes = new Set<number>();
  for (let n = 0; n < 20_000; n++) {
    const bytes = Buffer.from(queries[n % queries.length] ?? "");
    for (let flips = random(4); flips >= 0; flips--) bytes[random(bytes.length)] = random(256);
    const message = bytes.subarray(0, random(8) === 0 ? random(bytes.length) : bytes.length);
    const answer = server.handle(message, { address: "10.0.0.1", port: 1 }, n % 2 ? "udp" : "tcp");
    if (!Buffer.isBuffer(answer)) continue;
    codes.add(answer.readUInt16BE(2) & 0xf);
  }
  t.same([...codes].sort(), [
    RCODE.NOERROR,
    RCODE.FORMERR,
    RCODE.SERVFAIL,
    RCODE.NXDOMAIN,
    RCODE.NOTIMP,
    RCODE.REFUSED,
  ]);
  const broken = {
    ...VIEW,
    hasNamespace: () => {
      throw new Error("out of order");
    },
  };
  server.use(
    readSettings(corefile("cluster.local"), "C").map(
      (settings) => new Chain(settings, { ...parts, view: broken, server: whole }),
    ),
  );
  const failed = server.handle(queries[0] as Buffer, { address: "10.0.0.1", port: 1 }, "udp") as Buffer;
  t.equal(failed.readUInt16BE(2) & 0xf, RCODE.SERVFAIL);
});

t.test("load balancing: CNAMEs first, addresses in any order", async (t) => {
  const cname = { name: "x", type: "CNAME", ttl: 1, data: "y" } as DnsRecord;
  const orders = new Set<string>();
  for (let n = 0; n < 200; n++) {
    const out = shuffled([...many(3).answers, cname]);
    t.equal(out[0], cname);
    orders.add(out.slice(1).map(text).join());
  }
  t.equal(orders.size, 6);
});

t.test("what of a resolver's configuration is left out", async (t) => {
  const dns = { nameservers: ["1", "2", "3", "4"], searches: ["a"], options: ["x"] };
  t.same(withinLimits(dns), {
    dns: { ...dns, nameservers: ["1", "2", "3"] },
    omitted: [
      "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: 1 2 3",
    ],
  });
  const names = Array.from({ length: 33 }, (_, n) => `s${n}`);
  t.equal(withinLimits({ ...dns, nameservers: [], searches: names }).dns.searches.length, 32);
  const long = Array.from({ length: 20 }, (_, n) => `${"x".repeat(120)}${n}`);
  const { dns: fitted, omitted } = withinLimits({ ...dns, nameservers: [], searches: long });
  t.equal(fitted.searches.length, 16, "2048 characters");
  t.match(omitted, [/^Search Line limits were exceeded, .*, the applied search line is: xxx/]);
});

t.test("configuration", async (t) => {
  const resolved = (dns?: object) => resolveConfig(checkConfig(dns ? { dns } : {})).dns;
  t.same(resolved(), { enabled: true, domain: "cluster.local" });
  t.same(resolved({ enabled: false }), { enabled: false, domain: "cluster.local" });
  t.same(resolved({ domain: "kube.test" }), { enabled: true, domain: "kube.test" });
  t.throws(() => resolved({ domain: "Kube_" }), {
    message: /dns\.domain.*a domain of DNS labels is expected/,
  });
  t.throws(() => resolved({ enabled: "no" }), { message: /dns\.enabled.*true or false is expected/ });
  t.same(dnsAddresses("10.96.0.0/16,fd00:10:96::/112"), ["10.96.0.10", "fd00:10:96::a"]);
  const [, , service] = clusterDnsObjects({ domain: "a.b", serviceSubnet: "10.0.0.0/28" });
  t.match(service.spec, { clusterIP: "10.0.0.10", clusterIPs: ["10.0.0.10"] });
});
