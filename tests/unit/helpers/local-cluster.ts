// A control plane without a transport for tests: the real store, kinds, API and controllers in this process, and
// kubelets that only report. Knows no HTTP and no kernel.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type KubeClient, NODES, PODS } from "../../../common/client.js";
import { InformerFactory } from "../../../common/informer.js";
import type { Node, Pod, Stored } from "../../../common/k8s.js";
import { createLogger, type Logger } from "../../../common/log.js";
import type { Admission } from "../../../control/api/admission.js";
import { objectCodec } from "../../../control/api/codec.js";
import { LocalClient } from "../../../control/api/local.js";
import { Registry } from "../../../control/api/registry.js";
import { Schema } from "../../../control/api/schema.js";
import { createResources } from "../../../control/resources/index.js";
import { LmdbStore } from "../../../control/store/lmdb.js";

export interface LocalApi {
  client: KubeClient;
  informers: InformerFactory;
  log: Logger;
  /** Another set of informers, as another process would have. */
  newInformers(): InformerFactory;
  close(): Promise<void>;
}

/** An empty API on a store in a temporary folder; warnings and errors are logged to stderr at `level`. */
export async function openLocalApi(
  level = "error",
  serviceCIDRs = ["10.96.0.0/16"],
  admission: readonly Admission[] = [],
): Promise<LocalApi> {
  const dir = mkdtempSync(join(tmpdir(), "kubeplumb-test-"));
  const log = createLogger("test", { level });
  const store = await LmdbStore.open<Stored>({ path: join(dir, "store"), codec: objectCodec });
  const definitions = createResources({
    serviceCIDRs,
    nodePortRange: [30000, 32767],
    defaultTolerationSeconds: 300,
  });
  const registry = await Registry.open({ store, schema: Schema.load(), definitions, admission, log });
  const client = new LocalClient(registry);
  const factories: InformerFactory[] = [];
  const newInformers = () => {
    const factory = new InformerFactory(client, { log });
    factories.push(factory);
    return factory;
  };
  return {
    client,
    informers: newInformers(),
    log,
    newInformers,
    async close() {
      for (const factory of factories) factory.stop();
      await store.close();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

const now = () => `${new Date().toISOString().slice(0, 19)}Z`;

/** A Node as a kubelet registers it: Ready, with room for `pods` pods. */
export function readyNode(
  name: string,
  options: { pods?: number; labels?: Record<string, string> } = {},
): Node {
  const condition = (type: string, status: string) => ({
    type,
    status,
    reason: "Test",
    message: "",
    lastHeartbeatTime: now(),
    lastTransitionTime: now(),
  });
  return {
    apiVersion: "v1",
    kind: "Node",
    metadata: { name, labels: { "kubernetes.io/hostname": name, ...options.labels } },
    status: {
      capacity: { cpu: "8", memory: "16Gi", pods: String(options.pods ?? 1100) },
      allocatable: { cpu: "8", memory: "16Gi", pods: String(options.pods ?? 1100) },
      conditions: [condition("Ready", "True"), condition("MemoryPressure", "False")],
      addresses: [{ type: "InternalIP", address: "192.168.56.11" }],
    },
  };
}

/** What a fake kubelet does with a pod that starts: decides when, or whether, it becomes ready. */
export type StartPod = (pod: Stored<Pod>, becomeReady: () => Promise<void>) => void;

/** Plays all kubelets: pods get an address and run, terminating pods end. Returns what stops it. */
export function playKubelets(
  client: KubeClient,
  informers: InformerFactory,
  start: StartPod = (_pod, becomeReady) => void becomeReady(),
): () => void {
  const pods = informers.get(PODS);
  const begun = new Set<string>();
  let address = 0;
  const ignore = () => undefined; // gone, or written by somebody else: the next event tells
  const run = async (pod: Stored<Pod>) => {
    address += 1;
    const podIP = `10.244.${address >> 8}.${address & 255}`;
    const options = { namespace: pod.metadata.namespace ?? "", subresource: "status" as const };
    const report = (ready: boolean) => ({
      metadata: { uid: pod.metadata.uid },
      status: {
        phase: "Running",
        podIP,
        podIPs: [{ ip: podIP }],
        startTime: now(),
        conditions: [{ type: "Ready", status: ready ? "True" : "False", lastTransitionTime: now() }],
      },
    });
    const { name } = pod.metadata;
    await client.patch(PODS, name, "strategic", report(false), options).catch(ignore);
    start(pod, async () => {
      await client.patch(PODS, name, "strategic", report(true), options).catch(ignore);
    });
  };
  const look = (pod: Stored<Pod>) => {
    const { uid, name, namespace, deletionTimestamp } = pod.metadata;
    if (!pod.spec?.nodeName) return;
    if (deletionTimestamp) {
      const options = { namespace: namespace ?? "", gracePeriodSeconds: 0, preconditions: { uid } };
      void client.delete(PODS, name, options).catch(ignore);
    } else if (!begun.has(uid)) {
      begun.add(uid);
      void run(pod);
    }
  };
  return pods.subscribe({ add: look, update: (_old, pod) => look(pod) });
}

/** Resolves with the first result of `probe` that is neither undefined nor false. @throws Error after a minute. */
export async function eventually<T>(what: string, probe: () => Promise<T | undefined | false>): Promise<T> {
  const deadline = Date.now() + 60_000;
  for (;;) {
    const result = await probe();
    if (result !== undefined && result !== false) return result;
    if (Date.now() > deadline) throw new Error(`it never came to this: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

export async function addNodes(
  client: KubeClient,
  count: number,
  options: { pods?: number } = {},
): Promise<void> {
  for (let i = 1; i <= count; i++) await client.create(NODES, readyNode(`node-${i}`, options));
}
