// hostPort in the lab, with our own plugins and with the reference plugins in their place, and on VMs: from outside, from
// another host, from 127.0.0.1 and from the pod itself.

import t from "tap";
import { clusterUnderTest, onlyInLab } from "../helpers/cluster-under-test.js";
import { REFERENCE } from "../helpers/cni.js";
import { kubectlOf } from "../helpers/kubectl.js";
import { isTheirs, useReferencePlugins } from "../helpers/reference-plugins.js";

const POD = (name: string, nodeName: string, ports: object[]) =>
  JSON.stringify({
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name, labels: { app: name } },
    spec: { nodeName, containers: [{ name: "web", image: "nginx", ports }] },
  });

for (const plugins of ["our own plugins", "the reference plugins"]) {
  const theirs = plugins !== "our own plugins";
  const missing = !REFERENCE && "containernetworking-plugins are missing";
  t.test(plugins, { skip: theirs && (onlyInLab() || missing) }, async (t) => {
    const { cluster, lab, patience } = await clusterUnderTest(t, { nodes: 2 });
    const kubectl = kubectlOf(cluster);
    if (theirs && lab) await useReferencePlugins(lab);
    await cluster.apply(POD("web", "node-1", [{ containerPort: 80, hostPort: 8080 }]));
    await cluster.apply(POD("other", "node-2", []));
    await kubectl("wait", "--for=condition=Ready", "pod/web", "pod/other", `--timeout=${patience}`);
    const node = cluster.hosts.find(({ name }) => name === "node-1")?.ip ?? "";
    const ask = async (from: string, url: string) =>
      (await cluster.curl(from, url, ["--max-time", "60"])).status;
    const ip = await kubectl("get", "pod", "web", "-o", "jsonpath={.status.podIP}");
    if (lab) t.equal(isTheirs(ip), theirs, `${ip}: they did it`);
    t.equal(await ask("underlay", `http://${node}:8080/`), 200, "from outside");
    t.equal(await ask("node-2", `http://${node}:8080/`), 200, "from another host");
    t.equal(await ask("node-1", "http://127.0.0.1:8080/"), 200, "from 127.0.0.1");
    t.equal(await ask("default/other", `http://${node}:8080/`), 200, "from a pod elsewhere");
    t.equal(await ask("default/web", `http://${node}:8080/`), 200, "hairpin");
    await kubectl("expose", "pod", "web", "--port=80");
    await cluster.waitForSync();
    const clusterIP = await kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}");
    t.equal(await ask("default/other", `http://${clusterIP}/`), 200, "and Services work beside it");
    t.notMatch(await kubectl("get", "events"), /NotHonoured/);
    const rules = async () => (await cluster.exec("node-1", ["iptables-save", "-t", "nat"])).stdout;
    t.match(await rules(), /-A CNI-DN-[0-9a-f]{21} -p tcp -m tcp --dport 8080 -j DNAT/);
    await kubectl("delete", "pod", "web", "--grace-period=1");
    await cluster.waitUntil(async () => !/CNI-DN-/.test(await rules()));
    t.equal(await ask("underlay", `http://${node}:8080/`), 0);
  });
}
