// The cluster's DNS without sockets: what names stand for, Corefiles, messages as bytes, the plugins beside it.

import { decode, encode, type Packet } from "dns-packet";
import t from "tap";
import { ENDPOINT_SLICES, NAMESPACES, PODS, SERVICES } from "../../common/client.js";
import { InformerFactory } from "../../common/informer.js";
import { clusterDnsObjects, corefile } from "../../lab/cluster-dns.js";
import { checkConfig, resolveConfig } from "../../lab/config.js";
import { dnsAddresses } from "../../lab/resolve.js";
import { ReplyCache } from "../../node/dns/cache.js";
import { Chain, shuffled } from "../../node/dns/chain.js";
import { parseCorefile } from "../../node/dns/corefile.js";
import { askHosts, readHosts } from "../../node/dns/hosts.js";
import { DnsMetrics } from "../../node/dns/metrics.js";
import { comparableAddress, isWithin, reverseAddress, zoneOf } from "../../node/dns/names.js";
import { type Record as DnsRecord, RCODE, type Reply } from "../../node/dns/reply.js";
import { DnsServer } from "../../node/dns/server.js";
import { readSettings } from "../../node/dns/settings.js";
import { MessageReader, withLength } from "../../node/dns/stream.js";
import { InformerView } from "../../node/dns/view.js";
import { type Query, readQuery, writeReply } from "../../node/dns/wire.js";
import {
  type ClusterView,
  lookup,
  type Slice,
  type ZoneAnswer,
  type ZoneConfig,
} from "../../node/dns/zone.js";
import { withinLimits } from "../../node/pods/files.js";
import { type FileView, planMounts } from "../../node/process/mounts.js";
import { FakeClient } from "./helpers/node-fake-client.js";

const CONFIG: ZoneConfig = {
  zones: ["cluster.local", "in-addr.arpa", "ip6.arpa"],
  pods: "insecure",
  ttl: 30,
  fallthrough: ["in-addr.arpa", "ip6.arpa"],
  endpointPodNames: false,
  ignoreEmptyService: false,
  namespaces: undefined,
};

type ServiceOf = NonNullable<ReturnType<ClusterView["service"]>>;

function service(name: string, spec: ServiceOf["spec"]): ServiceOf {
  return { metadata: { name, namespace: "default" }, spec };
}

const http = { name: "http", port: 80, protocol: "TCP" };
const KNOWN: ServiceOf[] = [
  service("web", { clusterIPs: ["10.96.0.20"], ports: [http, { name: "dns", port: 53, protocol: "UDP" }] }),
  service("both", { clusterIPs: ["10.96.0.21", "fd00:10:96::21"], ports: [http] }),
  service("empty", { clusterIPs: ["10.96.0.22"], ports: [http] }),
  service("db", { clusterIPs: ["None"], ports: [http] }),
  service("nobody", { clusterIPs: ["None"], ports: [http] }),
  service("portless", { clusterIPs: ["None"] }),
  service("ext", { type: "ExternalName", externalName: "example.org." }),
  service("inner", { type: "ExternalName", externalName: "web.default.svc.cluster.local" }),
  service("lost", { type: "ExternalName", externalName: "gone.default.svc.cluster.local" }),
  service("long", { type: "ExternalName", externalName: `${"x".repeat(64)}.org` }),
  service("loop-a", { type: "ExternalName", externalName: "loop-b.default.svc.cluster.local" }),
  service("loop-b", { type: "ExternalName", externalName: "loop-a.default.svc.cluster.local" }),
  {
    metadata: { name: "kube-dns", namespace: "kube-system" },
    spec: { clusterIPs: ["10.96.0.10"], ports: [http] },
  },
];

function slice(
  name: string,
  endpoints: Slice["endpoints"],
  ports: Slice["ports"] = [http],
  ns = "default",
): Slice {
  return {
    metadata: { name: `${name}-x`, namespace: ns, labels: { "kubernetes.io/service-name": name } },
    endpoints,
    ports,
  };
}

