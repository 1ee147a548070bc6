// What machines without a lab need, as far as no machine is needed: who may do what, who gets a certificate, which address
// is a node's, when a certificate is renewed, what is installed, and the datagram to systemd.

import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import koffi from "koffi";
import t from "tap";
import { installFiles, quoted, type Role } from "../../cli/install/files.js";
import { removeFiles, writeFiles } from "../../cli/install/machine.js";
import { SECRETS } from "../../common/client.js";
import type { CertificateSigningRequest, Node, Stored } from "../../common/k8s.js";
import { silentLogger } from "../../common/log.js";
import { serverFlags } from "../../common/v8.js";
import { bootstrapUser, isBootstrapToken } from "../../control/api/bootstrap-tokens.js";
import { objectCodec } from "../../control/api/codec.js";
import { references } from "../../control/api/pod-references.js";
import { certificateSigner, readCertificateRequest } from "../../control/certificate-requests.js";
import { signingProblem, verdictOf } from "../../control/controllers/certificate-plan.js";
import { loadPki } from "../../control/pki.js";
import { startControl } from "../../control/server.js";
import { LmdbStore } from "../../control/store/lmdb.js";
import { sdNotify } from "../../dataplane/kernel/sd-notify.js";
import { chooseAdvertised, chooseUplink } from "../../node/host/uplink.js";
import { publicKeyHash } from "../../node/machine/join.js";
import { newRequest, readKeyPair, renewAt, writeKeyPair } from "../../node/machine/key-pair.js";
import { kubeplumb } from "../helpers/cli.js";
import { tempDir } from "../helpers/temp-dir.js";

const directory = tempDir(t);

// Before the first test: a top-level await between tests would end the run.
const authority = await loadPki({ dir: join(directory, "pki"), serverNames: [] });

t.test("which address is the node's", async (t) => {
  const vm = [
    { iface: "eth0", address: "10.0.2.15" },
    { iface: "eth1", address: "192.168.56.11" },
    { iface: "eth1", address: "fd00::11" },
    { iface: "docker0", address: "172.17.0.1" },
    { iface: "flannel.1", address: "10.244.1.0" },
  ];
  t.same(chooseUplink(vm, {}, "192.168.56.11"), { iface: "eth1", ip: "192.168.56.11" });
  t.same(chooseUplink(vm, { iface: "eth1" }, undefined), { iface: "eth1", ip: "192.168.56.11" });
  t.same(chooseUplink(vm, { nodeIP: "fd00::11" }, undefined), { iface: "eth1", ip: "fd00::11" });
  for (const [wish, reached] of [
    [{}, "10.0.2.15"],
    [{ iface: "eth0" }, undefined],
    [{ nodeIP: "10.0.2.15" }, undefined],
  ] as const)
    t.throws(() => chooseUplink(vm, wish, reached), {
      name: "UplinkError",
      message: /^10\.0\.2\.15 is the /,
    });
  t.throws(() => chooseUplink(vm, {}, "127.0.0.1"), {
    message: /reached from 127\.0\.0\.1, .*: 192\.168\.56\.11 \(eth1\), fd00::11 \(eth1\)$/,
  });
  t.throws(() => chooseUplink(vm, { nodeIP: "1.2.3.4" }, undefined), {
    message: /^no interface .* 1\.2\.3\.4;/,
  });
  t.throws(() => chooseUplink(vm, { iface: "eth7" }, undefined), {
    message: /^interface eth7 has no address/,
  });
  t.throws(() => chooseUplink(vm, { iface: "eth0", nodeIP: "192.168.56.11" }, undefined), {
    message: "192.168.56.11 is on eth1, not on eth0",
  });
  t.equal(chooseAdvertised(vm), "192.168.56.11");
  t.throws(() => chooseAdvertised([...vm, { iface: "eth2", address: "10.1.1.1" }]), {
    message: /^choose with --advertise-address .*10\.1\.1\.1 \(eth2\)$/,
  });
  t.throws(() => chooseAdvertised([]), { message: /it has: none$/ });
});

