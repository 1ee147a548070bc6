// Addresses of the CNI plugin: ranges and requests, other IPAM plugins, and what is left when processes are killed.

import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { PluginHost, REFERENCE, type Said } from "../helpers/cni.js";

const host = new PluginHost("host");
t.teardown(() => host.close());

const ipOf = ({ json }: Said, n = 0): string => String(json?.ips?.[n]?.address).split("/")[0] ?? "";

function conf(name: string, ipam: object, extra: object = {}): Record<string, unknown> {
  const base = { cniVersion: "1.1.0", name, type: "kubeplumb-cni", bridge: name };
  return { ...base, dataDir: host.dir, ipam: { type: "kubeplumb-cni", ...ipam }, ...extra };
}

t.test("ranges with bounds, a gateway and exclusions, and requested addresses", async (t) => {
  const net = conf("ranges", {
    ranges: [
      [
        { subnet: "10.1.0.0/24", rangeStart: "10.1.0.10", rangeEnd: "10.1.0.12", gateway: "10.1.0.254" },
        { subnet: "10.2.0.0/24", rangeEnd: "10.2.0.9", exclude: ["10.2.0.2/31", "10.2.0.5"] },
      ],
      [{ subnet: "fd00:1::/64", rangeStart: "fd00:1::f0" }],
    ],
  });
  const pods = Array.from({ length: 8 }, (_, n) => ({ id: `r${n}`, ns: NetNs.create(`r${n}`) }));
  const results: Said[] = [];
  for (const pod of pods) results.push(await host.run("ADD", net, pod));
  t.strictSame(
    results.map((said) => ipOf(said)),
    ["10.1.0.10", "10.1.0.11", "10.1.0.12", "10.2.0.4", "10.2.0.6", "10.2.0.7", "10.2.0.8", "10.2.0.9"],
  );
  t.match(results[0]?.json.ips, [
    { gateway: "10.1.0.254" },
    { address: "fd00:1::f0/64", gateway: "fd00:1::1" },
  ]);
  t.match(results[3]?.json.ips, [{ gateway: "10.2.0.1" }, { address: "fd00:1::f3/64" }]);
  const gateways = (await host.rt.listAddresses("ranges")).map(({ cidr }) => cidr);
  for (const cidr of ["10.1.0.254/24", "10.2.0.1/24", "fd00:1::1/64"]) t.ok(gateways.includes(cidr), cidr);

  const more = NetNs.create("more");
  const refused = await host.run("ADD", net, { id: "full", ns: more });
  t.match(refused, {
    exitCode: 1,
    json: { code: 11, msg: "no address is free in 10.1.0.0/24, 10.2.0.0/24" },
  });
  t.notOk((await host.traces("ranges")).addresses.includes("fd00:1::f8"), "and its IPv6 address went back");
  for (const pod of pods.slice(1, 3)) await host.run("DEL", net, pod);

  const ask = (extra: object, call: object = {}) =>
    host.run("ADD", { ...net, ...extra }, { id: "asks", ns: more, ...call });
  const gives = async (wanted: string, said: Promise<Said>) => {
    const { exitCode, json } = await said;
    t.equal(exitCode, 0, JSON.stringify(json));
    t.ok(
      json.ips?.some((ip: { address: string }) => ip.address === wanted),
      wanted,
    );
    t.equal((await host.run("CHECK", { ...net, prevResult: json }, { id: "asks", ns: more })).exitCode, 0);
    await host.run("DEL", net, { id: "asks", ns: more });
  };
  await gives("10.1.0.12/24", ask({ runtimeConfig: { ips: ["10.1.0.12/24", "fd00:1::ff"] } }));
  await gives("fd00:1::ff/64", ask({ runtimeConfig: { ips: ["10.1.0.12/24", "fd00:1::ff"] } }));
  await gives("10.1.0.11/24", ask({}, { args: "IgnoreUnknown=1;K8S_POD_NAME=x;IP=10.1.0.11" }));
  await gives("10.1.0.11/24", ask({ args: { cni: { ips: ["10.1.0.11"] } } }));
  await gives("10.3.0.2/24", ask({ runtimeConfig: { ipRanges: [[{ subnet: "10.3.0.0/24" }]] } }));
  const before = await host.traces("ranges");
  const errors: [object, number, RegExp][] = [
    [{ ips: ["10.1.0.10"] }, 11, /requested address 10\.1\.0\.10 is taken/],
    [{ ips: ["10.1.0.13"] }, 7, /10\.1\.0\.13 cannot be given/],
    [{ ips: ["10.1.0.254"] }, 7, /10\.1\.0\.254 cannot be given/],
    [{ ips: ["10.2.0.5"] }, 7, /10\.2\.0\.5 cannot be given/],
    [{ ips: ["10.1.0.11", "10.1.0.12"] }, 7, /10\.1\.0\.12 cannot be given: .* one address of each/],
    [{ ips: ["ten"] }, 7, /runtimeConfig\.ips\[0\]: "ten"/],
  ];
  for (const [runtimeConfig, code, msg] of errors) {
    t.match((await ask({ runtimeConfig })).json, { code, msg }, String(msg));
  }
  t.strictSame(await host.traces("ranges"), before, "nothing of the refused ones is left");
});