const ready = { ready: true };
const SLICES: Slice[] = [
  slice("web", [{ addresses: ["10.244.0.5"], conditions: ready }]),
  slice("db", [
    { addresses: ["10.244.0.6"], conditions: ready, hostname: "db-0", targetRef: { name: "db-0" } },
    { addresses: ["10.244.0.7"], conditions: ready, targetRef: { name: "db-1" } },
    { addresses: ["10.244.0.8"], conditions: { ready: false } },
  ]),
  slice("db", [{ addresses: ["fd00:10:244::6"], conditions: ready, hostname: "db-0" }]),
  slice("nobody", []),
  slice("portless", [{ addresses: ["10.244.0.9"] }], []),
  slice("kube-dns", [{ addresses: ["10.244.9.9"], conditions: ready }], [http], "kube-system"),
];

const keyOf = (one: { metadata?: { namespace?: string; name?: string } }) =>
  `${one.metadata?.namespace}/${one.metadata?.name}`;

const VIEW: ClusterView = {
  synced: true,
  serial: 1_700_000_000,
  hasNamespace: (name) => ["default", "kube-system"].includes(name),
  service: (namespace, name) => KNOWN.find((one) => keyOf(one) === `${namespace}/${name}`),
  slices: (namespace, name) =>
    SLICES.filter(
      ({ metadata }) =>
        metadata?.namespace === namespace && metadata.labels?.["kubernetes.io/service-name"] === name,
    ),
  serviceByAddress: (ip) =>
    KNOWN.find(({ spec }) =>
      spec?.clusterIPs?.some((one) => one !== "None" && comparableAddress(one) === ip),
    ),
  slicesByAddress: (ip) =>
    SLICES.filter(({ endpoints }) =>
      endpoints?.some(({ addresses }) => addresses.some((one) => comparableAddress(one) === ip)),
    ),
  podsByAddress: (ip) => (ip === "10.244.0.5" ? [{ metadata: { name: "web-0", namespace: "default" } }] : []),
};

const CODES = Object.fromEntries(Object.entries(RCODE).map(([name, code]) => [code, name]));

function text(record: DnsRecord): string {
  const { name, type, ttl, data } = record as DnsRecord & { data: unknown };
  const value =
    typeof data === "object" && data !== null ? Object.values(data as object).join(" ") : String(data);
  return `${name} ${ttl} ${type} ${value}`;
}

/** Code, then answers, then "+" additionals, then "-" authorities: all that a reply says. */
function said(reply: ZoneAnswer | undefined): string[] {
  if (!reply) return ["next plugin"];
  return [
    ...(reply.rcode === 0 && reply.answers.length > 0 ? [] : [CODES[reply.rcode] ?? ""]),
    ...reply.answers.map(text),
    ...reply.additionals.map((one) => `+ ${text(one)}`),
    ...(reply.follow === undefined ? [] : [`> ${reply.follow}`]),
  ];
}

const ask = (question: string, config: Partial<ZoneConfig> = {}, view: Partial<ClusterView> = {}) => {
  const [name = "", type = "A"] = question.split(" ");
  return lookup({ ...CONFIG, ...config }, { ...VIEW, ...view }, { name, type }, ["10.244.9.9"]);
};

const D = "default.svc.cluster.local";
const AT = (name: string, what: string) => `${name} 30 ${what}`;
const REVERSE_6 = "1.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa";

