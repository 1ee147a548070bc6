// What pods have of the cluster's DNS by their policies and in programs that are emulated, in both families, and when
// it is turned off.

import t from "tap";
import { PODS } from "../../index.js";
import { findCommand } from "../../lab/doctor.js";
import { dig, inside, ready, SYSTEM, start } from "../helpers/cluster-dns.js";
import { kubectlOf } from "../helpers/kubectl.js";

t.test("policies, and programs that are emulated", async (t) => {
  const cluster = await start(t, { nodes: 1, config: { dns: { domain: "kube.test" } } });
  const pod = (name: string, spec: string) => `
apiVersion: v1
kind: Pod
metadata: { name: ${name} }
spec: { ${spec}, containers: [{ name: main, image: "registry.k8s.io/e2e-test-images/agnhost:2.53", args: [netexec] }] }`;
  await cluster.apply(
    [
      pod("first", "hostname: first"),
      pod(
        "none",
        "dnsPolicy: None, dnsConfig: { nameservers: [10.0.0.1], searches: [a.test], options: [{ name: ndots, value: '1' }] }",
      ),
      pod("default", "dnsPolicy: Default"),
      pod("host", "hostNetwork: true, dnsPolicy: ClusterFirstWithHostNet"),
      pod(
        "more",
        "dnsConfig: { nameservers: [1.1.1.1, 2.2.2.2, 3.3.3.3], options: [{ name: edns0 }, { name: ndots, value: '2' }] }",
      ),
    ].join("\n---\n"),
  );
  await ready(cluster);
  const file = (name: string) => inside(cluster, `default/${name}`, "cat", "/etc/resolv.conf");
  const search = "search default.svc.kube.test svc.kube.test kube.test";
  for (const name of ["first", "none", "default", "more"]) await cluster.waitFor(PODS, name, "Ready");
  t.equal(await file("first"), `${search}\nnameserver 10.96.0.10\noptions ndots:5`);
  t.equal(await file("none"), "search a.test\nnameserver 10.0.0.1\noptions ndots:1");
  t.notMatch(await file("default"), /10\.96\.0\.10|kube\.test/);
  t.equal(
    await file("more"),
    `${search}\nnameserver 10.96.0.10\nnameserver 1.1.1.1\nnameserver 2.2.2.2\noptions edns0 ndots:2`,
  );
  const kubectl = kubectlOf(cluster);
  await cluster.waitUntil(async () =>
    /DNSConfigForming +pod\/more +Nameserver limits were exceeded/.test(await kubectl("get", "events")),
  );

  await kubectl(
    "expose",
    "pod",
    "first",
    "--port=80",
    "--target-port=8080",
    "--name=web",
    "--selector=none=yet",
  );
  await cluster.waitForSync();
  const connect = (target: string) =>
    cluster.exec("default/first", ["/agnhost", "connect", target, "--timeout=30s"]);
  t.match(await connect("web:80"), { exitCode: 1, stderr: "REFUSED\n" }, "found, though nobody listens");
  t.match(await connect("nope:80"), { exitCode: 1, stderr: /^DNS: lookup nope: no such host/ });
});

t.test("both families", async (t) => {
  const cluster = await start(t, { nodes: 1, config: { networking: { ipFamily: "dual" } } });
  await cluster.apply(
    "apiVersion: v1\nkind: Pod\nmetadata: { name: box }\nspec: { containers: [{ name: main, image: busybox, command: [sleep, infinity] }] }",
  );
  await ready(cluster);
  await cluster.waitFor(PODS, "box", "Ready");
  await cluster.waitForSync();
  const kubectl = kubectlOf(cluster);
  t.equal(
    await kubectl("get", "service", "kube-dns", "-n", SYSTEM, "-o", "jsonpath={.spec.clusterIPs}"),
    '["10.96.0.10","fd00:10:96::a"]',
  );
  t.equal(
    await inside(cluster, "default/box", "getent", "ahostsv6", "kube-dns.kube-system").then(
      (text) => text.split(" ")[0],
    ),
    "fd00:10:96::a",
  );
  if (findCommand("dig")) {
    const name = "kube-dns.kube-system.svc.cluster.local";
    const [six, four, back] = await dig(cluster, "default/box", [
      `@fd00:10:96::a ${name} AAAA`,
      `@fd00:10:96::a +tcp ${name}`,
      "-x fd00:10:96::a",
    ]);
    t.same(six?.answer, [`${name}. 30 IN AAAA fd00:10:96::a`]);
    t.same(four?.answer, [`${name}. 30 IN A 10.96.0.10`]);
    t.match(back?.answer, [new RegExp(`PTR ${name}\\.$`)]);
  }
});

t.test("turned off", async (t) => {
  const cluster = await start(t, { nodes: 1, config: { dns: { enabled: false } } });
  await cluster.apply(
    "apiVersion: v1\nkind: Pod\nmetadata: { name: box }\nspec: { containers: [{ name: main, image: nginx }] }",
  );
  await cluster.waitFor(PODS, "box", "Ready");
  t.equal(await kubectlOf(cluster)("get", "all", "-n", SYSTEM, "-o", "name"), "");
  t.notMatch(await inside(cluster, "default/box", "cat", "/etc/resolv.conf"), /nameserver/);
});
