// API servers to be measured: ours as a process of its own, and kube-apiserver with etcd where $KUBE_APISERVER and $ETCD
// name their binaries. Each in a folder of its own, on loopback. Knows how to start and stop them.

import { type ChildProcess, fork, spawn } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { Agent, fetch } from "undici";
import { silentLogger } from "../common/log.js";
import { compileAtFirstCall, serverFlags } from "../common/v8.js";
import { objectCodec } from "../control/api/codec.js";
import { startControl } from "../control/server.js";
import { openStore } from "../control/store/open.js";

export interface Peer {
  name: string;
  server: string;
  /** PEM. */
  ca?: string;
  cert?: string;
  key?: string;
  token?: string;
  pids: number[];
  stop(): Promise<void>;
}

const START_MS = 60_000;

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as { port: number };
  await new Promise<void>((resolve) => server.close(() => resolve()));
  return port;
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGTERM");
  const force = setTimeout(() => child.kill("SIGKILL"), 10_000);
  await exit;
  clearTimeout(force);
}

/** The control plane as `kubeplumb control` runs it, controllers and all. */
export async function ours(folder: string): Promise<Peer> {
  const child = fork(fileURLToPath(import.meta.url), [folder], {
    execArgv: serverFlags(),
    stdio: ["ignore", "inherit", "inherit", "ipc"],
  });
  const { url, kubeconfig } = await new Promise<{ url: string; kubeconfig: string }>((resolve, reject) => {
    child.once("message", (message) => resolve(message as { url: string; kubeconfig: string }));
    child.once("exit", (code) => reject(new Error(`the control plane ended with ${code}`)));
  });
  const data = (key: string): string =>
    Buffer.from(new RegExp(`${key}: (\\S+)`).exec(kubeconfig)?.[1] ?? "", "base64").toString();
  return {
    name: "kubeplumb",
    server: url,
    ca: data("certificate-authority-data"),
    cert: data("client-certificate-data"),
    key: data("client-key-data"),
    pids: [child.pid ?? 0],
    stop: () => ended(child),
  };
}

/** Undefined when the binaries are not named. */
export async function theirs(folder: string): Promise<Peer | undefined> {
  const { KUBE_APISERVER: apiserver, ETCD: etcd } = process.env;
  if (!apiserver || !etcd) return undefined;
  mkdirSync(folder, { recursive: true });
  const [client, peer, port] = [await freePort(), await freePort(), await freePort()];
  const stdio = process.env.KUBE_APISERVER_LOG ? "inherit" : "ignore";
  const store = spawn(
    etcd,
    [
      `--data-dir=${join(folder, "etcd")}`,
      `--listen-client-urls=http://127.0.0.1:${client}`,
      `--advertise-client-urls=http://127.0.0.1:${client}`,
      `--listen-peer-urls=http://127.0.0.1:${peer}`,
      `--initial-advertise-peer-urls=http://127.0.0.1:${peer}`,
      `--initial-cluster=default=http://127.0.0.1:${peer}`,
    ],
    { stdio },
  );
  const token = "a-token-for-the-benchmark";
  writeFileSync(join(folder, "tokens.csv"), `${token},admin,admin,system:masters\n`);
  // Any RSA or EC key will do for tokens that nobody asks for.
  const { generateKeyPairSync } = await import("node:crypto");
  const { privateKey } = generateKeyPairSync("ec", {
    namedCurve: "P-256",
    privateKeyEncoding: { type: "sec1", format: "pem" },
    publicKeyEncoding: { type: "spki", format: "pem" },
  });
  const key = join(folder, "sa.key");
  writeFileSync(key, privateKey);
  const child = spawn(
    apiserver,
    [
      `--etcd-servers=http://127.0.0.1:${client}`,
      "--bind-address=127.0.0.1",
      "--advertise-address=127.0.0.1",
      `--secure-port=${port}`,
      `--cert-dir=${join(folder, "pki")}`,
      `--token-auth-file=${join(folder, "tokens.csv")}`,
      "--authorization-mode=AlwaysAllow",
      "--service-cluster-ip-range=10.96.0.0/16",
      "--disable-admission-plugins=ServiceAccount",
      `--service-account-key-file=${key}`,
      `--service-account-signing-key-file=${key}`,
      "--service-account-issuer=https://kubernetes.default.svc",
      // The benchmark is one client that asks as fast as it can.
      "--max-mutating-requests-inflight=2000",
      "--max-requests-inflight=4000",
      "--enable-priority-and-fairness=false",
    ],
    { stdio },
  );
  const made: Peer = {
    name: "kube-apiserver + etcd",
    server: `https://127.0.0.1:${port}`,
    token,
    pids: [child.pid ?? 0, store.pid ?? 0],
    stop: async () => {
      await ended(child);
      await ended(store);
    },
  };
  await ready(made, child).catch(async (error: unknown) => {
    await made.stop();
    throw error;
  });
  return { ...made, ca: readFileSync(join(folder, "pki/apiserver.crt"), "utf8") };
}

async function ready({ server, token }: Peer, child: ChildProcess): Promise<void> {
  const dispatcher = new Agent({ connect: { rejectUnauthorized: false } });
  const headers = { authorization: `Bearer ${token}` };
  for (const end = Date.now() + START_MS; ; ) {
    const answer = await fetch(`${server}/readyz`, { dispatcher, headers }).catch(() => undefined);
    if (answer?.ok) break;
    if (child.exitCode !== null || Date.now() > end)
      throw new Error("kube-apiserver did not become ready; KUBE_APISERVER_LOG=1 shows why");
    await sleep(100);
  }
  await dispatcher.close();
}

if (process.send && process.argv[1] === fileURLToPath(import.meta.url)) {
  const folder = process.argv[2] ?? "";
  const control = await startControl({
    dataDir: folder,
    // On disk before it is acknowledged, as in etcd.
    store: () => openStore(`lmdb:${join(folder, "store")}`, { codec: objectCodec }),
    listen: { host: "127.0.0.1", port: 0 },
    clusterName: "bench",
    kubelet: () => ({ socketPath: "/nowhere", pathPrefix: "" }),
    log: silentLogger,
  });
  process.once("SIGTERM", () => void control.close().then(() => process.exit(0)));
  compileAtFirstCall();
  process.send({ url: control.url, kubeconfig: control.adminKubeconfig("bench") });
}