/** Question (type A unless it says another) to everything that is said. */
const TABLE: Record<string, string[]> = {
  [`web.${D}`]: [AT(`web.${D}`, "A 10.96.0.20")],
  [`web.${D} AAAA`]: ["NOERROR"],
  [`both.${D}`]: [AT(`both.${D}`, "A 10.96.0.21")],
  [`both.${D} AAAA`]: [AT(`both.${D}`, "AAAA fd00:10:96::21")],
  // Upper case goes back as it came.
  "WEB.Default.svc.Cluster.LOCAL": [AT("WEB.Default.svc.Cluster.LOCAL", "A 10.96.0.20")],
  // A ClusterIP has a name with or without endpoints; no Service and no namespace have none.
  [`empty.${D}`]: [AT(`empty.${D}`, "A 10.96.0.22")],
  [`nope.${D}`]: ["NXDOMAIN"],
  [`nope.${D} AAAA`]: ["NXDOMAIN"],
  "web.nowhere.svc.cluster.local": ["NXDOMAIN"],
  "nowhere.svc.cluster.local": ["NXDOMAIN"],
  // What has names below it exists.
  [D]: ["NOERROR"],
  "svc.cluster.local": ["NOERROR"],
  "pod.cluster.local": ["NOERROR"],
  "cluster.local": ["NOERROR"],
  "foo.cluster.local": ["NXDOMAIN"],
  [`web.${D} MX`]: ["NOERROR"],
  [`nope.${D} MX`]: ["NXDOMAIN"],
  [`web.${D} UNKNOWN_65`]: ["NOERROR"],
  [`web.${D} AXFR`]: ["REFUSED"],
  // Headless: the ready endpoints, and each by its hostname or its address.
  [`db.${D}`]: [AT(`db.${D}`, "A 10.244.0.6"), AT(`db.${D}`, "A 10.244.0.7")],
  [`db.${D} AAAA`]: [AT(`db.${D}`, "AAAA fd00:10:244::6")],
  [`db-0.db.${D}`]: [AT(`db-0.db.${D}`, "A 10.244.0.6")],
  [`10-244-0-7.db.${D}`]: [AT(`10-244-0-7.db.${D}`, "A 10.244.0.7")],
  [`10-244-0-8.db.${D}`]: ["NXDOMAIN"],
  [`db-1.db.${D}`]: ["NXDOMAIN"],
  [`10-244-0-5.web.${D}`]: [AT(`10-244-0-5.web.${D}`, "A 10.244.0.5")],
  [`nobody.${D}`]: ["NXDOMAIN"],
  [`portless.${D}`]: [AT(`portless.${D}`, "A 10.244.0.9")],
  [`portless.${D} SRV`]: ["NOERROR"],
  // SRV: named ports, all ports, and the endpoints of headless Services.
  [`_http._tcp.web.${D} SRV`]: [
    AT(`_http._tcp.web.${D}`, `SRV 0 100 80 web.${D}`),
    `+ ${AT(`web.${D}`, "A 10.96.0.20")}`,
  ],
  [`_http._udp.web.${D} SRV`]: ["NXDOMAIN"],
  [`_HTTP._TCP.web.${D}`]: [AT(`_HTTP._TCP.web.${D}`, "A 10.96.0.20")],
  [`web.${D} SRV`]: [
    AT(`web.${D}`, `SRV 0 50 80 web.${D}`),
    AT(`web.${D}`, `SRV 0 50 53 web.${D}`),
    `+ ${AT(`web.${D}`, "A 10.96.0.20")}`,
  ],
  [`_http._tcp.db.${D} SRV`]: [
    AT(`_http._tcp.db.${D}`, `SRV 0 33 80 db-0.db.${D}`),
    AT(`_http._tcp.db.${D}`, `SRV 0 33 80 10-244-0-7.db.${D}`),
    `+ ${AT(`db-0.db.${D}`, "A 10.244.0.6")}`,
    `+ ${AT(`10-244-0-7.db.${D}`, "A 10.244.0.7")}`,
    `+ ${AT(`db-0.db.${D}`, "AAAA fd00:10:244::6")}`,
  ],
  [`a.b.c.web.${D}`]: ["NXDOMAIN"],
  // ExternalName: a CNAME, followed inside the zone, left to the server outside of it.
  [`ext.${D}`]: [AT(`ext.${D}`, "CNAME example.org"), "> example.org"],
  [`ext.${D} CNAME`]: [AT(`ext.${D}`, "CNAME example.org")],
  [`ext.${D} SRV`]: ["NOERROR"],
  [`web.${D} CNAME`]: ["NOERROR"],
  [`inner.${D}`]: [AT(`inner.${D}`, `CNAME web.${D}`), AT(`web.${D}`, "A 10.96.0.20")],
  [`lost.${D}`]: ["NOERROR"],
  [`loop-a.${D}`]: ["NOERROR"],
  [`long.${D}`]: ["NXDOMAIN"],
  "fe80--1%lo.default.pod.cluster.local AAAA": ["NXDOMAIN"],
  [`x.ext.${D}`]: ["NXDOMAIN"],
  // Pods by address.
  "10-244-0-5.default.pod.cluster.local": [AT("10-244-0-5.default.pod.cluster.local", "A 10.244.0.5")],
  "10-1-1-1.default.pod.cluster.local": [AT("10-1-1-1.default.pod.cluster.local", "A 10.1.1.1")],
  "fd00-10--5.default.pod.cluster.local AAAA": [
    AT("fd00-10--5.default.pod.cluster.local", "AAAA fd00:10::5"),
  ],
  "10-244-0-500.default.pod.cluster.local": ["NXDOMAIN"],
  "web-0.default.pod.cluster.local": ["NXDOMAIN"],
  "10-244-0-5.nowhere.pod.cluster.local": ["NXDOMAIN"],
  // Reverse: ClusterIPs, then endpoints; the rest is the next plugin's.
  "20.0.96.10.in-addr.arpa PTR": [AT("20.0.96.10.in-addr.arpa", `PTR web.${D}`)],
  [`${REVERSE_6} PTR`]: [AT(REVERSE_6, `PTR both.${D}`)],
  "6.0.244.10.in-addr.arpa PTR": [AT("6.0.244.10.in-addr.arpa", `PTR db-0.db.${D}`)],
  "5.0.244.10.in-addr.arpa PTR": [AT("5.0.244.10.in-addr.arpa", `PTR 10-244-0-5.web.${D}`)],
  "8.8.8.8.in-addr.arpa PTR": ["next plugin"],
  "20.0.96.10.in-addr.arpa": ["next plugin"],
  "0.96.10.in-addr.arpa PTR": ["next plugin"],
  [`web.${D} PTR`]: ["NOERROR"],
  "example.org": ["next plugin"],
  // The zone itself.
  "cluster.local SOA": [
    "cluster.local 30 SOA ns.dns.cluster.local hostmaster.cluster.local 1700000000 7200 1800 86400 30",
  ],
  [`web.${D} SOA`]: ["NOERROR"],
  "cluster.local NS": [
    AT("cluster.local", "NS kube-dns.kube-system.svc.cluster.local"),
    `+ ${AT("kube-dns.kube-system.svc.cluster.local", "A 10.96.0.10")}`,
  ],
  [`web.${D} NS`]: ["NOERROR"],
  "ns.dns.cluster.local": [AT("ns.dns.cluster.local", "A 10.96.0.10")],
  "dns-version.cluster.local TXT": ["dns-version.cluster.local 28800 TXT 1.1.0"],
  [`web.${D} TXT`]: ["NOERROR"],
  "foo.cluster.local TXT": ["NXDOMAIN"],
};