t.test("malformed ranges are refused with the field named", async (t) => {
  const errors: [object, number, RegExp][] = [
    [
      { ranges: [[{ subnet: "10.1.0.0/24", rangeStart: "10.2.0.1" }]] },
      7,
      /rangeStart 10\.2\.0\.1 is not in/,
    ],
    [
      { ranges: [[{ subnet: "10.1.0.0/24", gateway: "10.2.0.1" }]] },
      7,
      /ranges\[0\]\[0\]\.gateway 10\.2\.0\.1/,
    ],
    [
      { ranges: [[{ subnet: "10.1.0.0/24", rangeStart: "10.1.0.9", rangeEnd: "10.1.0.3" }]] },
      7,
      /no address/,
    ],
    [
      { ranges: [[{ subnet: "10.1.0.0/24" }], [{ subnet: "10.1.0.0/16" }]] },
      7,
      /ranges\[1\]\[0\] has addresses of/,
    ],
    [{ ranges: [[{ subnet: "10.1.0.0/24" }, { subnet: "fd00::/64" }]] }, 7, /must be of one family/],
    [{ ranges: [[{ subnet: "10.1.0.0/24", exclude: "x" }]] }, 7, /ranges\[0\]\[0\]\.exclude must be a list/],
    [{ routes: [{ dst: "10.0.0.0/8", gw: "fd00::1" }] }, 7, /routes\[0\]\.gw fd00::1 is not of the family/],
    [{ routes: [{ dst: "10.0.0.0/8", prio: 1 }] }, 2, /unsupported field ipam\.routes\[0\]\.prio/],
    [{ range: [] }, 2, /unsupported field ipam\.range=\[\];/],
  ];
  const ns = NetNs.create("never");
  for (const [ipam, code, msg] of errors) {
    const { exitCode, json } = await host.run("ADD", conf("bad", ipam), { id: "bad", ns });
    t.match({ exitCode, json }, { exitCode: 1, json: { cniVersion: "1.1.0", code, msg } }, String(msg));
  }
  t.notOk(await host.rt.getLink("bad"), "and nothing was made");
});

