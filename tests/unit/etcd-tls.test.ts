// The store, and kubeplumb control, on a real etcd that speaks TLS and wants certificates; what the command says when a
// file is wrong, missing or of somebody else.

import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { join } from "node:path";
import t, { type Test } from "tap";
import { explainedEtcdError } from "../../cli/etcd-tls.js";
import { ApiClient } from "../../client/api-client.js";
import { CONFIG_MAPS } from "../../common/client.js";
import { EtcdUnreachable } from "../../control/store/etcd-client.js";
import { type CertificateFiles, TestAuthority } from "../helpers/certificates.js";
import { kubeplumb } from "../helpers/cli.js";
import { EtcdServer, withoutEtcd } from "../helpers/etcd.js";
import { freePort } from "../helpers/free-port.js";
import { tempDir } from "../helpers/temp-dir.js";
import { eventually } from "../helpers/until.js";
import { Follower, open } from "./helpers/etcd-store.js";

t.setTimeout(240_000);

const flagsOf = ({ ca, cert, key }: CertificateFiles) => [
  `--etcd-cafile=${ca}`,
  `--etcd-certfile=${cert}`,
  `--etcd-keyfile=${key}`,
];

async function control(dir: string, words: readonly string[], signal?: AbortSignal) {
  const own = ["--listen", `127.0.0.1:${await freePort()}`, "--data-dir", join(dir, "data")];
  return await kubeplumb(["control", ...own, ...words], signal && { signal });
}

/** Runs until the test ends; a client of its API. */
async function startControl(test: Test, dir: string, words: readonly string[]): Promise<ApiClient> {
  const ending = new AbortController();
  const running = control(dir, words, ending.signal);
  test.teardown(async () => {
    ending.abort(new Error("the test is over"));
    await running;
  });
  const kubeconfig = join(dir, "data", "admin.kubeconfig");
  await eventually(async () => existsSync(kubeconfig));
  const client = ApiClient.fromKubeconfig(readFileSync(kubeconfig, "utf8"));
  test.teardown(() => client.close());
  return client;
}

const configMap = (name: string) => ({
  apiVersion: "v1" as const,
  kind: "ConfigMap" as const,
  metadata: { name },
  data: { at: name },
});

t.test("flags that cannot be", async (t) => {
  const dir = tempDir(t);
  const own = await (await TestAuthority.create(dir, "ca")).issue("client");
  const other = await (await TestAuthority.create(dir, "other")).issue("stranger");
  const store = "--store=etcd:https://127.0.0.1:1";
  writeFileSync(join(dir, "text"), "no PEM\n");
  for (const [words, said] of [
    [[store, `--etcd-cafile=${dir}/none`], /--etcd-cafile .*none: ENOENT/],
    [[store, `--etcd-cafile=${dir}/text`], /--etcd-cafile .*text: /],
    [[store, `--etcd-certfile=${own.cert}`], /--etcd-certfile and --etcd-keyfile go together/],
    [
      [store, `--etcd-certfile=${own.cert}`, `--etcd-keyfile=${other.key}`],
      /--etcd-keyfile .*stranger\.key is not the key of --etcd-certfile .*client\.crt/,
    ],
    [["--store=etcd:http://127.0.0.1:1", `--etcd-cafile=${own.ca}`], /are for --store etcd:https:/],
    [[`--etcd-cafile=${own.ca}`], /are for --store etcd:https:/],
  ] as const)
    t.match(await control(dir, words), { code: 2, err: said });
  t.notOk(existsSync(join(dir, "data")), "nothing was made before");
});

t.test("the store, with a certificate for the client", { skip: withoutEtcd }, async (t) => {
  const dir = tempDir(t);
  const authority = await TestAuthority.create(dir, "ca");
  const etcd = await EtcdServer.start(dir, await authority.issue("server"));
  t.teardown(() => etcd.stop());
  const files = await authority.issue("client");
  const read = (path: string) => readFileSync(path, "utf8");
  const tls = { ca: read(files.ca), cert: read(files.cert), key: read(files.key) };
  const store = await open(t, [etcd.url], { tls });
  const follower = await Follower.start(store);
  await store.put("/registry/r/a", { n: 1 });
  t.equal(follower.revisions.length, 1);
  await t.rejects(open(t, [etcd.url], { tls: { ca: tls.ca } }), "no certificate");
  await t.rejects(
    open(t, [etcd.url], { tls: { cert: tls.cert, key: tls.key } }),
    /certificate/,
    "unknown CA",
  );
});