t.test("what names stand for", async (t) => {
  for (const [question, expected] of Object.entries(TABLE)) t.same(said(ask(question)), expected, question);
});

t.test("what is not there is said with the zone's SOA", async (t) => {
  for (const question of [`nope.${D}`, `web.${D} AAAA`]) {
    const reply = ask(question);
    t.ok(reply?.authoritative);
    t.same(reply?.authorities.map(text), [
      "cluster.local 30 SOA ns.dns.cluster.local hostmaster.cluster.local 1700000000 7200 1800 86400 30",
    ]);
  }
  t.same(ask(`web.${D}`)?.authorities, []);
  t.same(
    ask("nope.default.svc.CLUSTER.local")?.authorities.map(({ name }) => name),
    ["CLUSTER.local"],
    "spelled as in the question",
  );
  t.same(said(ask(`nope.${D}`, {}, { synced: false })), ["SERVFAIL"], "nothing is known to be absent yet");
  t.same(said(ask(`web.${D}`, {}, { synced: false })), TABLE[`web.${D}`]);
});

t.test("settings of the zone", async (t) => {
  const pod = "10-244-0-5.default.pod.cluster.local";
  t.same(said(ask(pod, { pods: "disabled" })), ["NXDOMAIN"]);
  t.same(said(ask(pod, { pods: "verified" })), [AT(pod, "A 10.244.0.5")]);
  t.same(said(ask("10-1-1-1.default.pod.cluster.local", { pods: "verified" })), ["NXDOMAIN"]);
  t.same(said(ask("10-244-0-5.kube-system.pod.cluster.local", { pods: "verified" })), ["NXDOMAIN"]);
  t.same(said(ask(`db-1.db.${D}`, { endpointPodNames: true })), [AT(`db-1.db.${D}`, "A 10.244.0.7")]);
  t.same(said(ask(`empty.${D}`, { ignoreEmptyService: true })), ["NXDOMAIN"]);
  t.same(said(ask(`web.${D}`, { ignoreEmptyService: true })), TABLE[`web.${D}`]);
  t.same(said(ask(`web.${D}`, { namespaces: new Set(["kube-system"]) })), ["NXDOMAIN"]);
  t.same(said(ask("20.0.96.10.in-addr.arpa PTR", { namespaces: new Set(["kube-system"]) })), ["next plugin"]);
  t.same(said(ask(`nope.${D}`, { fallthrough: ["."] })), ["next plugin"]);
  t.same(said(ask("8.8.8.8.in-addr.arpa PTR", { fallthrough: [] })), ["NXDOMAIN"]);
});

