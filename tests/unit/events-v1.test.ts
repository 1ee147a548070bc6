// Events of events.k8s.io/v1 as kube-proxy sends them, and as those who ask for v1 see them.

import t from "tap";
import { type Json, open, PROTOBUF, PROTOBUF_FIRST } from "./helpers/served-door.js";

const EVENTS_V1 = "/apis/events.k8s.io/v1/namespaces/default/events";

/** Just enough of the wire format to write what a protobuf client writes: strings, varints, nested messages. */
function message(fields: Record<number, string | number | Buffer>): Buffer {
  const varint = (n: number): number[] => (n < 128 ? [n] : [(n % 128) | 128, ...varint(Math.floor(n / 128))]);
  const parts = Object.entries(fields).map(([number, value]) => {
    const tag = Number(number) * 8;
    if (typeof value === "number") return Buffer.from([...varint(tag), ...varint(value)]);
    const bytes = Buffer.from(value);
    return Buffer.concat([Buffer.from([...varint(tag + 2), ...varint(bytes.length)]), bytes]);
  });
  return Buffer.concat(parts);
}

t.test("Events of events.k8s.io/v1", async (t) => {
  const { door } = await open(t);
  const seconds = Math.floor(Date.now() / 1000);
  // kube-proxy's "Starting", in protobuf as kube-proxy sends it.
  const starting = message({
    1: message({ 1: "node-1.17a", 3: "default" }),
    2: message({ 1: seconds, 2: 5000 }),
    4: "kube-proxy",
    5: "kube-proxy-node-1",
    6: "StartKubeProxy",
    7: "Starting",
    8: message({ 1: "Node", 3: "node-1", 4: "node-1" }),
    10: "",
    11: "Normal",
  });
  const envelope = message({ 1: message({ 1: "events.k8s.io/v1", 2: "Event" }), 2: starting });
  const body = Buffer.concat([Buffer.from("k8s\0"), envelope]);
  const made = await door.ask(EVENTS_V1, { method: "POST", type: PROTOBUF, accept: PROTOBUF_FIRST, body });
  t.equal(made.code, 201, JSON.stringify(made.body));
  t.match(made.body, {
    kind: "Event",
    apiVersion: "events.k8s.io/v1",
    metadata: { name: "node-1.17a", namespace: "default", uid: String },
    regarding: { kind: "Node", name: "node-1" },
    reportingController: "kube-proxy",
    reason: "Starting",
    type: "Normal",
  });
  t.equal(Date.parse(made.body.eventTime), seconds * 1000);

  const core = await door.ask("/api/v1/namespaces/default/events/node-1.17a");
  t.match(core.body, {
    apiVersion: "v1",
    involvedObject: { kind: "Node", name: "node-1" },
    reportingComponent: "kube-proxy",
  });
  t.equal(core.body.metadata.resourceVersion, made.body.metadata.resourceVersion, "one object, two versions");
  t.notOk("regarding" in core.body);

  const series = { series: { count: 2, lastObservedTime: new Date().toISOString().replace("Z", "000Z") } };
  const patched = await door.ask(`${EVENTS_V1}/node-1.17a`, {
    method: "PATCH",
    type: "application/strategic-merge-patch+json",
    accept: PROTOBUF_FIRST,
    body: series,
  });
  t.match(patched, { code: 200, body: { apiVersion: "events.k8s.io/v1", ...series } });
  const changed = await door.ask(`${EVENTS_V1}/node-1.17a`, {
    method: "PATCH",
    type: "application/merge-patch+json",
    body: { note: "no, otherwise" },
  });
  t.match(changed, {
    code: 422,
    body: { message: /message: Invalid value: "no, otherwise": field is immutable/ },
  });

  const bad = await door.ask(EVENTS_V1, {
    method: "POST",
    body: {
      metadata: { name: "bad" },
      series: { count: 1 },
      type: "Odd",
      regarding: { kind: "Node", name: "x" },
    },
  });
  t.equal(bad.code, 422);
  t.strictSame(
    bad.body.details.causes.map((c: Json) => `${c.field}: ${c.message}`),
    [
      "eventTime: Required value",
      "series.count: Invalid value: 1: should be at least 2",
      "series.lastObservedTime: Required value",
      "reportingController: Required value",
      "reportingInstance: Required value",
      "action: Required value",
      "reason: Required value",
      'type: Invalid value: "": has invalid value: Odd',
    ],
  );

  // Written through the old version, seen through the new one: list, selector, watch, table.
  const old = {
    metadata: { name: "old.1" },
    involvedObject: { kind: "Pod", name: "web", namespace: "default" },
    message: "Started",
    source: { component: "kubelet", host: "node-1" },
    count: 3,
    type: "Normal",
  };
  await door.ask("/api/v1/namespaces/default/events", { method: "POST", body: old });
  const pods = await door.ask(`${EVENTS_V1}?fieldSelector=regarding.kind%3DPod`);
  t.match(pods.body, { kind: "EventList", apiVersion: "events.k8s.io/v1", items: { length: 1 } });
  t.match(pods.body.items[0], { regarding: { name: "web" }, note: "Started", deprecatedCount: 3 });
  t.equal((await door.ask(`${EVENTS_V1}?fieldSelector=involvedObject.kind%3DPod`)).code, 400);
  const seen = await door.watch(`${EVENTS_V1}?watch=true&resourceVersion=0`, (events) => events.length === 2);
  t.strictSame(
    seen.map((e) => [e.object.apiVersion, e.object.regarding.name]),
    [
      ["events.k8s.io/v1", "node-1"],
      ["events.k8s.io/v1", "web"],
    ],
  );
  const from = seen.at(-1).object.metadata.resourceVersion;
  const gone = door.watch(
    `${EVENTS_V1}?watch=true&fieldSelector=regarding.kind%3DPod&resourceVersion=${from}`,
    (events) => events.length === 1,
  );
  t.equal((await door.ask(`${EVENTS_V1}/old.1`, { method: "DELETE" })).code, 200);
  t.match(await gone, [{ type: "DELETED", object: { apiVersion: "events.k8s.io/v1", note: "Started" } }]);
  t.equal((await door.ask("/api/v1/namespaces/default/events/old.1")).code, 404);
  const table = await door.ask(EVENTS_V1, { accept: "application/json;as=Table;v=v1;g=meta.k8s.io" });
  t.strictSame(table.body.rows[0].cells.slice(1, 4), ["Normal", "Starting", "node/node-1"]);
});
