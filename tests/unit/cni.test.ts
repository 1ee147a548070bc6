// What the pod network decides without a kernel: configurations, versions, IPAM order.

import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { hostInterface } from "../../cni/bridge.js";
import { hostSubnets, parseBridgeConf } from "../../cni/config.js";
import { defaultConflist, parseConflist, readConflist } from "../../cni/conflist.js";
import { macOf } from "../../cni/interfaces.js";
import { AddressStore } from "../../cni/ipam.js";
import { main } from "../../cni/main.js";
import { candidates } from "../../cni/ranges.js";
import { type CniResult, CODE } from "../../cni/types.js";
import { atLeast, negotiate, resultAs, resultFrom } from "../../cni/version.js";
import { Cidr } from "../../common/ip.js";
import { formatSubnetEnv } from "../../dataplane/overlay/index.js";

t.test("configuration lists", async (t) => {
  const good = { cniVersion: "1.0.0", name: "net", plugins: [{ type: "bridge", bridge: "b0" }] };
  const parse = (value: unknown) => parseConflist(JSON.stringify(value), "10-x.conflist");
  t.strictSame(parse(good), good);
  t.strictSame(parse({ cniVersion: "0.4.0", name: "one", type: "bridge", bridge: "b0" }), {
    cniVersion: "0.4.0",
    name: "one",
    plugins: [{ type: "bridge", bridge: "b0" }],
  });
  const bad: [unknown, number, RegExp][] = [
    [[], CODE.invalidConfig, /must be a JSON object/],
    [{ ...good, name: undefined }, CODE.invalidConfig, /10-x\.conflist: name must be .*absent/],
    [{ ...good, name: "a/b" }, CODE.invalidConfig, /name must be .*"a\/b"/],
    [{ ...good, plugins: [] }, CODE.invalidConfig, /plugins must be a list of at least one/],
    [{ ...good, plugins: [{}] }, CODE.invalidConfig, /plugins\[0\]\.type must be .*absent/],
    [{ ...good, plugins: [{ type: "../x" }] }, CODE.invalidConfig, /plugins\[0\]\.type .*"\.\.\/x"/],
    [{ ...good, plugins: ["x"] }, CODE.invalidConfig, /plugins\[0\] must be an object/],
    [{ ...good, disableCheck: "no" }, CODE.invalidConfig, /disableCheck must be true or false, not "no"/],
    [{ ...good, plugin: [] }, CODE.unsupportedField, /unknown field plugin=\[\]; allowed: cniVersion/],
    [{ ...good, cniVersion: "2.0.0" }, CODE.incompatibleVersion, /"2\.0\.0" is not supported/],
    [{ ...good, cniVersions: "1.0.0" }, CODE.invalidConfig, /cniVersions must be a list/],
  ];
  for (const [value, code, message] of bad) t.throws(() => parse(value), { name: "CniError", code, message });
  t.throws(() => parseConflist("{", "f"), { code: CODE.decode, message: /^f is not valid JSON/ });
});

t.test("the first file of the directory in lexical order is the network", async (t) => {
  const dir = mkdtempSync(join(tmpdir(), "kubeplumb-conf-"));
  t.teardown(() => rmSync(dir, { recursive: true }));
  t.equal(readConflist(dir), undefined);
  t.equal(readConflist(join(dir, "none")), undefined);
  writeFileSync(join(dir, "00-readme.txt"), "no configuration");
  writeFileSync(join(dir, "20-b.conf"), JSON.stringify({ cniVersion: "0.4.0", name: "b", type: "x" }));
  writeFileSync(
    join(dir, "10-kubeplumb.conflist"),
    JSON.stringify(defaultConflist({ subnet: "10.1.0.0/24" })),
  );
  const found = readConflist(dir);
  t.equal(found?.path, join(dir, "10-kubeplumb.conflist"));
  t.strictSame(found?.conflist, {
    cniVersion: "1.0.0",
    cniVersions: ["1.0.0", "1.1.0"],
    name: "kubeplumb",
    plugins: [
      { type: "kubeplumb-cni", bridge: "cni0", hairpinMode: true, subnet: "10.1.0.0/24" },
      { type: "kubeplumb-portmap", capabilities: { portMappings: true } },
    ],
  });
  writeFileSync(join(dir, "05-broken.json"), "{");
  t.throws(() => readConflist(dir), { code: CODE.decode, message: /05-broken\.json/ });
});

