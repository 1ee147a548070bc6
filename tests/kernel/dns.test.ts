// The emulated CoreDNS as a process with sockets of its own: UDP and TCP, a Corefile that changes while it runs, how
// it begins and how it ends. The cluster's names are in tests/unit/dns-zone.test.ts.

import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { decode, encode, type Packet } from "dns-packet";
import t, { type Test } from "tap";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { MessageReader, withLength } from "../../node/dns/stream.js";
import { coredns } from "../../node/images/coredns.js";
import type { ContainerContext, Workload } from "../../node/images/types.js";

const FILE = "/etc/coredns/Corefile";

interface Running {
  ns: NetNs;
  process: Workload;
  output: string[];
  /** Replaces the Corefile. */
  write(text: string): void;
}

/** CoreDNS in a namespace of its own, with nothing but loopback. */
async function run(t: Test, corefile: string, args: readonly string[] = ["-conf", FILE]): Promise<Running> {
  const directory = mkdtempSync(join(tmpdir(), "kp-dns-"));
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  const file = join(directory, "Corefile");
  const write = (text: string) => writeFileSync(file, text);
  write(corefile);
  const ns = NetNs.create("dns");
  t.teardown(() => ns.close());
  await ns.exec("ip", ["link", "set", "lo", "up"]);
  const output: string[] = [];
  const print = (text: string) => output.push(...text.split("\n").filter(Boolean));
  const argv = ["/coredns", ...args];
  const context: ContainerContext = {
    podName: "dns",
    podNamespace: "default",
    podIPs: ["127.0.0.1"],
    nodeName: "node",
    hostname: "dns",
    image: "coredns/coredns:1.12.1",
    tag: "1.12.1",
    ns,
    argv,
    env: { ZONE: "own.test" },
    stdout: print,
    stderr: print,
    exec: async () => ({ exitCode: 1, output: "" }),
    hostPath: (path) => (path === FILE ? file : undefined),
    api: async () => {
      throw new Error("no service account is mounted");
    },
  };
  const program = coredns.program?.(argv);
  if (!program) throw new Error("the image has no such program");
  const process = await program(context);
  t.teardown(() => process.signal("SIGKILL"));
  return { ns, process, output, write };
}

const question = (name: string, id = 1) => encode({ type: "query", id, questions: [{ name, type: "A" }] });

async function ask({ ns }: Running, name: string, port = 53): Promise<Packet & { rcode?: string }> {
  const socket = await ns.udp();
  const answered = once(socket, "message", { signal: AbortSignal.timeout(30_000) });
  socket.send(question(name), port, "127.0.0.1");
  const [message] = (await answered.finally(() => socket.close())) as [Buffer];
  return decode(message);
}

async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  for (const end = Date.now() + 60_000; !(await holds()); ) {
    if (Date.now() > end) throw new Error("it did not come to that within a minute");
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const addresses = (packet: Packet) => (packet.answers ?? []).map((one) => "data" in one && one.data);

const hosts = (address: string, more = "") =>
  `{$ZONE} {\n reload 2s 1s\n health {\n lameduck 3s\n }\n hosts {\n ${address} a.own.test\n }\n${more}\n}`;

t.test("a Corefile that changes is used from then on, one that is wrong is not", async (t) => {
  const dns = await run(t, hosts("10.0.0.1"));
  t.same(dns.output.slice(0, 1), ["own.test.:53"]);
  t.ok(dns.output.includes("CoreDNS-1.12.1"));
  t.same(addresses(await ask(dns, "a.own.test")), ["10.0.0.1"]);
  t.equal((await ask(dns, "elsewhere.test")).rcode, "REFUSED");

  dns.write(hosts("10.0.0.2", " nonsense"));
  await until(() => dns.output.some((line) => /Corefile changed but reload failed: .*'nonsense'/.test(line)));
  t.same(addresses(await ask(dns, "a.own.test")), ["10.0.0.1"]);

  dns.write(`${hosts("10.0.0.3")}\n.:5300 {\n hosts {\n 10.0.0.4 b.test\n }\n}`);
  await until(() => dns.output.includes("[INFO] Reloading complete"));
  t.same(addresses(await ask(dns, "a.own.test")), ["10.0.0.3"]);
  t.same(addresses(await ask(dns, "b.test", 5300)), ["10.0.0.4"], "a port that was not there before");

  const ended = dns.process.exited;
  dns.process.signal("SIGTERM");
  t.same(addresses(await ask(dns, "a.own.test")), ["10.0.0.3"], "it still serves while it says that it goes");
  t.match(await ended, { exitCode: 0 });
  t.ok(dns.output.includes("[INFO] plugin/health: Going into lameduck mode for 3s"));
});

t.test("several questions in one connection, in pieces and at once", async (t) => {
  const dns = await run(t, hosts("10.0.0.1"));
  const socket = dns.ns.connect({ host: "127.0.0.1", port: 53 });
  t.teardown(() => socket.destroy());
  const ids: (number | undefined)[] = [];
  const reader = new MessageReader((message) => ids.push(decode(message).id));
  socket.on("data", (chunk) => reader.push(chunk));
  const [first, second, third] = [1, 2, 3].map((id) => withLength(question("a.own.test", id)));
  socket.write(Buffer.concat([first ?? Buffer.alloc(0), second ?? Buffer.alloc(0)]));
  await until(() => ids.length === 2);
  socket.write(third?.subarray(0, 5) ?? "");
  await new Promise((resolve) => setTimeout(resolve, 20));
  socket.write(third?.subarray(5) ?? "");
  await until(() => ids.length === 3);
  t.same(ids, [1, 2, 3]);
});

t.test("what cannot run says why", async (t) => {
  const cases: [string, string[], RegExp][] = [
    [". {\n nonsense\n}", ["-conf", FILE], /^\/etc\/coredns\/Corefile:2 - .*Unknown directive 'nonsense'/],
    ["", ["-conf", "/no/such/file"], /^loading Caddyfile via flag: open \/no\/such\/file: no such file/],
    [". {\n kubernetes cluster.local\n}", ["-conf", FILE], /^no service account is mounted$/],
    [". {\n forward . /no/such/file\n}", ["-conf", FILE], /^plugin\/forward: no nameservers found in/],
    ["", ["-nonsense"], /unknown flag: --nonsense/],
  ];
  for (const [corefile, args, message] of cases) {
    const dns = await run(t, corefile, args);
    t.match(await dns.process.exited, { exitCode: 1 });
    t.match(dns.output, [message]);
  }
});