t.test("a node's key pair: asked for, signed, kept, renewed in time", async (t) => {
  const { key, request } = await newRequest("system:node:n1", ["n1"]);
  t.same(await readCertificateRequest(request), {
    commonName: "system:node:n1",
    organizations: ["system:nodes"],
    dnsNames: ["n1"],
    otherNames: [],
  });
  const cert = await certificateSigner(authority.ca)(request, { usage: "server", seconds: 3600 });
  const path = join(directory, "n1/pair.pem");
  writeKeyPair(path, { cert, key });
  t.equal(statSync(path).mode & 0o777, 0o600);
  t.same(readKeyPair(path, "system:node:n1", authority.ca.cert), { cert, key });
  t.equal(readKeyPair(path, "system:node:n2", authority.ca.cert), undefined, "another node's");
  const stranger = await loadPki({ dir: join(directory, "other"), serverNames: [] });
  t.equal(readKeyPair(path, "system:node:n1", stranger.ca.cert), undefined, "another cluster's");
  t.equal(readKeyPair(path, "system:node:n1", authority.ca.cert, Date.now() + 3_700_000), undefined, "ended");
  writeFileSync(
    path,
    "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n",
  );
  t.equal(readKeyPair(path, "system:node:n1", authority.ca.cert), undefined, "damaged");
  t.equal(readKeyPair(join(directory, "none"), "system:node:n1", authority.ca.cert), undefined);
  // Five minutes before now to an hour after.
  const [early, late] = [renewAt(cert, 0), renewAt(cert, 1)].map((at) =>
    Math.round((at - Date.now()) / 60_000),
  );
  t.ok(Math.abs((early ?? 0) - (0.7 * 65 - 5)) <= 1 && Math.abs((late ?? 0) - (0.9 * 65 - 5)) <= 1);
  await t.rejects(readCertificateRequest("no"), Error);
  t.match(publicKeyHash(authority.ca.cert), /^sha256:[0-9a-f]{64}$/);
});

t.test("who gets a certificate", async (t) => {
  const CLIENT = "kubernetes.io/kube-apiserver-client-kubelet";
  const csr = (spec: Partial<CertificateSigningRequest["spec"]>) =>
    ({
      spec: { signerName: CLIENT, usages: ["digital signature", "client auth"], request: "", ...spec },
    }) as Stored<CertificateSigningRequest>;
  const identity = {
    commonName: "system:node:n1",
    organizations: ["system:nodes"],
    dnsNames: [] as string[],
    otherNames: [] as string[],
  };
  const joining = {
    username: "system:bootstrap:abcdef",
    groups: ["system:bootstrappers:kubeadm:default-node-token"],
  };
  const itself = { username: "system:node:n1", groups: ["system:nodes"] };
  const node = (status: string) =>
    ({ metadata: { name: "n1" }, status: { conditions: [{ type: "Ready", status }] } }) as Stored<Node>;
  t.match(verdictOf(csr(joining), identity, undefined), { type: "Approved" });
  t.match(verdictOf(csr(joining), identity, node("Unknown")), { type: "Approved" }, "a machine made anew");
  t.match(verdictOf(csr(joining), identity, node("True")), { type: "Denied", message: /already exists/ });
  t.match(verdictOf(csr(itself), identity, node("True")), {
    type: "Approved",
    message: /self kubelet client/,
  });
  const other = { username: "system:node:n2", groups: ["system:nodes"] };
  t.equal(verdictOf(csr(other), identity, undefined), undefined, "one node for another");
  const admin = { username: "kubernetes-admin", groups: ["system:masters"] };
  t.equal(verdictOf(csr(admin), identity, undefined), undefined, "left to kubectl certificate approve");

  const serving = {
    signerName: "kubernetes.io/kubelet-serving",
    usages: ["digital signature", "server auth"],
  };
  const named = { ...identity, dnsNames: ["n1"] };
  t.match(verdictOf(csr({ ...serving, ...itself }), named, undefined), { type: "Approved" });
  t.equal(verdictOf(csr({ ...serving, ...joining }), named, undefined), undefined, "not for a token");
  t.equal(verdictOf(csr({ ...serving, ...itself }), { ...identity, dnsNames: ["n2"] }, undefined), undefined);
  t.equal(
    verdictOf(csr({ ...serving, ...itself }), { ...named, otherNames: ["1.2.3.4"] }, undefined),
    undefined,
  );

  t.equal(signingProblem(csr({}), identity), undefined);
  t.match(
    signingProblem(csr({ usages: ["client auth", "cert sign"] }), identity),
    /does not sign: cert sign/,
  );
  t.match(signingProblem(csr({ usages: ["digital signature"] }), identity), /must have "client auth"/);
  t.match(signingProblem(csr({}), { ...identity, organizations: ["system:masters"] }), /organization/);
  t.match(signingProblem(csr({}), { ...identity, commonName: "system:node:" }), /common name/);
  t.match(signingProblem(csr({}), named), /alternative names/);
  const person = { signerName: "kubernetes.io/kube-apiserver-client" };
  t.equal(signingProblem(csr(person), { ...identity, organizations: ["devs"] }), undefined);
  t.match(signingProblem(csr(person), { ...identity, organizations: ["system:masters"] }), /system:masters/);
});