const V4 = { network: Cidr.parse("10.244.0.0/16"), podCIDR: Cidr.parse("10.244.7.0/24") };
const V6 = { network: Cidr.parse("fd00:10:244::/56"), podCIDR: Cidr.parse("fd00:10:244:7::/64") };

t.test("the plugin's own configuration", async (t) => {
  const conf = (extra: object) =>
    parseBridgeConf({ cniVersion: "1.1.0", name: "n", type: "kubeplumb-cni", ...extra });
  t.strictSame(conf({}), {
    cniVersion: "1.1.0",
    name: "n",
    bridge: "cni0",
    hairpinMode: true,
    promiscMode: false,
    isGateway: true,
    isDefaultGateway: true,
    ipMasq: false,
    enabledad: false,
    macspoofchk: false,
    portIsolation: false,
    ipam: { type: "kubeplumb-cni", sets: [], routes: [], exclude: [], exclusive: true },
    subnetFile: "/run/flannel/subnet.env",
    requests: { ips: [], sets: [] },
  });
  t.throws(() => conf({ vrf: 7 }), {
    code: CODE.unsupportedField,
    message: /vrf=7; allowed: bridge/,
  });
  t.throws(() => conf({ mtu: "1450" }), {
    code: CODE.invalidConfig,
    message: 'mtu must be a number, not "1450"',
  });
  t.throws(() => conf({ mtu: 5 }), { code: CODE.invalidConfig, message: /68 to 65535, not 5/ });
  t.throws(() => conf({ bridge: "a-name-too-long-" }), { code: CODE.invalidConfig });
  const wrong = (extra: object, message: RegExp, code: number = CODE.invalidConfig) =>
    t.throws(() => conf(extra), { name: "CniError", code, message }, String(message));
  wrong({ subnet: "10.1.0.0/30" }, /^subnet must be a block of \/29 or larger, not 10\.1\.0\.0\/30$/);
  wrong({ subnet: "fd00::/126" }, /\/125 or larger, not fd00::\/126/);
  wrong({ subnet: "ten" }, /subnet: "ten"/);
  wrong({ hairpinMode: true, promiscMode: true }, /hairpinMode and promiscMode exclude each other/);
  t.throws(() => hostSubnets(conf({ subnetFile: "/nonexistent" })), { code: CODE.tryAgain });

  const dir = mkdtempSync(join(tmpdir(), "kubeplumb-env-"));
  t.teardown(() => rmSync(dir, { recursive: true }));
  const subnetFile = join(dir, "subnet.env");
  const subnets = (extra: object = {}) => {
    const { sets, ...rest } = hostSubnets(conf({ subnetFile, ...extra }));
    return { ranges: sets.flat().map(({ block, gateway }) => `${block} ${gateway}`), ...rest };
  };
  writeFileSync(subnetFile, formatSubnetEnv({ subnets: [V4], mtu: 1450 }));
  t.strictSame(subnets(), { ranges: ["10.244.7.0/24 10.244.7.1"], mtu: 1450 });
  t.strictSame(subnets({ mtu: 1400 }).mtu, 1400);
  writeFileSync(subnetFile, formatSubnetEnv({ subnets: [V6], mtu: 1430 }));
  t.strictSame(subnets(), { ranges: ["fd00:10:244:7::/64 fd00:10:244:7::1"], mtu: 1430 });
  writeFileSync(subnetFile, formatSubnetEnv({ subnets: [V4, V6], mtu: 1430 }));
  t.strictSame(subnets(), {
    ranges: ["10.244.7.0/24 10.244.7.1", "fd00:10:244:7::/64 fd00:10:244:7::1"],
    mtu: 1430,
  });
  writeFileSync(subnetFile, "FLANNEL_MTU=1450\n");
  t.throws(subnets, { code: CODE.invalidConfig, message: /no FLANNEL_SUBNET or FLANNEL_IPV6_SUBNET/ });
});

