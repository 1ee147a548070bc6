// A cluster of VMs as the tests of the lab use a lab: kubectl, commands on hosts and in pods, waiting, and when rules are
// written.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { ApiClient } from "../../client/api-client.js";
import { ENDPOINT_SLICES, PODS, type Resource, SERVICES } from "../../common/client.js";
import type { EndpointSlice, KubeObject, Service, Stored } from "../../common/k8s.js";
import type { CurlResult, ExecResult, Manifest, WaitCondition } from "../../index.js";
import { staleService } from "../../lab/sync.js";
import { waitForObject } from "../../lab/wait.js";
import type { TestCluster } from "../helpers/cluster-under-test.js";
import { kubectlOf } from "../helpers/kubectl.js";
import { type Ran, runToEnd } from "../helpers/machines.js";
import { eventually as anywhere } from "../helpers/until.js";
import type { Rack, VirtualMachine } from "./machine.js";

export const SERVER = "https://192.168.56.10:6443";
/** Where the words to join with are on a VM. */
export const JOIN = "/run/kubeplumb-join";

/** Of what goes on while VMs come and go; `default` is for the tests that they are lent to. */
export const NAMESPACE = "standing";

/** Virtual machines without KVM take their time. */
const PATIENCE_MS = 600_000;
export const eventually = <T>(look: () => Promise<T>) =>
  anywhere(look, { withinMs: PATIENCE_MS, everyMs: 500 });

/** kubectl in {@link NAMESPACE} that must succeed. */
export const kubectlIn = (cluster: VmCluster) => {
  const kubectl = kubectlOf(cluster);
  return (...argv: string[]) => kubectl("-n", NAMESPACE, ...argv);
};

const result = ({ code, out, err }: Ran): ExecResult => ({ exitCode: code, stdout: out, stderr: err });

