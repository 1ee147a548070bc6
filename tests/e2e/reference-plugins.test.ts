// The main job once more, with the reference CNI plugins in place of ours: whatever speaks CNI can join pods.

import t from "tap";
import { REFERENCE } from "../helpers/cni.js";
import { runOnReferencePlugins, swappedCluster } from "../helpers/reference-plugins.js";

if (!REFERENCE) {
  t.pass("", { skip: "not installed: containernetworking-plugins" });
  t.end();
} else {
  await runOnReferencePlugins(new URL("./services.test.js", import.meta.url));
  t.test("it was they who joined the pods", async (t) => {
    const cluster = swappedCluster();
    for (const { name } of cluster?.hosts ?? []) {
      const ports = (await cluster?.exec(name, ["ip", "link", "show", "master", "cni0"]))?.stdout ?? "";
      t.match(ports, /veth/, name);
      t.notMatch(ports, /alias kubeplumb-cni/, `${name} has no pod of ours`);
    }
  });
}