t.test("what of a pod its node may read", async (t) => {
  const pod = {
    spec: {
      serviceAccountName: "robot",
      imagePullSecrets: [{ name: "pull" }],
      volumes: [
        { name: "a", secret: { secretName: "volume" } },
        {
          name: "b",
          projected: { sources: [{ secret: { name: "part" } }, { configMap: { name: "root-ca" } }] },
        },
        { name: "c", configMap: { name: "settings" } },
      ],
      initContainers: [
        { name: "i", envFrom: [{ secretRef: { name: "all" } }, { configMapRef: { name: "env" } }] },
      ],
      containers: [
        { name: "m", env: [{ name: "A", valueFrom: { secretKeyRef: { name: "one", key: "k" } } }] },
        { name: "n", env: [{ name: "B", valueFrom: { configMapKeyRef: { name: "key", key: "k" } } }] },
      ],
    },
  };
  for (const name of ["pull", "volume", "part", "all", "one"]) t.ok(references(pod, "secrets", name), name);
  for (const name of ["root-ca", "settings", "env", "key"]) t.ok(references(pod, "configmaps", name), name);
  t.ok(references(pod, "serviceaccounts", "robot"));
  for (const kind of ["secrets", "configmaps", "serviceaccounts"] as const)
    t.notOk(references(pod, kind, "default"), kind);
  t.ok(references({ spec: { containers: [] } }, "serviceaccounts", "default"));
});

t.test("bootstrap tokens", async (t) => {
  const dataDir = join(directory, "tokens");
  const control = await startControl({
    dataDir,
    listen: { host: "127.0.0.1", port: 0 },
    clusterName: "x",
    log: silentLogger,
  });
  const token = "abcdef.0123456789abcdef";
  const secret = (id: string, more: Record<string, string>) =>
    control.client.create(SECRETS, {
      metadata: { name: `bootstrap-token-${id}`, namespace: "kube-system" },
      type: "bootstrap.kubernetes.io/token",
      stringData: {
        "token-id": id,
        "token-secret": "0123456789abcdef",
        "usage-bootstrap-authentication": "true",
        "auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token,system:masters",
        ...more,
      },
    });
  await secret("abcdef", { expiration: "2100-01-01T00:00:00Z" });
  await secret("signer", { "usage-bootstrap-authentication": "false" });
  await control.close();
  const store = await LmdbStore.open<Stored>({ path: join(dataDir, "store"), codec: objectCodec });
  t.teardown(() => store.close());
  t.ok(isBootstrapToken(token));
  t.notOk(isBootstrapToken("abc.def"));
  t.same(await bootstrapUser(store, token), {
    name: "system:bootstrap:abcdef",
    groups: [
      "system:bootstrappers",
      // Never one of other groups, whatever the Secret says.
      "system:bootstrappers:kubeadm:default-node-token",
      "system:authenticated",
    ],
  });
  await t.rejects(bootstrapUser(store, "abcdef.0123456789abcdeg"), { message: /another secret/ });
  await t.rejects(bootstrapUser(store, "nobody.0123456789abcdef"), { message: /no such/ });
  await t.rejects(bootstrapUser(store, "signer.0123456789abcdef"), { message: /not for authentication/ });
  await t.rejects(bootstrapUser(store, token, Date.parse("2100-01-02T00:00:00Z")), { message: /expired/ });
});

