// What pods are given and what is told of them: files that change as a whole, the downward API, fields that are not
// honoured, reports one after another.

import { lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import type { Volume } from "kubernetes-types/core/v1.js";
import t from "tap";
import { CONFIG_MAPS, PODS, SECRETS } from "../../common/client.js";
import type { Pod } from "../../common/k8s.js";
import { type Payload, writeAtomically } from "../../node/pods/atomic-files.js";
import { containerEnv } from "../../node/pods/env.js";
import type { PodEnvironment } from "../../node/pods/environment.js";
import { ignoredFields } from "../../node/pods/ignored-fields.js";
import { volumePayload } from "../../node/pods/payload.js";
import { PodTokens } from "../../node/pods/pod-tokens.js";
import { resourceValue } from "../../node/pods/resource-field.js";
import { PodWorker } from "../../node/pods/worker.js";
import { FakeClient } from "./helpers/node-fake-client.js";
import { pod } from "./helpers/node-objects.js";

const files = (entries: Record<string, string>, mode = 0o644): Payload =>
  new Map(Object.entries(entries).map(([path, text]) => [path, { data: Buffer.from(text), mode }]));

t.test("files that change as a whole", async (t) => {
  const directory = join(t.testdir(), "v");
  mkdirSync(directory);
  const read = (path: string) => readFileSync(join(directory, path), "utf8");
  const visible = () => readdirSync(directory).filter((name) => !name.startsWith(".."));
  const umask = process.umask(0o077);
  t.teardown(() => process.umask(umask));
  t.ok(writeAtomically(directory, files({ a: "1", "deep/b": "2", gone: "x" })));
  t.equal(read("a") + read("deep/b"), "12");
  t.equal(lstatSync(join(directory, "..data/a")).mode & 0o777, 0o644, "whatever the umask");
  t.equal(readlinkSync(join(directory, "a")), "..data/a");
  const first = readlinkSync(join(directory, "..data"));
  t.notOk(writeAtomically(directory, files({ a: "1", "deep/b": "2", gone: "x" })), "no news");
  t.equal(readlinkSync(join(directory, "..data")), first);

  t.ok(writeAtomically(directory, files({ a: "3", "deep/b": "2", new: "n" })));
  t.same(visible().sort(), ["a", "deep", "new"]);
  t.equal(read("a") + read("deep/b") + read("new"), "32n");
  const hidden = readdirSync(directory).filter((name) => name.startsWith(".."));
  t.equal(hidden.length, 2, "..data and what it leads to");
  t.ok(writeAtomically(directory, files({ a: "3", "deep/b": "2", new: "n" }, 0o600)), "another mode is news");
  t.ok(writeAtomically(directory, files({})));
  t.same(visible(), []);
});

t.test("requests and limits as numbers", async (t) => {
  const container = { resources: { limits: { cpu: "1500m", memory: "64Mi" }, requests: { cpu: "250m" } } };
  const allocatable = { cpu: "4", memory: "8Gi", "ephemeral-storage": "1000Ki" };
  const value = (resource: string, divisor?: string) =>
    resourceValue(container, { resource, ...(divisor ? { divisor } : {}) }, allocatable);
  t.equal(value("limits.cpu"), "2", "rounded up");
  t.equal(value("limits.cpu", "1m"), "1500");
  t.equal(value("requests.cpu", "1m"), "250");
  t.equal(value("limits.memory"), "67108864");
  t.equal(value("limits.memory", "1Mi"), "64");
  t.equal(value("requests.memory"), "0");
  t.equal(value("limits.ephemeral-storage", "1Ki"), "1000", "what the node has");
  t.equal(value("limits.cpu", "0"), "2");
  t.throws(() => value("limits.pods"), { message: "unsupported container resource : limits.pods" });
  t.throws(() => value("limits.cpu", "much"), { message: '"much" is not a quantity' });

  const sources = {
    configMap: () => undefined,
    secret: () => undefined,
    nodeName: "node-1",
    hostIPs: [],
    podIPs: [],
    allocatable,
  };
  const other = { name: "other", resources: { limits: { cpu: "3" } } };
  const ref = (containerName?: string) => ({
    name: "CPUS",
    valueFrom: { resourceFieldRef: { resource: "limits.cpu", ...(containerName ? { containerName } : {}) } },
  });
  const env = (containerName?: string) =>
    containerEnv(pod({ containers: [other] }), { ...container, env: [ref(containerName)] }, {}, sources);
  t.same(env(), { CPUS: "2" });
  t.same(env("other"), { CPUS: "3" });
  t.throws(() => env("none"), { message: "container none not found" });
});

t.test("files of the downward API, and of several sources in one", async (t) => {
  const client = new FakeClient();
  const namespace = "shop";
  await client.create(CONFIG_MAPS, { metadata: { name: "conf", namespace }, data: { a: "map", b: "map" } });
  const token = Buffer.from("secret").toString("base64");
  await client.create(SECRETS, { metadata: { name: "key", namespace }, data: { b: token } });
  const subject = pod(
    { containers: [{ name: "main", resources: { limits: { memory: "1Gi" } } }] },
    { labels: { tier: 'a"b', app: "web" }, annotations: { note: "n" } },
  );
  const make = async (volume: Omit<Volume, "name">) => {
    const allocatable = {};
    const tokens = new PodTokens(client);
    const sources = { client, tokens, nodeName: "node-1", hostIPs: [], podIPs: [], allocatable };
    const payload = await volumePayload(subject, { name: "v", ...volume }, sources);
    return Object.fromEntries([...payload].map(([path, { data, mode }]) => [path, [data.toString(), mode]]));
  };
  const labels = { path: "labels", fieldRef: { fieldPath: "metadata.labels" } };
  const memory = {
    path: "deep/memory",
    mode: 0o400,
    resourceFieldRef: { containerName: "main", resource: "limits.memory", divisor: "1Mi" },
  };
  const one = { path: "one", fieldRef: { fieldPath: "metadata.labels['app']" } };
  t.same(await make({ downwardAPI: { defaultMode: 0o600, items: [labels, memory, one] } }), {
    labels: ['app="web"\ntier="a\\"b"', 0o600],
    "deep/memory": ["1024", 0o400],
    one: ["web", 0o600],
  });
  const configMap = { name: "conf" };
  const secret = { name: "key", items: [{ key: "b", path: "b", mode: 0o440 }] };
  const all = { projected: { sources: [{ configMap }, { secret }, { downwardAPI: { items: [one] } }] } };
  t.same(await make(all), { a: ["map", 0o644], b: ["secret", 0o440], one: ["web", 0o644] }, "the last wins");
  t.same(await make({ secret: { secretName: "key", defaultMode: 0o400 } }), { b: ["secret", 0o400] });
  await t.rejects(make({ projected: { sources: [{ clusterTrustBundle: { path: "b", name: "x" } }] } }), {
    message: /^kubeplumb has no projected source clusterTrustBundle; supported: /,
  });
  await t.rejects(make({ configMap: { name: "none" } }), { message: 'configmap "none" not found' });
  t.same(await make({ configMap: { name: "none", optional: true } }), {});
  const missing = { name: "conf", items: [{ key: "c", path: "c" }] };
  await t.rejects(make({ configMap: missing }), {
    message: 'configmap "conf" references non-existent key: c',
  });
  t.same(await make({ configMap: { ...missing, optional: true } }), {});
  const outside = { name: "conf", items: [{ key: "a", path: "../a" }] };
  await t.rejects(make({ configMap: outside }), { message: 'path "../a" leaves the volume' });
});

t.test("fields that are not honoured", async (t) => {
  t.same(ignoredFields(pod({ securityContext: {}, volumes: [{ name: "v", emptyDir: {} }] }), true), []);
  const asking = pod({
    hostPID: true,
    runtimeClassName: "sandboxed",
    securityContext: { fsGroup: 0 },
    initContainers: [{ name: "i", securityContext: { runAsUser: 1000, runAsNonRoot: false } }],
    containers: [{ name: "c", securityContext: { runAsUser: 1000 } }],
    volumes: [{ name: "v", emptyDir: { medium: "Memory" } }],
  });
  t.same(ignoredFields(asking, false), ["spec.runtimeClassName", "spec.volumes{v}.emptyDir.medium"]);
  t.same(ignoredFields(asking, true), [
    "spec.runtimeClassName",
    "spec.securityContext.fsGroup",
    "spec.initContainers{i}.securityContext.runAsUser",
    "spec.containers{c}.securityContext.runAsUser",
    "spec.volumes{v}.emptyDir.medium",
  ]);
});

t.test("one report of a pod at a time, each of what is so when it goes out", async (t) => {
  const client = new FakeClient();
  const stored = await client.create(PODS, pod({ containers: [{ name: "main" }] }) as Pod);
  const written: string[] = [];
  let open = () => {};
  const gate = new Promise<void>((resolve) => {
    open = resolve;
  });
  const patch = client.patch.bind(client);
  client.patch = async (r, name, type, body, options) => {
    const phase = (body as Pod).status?.phase ?? "";
    written.push(`sent ${phase}`);
    if (written.length === 1) await gate;
    return patch(r, name, type, body, options);
  };
  const backoff = { baseMs: 1, maxMs: 1 };
  const environment = {
    client,
    nodeIPs: ["192.168.56.11"],
    timing: { restartBackoff: backoff, imageBackoff: backoff, retryMs: 1, volumesMs: 1 },
    rootDir: t.testdir(),
    events: { record: () => {} },
    log: { warn: () => {} },
    runtime: { left: () => undefined, images: {} },
  };
  const host = { again: () => {}, report: () => {}, gone: () => {} };
  const worker = new PodWorker(stored, environment as unknown as PodEnvironment, host);
  const first = worker.report();
  await new Promise(setImmediate);
  t.same(written, ["sent Pending"]);
  const second = worker.report();
  // What makes a pod Failed at once, without a container: its deadline.
  worker.update({ ...stored, spec: { containers: [{ name: "main" }], activeDeadlineSeconds: 0 } });
  void worker.sync();
  await new Promise(setImmediate);
  t.same(written, ["sent Pending"], "the second waits for the first");
  open();
  await Promise.all([first, second]);
  t.same(written, ["sent Pending", "sent Failed"]);
  t.equal((await client.get(PODS, "web-1", "shop")).status?.phase, "Failed");
});