t.test("names", async (t) => {
  t.ok(isWithin("a.Cluster.local", "cluster.LOCAL"));
  t.notOk(isWithin("acluster.local", "cluster.local"));
  t.ok(isWithin("anything", "."));
  t.equal(zoneOf("a.b.c", ["c", "b.c", "."]), "b.c");
  t.equal(reverseAddress("4.3.2.1.in-addr.arpa"), "1.2.3.4");
  t.equal(reverseAddress("400.3.2.1.in-addr.arpa"), undefined);
  t.equal(reverseAddress(REVERSE_6), "fd00:10:96::21");
});

t.test("Corefiles", async (t) => {
  t.same(
    parseCorefile('.:53 { # all\n  log\n  forward . "/etc/x y" {\n    except a b\n  }\n}\na, b:1 {\n}', "C"),
    [
      {
        keys: [".:53"],
        line: 1,
        directives: [
          { name: "log", args: [], block: [], line: 2 },
          {
            name: "forward",
            args: [".", "/etc/x y"],
            line: 3,
            block: [{ name: "except", args: ["a", "b"], block: [], line: 4 }],
          },
        ],
      },
      { keys: ["a", "b:1"], line: 7, directives: [] },
    ],
  );
  t.same(parseCorefile("{$ZONE} {\n}", "C", { ZONE: "x" })[0]?.keys, ["x"]);

  const [own] = readSettings(corefile("kube.test"), "Corefile");
  t.match(own, {
    zone: ".",
    port: 53,
    errors: true,
    log: false,
    loop: true,
    loadbalance: true,
    health: { port: 8080, lameduckMs: 5000 },
    ready: { port: 8181 },
    prometheus: { port: 9153 },
    kubernetes: { zones: ["kube.test", "in-addr.arpa", "ip6.arpa"], pods: "insecure", ttl: 30 },
    cache: { success: { maxTtl: 30, disabled: ["kube.test"] } },
    forwards: [],
  });
  const [other] = readSettings(
    "Example.org.:5353 {\n forward . 10.0.0.1 [fd00::1]:5353 /etc/resolv.conf {\n max_concurrent 10\n policy sequential\n }\n}",
    "C",
  );
  t.match(other, {
    zone: "example.org",
    port: 5353,
    forwards: [
      { to: ["10.0.0.1:53", "[fd00::1]:5353", "/etc/resolv.conf"], maxConcurrent: 10, policy: "sequential" },
    ],
  });

  const wrong: [string, RegExp][] = [
    [". {\n rewrite a b\n}", /^C:2 - Error during parsing: Unknown directive 'rewrite' .*kubernetes/],
    [". {\n errors", /^C:2 - Error during parsing: Unexpected EOF, expecting '}'$/],
    [".", /Unexpected EOF, expecting '\{'/],
    ["}", /Unexpected '}'/],
    [". {\n kubernetes a {\n  pod insecure\n }\n}", /^plugin\/kubernetes: C:3 - .*unknown property 'pod'$/],
    [". {\n kubernetes a {\n  pods maybe\n }\n}", /wrong value for pods: maybe/],
    [". {\n kubernetes a {\n  ttl 4000\n }\n}", /plugin\/kubernetes: C:3 .*4000/],
    [". {\n kubernetes\n}", /'\.' is no domain/],
    [". {\n forward . nowhere\n}", /plugin\/forward: C:2 - .*not an IP address or file: "nowhere"/],
    [". {\n forward .\n}", /Wrong argument count/],
    [". {\n reload 1s\n}", /greater or equal to 2s/],
    [". {\n health {\n  lameduck soon\n }\n}", /plugin\/health: C:3 .*invalid duration 'soon'/],
    [". {\n ready 10.0.0.1:80\n}", /plugin\/ready: C:2/],
    [". {\n}\n. {\n}", /cannot serve dns:\/\/\.:53 - it is already defined/],
    ["tls://. {\n}", /'tls:\/\/\.' is no zone/],
  ];
  for (const [file, message] of wrong) t.throws(() => readSettings(file, "C"), { message }, file);
});

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

