// What the node agent tells of its host and serves: container logs, the Node object, remote commands.

import { readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { NODES } from "../../common/client.js";
import { InformerFactory } from "../../common/informer.js";
import type { Node, Stored } from "../../common/k8s.js";
import { prettyName } from "../../node/host/machine.js";
import {
  addressHolder,
  type NodeFacts,
  nodeConditions,
  nodeStatus,
  sameNodeStatus,
} from "../../node/host/node-object.js";
import { ContainerLog, readLog } from "../../node/kubelet/container-log.js";
import {
  formatEntry,
  LineSplitter,
  logTime,
  parseEntry,
  parseLogQuery,
  renderEntry,
  selectEntries,
} from "../../node/kubelet/log-format.js";
import { exitStatus } from "../../node/process/launch.js";
import { mappedIds } from "../../node/process/user-ns.js";
import { parseStat } from "../../node/reaper.js";
import { exitStatusMessage, parseRemoteCommandQuery } from "../../node/streams/remote-command.js";
import { wireOverlay } from "../../node/wiring.js";
import { FakeClient } from "./helpers/node-fake-client.js";

t.test("the log file of a container", async (t) => {
  const directory = t.testdir();
  const path = join(directory, "pods/c/0.log");
  const failures: Error[] = [];
  const log = new ContainerLog(path, (error) => failures.push(error));
  t.equal(log.read({}), "", "nothing written, no file");
  const followed: string[] = [];
  let over = 0;
  const stop = log.follow(
    {},
    (text) => followed.push(text),
    () => over++,
  );
  log.follow(
    { stream: "stderr", timestamps: true },
    (text) => followed.push(text),
    () => over++,
  );
  log.write("stdout", "one\ntw");
  log.write("stderr", "bad\n");
  t.equal(log.read({}), "one\nbad\n");
  t.match(followed.splice(0), ["one\n", "bad\n", /^20\S+Z bad\n$/]);
  stop();
  rmSync(join(directory, "pods"), { recursive: true });
  writeFileSync(join(directory, "pods"), "in the way");
  log.write("stdout", "o\n");
  log.flush();
  t.match(failures.splice(0), [{ code: "ENOTDIR" }], "told, not thrown");
  rmSync(join(directory, "pods"));
  log.write("stdout", "three\nfo");
  t.equal(log.read({}), "three\n", "made again");
  log.close();
  log.write("stdout", "late\n");
  log.close();
  t.same([followed, over, failures], [[], 1, []]);
  t.equal(readLog(path, {}), "three\nfo", "what had no end of line is there");
  log.follow(
    {},
    () => {},
    () => over++,
  );
  t.equal(over, 2, "over at once");

  const big = new ContainerLog(join(directory, "big.log"), (error) => failures.push(error));
  for (const letter of ["a", "b", "c"]) {
    big.write("stdout", `${letter.repeat(1023)}\n`.repeat(10 * 1024));
    big.flush();
  }
  t.same(readdirSync(directory).sort(), ["big.log", "big.log.1", "pods"], "one older file is kept");
  const text = big.read({});
  t.same([text.length, text[0], text.at(-2)], [20 * 1024 * 1024, "b", "c"]);
  big.close();
});

t.test("container logs", async (t) => {
  const entry = { time: logTime(new Date(0)), stream: "stdout", tag: "F", text: "a b  c" } as const;
  t.equal(formatEntry(entry), "1970-01-01T00:00:00.000000000Z stdout F a b  c\n");
  t.same(parseEntry(formatEntry(entry).trimEnd()), entry);
  t.same(parseEntry("2026-01-01T00:00:00Z stderr P "), {
    time: "2026-01-01T00:00:00Z",
    stream: "stderr",
    tag: "P",
    text: "",
  });
  t.match(parseEntry("2026-01-01T00:00:00Z stdout F:more x"), { tag: "F", text: "x" });
  t.equal(parseEntry("nonsense"), undefined);

  const pieces: string[] = [];
  const splitter = new LineSplitter((text, tag) => pieces.push(tag + text));
  splitter.write(Buffer.from([0x61, 0xc3]));
  splitter.write(Buffer.from([0xa4, 0x0a, 0x0a]));
  splitter.write("no end");
  t.same(pieces, ["Faä", "F"], "a character in two pieces, an empty line");
  splitter.end();
  t.same(pieces.at(-1), "Pno end");
  pieces.length = 0;
  splitter.write(`${"x".repeat(LineSplitter.LONGEST + 1)}\n`);
  t.same(
    pieces.map((one) => [one[0], one.length - 1]),
    [
      ["P", LineSplitter.LONGEST],
      ["F", 1],
    ],
  );

  const at = (second: number, text: string, tag = "F", stream = "stdout") =>
    `2026-11-21T00:00:0${second}.000000000Z ${stream} ${tag} ${text}\n`;
  const file =
    at(1, "one") + at(2, "tw", "P") + at(2, "o") + at(3, "three", "F", "stderr") + at(4, "rest", "P");
  const text = (options: Parameters<typeof selectEntries>[1]) =>
    selectEntries(file, options)
      .map((one) => renderEntry(one, false))
      .join("");
  t.equal(text({}), "one\ntwo\nthree\nrest");
  t.equal(text({ tailLines: 0 }), "");
  t.equal(text({ tailLines: 1 }), "rest");
  t.equal(text({ tailLines: 3 }), "two\nthree\nrest", "a line in pieces counts once");
  t.equal(text({ tailLines: 99 }), text({}));
  t.equal(text({ since: Date.parse("2026-11-21T00:00:03Z") }), "three\nrest");
  t.equal(text({ stream: "stderr" }), "three\n");
  const query = (q: string) => parseLogQuery(new URLSearchParams(q), 100_000);
  t.match(query("tailLines=5&follow=true&sinceSeconds=10"), { tailLines: 5, follow: true, since: 90_000 });
  t.throws(() => query("tailLines=-1"), { message: 'tailLines: "-1" is not a whole number of at least 0' });
  t.throws(() => query("sinceTime=yesterday"), { message: 'sinceTime: "yesterday" is not an RFC 3339 time' });
  t.throws(() => query("sinceTime=2026-01-01T00:00:00Z&sinceSeconds=1"), { message: /at most one of/ });
});

t.test("the Node object", async (t) => {
  const nodeFacts: NodeFacts = {
    name: "node-1",
    nodeIPs: ["192.168.56.11", "fd00:56::11"],
    labels: { zone: "a" },
    taints: [],
    arch: "amd64",
    info: {} as NodeFacts["info"],
    capacity: { pods: "110" },
  };
  const [early, late] = ["2026-11-21T00:00:00Z", "2026-11-21T00:01:00Z"];
  const down = nodeStatus(nodeFacts, { networkProblem: "no network" }, undefined, early);
  const ready = (status: typeof down) => status.conditions?.find((one) => one.type === "Ready");
  t.match(ready(down), { status: "False", reason: "KubeletNotReady", message: "no network" });
  t.notOk(
    down.conditions?.some((one) => one.type === "NetworkUnavailable"),
    "the overlay has said nothing yet",
  );
  const up = nodeStatus(nodeFacts, { overlayUp: true }, down, late);
  t.match(ready(up), { status: "True", reason: "KubeletReady", lastTransitionTime: late });
  t.match(
    up.conditions?.find((one) => one.type === "NetworkUnavailable"),
    { status: "False", reason: "FlannelIsUp" },
  );
  t.equal(up.conditions?.find((one) => one.type === "DiskPressure")?.lastTransitionTime, early);
  t.ok(
    sameNodeStatus(nodeStatus(nodeFacts, { overlayUp: true }, up, "2026-11-21T00:09:00Z"), up),
    "heartbeats aside",
  );
  t.notOk(sameNodeStatus(down, up));
  for (const change of [
    { addresses: [{ type: "InternalIP", address: "192.168.56.99" }] },
    { capacity: { pods: "1" } },
    { allocatable: { pods: "1" } },
    { nodeInfo: { kubeletVersion: "v1.0.0" } as NodeFacts["info"] },
  ]) {
    t.notOk(sameNodeStatus({ ...up, ...change }, up), JSON.stringify(change));
  }
  const foreign = { type: "Custom", status: "True" };
  t.match(nodeConditions({}, [foreign], late)[0], foreign, "conditions of others stay");

  const other = (name: string, address: string) => ({
    apiVersion: "v1",
    kind: "Node",
    metadata: { name, uid: name, resourceVersion: "1", creationTimestamp: "" },
    status: { addresses: [{ type: "InternalIP", address }] },
  });
  const nodes = [other("node-1", "192.168.56.11"), other("node-2", "192.168.56.12")];
  t.equal(addressHolder(nodes, nodeFacts), undefined, "the node itself may have it");
  t.match(addressHolder([...nodes, other("node-3", "192.168.56.11")], nodeFacts), {
    node: { metadata: { name: "node-3" } },
    ip: "192.168.56.11",
  });
  t.match(addressHolder([...nodes, other("node-3", "fd00:56::11")], nodeFacts), { ip: "fd00:56::11" });
  t.same(up.addresses, [
    { type: "InternalIP", address: "192.168.56.11" },
    { type: "InternalIP", address: "fd00:56::11" },
    { type: "Hostname", address: "node-1" },
  ]);
  t.equal(
    prettyName('NAME=x\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n'),
    "Debian GNU/Linux 12 (bookworm)",
  );
  t.equal(prettyName("PRETTY_NAME=Plain\n"), "Plain");
  t.equal(prettyName("NAME=x\n"), "Linux");
});

t.test("Nodes to the overlays of hosts that share an informer", async (t) => {
  const client = new FakeClient();
  const informers = new InformerFactory(client);
  t.teardown(() => informers.stop());
  /** A host that notes what it is told. */
  const host = (name: string) => {
    const heard = { own: [] as string[], lease: [] as string[], lists: [] as string[] };
    const overlay = {
      setOwnNode: (node: Stored<Node>) => void heard.lease.push(node.spec?.podCIDR ?? ""),
      nodesChanged: (nodes: readonly Stored<Node>[]) =>
        void heard.lists.push(nodes.map((node) => node.metadata.name).join(" ")),
    };
    const leave = wireOverlay(informers, overlay, name, (node) => heard.own.push(node.metadata.name));
    return { heard, leave };
  };
  /** What a host has heard since the last time, when there is nothing more to come. */
  const news = async ({ heard }: ReturnType<typeof host>) => {
    await new Promise((resolve) => setTimeout(resolve, 100));
    const { own, lease, lists } = heard;
    Object.assign(heard, { own: [], lease: [], lists: [] });
    return { own, lease, lists };
  };
  const none = { own: [], lease: [], lists: [] };
  const create = (name: string) => client.create(NODES, { metadata: { name } });
  const patch = (name: string, change: object) => client.patch(NODES, name, "merge", change);
  const condition = (type: string, status: "True" | "False", lastHeartbeatTime: string) => ({
    status: { conditions: [{ type, status, lastHeartbeatTime }] },
  });

  const one = host("node-1");
  t.same(await news(one), none, "no list yet is not an empty one");
  informers.start();
  t.same(await news(one), { own: [], lease: [], lists: [""] });
  await create("node-1");
  t.same(await news(one), { own: ["node-1"], lease: [], lists: ["node-1"] }, "no lease without a podCIDR");
  await patch("node-1", { spec: { podCIDR: "10.244.0.0/24" } });
  t.same(await news(one), { own: ["node-1"], lease: ["10.244.0.0/24"], lists: ["node-1"] });

  const two = host("node-2");
  t.same(await news(two), { own: [], lease: [], lists: ["node-1"] }, "one that joins hears what there is");
  await news(one);
  await Promise.all([create("node-2"), create("node-3"), create("node-4")]);
  const all = "node-1 node-2 node-3 node-4";
  t.same(await news(one), { own: [], lease: [], lists: [all] }, "many changes in one go");
  t.same(await news(two), { own: ["node-2"], lease: [], lists: [all] });

  await patch("node-1", condition("Ready", "True", "2026-11-21T00:00:00Z"));
  await patch("node-3", condition("NetworkUnavailable", "False", "2026-11-21T00:00:00Z"));
  t.same(
    [await news(one), await news(two)],
    [none, none],
    "heartbeats and the conditions of others are no news",
  );
  await patch("node-1", condition("NetworkUnavailable", "False", "2026-11-21T00:00:00Z"));
  t.same(await news(one), { own: ["node-1"], lease: ["10.244.0.0/24"], lists: [] }, "of interest to itself");
  t.same(await news(two), none);
  for (const change of [
    { metadata: { annotations: { "flannel.alpha.coreos.com/public-ip": "192.168.56.13" } } },
    { spec: { podCIDR: "10.244.3.0/24" } },
    { status: { addresses: [{ type: "InternalIP", address: "192.168.56.13" }] } },
  ]) {
    await patch("node-3", change);
    t.same(await news(two), { own: [], lease: [], lists: [all] }, JSON.stringify(change));
  }
  await patch("node-3", { metadata: { annotations: { "example.com/other": "x" } } });
  await news(one);
  t.same(await news(two), none, "nobody's annotation");
  await client.delete(NODES, "node-4");
  t.same(await news(two), { own: [], lease: [], lists: ["node-1 node-2 node-3"] });

  const successor = host("node-1");
  one.leave();
  t.same((await news(successor)).own, ["node-1"], "told of a Node that was there before");
  await patch("node-1", { spec: { podCIDR: "10.244.9.0/24" } });
  t.same((await news(successor)).lease, ["10.244.9.0/24"], "the end of the former life does not end it");
  successor.leave();
  two.leave();
  await news(two);
  await patch("node-1", { spec: { podCIDR: "10.244.8.0/24" } });
  t.same([await news(successor), await news(two)], [none, none], "who has left hears nothing");
  const again = host("node-1");
  t.match(await news(again), { lease: ["10.244.8.0/24"], lists: ["node-1 node-2 node-3"] });
  await client.delete(NODES, "node-2");
  t.same((await news(again)).lists, ["node-1 node-3"], "and what comes after");
});

t.test("remote commands and processes", async (t) => {
  t.same(
    parseRemoteCommandQuery(
      "/exec/a/b/c?command=sh&command=-c&command=x%20y&stdin=true&stdout=1&stderr=1&tty=1",
    ),
    {
      command: ["sh", "-c", "x y"],
      stdin: true,
      stdout: true,
      stderr: false,
      tty: true,
    },
  );
  t.match(exitStatusMessage(0), { status: "Success" });
  t.match(exitStatusMessage(3), {
    status: "Failure",
    reason: "NonZeroExitCode",
    details: { causes: [{ reason: "ExitCode", message: "3" }] },
  });
  t.same(exitStatus(3, null), { exitCode: 3 });
  t.same(exitStatus(null, "SIGKILL"), { exitCode: 137, signal: 9 });
  t.same(exitStatus(null, "SIGTERM"), { exitCode: 143, signal: 15 });
  t.equal(mappedIds("         0       1000          1\n"), 1);
  t.equal(mappedIds("0 1000 1\n1 100000 65536\n"), 65_537);
  const rest = Array.from({ length: 17 }, () => "0").join(" ");
  t.same(parseStat(`42 (a b) c)) Z 7 ${rest} 12345 0`), { pid: 42, state: "Z", ppid: 7, startTime: "12345" });
  t.equal(parseStat("nonsense"), undefined);
});
