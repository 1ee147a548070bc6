// The cluster's DNS as pods have it: a table of questions through dig, search paths through getent and curl, what
// follows a change, servers that go, and the files that a pod finds in /etc. In a lab or on VMs.

import t from "tap";
import { PODS } from "../../index.js";
import { findCommand } from "../../lab/doctor.js";
import { type Dug, dig, inside, ready, SYSTEM } from "../helpers/cluster-dns.js";
import { clusterUnderTest, onlyInLab } from "../helpers/cluster-under-test.js";
import { D, MANIFEST } from "../helpers/dns-objects.js";
import { kubectlOf } from "../helpers/kubectl.js";

const { cluster, lab } = await clusterUnderTest(t, { nodes: 2, timeoutMs: 200_000 });
const kubectl = kubectlOf(cluster);

t.test(
  "a cluster's DNS",
  { skip: findCommand("dig") ? false : "dig is not installed (bind9-dnsutils)" },
  async (t) => {
    await cluster.apply(MANIFEST);
    await ready(cluster);
    for (const name of ["box", "web", "db-0", "db-1"]) await cluster.waitFor(PODS, name, "Ready");
    await cluster.waitUntil(
      async () => (await kubectl("get", "endpointslices", "-o", "name")).split("\n").length >= 6,
    );
    await cluster.waitForSync();
    await cluster.waitUntil(async () => {
      const [late] = await dig(cluster, "default/box", [`late.early.${D}`]);
      return late?.answer.length === 1;
    });
    const ips = new Map<string, string>();
    for (const name of ["db-0", "db-1", "late"])
      ips.set(name, await kubectl("get", "pod", name, "-o", "jsonpath={.status.podIP}"));
    const ip = (name: string) => ips.get(name) ?? "";
    const dashed = (name: string) => ip(name).replaceAll(".", "-");

    await t.test("as kubeadm has it", async (t) => {
      t.match(
        await kubectl("get", "service", "kube-dns", "-n", SYSTEM),
        /kube-dns +ClusterIP +10\.96\.0\.10 +<none> +53\/UDP,53\/TCP,9153\/TCP/,
      );
      t.match(await kubectl("get", "deployment", "coredns", "-n", SYSTEM), /coredns +2\/2 +2 +2 /);
      const nodes = await kubectl("get", "pods", "-n", SYSTEM, "-o", "jsonpath={.items[*].spec.nodeName}");
      // Machines have been drained before.
      if (lab) t.same(nodes.split(" ").sort(), ["node-1", "node-2"], "on different hosts");
      t.match(await kubectl("logs", "-n", SYSTEM, "deployment/coredns"), /^\.:53$[\s\S]*^CoreDNS-1\.12\.1$/m);
    });

    await t.test("questions and answers, over UDP and TCP", async (t) => {
      const a = (name: string, address: string) => `${name}. 30 IN A ${address}`;
      const reverse = (address: string) => address.split(".").reverse().join(".");
      const table: Record<string, string[] | string> = {
        [`web.${D}`]: [a(`web.${D}`, "10.96.0.80")],
        [`WeB.${D}`]: [a(`WeB.${D}`, "10.96.0.80")],
        [`web.${D} AAAA`]: [],
        "kube-dns.kube-system.svc.cluster.local": [a("kube-dns.kube-system.svc.cluster.local", "10.96.0.10")],
        [`db.${D}`]: [a(`db.${D}`, ip("db-0")), a(`db.${D}`, ip("db-1"))],
        [`db-0.db.${D}`]: [a(`db-0.db.${D}`, ip("db-0"))],
        [`late.${D}`]: "NXDOMAIN",
        [`late.early.${D}`]: [a(`late.early.${D}`, ip("late"))],
        [`_sql._tcp.db.${D} SRV`]: [
          `_sql._tcp.db.${D}. 30 IN SRV 0 50 80 db-0.db.${D}.`,
          `_sql._tcp.db.${D}. 30 IN SRV 0 50 80 db-1.db.${D}.`,
        ],
        [`_http._tcp.web.${D} SRV`]: [`_http._tcp.web.${D}. 30 IN SRV 0 100 80 web.${D}.`],
        [`_http._udp.web.${D} SRV`]: "NXDOMAIN",
        [`ext.${D}`]: [`ext.${D}. 30 IN CNAME example.org.`],
        [`inner.${D}`]: [`inner.${D}. 30 IN CNAME web.${D}.`, a(`web.${D}`, "10.96.0.80")],
        [`${dashed("db-0")}.default.pod.cluster.local`]: [
          a(`${dashed("db-0")}.default.pod.cluster.local`, ip("db-0")),
        ],
        "-x 10.96.0.80": [`80.0.96.10.in-addr.arpa. 30 IN PTR web.${D}.`],
        [`-x ${ip("db-1")}`]: [`${reverse(ip("db-1"))}.in-addr.arpa. 30 IN PTR db-1.db.${D}.`],
        "dns-version.cluster.local TXT": ['dns-version.cluster.local. 28800 IN TXT "1.1.0"'],
        "cluster.local NS": ["cluster.local. 30 IN NS kube-dns.kube-system.svc.cluster.local."],
        [`nope.${D}`]: "NXDOMAIN",
        "web.nowhere.svc.cluster.local": "NXDOMAIN",
        "example.org": "SERVFAIL",
        "-x 8.8.8.8": "SERVFAIL",
      };
      const left = lab ? / 2\d IN PTR / : / [12]?\d IN PTR /;
      for (const transport of ["+notcp", "+tcp"]) {
        const questions = Object.keys(table);
        const said = await dig(
          cluster,
          "default/box",
          questions.map((one) => `${transport} ${one}`),
        );
        for (const [n, question] of questions.entries()) {
          const expected = table[question] ?? "";
          const { status, answer = [] } = said[n] ?? {};
          // Reverse names are in the cache, and what is left of their time is told.
          const whole = answer.map((line) => line.replace(left, " 30 IN PTR ")).sort();
          if (typeof expected === "string")
            t.match({ status, answer }, { status: expected, answer: [] }, question);
          else t.same([status, ...whole], ["NOERROR", ...expected.sort()], `${transport} ${question}`);
        }
      }
      const [none] = await dig(cluster, "default/box", [`nope.${D}`]);
      t.match(none?.authority, [
        /^cluster\.local\. 30 IN SOA ns\.dns\.cluster\.local\. hostmaster\.cluster\.local\. \d+ 7200 1800 86400 30$/,
      ]);
      t.equal(none?.flags, "qr aa rd");
    });

    await t.test("an answer too long for UDP is asked for again over TCP", async (t) => {
      const name = `crowd.${D}`;
      const [cut, whole, plain] = await dig(cluster, "default/box", [
        `+ignore ${name}`,
        name,
        `+noedns +ignore ${name}`,
      ]);
      t.match(cut?.flags, /\btc\b/);
      t.ok((cut?.answer.length ?? 0) > 70 && (cut?.answer.length ?? 0) < 100, `${cut?.answer.length} fit`);
      t.equal(whole?.answer.length, 100);
      t.equal(new Set(whole?.answer).size, 100);
      t.match(plain?.flags, /\btc\b/);
      t.ok((plain?.answer.length ?? 0) < 35, "512 bytes");
    });

    await t.test("health, readiness, metrics", async (t) => {
      const [address = ""] = (
        await kubectl("get", "pods", "-n", SYSTEM, "-o", "jsonpath={.items[*].status.podIP}")
      ).split(" ");
      const page = (path: string) => cluster.curl("default/box", `http://${address}:${path}`);
      t.match(await page("8080/health"), { status: 200, body: "OK" });
      t.match(await page("8181/ready"), { status: 200, body: "OK" });
      t.match(await page("8080/ready"), { status: 404 });
      await dig(cluster, "default/box", [`@${address} -t HTTPS web.${D}`, `@${address} +tcp web.${D}`]);
      const { body } = await page("9153/metrics");
      const labels = 'server="dns://:53",zone=".",view=""';
      t.match(body, `coredns_dns_requests_total{${labels},proto="udp",family="1",type="other"} 1`);
      t.match(
        body,
        new RegExp(`^coredns_dns_requests_total\\{${labels},proto="tcp",family="1",type="A"\\} [1-9]`, "m"),
      );
      t.match(body, new RegExp(`^coredns_dns_responses_total\\{${labels},rcode="NXDOMAIN"\\} [1-9]`, "m"));
      t.match(body, new RegExp(`^coredns_dns_request_duration_seconds_count\\{${labels}\\} [1-9]`, "m"));
    });

    await t.test("short names, by the search path", async (t) => {
      t.equal(
        await inside(cluster, "default/box", "cat", "/etc/resolv.conf"),
        "search default.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5",
      );
      for (const name of ["web", "web.default", "web.default.svc", `web.${D}`, "inner"])
        t.match(await inside(cluster, "default/box", "getent", "hosts", name), /^10\.96\.0\.80 /, name);
      t.equal((await cluster.exec("default/box", ["getent", "hosts", "nope"])).exitCode, 2);
      t.match(await cluster.curl("default/box", "http://web"), { status: 200, body: /Welcome to nginx/ });
      t.match(await cluster.curl("default/box", "http://db-1.db"), { status: 200 });
      t.match(
        await inside(cluster, "default/db-0", "cat", "/etc/hosts"),
        new RegExp(`^${ip("db-0")}\tdb-0\\.db\\.${D}\tdb-0$`, "m"),
      );
      t.equal(await inside(cluster, "default/db-0", "cat", "/etc/hostname"), "db-0");
    });

    await t.test("names follow what happens", async (t) => {
      const until = (question: string, holds: (said: Dug) => boolean) =>
        cluster.waitUntil(
          async () => {
            const [said] = await dig(cluster, "default/box", [question]);
            return said && holds(said);
          },
          { timeoutMs: 60_000, what: question },
        );
      await kubectl("create", "service", "clusterip", "fresh", "--tcp=80");
      await t.resolves(
        until(`fresh.${D}`, ({ answer }) => answer.length === 1),
        "a Service is created",
      );
      await kubectl("delete", "service", "fresh");
      await t.resolves(
        until(`fresh.${D}`, ({ status }) => status === "NXDOMAIN"),
        "and deleted",
      );
      await kubectl("delete", "pod", "db-1", "--grace-period=1");
      await t.resolves(
        until(`db.${D}`, ({ answer }) => answer.length === 1),
        "an endpoint goes",
      );
      await t.resolves(
        until(`db-1.db.${D}`, ({ status }) => status === "NXDOMAIN"),
        "and its name",
      );
      await kubectl("create", "namespace", "other");
      await t.resolves(
        until("other.svc.cluster.local", ({ status }) => status === "NOERROR"),
        "a namespace comes",
      );
    });

    // A server that goes answers for five seconds more, in which a slow machine may not have written its rules.
    await t.test("no question is lost when a server is deleted", { skip: onlyInLab() }, async (t) => {
      const [victim = ""] = (await kubectl("get", "pods", "-n", SYSTEM, "-o", "name")).split("\n");
      // A new socket each: each is a flow of its own, to either server.
      const script = `for n in $(seq 150); do dig +short +tries=1 +time=30 web.${D} || echo lost; sleep 0.01; done`;
      const asking = cluster.exec("default/box", ["sh", "-c", script]);
      await kubectl("delete", "-n", SYSTEM, victim, "--wait=false");
      const { stdout } = await asking;
      t.same(
        stdout
          .trim()
          .split("\n")
          .filter((line) => line !== "10.96.0.80"),
        [],
      );
      await ready(cluster);
    });

    await t.test("the Corefile is what the user makes it", async (t) => {
      const text = await kubectl(
        "get",
        "configmap",
        "coredns",
        "-n",
        SYSTEM,
        "-o",
        "jsonpath={.data.Corefile}",
      );
      const apply = async (corefile: string) => {
        const patch = JSON.stringify({ data: { Corefile: corefile } });
        await kubectl("patch", "configmap", "coredns", "-n", SYSTEM, "--type=merge", "-p", patch);
        await kubectl(
          "delete",
          "pods",
          "-n",
          SYSTEM,
          "-l",
          "k8s-app=kube-dns",
          "--force",
          "--grace-period=0",
        );
      };
      await apply(
        text.replace(
          "errors",
          "errors\n    log\n    hosts {\n       10.9.9.9 own.test\n       fallthrough\n    }",
        ),
      );
      await ready(cluster);
      await cluster.waitForSync();
      const [own, web] = await dig(cluster, "default/box", ["own.test", `web.${D}`]);
      t.same(own?.answer, ["own.test. 30 IN A 10.9.9.9"], "no longer than the cache keeps it");
      t.same(web?.answer, [`web.${D}. 30 IN A 10.96.0.80`]);
      const logs = () => kubectl("logs", "-n", SYSTEM, "-l", "k8s-app=kube-dns", "--tail=-1");
      const line = /\[INFO\] \S+ - \d+ "A IN own\.test\. udp \d+ false 1232" NOERROR qr,aa,rd \d+ /;
      t.match(await logs(), new RegExp(`${line.source}${lab ? "0" : "\\d+"}\\.\\d{9}s`));
      await apply(text.replace("ready", "ready\n    nonsense"));
      await cluster.waitUntil(async () =>
        /\/etc\/coredns\/Corefile:7 - Error during parsing: Unknown directive 'nonsense'/.test(
          // Of the pod that has just begun there is no log yet.
          await logs().catch(() => ""),
        ),
      );
      t.match(await kubectl("get", "pods", "-n", SYSTEM), /0\/1/, "and does not run");
      await apply(text);
      await ready(cluster);
    });

    await t.test("forward: to a server in the lab, never in a circle", async (t) => {
      const server = (name: string, corefile: string, spec = "dnsPolicy: Default") => `
apiVersion: v1
kind: ConfigMap
metadata: { name: ${name} }
data: { Corefile: ${JSON.stringify(corefile)} }
---
apiVersion: v1
kind: Pod
metadata: { name: ${name} }
spec:
  ${spec}
  containers:
    - name: main
      image: coredns/coredns:1.12.1
      args: [-conf, /etc/coredns/Corefile]
      volumeMounts: [{ name: config, mountPath: /etc/coredns }]
  volumes: [{ name: config, configMap: { name: ${name} } }]`;
      await cluster.apply(
        server(
          "up",
          ".:53 {\n log\n hosts {\n 10.7.7.7 example.org\n 10.7.7.8 www.example.org\n ttl 60\n }\n}",
        ),
      );
      await cluster.waitFor(PODS, "up", "Ready");
      const role = ["--clusterrole=system:coredns", "--serviceaccount=default:default"];
      await kubectl("create", "clusterrolebinding", "dns", ...role);
      const upstream = await kubectl("get", "pod", "up", "-o", "jsonpath={.status.podIP}");
      await cluster.apply(
        server(
          "down",
          `.:53 {\n kubernetes cluster.local\n}\nexample.org {\n cache 30\n forward . 10.244.250.250 ${upstream} {\n policy sequential\n }\n}`,
        ),
      );
      await cluster.waitFor(PODS, "down", "Ready");
      const down = `@${await kubectl("get", "pod", "down", "-o", "jsonpath={.status.podIP}")}`;
      const [www, overTcp, cname, other] = await dig(cluster, "default/box", [
        `${down} www.example.org`,
        `${down} +tcp example.org`,
        `${down} ext.${D}`,
        `${down} other.test`,
      ]);
      t.same(www?.answer, ["www.example.org. 30 IN A 10.7.7.8"], "the second server, as the first is silent");
      t.same(overTcp?.answer, ["example.org. 30 IN A 10.7.7.7"]);
      t.match(cname?.answer, [`ext.${D}. 5 IN CNAME example.org.`, /^example\.org\. \d+ IN A 10\.7\.7\.7$/]);
      t.equal(other?.status, "SERVFAIL");
      t.match(await kubectl("logs", "up"), /"A IN example\.org\. tcp /);

      await cluster.apply(
        server(
          "file",
          ".:53 {\n forward . /etc/resolv.conf\n}",
          `dnsPolicy: None\n  dnsConfig: { nameservers: [${upstream}] }`,
        ),
      );
      await cluster.waitFor(PODS, "file", "Ready");
      const file = await kubectl("get", "pod", "file", "-o", "jsonpath={.status.podIP}");
      const [viaFile] = await dig(cluster, "default/box", [`@${file} www.example.org`]);
      t.same(viaFile?.answer, ["www.example.org. 60 IN A 10.7.7.8"], "the pod's own file, not the machine's");

      await cluster.apply(server("circle", ".:53 {\n loop\n forward . 127.0.0.1\n}"));
      await cluster.waitUntil(
        async () =>
          /\[FATAL\] plugin\/loop: Loop detected for zone "\.", see .* Query: "HINFO \d+\.\d+\."/.test(
            await kubectl("logs", "circle"),
          ),
        { timeoutMs: 60_000, what: "the loop is seen" },
      );
    });

    await t.test("what was deleted stays away, after a restart too", { skip: onlyInLab() }, async (t) => {
      await kubectl("delete", "deployment", "coredns", "-n", SYSTEM);
      await lab?.kill("lab");
      await lab?.restart();
      t.equal(await kubectl("get", "deployments", "-n", SYSTEM, "-o", "name"), "");
      t.equal(await kubectl("get", "service", "-n", SYSTEM, "-o", "name"), "service/kube-dns");
    });
  },
);
