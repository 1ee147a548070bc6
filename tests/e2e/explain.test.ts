// kubeplumb explain and rules against a lab: what is told of a connection is what curl then sees.

import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable, Writable } from "node:stream";
import t from "tap";
import { run } from "../../cli/main.js";
import { createCluster } from "../../index.js";
import { kubectlOf } from "../helpers/kubectl.js";

t.setTimeout(240_000);
const home = mkdtempSync(join(tmpdir(), "kp-explain-"));
process.env.KUBEPLUMB_HOME = home;
const cluster = await createCluster({
  nodes: 2,
  name: "explain",
  home,
  config: { networking: { ipFamily: "dual" } },
});
t.teardown(async () => {
  await cluster.stop();
  rmSync(home, { recursive: true, force: true });
});
const kubectl = kubectlOf(cluster);

async function kubeplumb(...words: string[]): Promise<string> {
  const texts = { stdout: "", stderr: "" };
  const sink = (name: keyof typeof texts) =>
    new Writable({
      write(chunk: Buffer, _encoding, done) {
        texts[name] += chunk.toString();
        done();
      },
    });
  const streams = { stdin: Readable.from([]), stdout: sink("stdout"), stderr: sink("stderr"), env: {} };
  const code = await run([...words, "--name", "explain"], streams);
  if (code !== 0) throw new Error(`${words.join(" ")}: ${texts.stderr}`);
  return texts.stdout;
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  return port;
}

interface Told {
  results: { odds: number; fate: string; source: string; destination: { ip: string; pod?: string } }[];
}

/** "pod source", as traefik/whoami tells it. */
function seen(body: string): string {
  return `default/${/^Hostname: (\S+)/m.exec(body)?.[1]} ${/^RemoteAddr: \[?(.*?)\]?:\d+$/m.exec(body)?.[1]}`;
}

t.test("what is told is what happens", async (t) => {
  await kubectl("create", "deployment", "web", "--image=traefik/whoami", "--replicas=2");
  await kubectl("run", "client", "--image=traefik/whoami");
  await kubectl("expose", "deployment/web", "--type=NodePort", "--port=80");
  await kubectl("expose", "deployment/web", "--name=local", "--type=NodePort", "--port=80");
  await kubectl("patch", "service", "local", "-p", '{"spec":{"externalTrafficPolicy":"Local"}}');
  await kubectl("patch", "service", "web", "-p", '{"spec":{"ipFamilyPolicy":"PreferDualStack"}}');
  await kubectl("rollout", "status", "deployment/web", "--timeout=60s");
  await kubectl("wait", "--for=condition=Ready", "pod/client", "--timeout=60s");
  await cluster.waitForSync();
  const field = (name: string, path: string) =>
    kubectl("get", "service", name, "-o", `jsonpath={.spec.${path}}`);
  const [clusterIP, clusterIP6, nodePort, localPort] = await Promise.all([
    field("web", "clusterIP"),
    field("web", "clusterIPs[1]"),
    field("web", "ports[0].nodePort"),
    field("local", "ports[0].nodePort"),
  ]);
  const pod = (
    await kubectl("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].metadata.name}")
  ).trim();
  const [node1 = "", node2 = ""] = cluster.hosts.map(({ ip }) => ip);
  const cases: [from: string, target: string, address: string][] = [
    ["node/node-1", "node-1", `${clusterIP}:80`],
    ["pod/client", "default/client", `${clusterIP}:80`],
    [`pod/${pod}`, `default/${pod}`, `${clusterIP}:80`],
    ["pod/client", "default/client", `${node1}:${nodePort}`],
    ["pod/client", "default/client", `${node2}:${nodePort}`],
    ["pod/client", "default/client", `${node2}:${localPort}`],
    ["node/node-1", "node-1", `${node2}:${nodePort}`],
    ["node/node-1", "node-1", `127.0.0.1:${nodePort}`],
    ["node/node-2", "node-2", `${node1}:${localPort}`],
    ["node/node-1", "node-1", `[${clusterIP6}]:80`],
    [`pod/${pod}`, `default/${pod}`, `[${clusterIP6}]:80`],
    ["pod/client", "default/client", `[fd00:192:168:56::c]:${nodePort}`],
  ];
  for (const [from, target, address] of cases) {
    const [story] = JSON.parse(await kubeplumb("explain", address, "--from", from, "-o", "json")) as Told[];
    const expected = new Set(story?.results.map(({ destination, source }) => `${destination.pod} ${source}`));
    const urls = Array.from({ length: 100 }, () => `http://${address}`);
    const curl = ["curl", "-s", "-g", "--max-time", "60", "-H", "Connection: close", ...urls];
    const bodies = (await cluster.exec(target, curl)).stdout.split(/^(?=Hostname:)/m);
    const answers = new Set(bodies.map(seen));
    t.ok(
      [...answers].every((one) => expected.has(one)),
      `${from} to ${address}: ${[...answers]} of ${[...expected]}`,
    );
    t.equal(answers.size, expected.size, "and everything that may happen does");
  }
  const hostPort = await freePort();
  await cluster.publish({ hostPort, nodePort: Number(localPort) });
  const [outside] = JSON.parse(await kubeplumb("explain", `${node1}:${localPort}`, "-o", "json")) as Told[];
  const response = await fetch(`http://127.0.0.1:${hostPort}`, { headers: { connection: "close" } });
  const [way] = outside?.results ?? [];
  t.equal(seen(await response.text()), `${way?.destination.pod} ${way?.source}`, "from outside");
});

t.test("dead ends, and rules", async (t) => {
  await kubectl("create", "service", "clusterip", "empty", "--tcp=80");
  await cluster.waitForSync();
  t.match(await kubeplumb("explain", "empty"), /REJECT: default\/empty:80 has no endpoints\n/);
  // libxt_nfacct prints a blank too many.
  const save = (await cluster.rules("node-2")).replaceAll("--nfacct-name  ", "--nfacct-name ");
  const [raw, words] = [
    await kubeplumb("rules", "node-2", "web", "--raw"),
    await kubeplumb("rules", "node-2", "web"),
  ];
  const lines = raw.split("\n").filter((line) => line.startsWith("-A "));
  t.ok(lines.length >= 10);
  t.strictSame(
    lines.filter((line) => !save.includes(`${line}\n`)),
    [],
    "the host's own lines",
  );
  t.match(words, /^default\/web {2}80:\d+\/TCP at 10\.96\.\S+\n {2}nat KUBE-SERVICES\n/);
  t.match(await kubeplumb("rules", "node-1"), /\nNot the proxy's\n[\s\S]*FLANNEL-POSTRTG/);
});