t.test("installation: written once, whole, and taken away", async (t) => {
  const root = mkdtempSync(join(directory, "root-"));
  const files = (role: Role) =>
    installFiles({
      role,
      program: ["/usr/bin/node", "/opt/kube plumb/main.mjs"],
      args: ["--name", "a$b"],
      secrets: {},
    });
  const paths = writeFiles(files("node"), root);
  t.same(paths, [
    "/etc/systemd/system/kubeplumb-node.service",
    "/etc/kubeplumb/node.env",
    "/etc/modules-load.d/kubeplumb.conf",
    "/etc/sysctl.d/90-kubeplumb.conf",
    "/etc/systemd/networkd.conf.d/90-kubeplumb.conf",
  ]);
  t.same(writeFiles(files("node"), root), [], "again: nothing");
  writeFileSync(join(root, "/etc/sysctl.d/90-kubeplumb.conf"), "changed");
  t.same(writeFiles(files("node"), root), ["/etc/sysctl.d/90-kubeplumb.conf"]);
  writeFiles(files("control"), root);
  t.same(removeFiles("node", root), paths);
  t.ok(statSync(join(root, "/etc/systemd/system/kubeplumb-control.service")), "the other one stays");
  t.equal(removeFiles("control", root).length, 2);
  t.throws(() => statSync(join(root, "/etc/kubeplumb")), { code: "ENOENT" });
  t.same(removeFiles("control", root), []);
  const unit = files("node").get("/etc/systemd/system/kubeplumb-node.service")?.text;
  t.match(unit, /^ExecStart=\/usr\/bin\/node "\/opt\/kube plumb\/main\.mjs" node --name "a\$\$b"$/m);
  t.match(unit, /^Type=notify$/m);
  t.match(unit, /^Restart=always$/m);
  t.equal(quoted('50% "x"\\'), '"50%% \\"x\\"\\\\"');

  const line = ["install", "node", "--root", root, "--", "--server", "https://10.0.0.1:6443", "--token=a.b"];
  t.equal((await kubeplumb(line)).code, 0);
  t.equal(readFileSync(join(root, "/etc/kubeplumb/node.env"), "utf8"), "KUBEPLUMB_TOKEN=a.b\n");
  t.equal(statSync(join(root, "/etc/kubeplumb/node.env")).mode & 0o777, 0o600);
  t.notMatch(readFileSync(join(root, "/etc/systemd/system/kubeplumb-node.service"), "utf8"), /a\.b/);
  t.match((await kubeplumb(line)).err, /all files are as they should be/);
  t.match(await kubeplumb(["install", "node", "--root", root, "--", "--bridge", "x"]), { code: 2 });
  t.equal((await kubeplumb(["install", "control", "--root", root])).code, 0);
  const units = ["node", "control"].map((role) =>
    join(root, `/etc/systemd/system/kubeplumb-${role}.service`),
  );
  const [node = [], control = []] = units.map(
    (path) => /^ExecStart=(.*)$/m.exec(readFileSync(path, "utf8"))?.[1]?.split(" ") ?? [],
  );
  t.same([control.length, control[1]], [4, serverFlags()[0]], "node, its flag, the program, its role");
  t.not(node[1], serverFlags()[0]);
  const verified = spawnSync("systemd-analyze", ["verify", ...units], { encoding: "utf8" });
  if (!verified.error)
    t.equal(
      verified.stderr
        .split("\n")
        .filter((one) => one.includes("kubeplumb"))
        .join("\n"),
      "",
    );
  t.equal((await kubeplumb(["uninstall", "node", "--root", root])).code, 0);
  t.match(
    (await kubeplumb(["uninstall", "node", "--root", root])).err,
    /there is nothing of kubeplumb node here/,
  );
});

t.test("sd_notify: one datagram", async (t) => {
  const libc = koffi.load("libc.so.6");
  const path = join(directory, "notify");
  const fd = libc.func("int socket(int, int, int)")(1, 2, 0) as number;
  const address = Buffer.concat([Buffer.from([1, 0]), Buffer.from(path)]);
  t.equal(libc.func("int bind(int, const void *, uint32_t)")(fd, address, address.length), 0);
  t.ok(sdNotify("READY=1\nSTATUS=fine", { NOTIFY_SOCKET: path }));
  const into = Buffer.alloc(100);
  const length = Number(
    libc.func("intptr_t recv(int, _Out_ uint8_t *, size_t, int)")(fd, into, into.length, 0),
  );
  t.equal(into.subarray(0, length).toString(), "READY=1\nSTATUS=fine");
  t.notOk(sdNotify("READY=1", {}), "nobody asked");
  t.notOk(sdNotify("READY=1", { NOTIFY_SOCKET: join(directory, "nobody") }));
});
