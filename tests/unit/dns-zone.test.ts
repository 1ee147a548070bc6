// Names of the cluster: what they stand for, Corefiles, and what informers keep for them. No I/O.

import t from "tap";
import { ENDPOINT_SLICES, NAMESPACES, PODS, SERVICES } from "../../common/client.js";
import { InformerFactory } from "../../common/informer.js";
import { corefile } from "../../lab/cluster-dns.js";
import { parseCorefile } from "../../node/dns/corefile.js";
import { isWithin, reverseAddress, zoneOf } from "../../node/dns/names.js";
import { readSettings } from "../../node/dns/settings.js";
import { InformerView } from "../../node/dns/view.js";
import { type ClusterView, lookup, type ZoneAnswer, type ZoneConfig } from "../../node/dns/zone.js";
import { CODES, CONFIG, D, http, REVERSE_6, text, VIEW } from "./helpers/dns-view.js";
import { FakeClient } from "./helpers/node-fake-client.js";

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
const AT = (name: string, what: string) => `${name} 30 ${what}`;

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
  while (view.service("default", "web")) await new Promise((resolve) => setTimeout(resolve, 5));
  t.equal(view.serviceByAddress("10.96.0.20"), undefined);
});