t.test("what flannel's own plugin delegates is understood", async (t) => {
  const conf = (ipam: unknown, extra: object = {}) =>
    parseBridgeConf({ cniVersion: "0.3.1", name: "cbr0", type: "kubeplumb-cni", ipam, ...extra });
  const ipam = {
    type: "host-local",
    ranges: [[{ subnet: "10.244.7.0/24" }], [{ subnet: "fd00:10:244:7::/64" }]],
    routes: [{ dst: "10.244.0.0/16" }, { dst: "fd00:10:244::/56" }],
  };
  const delegated = conf(ipam, { hairpinMode: true, isGateway: true, ipMasq: false, mtu: 1430 });
  t.strictSame(
    hostSubnets(delegated)
      .sets.flat()
      .map(({ block, gateway }) => `${block} ${gateway}`),
    ["10.244.7.0/24 10.244.7.1", "fd00:10:244:7::/64 fd00:10:244:7::1"],
  );
  t.strictSame(delegated.ipam.routes, ipam.routes);
  t.equal(conf(ipam, { isDefaultGateway: false }).isDefaultGateway, false);
  t.strictSame(conf({ type: "host-local", ranges: ipam.ranges }).ipam.routes, []);

  const wrong = (value: unknown, message: RegExp, code: number = CODE.invalidConfig) =>
    t.throws(() => conf(value), { name: "CniError", code, message }, String(message));
  const ranges = (...sets: unknown[]) => ({ ...ipam, ranges: sets });
  wrong("host-local", /ipam must be an object, not "host-local"/);
  wrong(null, /ipam must be an object, not null/);
  wrong({ ...ipam, type: "../dhcp" }, /ipam\.type must be .*, not "\.\.\/dhcp"/);
  wrong({ ...ipam, dataDirs: "/x" }, /unsupported field ipam\.dataDirs/, CODE.unsupportedField);
  wrong({ type: "host-local" }, /ipam\.ranges must be a list of at least one, not absent/);
  wrong(ranges([]), /ipam\.ranges\[0\] must be a list of at least one, not \[\]/);
  wrong(ranges(["fd00::/64"]), /ipam\.ranges\[0\]\[0\] must be an object, not "fd00::\/64"/);
  wrong(
    ranges([{ subnet: "fd00::/64", rangeBegin: "fd00::9" }]),
    /unsupported field ipam\.ranges\[0\]\[0\]\.rangeBegin/,
    CODE.unsupportedField,
  );
  wrong({ ...ipam, routes: [{ dst: "all" }] }, /ipam\.routes\[0\]\.dst: "all" is not a CIDR block/);
  t.throws(() => conf(ipam, { subnet: "10.0.0.0/24" }), { message: /subnet and ipam exclude each other/ });
});

t.test("names and MACs follow from what they are for", async (t) => {
  const owner = { containerID: "abc", ifname: "eth0" };
  t.equal(hostInterface("net", owner), hostInterface("net", { ...owner }));
  t.match(hostInterface("net", owner), /^veth[0-9a-f]{8}$/);
  const names = [
    hostInterface("net", owner),
    hostInterface("ne", { containerID: "tabc", ifname: "eth0" }),
    hostInterface("net", { ...owner, ifname: "eth1" }),
    hostInterface("net", { ...owner, containerID: "abd" }),
  ];
  t.equal(new Set(names).size, 4);
  t.equal(macOf("10.244.1.2"), "0a:58:0a:f4:01:02");
  t.equal(macOf("fd00:10:244:7::1:2"), "0a:58:00:01:00:02", "pods of one block differ in the end only");
});