t.test("another IPAM plugin is executed, and its error or a later one leaves nothing", async (t) => {
  const log = join(host.dir, "ipam.log");
  const said = `{"cniVersion":"1.1.0","ips":[{"address":"10.5.0.7/24"}],"routes":[{"dst":"10.99.0.0/16"}]}`;
  host.script(
    "dhcp",
    `conf=$(cat); echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $(echo "$conf" | grep -c '"type":"dhcp"')" >> ${log}
     [ "$CNI_COMMAND" != ADD ] || cat ${join(host.dir, "answer")}
     [ "$CNI_COMMAND" != ADD ] || grep -q 10.5 ${join(host.dir, "answer")}`,
  );
  const answer = (text: string) => writeFileSync(join(host.dir, "answer"), text);
  const { ipam: _, ...rest } = conf("foreign", {});
  const net = { ...rest, ipam: { type: "dhcp", daemonSocketPath: "/its/own" } };
  const pod = { id: "f1", ns: NetNs.create("f1") };
  answer(said);
  const added = await host.run("ADD", net, pod);
  t.match(added.json, {
    ips: [{ address: "10.5.0.7/24", interface: 2 }],
    routes: [{ dst: "0.0.0.0/0", gw: "10.5.0.1" }, { dst: "10.99.0.0/16" }],
  });
  t.equal((await host.run("CHECK", { ...net, prevResult: added.json }, pod)).exitCode, 0);
  t.equal((await host.run("DEL", net, pod)).exitCode, 0);
  await host.run("STATUS", net, pod);
  await host.run("GC", { ...net, "cni.dev/valid-attachments": [] }, pod);
  const calls = () => readLines(log);
  t.strictSame(calls(), [
    "ADD f1 eth0 1",
    "CHECK f1 eth0 1",
    "DEL f1 eth0 1",
    "STATUS f1 eth0 1",
    "GC f1 eth0 1",
  ]);
  answer(`{"cniVersion":"1.1.0","code":42,"msg":"no lease"}`);
  t.match(await host.run("ADD", net, pod), { exitCode: 1, json: { code: 42, msg: /dhcp ADD: no lease/ } });
  answer(said.replace("10.99.0.0/16", '10.99.0.0/16","gw":"192.0.2.1'));
  t.match(await host.run("ADD", net, pod), { exitCode: 1, json: { code: 100 } }, "an unreachable gateway");
  t.strictSame(calls().slice(5), ["ADD f1 eth0 1", "DEL f1 eth0 1", "ADD f1 eth0 1", "DEL f1 eth0 1"]);
  t.strictSame(
    (await host.traces("foreign")).ports.filter((name) => !name.startsWith("v0")),
    await rangesPorts(),
  );
  const missing = { ...rest, ipam: { type: "nosuch" } };
  t.match((await host.run("ADD", missing, pod)).json, { code: 105, msg: /nosuch is not in / });
  t.match((await host.run("STATUS", missing, pod)).json, { code: 105 });
});

/** Ports of the pods of the first test, which are still there. */
const rangesPorts = async () =>
  (await host.rt.listLinks()).filter(({ master }) => master === "ranges").map(({ name }) => name);

function readLines(path: string): string[] {
  return existsSync(path) ? readFileSync(path, "utf8").trim().split("\n") : [];
}

t.test(
  "the reference IPAM plugins",
  { skip: !REFERENCE && "containernetworking-plugins are missing" },
  async (t) => {
    const path = `${host.bin}:${REFERENCE}`;
    const pods = [1, 2].map((n) => ({ id: `h${n}`, ns: NetNs.create(`h${n}`), path }));
    const dataDir = join(host.dir, "host-local");
    const ipam = { type: "host-local", ranges: [[{ subnet: "10.6.0.0/24" }]], dataDir };
    const local = { ...conf("hl", {}), cniVersion: "1.0.0", ipam };
    const [first, second] = [
      await host.run("ADD", local, pods[0] as never),
      await host.run("ADD", local, pods[1] as never),
    ];
    t.strictSame([ipOf(first), ipOf(second)], ["10.6.0.2", "10.6.0.3"]);
    t.ok(existsSync(join(dataDir, "hl", "lock")), "host-local itself did it: the lock file is its own");
    await pods[0]?.ns.exec("ping", ["-c1", "-W10", "10.6.0.3"]);
    const check = await host.run("CHECK", { ...local, prevResult: first.json }, pods[0] as never);
    t.equal(check.exitCode, 0, JSON.stringify(check.json));
    for (const pod of pods) t.equal((await host.run("DEL", local, pod)).exitCode, 0);
    t.notOk(readdirSync(join(dataDir, "hl")).includes("10.6.0.2"));
    // Its files are ours: without the program our own code goes on with them.
    const own = { ...(pods[0] as { id: string; ns: NetNs }), path: host.bin };
    t.equal(ipOf(await host.run("ADD", local, own)), "10.6.0.4", "last_reserved_ip is understood");
    t.equal((await host.run("DEL", local, { ...own, path })).exitCode, 0, "and the other way round");
    t.notOk(readdirSync(join(dataDir, "hl")).includes("10.6.0.4"));

    const fixed = {
      type: "static",
      addresses: [{ address: "10.7.0.5/24", gateway: "10.7.0.1" }],
      routes: [{ dst: "192.0.2.0/24" }],
    };
    const still = await host.run(
      "ADD",
      { ...local, name: "st", bridge: "st", ipam: fixed },
      pods[0] as never,
    );
    t.match(still.json, { ips: [{ address: "10.7.0.5/24", gateway: "10.7.0.1", interface: 2 }] });
    await pods[0]?.ns.exec("ping", ["-c1", "-W10", "10.7.0.1"]);
    t.equal(
      (await host.run("DEL", { ...local, name: "st", bridge: "st", ipam: fixed }, pods[0] as never)).exitCode,
      0,
    );
  },
);