t.test("what does not speak TLS, however it closes", async (t) => {
  for (const close of ["end", "resetAndDestroy"] as const) {
    const server = createServer((socket) => {
      socket.once("data", () => socket[close]());
      socket.on("error", () => {});
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    t.teardown(() => server.close());
    const { port } = server.address() as AddressInfo;
    const spec = { type: "etcd" as const, endpoints: [`https://127.0.0.1:${port}`] };
    const told = await explainedEtcdError(new EtcdUnreachable("etcd: no", false), {}, spec, undefined);
    t.match(told, { message: /^etcd: no: does it speak HTTP without TLS\?/ }, close);
  }
});

t.test("an etcd with certificates of its own", { skip: withoutEtcd }, async (t) => {
  const dir = tempDir(t);
  const authority = await TestAuthority.create(dir, "ca");
  const server = await authority.issue("server");
  const client = await authority.issue("client");
  const stranger = await (await TestAuthority.create(dir, "other")).issue("stranger");
  const etcd = await EtcdServer.start(dir, server);
  t.teardown(() => etcd.stop());
  const store = `--store=etcd:${etcd.url}`;

  t.test("refused, in words that name the flag", async (t) => {
    const own = { ...client, ca: client.ca };
    for (const [words, said] of [
      [[], /give the CA of its certificate with --etcd-cafile/],
      [flagsOf({ ...own, ca: stranger.ca }), /is not of the CA in --etcd-cafile .*other\.crt/],
      [[`--etcd-cafile=${own.ca}`], /it wants a certificate: --etcd-certfile and --etcd-keyfile/],
      [
        flagsOf({ ...stranger, ca: own.ca }),
        /it does not accept the certificate in --etcd-certfile .*stranger\.crt/,
      ],
    ] as const) {
      const { code, err } = await control(dir, [store, ...words]);
      t.equal(code, 1);
      t.match(err, said);
    }
    const plain = await EtcdServer.start(tempDir(t));
    t.teardown(() => plain.stop());
    const { err } = await control(dir, [
      `--store=etcd:${plain.url.replace("http:", "https:")}`,
      ...flagsOf(own),
    ]);
    t.match(err, /does it speak HTTP without TLS\? Then it is --store etcd:http:/);
  });

  t.test("served, and kept there", async (t) => {
    const api = await startControl(t, dir, [store, ...flagsOf(client)]);
    await api.create(CONFIG_MAPS, configMap("a"), { namespace: "default" });
    const kept = execFileSync(
      "curl",
      [
        ...["-sS", "--cacert", client.ca, "--cert", client.cert, "--key", client.key],
        ...["-d", JSON.stringify({ key: Buffer.from("/registry/configmaps/default/a").toString("base64") })],
        `${etcd.url}/v3/kv/range`,
      ],
      { encoding: "utf8" },
    );
    t.match(JSON.parse(kept), { count: "1" });
  });
});

t.test("three members, one address of nobody before them; one is lost", { skip: withoutEtcd }, async (t) => {
  const dir = tempDir(t);
  const authority = await TestAuthority.create(dir, "ca");
  const members = await EtcdServer.cluster(dir, 3, await authority.issue("server"));
  for (const member of members) {
    member.start();
    t.teardown(() => member.stop());
  }
  await Promise.all(members.map((member) => member.ready()));
  const nobody = `https://127.0.0.1:${await freePort()}`;
  const urls = [nobody, ...members.map(({ url }) => url)].join(",");
  const api = await startControl(t, dir, [
    `--store=etcd:${urls}`,
    ...flagsOf(await authority.issue("client")),
  ]);
  await api.create(CONFIG_MAPS, configMap("before"), { namespace: "default" });
  await members[0]?.stop("SIGKILL");
  // The one that is left may be the leader: a write in between is refused, not lost.
  await eventually(async () => {
    const name = `after-${Date.now()}`;
    await api.create(CONFIG_MAPS, configMap(name), { namespace: "default" });
    return (await api.get(CONFIG_MAPS, name, "default")).data?.at === name;
  });
  t.equal((await api.get(CONFIG_MAPS, "before", "default")).data?.at, "before");
});