const quoted = (argv: readonly string[]): string =>
  argv.map((word) => `'${word.replaceAll("'", `'\\''`)}'`).join(" ");

export class VmCluster implements TestCluster {
  readonly control: VirtualMachine;
  /** Workers, as they join. */
  readonly nodes: VirtualMachine[] = [];
  readonly kubeconfigPath: string;
  readonly #cache: string;
  #client: ApiClient | undefined;
  #syncs = 0;

  /** @param control provisioned later. */
  constructor(rack: Rack, control: VirtualMachine) {
    this.control = control;
    this.kubeconfigPath = join(rack.directory, "kubeconfig");
    this.#cache = join(rack.directory, "cache");
  }

  /** As the administrator; from the moment on that the kubeconfig is there. */
  get client(): ApiClient {
    this.#client ??= ApiClient.fromKubeconfig(readFileSync(this.kubeconfigPath, "utf8"));
    return this.#client;
  }

  get hosts(): readonly { name: string; ip: string }[] {
    return this.nodes.map(({ name, address }) => ({ name, ip: address }));
  }

  async close(): Promise<void> {
    await this.#client?.close();
  }

  /** Of the control VM: as an administrator copies it. */
  async fetchKubeconfig(): Promise<void> {
    const text = await this.control.must("cat /var/lib/kubeplumb/control/admin.kubeconfig");
    writeFileSync(this.kubeconfigPath, text, { mode: 0o600 });
  }

  /** With the words from the control plane, as the Vagrantfile brings them; what provisioning prints. */
  async join(vm: VirtualMachine): Promise<string> {
    const words = await this.control.must("kubeplumb token create --ttl 1h --print-join-command");
    await vm.must(`umask 077; echo '${words.trim()}' > ${JOIN}`);
    const out = await vm.provision("node", vm.address, SERVER, JOIN);
    this.nodes.push(vm);
    return out;
  }

  async kubectl(argv: readonly string[], { input }: { input?: string } = {}): Promise<ExecResult> {
    const own = ["--kubeconfig", this.kubeconfigPath, "--cache-dir", this.#cache];
    return result(await runToEnd("kubectl", [...own, ...argv], input));
  }

  async apply(manifest: Manifest, { namespace }: { namespace?: string } = {}): Promise<[]> {
    const items = { apiVersion: "v1", kind: "List", items: [manifest].flat() };
    const input = typeof manifest === "string" ? manifest : JSON.stringify(items);
    const where = namespace ? ["-n", namespace] : [];
    const { exitCode, stderr } = await this.kubectl([...where, "apply", "-f", "-"], { input });
    if (exitCode !== 0) throw new Error(stderr);
    return [];
  }

  async exec(target: string, argv: readonly string[]): Promise<ExecResult> {
    const [namespace = "", pod] = target.split("/");
    if (pod !== undefined) return this.kubectl(["-n", namespace, "exec", pod, "--", ...argv]);
    const [command = "", ...args] = argv;
    return result(
      await (target === "underlay" ? runToEnd(command, args) : this.#node(target).run(quoted(argv))),
    );
  }

  async curl(from: string, url: string, args: readonly string[] = []): Promise<CurlResult> {
    const own = ["-sS", "--max-time", "60", "-w", "\n%{http_code}"];
    const { stdout, stderr, exitCode } = await this.exec(from, ["curl", ...own, ...args, url]);
    const end = stdout.lastIndexOf("\n");
    const [body, status] = [stdout.slice(0, Math.max(end, 0)), Number(stdout.slice(end + 1))];
    return { status, body, exitCode, stderr };
  }

  waitFor<T extends KubeObject>(
    resource: Resource<T>,
    name: string,
    condition: WaitCondition<T>,
    { namespace = "default" } = {},
  ): Promise<Stored<T> | undefined> {
    return waitForObject(this.client, resource, name, condition, { namespace, timeoutMs: PATIENCE_MS });
  }

  /** As the lab's, but for how long: whoever asks for a minute means a machine that is quicker. */
  async waitUntil<T>(check: () => T | Promise<T>, { what = "the condition", intervalMs = 200 } = {}) {
    for (const deadline = Date.now() + PATIENCE_MS; Date.now() < deadline; await sleep(intervalMs)) {
      const value = await check();
      if (value) return value;
    }
    throw new Error(`${what} did not hold within ${PATIENCE_MS} ms`);
  }

  #node(name: string): VirtualMachine {
    const found = this.nodes.find((node) => node.name === name);
    if (!found) throw new Error(`there is no ${name}`);
    return found;
  }

  rules(host: string, table?: string): Promise<string> {
    return this.#node(host).must(`iptables-save ${table ? `-t ${table}` : ""}`);
  }

  /**
   * As the lab's: EndpointSlices name the pods that are ready, and every node's rules have a Service and its slice that
   * were made after that. Each watch brings what was before, first.
   */
  async waitForSync(): Promise<void> {
    await eventually(async () => {
      const [services, slices, pods] = await Promise.all([
        this.client.list(SERVICES),
        this.client.list(ENDPOINT_SLICES),
        this.client.list(PODS),
      ]);
      return staleService(services.items, slices.items, pods.items) === undefined;
    });
    const name = `sync-${++this.#syncs}`;
    const metadata = { name, namespace: "kube-public" };
    const address = `192.0.2.${this.#syncs}`;
    const ports = [{ port: 9, protocol: "TCP" as const }];
    await this.client.create(SERVICES, { metadata, spec: { ports } });
    await this.client.create(ENDPOINT_SLICES, {
      metadata: { ...metadata, labels: { "kubernetes.io/service-name": name } },
      addressType: "IPv4",
      endpoints: [{ addresses: [address] }],
      ports: [{ name: "", port: 9, protocol: "TCP" }],
    });
    const isThere = async (node: VirtualMachine) =>
      (await node.must("iptables-save -t nat")).includes(`--to-destination ${address}:9`);
    await Promise.all(this.nodes.map((node) => eventually(() => isThere(node))));
    for (const resource of [SERVICES, ENDPOINT_SLICES] as const)
      await this.client.delete<Service | EndpointSlice>(resource, name, { namespace: metadata.namespace });
  }

  /** Whether the Node's condition Ready is so. */
  async isReady(vm: VirtualMachine, status = "True"): Promise<boolean> {
    const path = '{.status.conditions[?(@.type=="Ready")].status}';
    return (await this.kubectl(["get", "node", vm.name, "-o", `jsonpath=${path}`])).stdout === status;
  }
}