t.test("200 parallel ADDs, then kill -9 at any point: no address twice, GC returns what died", async (t) => {
  t.setTimeout(220_000);
  const net = conf("many", { ranges: [[{ subnet: "10.20.0.0/16" }]] });
  const pods = Array.from({ length: 200 }, (_, n) => ({ id: `m${n}`, ns: NetNs.create(`m${n}`) }));
  const all = await Promise.all(pods.map((pod) => host.run("ADD", net, pod)));
  t.ok(
    all.every(({ exitCode }) => exitCode === 0),
    String(all.find(({ exitCode }) => exitCode !== 0)?.json?.msg),
  );
  t.equal(new Set(all.map((said) => ipOf(said))).size, 200);
  t.strictSame((await host.traces("many")).addresses.sort(), all.map((said) => ipOf(said)).sort());

  const doomed = Array.from({ length: 60 }, (_, n) => ({ id: `k${n}`, ns: NetNs.create(`k${n}`) }));
  const ended = await Promise.all(
    doomed.map(async (pod, n) => {
      const running = host.start("ADD", net, pod);
      const timer = sleep(250 + n * 60).then(() => {
        if (!done) process.kill(running.pid, "SIGKILL");
      });
      let done = false;
      const result = await running.ended.finally(() => {
        done = true;
      });
      await timer;
      return { pod, ...result };
    }),
  );
  const lived = ended.filter(({ exitCode }) => exitCode === 0);
  const killed = ended.filter(({ signal }) => signal === "SIGKILL");
  t.ok(killed.length > 0, `${killed.length} were killed, ${lived.length} came through`);
  const addresses = [
    ...all.map((said) => ipOf(said)),
    ...lived.map(({ stdout }) => ipOf({ json: JSON.parse(stdout) } as Said)),
  ];
  t.equal(new Set(addresses).size, addresses.length, "no address twice");
  const valid = [...pods, ...lived.map(({ pod }) => pod)].map(({ id }) => ({
    containerID: id,
    ifname: "eth0",
  }));
  const gc = await host.run("GC", { ...net, "cni.dev/valid-attachments": valid }, { id: "gc" });
  t.equal(gc.exitCode, 0, JSON.stringify(gc.json));
  const left = await host.traces("many");
  t.strictSame(left.addresses.sort(), addresses.sort());
  const ports = (await host.rt.listLinks()).filter(({ master }) => master === "many");
  t.equal(ports.length, addresses.length);
  const store = readdirSync(join(host.dir, "networks", "many"));
  t.notOk(
    store.some((name) => name.startsWith(".new-")),
    "and no half-written file",
  );
  // Whoever was killed may come again.
  const again = killed[0]?.pod;
  if (again) t.equal((await host.run("ADD", net, again)).exitCode, 0);
});