t.test("addresses are tried round robin, without those that are taken by rule", async (t) => {
  const block = Cidr.parse("10.0.0.0/29");
  const order = (last?: string) =>
    [...candidates([{ block, gateway: "10.0.0.1" }], last)].map((ip) => ip.at(-1)).join("");
  t.equal(order(), "23456");
  t.equal(order("10.0.0.3"), "45623");
  t.equal(order("10.0.0.6"), "23456");
  t.equal(order("10.9.9.9"), "23456", "a last one from another block counts for nothing");
  t.equal(order("garbage"), "23456");
  const V6_RANGE = { block: Cidr.parse("fd00:10:244:7::/64"), gateway: "fd00:10:244:7::1" };
  const wide = candidates([V6_RANGE], "fd00:10:244:7::9");
  t.strictSame([wide.next().value, wide.next().value], ["fd00:10:244:7::a", "fd00:10:244:7::b"]);
});

t.test("the address store", async (t) => {
  const dir = mkdtempSync(join(tmpdir(), "kubeplumb-ipam-"));
  t.teardown(() => rmSync(dir, { recursive: true }));
  const range = [{ block: Cidr.parse("10.0.0.0/29"), gateway: "10.0.0.1" }];
  const store = new AddressStore(join(dir, "net"));
  const owner = (n: number) => ({ containerID: `c${n}`, ifname: "eth0" });
  t.strictSame(store.list(), []);
  t.strictSame(store.release(owner(1)), []);
  for (let n = 2; n <= 6; n++) t.equal(store.allocate(range, 0, owner(n)), `10.0.0.${n}`);
  t.throws(() => store.allocate(range, 0, owner(7)), {
    code: CODE.tryAgain,
    message: /10\.0\.0\.0\/29/,
  });
  t.notOk(
    readdirSync(store.directory).some((name) => name.startsWith(".new-")),
    "nothing of the refusal is left",
  );
  t.ok(store.isOwner("10.0.0.4", owner(4)));
  t.notOk(store.isOwner("10.0.0.4", owner(5)));
  t.notOk(store.isOwner("../net/10.0.0.4", owner(4)), "only addresses are file names");
  t.strictSame(
    store.release(owner(4), ["10.0.0.5", "10.0.0.4"]),
    ["10.0.0.4"],
    "the hint must be the owner's",
  );
  t.strictSame(store.release(owner(3), ["10.0.0.2"]), ["10.0.0.3"], "a wrong hint is no reason to leak");
  // Freed twice: 10.0.0.3 comes after the last one (6) before 4 does.
  t.equal(store.allocate(range, 0, owner(8)), "10.0.0.3");
  const wide = [{ block: Cidr.parse("fd00::/64"), gateway: "fd00::1" }];
  t.equal(store.allocate(wide, 1, owner(8)), "fd00::2", "the second range counts for itself");
  t.equal(store.allocate(wide, 1, owner(9)), "fd00::3");
  t.strictSame(store.addressesOf(owner(8)).sort(), ["10.0.0.3", "fd00::2"]);
  t.strictSame(store.release(owner(8)).sort(), ["10.0.0.3", "fd00::2"], "both go together");
  mkdirSync(join(dir, "other"));
  writeFileSync(join(dir, "other", "10.0.0.2"), "host-local\r\nnet1");
  t.strictSame(new AddressStore(join(dir, "other")).list(), [
    { ip: "10.0.0.2", containerID: "host-local", ifname: "net1" },
  ]);
});