t.test("a resolv.conf that is a link to nowhere is not written through", async (t) => {
  const view: FileView = {
    exists: (path) => ["/", "/etc", "/etc/hosts"].includes(path),
    realpath: (path) => path,
    entries: (path) =>
      path === "/"
        ? [{ name: "etc", kind: "directory" }]
        : [
            { name: "hosts", kind: "other" },
            { name: "resolv.conf", kind: "link", link: "../run/systemd/resolve/stub-resolv.conf" },
          ],
  };
  const mount = { source: "/pod/resolv.conf", target: "/etc/resolv.conf", file: true };
  t.same(planMounts([mount], "/s", view), {
    root: "/s",
    steps: [
      { do: "tmpfs", at: "/s" },
      { do: "mkdir", at: "/s/etc" },
      { do: "touch", at: "/s/etc/hosts" },
      { do: "rbind", from: "/etc/hosts", at: "/s/etc/hosts" },
      { do: "touch", at: "/s/etc/resolv.conf" },
      { do: "bind", from: "/pod/resolv.conf", at: "/s/etc/resolv.conf", readOnly: false },
    ],
  });
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

t.test("what informers keep is what names are made of", async (t) => {
  const client = new FakeClient();
  const informers = new InformerFactory(client);
  const view = new InformerView(informers, { pods: true });
  t.notOk(view.synced);
  const meta = (name: string) => ({ name, namespace: "default", annotations: { large: "x" } });
  const created = [
    client.create(NAMESPACES, { apiVersion: "v1", kind: "Namespace", metadata: { name: "default" } }),
    client.create(SERVICES, {
      apiVersion: "v1",
      kind: "Service",
      metadata: meta("web"),
      spec: { clusterIP: "10.96.0.20", clusterIPs: ["10.96.0.20"], selector: { app: "web" }, ports: [http] },
    }),
    client.create(ENDPOINT_SLICES, {
      apiVersion: "discovery.k8s.io/v1",
      kind: "EndpointSlice",
      addressType: "IPv6",
      metadata: { ...meta("web-1"), labels: { "kubernetes.io/service-name": "web" } },
      ports: [http],
      endpoints: [{ addresses: ["fd00:0::5"], hostname: "one", nodeName: "node-1" }],
    }),
    client.create(PODS, {
      apiVersion: "v1",
      kind: "Pod",
      metadata: meta("web-0"),
      status: { podIP: "10.244.0.5", podIPs: [{ ip: "10.244.0.5" }] },
    }),
  ];
  await Promise.all(created);
  informers.start();
  t.teardown(() => informers.stop());
  await view.ready();
  t.ok(view.synced);
  t.ok(view.hasNamespace("default"));
  t.notOk(view.hasNamespace("other"));
  const service = view.service("default", "web");
  t.notOk(service?.metadata.annotations);
  t.match(view.serviceByAddress("10.96.0.20")?.metadata.name, "web");
  t.match(view.slices("default", "web"), [{ endpoints: [{ hostname: "one" }] }]);
  t.match(view.slicesByAddress("fd00::5").length, 1, "however it is written");
  t.match(view.podsByAddress("10.244.0.5"), [{ metadata: { name: "web-0" } }]);
  const before = view.serial;
  t.ok(before > 1_700_000_000);
  await client.delete(SERVICES, "web", { namespace: "default" });
  await new Promise((resolve) => setTimeout(resolve, 20));
  t.equal(view.service("default", "web"), undefined);
  t.equal(view.serviceByAddress("10.96.0.20"), undefined);
});
