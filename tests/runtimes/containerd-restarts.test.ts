// Real containers while things end: the node agent, containerd, a sandbox, and the choice of the runtime itself.

import { join } from "node:path";
import type { PodStatus } from "kubernetes-types/core/v1.js";
import t from "tap";
import { type ContainerNodes, withContainerNodes } from "../helpers/container-nodes.js";
import { callRuntime, fieldsOf, message, textOf } from "../helpers/cri.js";
import { page } from "../helpers/runtime-checks.js";
import { eventually } from "../helpers/until.js";

await withContainerNodes(suite);

async function suite(nodes: ContainerNodes): Promise<void> {
  const { cluster, one, two, kubectl, get, pod, isReady, held } = nodes;
  for (const machine of [one, two]) await nodes.importImage(machine);
  await nodes.deployWeb();
  for (const name of ["full", "brief"]) {
    await pod(name, { command: ["/bin/sleep", "1000000"] }, { nodeName: "one" });
    await isReady(name);
  }

  t.test(
    "an end of the node agent, by SIGTERM and by SIGKILL: containers go on, and are taken up as they are",
    async (t) => {
      const facts = async () => {
        const { items } = JSON.parse(await kubectl("get pods -o json"));
        return items.map(({ metadata, status }: { metadata: { name: string }; status: PodStatus }) => [
          metadata.name,
          status.podIP,
          status.containerStatuses?.map((one) => [one.containerID, one.restartCount, one.ready]),
        ]);
      };
      const token = () => kubectl("exec brief -- cat /var/run/secrets/kubernetes.io/serviceaccount/token");
      const first = await token();
      const before = await facts();
      await cluster.stopNode(one);
      await (await nodes.startNode(one)).logged(/the node is Ready/);
      await eventually(async () => JSON.stringify(await facts()) === JSON.stringify(before));
      await eventually(async () => (await token()) !== first);
      await cluster.killNode(one);
      const url = `http://${await get("pods -l app=web --field-selector=spec.nodeName=one", ".items[0].status.podIP")}:8080/`;
      t.match(await page(two, url), /hello/, "while it is away");
      // One that ends meanwhile is restarted, one that is deleted meanwhile is ended.
      const id = (await get("pod brief", ".status.containerStatuses[0].containerID")).split("//")[1] ?? "";
      await nodes.ctr(one, "task", "kill", "-s", "SIGKILL", id);
      await kubectl("delete pod full --wait=false");
      await (await nodes.startNode(one)).logged(/the node is Ready/);
      await eventually(async () => !/full/.test(await kubectl("get pods")));
      const status = ".status.containerStatuses[0]";
      await eventually(async () => (await get("pod brief", `${status}.restartCount`)) === "1");
      const others = (all: [string][]) => all.filter(([name]) => name !== "full" && name !== "brief");
      await eventually(async () => JSON.stringify(others(await facts())) === JSON.stringify(others(before)));
      t.match(await get("pod brief", `${status}.lastState.terminated`), `"containerID":"containerd://${id}"`);
      t.match(await get("pod brief", `${status}.lastState.terminated`), /"exitCode":137/);
      t.match(await kubectl("exec deployment/web -- cat /www/index.html"), /hello/);
      t.match(await kubectl("logs deployment/web"), /serving/);
    },
  );

  t.test("kill -9 of containerd: its containers go on, and what comes then starts later", async (t) => {
    const daemon = nodes.daemon(two);
    daemon?.child.kill("SIGKILL");
    await daemon?.exited;
    await pod("later", { command: ["/bin/sleep", "1000000"] }, { nodeName: "two" });
    const url = `http://${await get("pods -l app=web --field-selector=spec.nodeName=two", ".items[0].status.podIP")}:8080/`;
    t.match(await page(one, url), /hello/, "while it is away");
    await eventually(async () => /FailedCreatePodSandBox/.test(await kubectl("get events -o json")));
    await nodes.startContainerd(two);
    await isReady("later");
    t.match(await page(one, url), /hello/);
    const counts = await get("pods -l app=web", ".items[*].status.containerStatuses[0].restartCount");
    t.equal(counts, "0 0");
  });

  t.test("a sandbox that was ended by somebody else is made again", async (t) => {
    const id = async () =>
      (await get("pod later", ".status.containerStatuses[0].containerID")).split("//")[1] ?? "";
    const [before, ip] = [await id(), await get("pod later", ".status.podIP")];
    const cri = (method: string, request: Parameters<typeof message>[0]) =>
      callRuntime(join(cluster.directory, "two/var/containerd.sock"), method, message(request));
    const status = fieldsOf(await cri("ListContainers", { 1: message({ 1: before }) })).get(1) as Buffer;
    await cri("StopPodSandbox", { 1: textOf(status, 2) });
    await eventually(async () => (await id()) !== before);
    await isReady("later");
    t.match(await get("pod later", ".status.podIP"), /^10\.244\./, `it was ${ip}`);
    t.match(await kubectl("get events -o json"), /SandboxChanged/);
  });

  t.test("from emulated pods to real ones and back: what the other one had is ended", async (t) => {
    await pod("real", { command: ["/bin/sleep", "1000000"] }, { nodeName: "two" });
    await isReady("real");
    t.match(await held(two), /kubeplumb-test/);
    await cluster.stopNode(two);
    t.match(await held(two), /kubeplumb-test/, "it goes on");
    const node = await cluster.startNode(two);
    await node.logged(/pods of the container runtime ended/);
    await eventually(async () => !/kubeplumb-test/.test(await held(two)));
    await eventually(async () =>
      /^kubeplumb:/.test(await get("pod real", ".status.containerStatuses[0].containerID")),
    );
    await kubectl("delete pod real --wait=true --timeout=60s");
  });
}