t.test("versions", async (t) => {
  t.equal(negotiate("0.4.0", ["1.1.0", "7.0.0", "1.0.0"]), "1.1.0");
  t.equal(negotiate("0.1.0"), "0.1.0");
  t.throws(() => negotiate("1.2.0"), { code: CODE.incompatibleVersion, details: /1\.1\.0/ });
  t.ok(atLeast("1.0.0", "0.4.0") && atLeast("0.4.0", "0.4.0") && !atLeast("0.3.1", "0.4.0"));

  const result: CniResult = {
    cniVersion: "1.1.0",
    interfaces: [{ name: "eth0", mac: "0a:58:0a:f4:01:02", mtu: 1450, sandbox: "/x" }],
    ips: [
      { address: "10.244.1.2/24", gateway: "10.244.1.1", interface: 0 },
      { address: "fd00::2/64", interface: 0 },
    ],
    routes: [{ dst: "0.0.0.0/0", gw: "10.244.1.1", mtu: 1400 }, { dst: "::/0" }],
    dns: {},
  };
  t.strictSame(resultAs(result, "1.1.0"), result);
  const old = [{ name: "eth0", mac: "0a:58:0a:f4:01:02", sandbox: "/x" }];
  t.strictSame(resultAs(result, "1.0.0"), {
    cniVersion: "1.0.0",
    interfaces: old,
    ips: result.ips,
    routes: [{ dst: "0.0.0.0/0", gw: "10.244.1.1" }, { dst: "::/0" }],
    dns: {},
  });
  t.match(resultAs(result, "0.3.1"), {
    cniVersion: "0.3.1",
    interfaces: old,
    ips: [{ version: "4", address: "10.244.1.2/24" }, { version: "6" }],
  });
  t.strictSame(resultAs(result, "0.2.0"), {
    cniVersion: "0.2.0",
    ip4: {
      ip: "10.244.1.2/24",
      gateway: "10.244.1.1",
      routes: [{ dst: "0.0.0.0/0", gw: "10.244.1.1" }],
    },
    ip6: { ip: "fd00::2/64", routes: [{ dst: "::/0" }] },
    dns: {},
  });
  for (const version of ["0.1.0", "0.3.0", "0.4.0", "1.0.0", "1.1.0"]) {
    const back = resultFrom(resultAs(result, version));
    t.strictSame(
      back.ips?.map(({ address, gateway }) => [address, gateway]),
      [
        ["10.244.1.2/24", "10.244.1.1"],
        ["fd00::2/64", undefined],
      ],
      version,
    );
    t.notOk("version" in (back.ips?.[0] ?? {}));
  }
  t.throws(() => resultFrom("x"), { code: CODE.decode });
  t.throws(() => resultFrom({ cniVersion: "1.0.0", ips: [{ address: "10.0.0.1" }] }), { code: CODE.decode });
});

t.test("the protocol's errors, without a kernel", async (t) => {
  const run = async (env: Record<string, string>, input = "{}") => {
    const { exitCode, output } = await main(env, input);
    return { exitCode, ...JSON.parse(output) };
  };
  t.match(await run({ CNI_COMMAND: "VERSION" }, ""), { exitCode: 0, supportedVersions: ["0.1.0"] });
  t.match(await run({}), {
    exitCode: 1,
    code: CODE.invalidEnvironment,
    msg: /CNI_COMMAND "" is not one of ADD/,
  });
  t.match(await run({ CNI_COMMAND: "toString" }), { code: CODE.invalidEnvironment });
  t.match(await run({ CNI_COMMAND: "ADD", CNI_IFNAME: "eth0" }), {
    code: CODE.invalidEnvironment,
    msg: "required environment variables are missing: CNI_CONTAINERID, CNI_NETNS",
  });
  const add = { CNI_COMMAND: "ADD", CNI_CONTAINERID: "c", CNI_IFNAME: "eth0", CNI_NETNS: "/nonexistent" };
  t.match(await run({ ...add, CNI_CONTAINERID: "../c" }), {
    code: CODE.invalidEnvironment,
    msg: /CNI_CONTAINERID/,
  });
  t.match(await run({ ...add, CNI_IFNAME: "a/b" }), { code: CODE.invalidEnvironment, msg: /CNI_IFNAME/ });
  t.match(await run(add, "nonsense"), { code: CODE.decode });
  t.match(await run(add, "[]"), { code: CODE.invalidConfig });
  t.match(await run(add, '{"cniVersion":"0.9.9","name":"n"}'), { code: CODE.incompatibleVersion });
  t.match(await run({ ...add, CNI_COMMAND: "CHECK" }, '{"cniVersion":"0.3.1","name":"n"}'), {
    code: CODE.incompatibleVersion,
    cniVersion: "0.3.1",
    msg: /CHECK needs cniVersion 0\.4\.0/,
  });
  t.match(await run({ CNI_COMMAND: "GC", CNI_PATH: "/bin" }, '{"cniVersion":"1.0.0","name":"n"}'), {
    code: CODE.incompatibleVersion,
  });
});
