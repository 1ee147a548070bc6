// Pods whose first tries fail: every one is tried again until it can start, however early a timer fires.

import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { CONFIG_MAPS } from "../../common/client.js";
import { Harness } from "../unit/helpers/node-harness.js";

t.setTimeout(220_000);

t.test("pods that wait for a ConfigMap all start when it comes", async (t) => {
  const timing = { restartBackoff: { baseMs: 400, maxMs: 2000 }, imageBackoff: { baseMs: 400, maxMs: 2000 } };
  await using host = await Harness.create({ timing: { ...timing, retryMs: 6 } });
  const names = Array.from({ length: 20 }, (_, i) => `late-${i}`);
  for (const name of names) {
    await host.pod(
      name,
      { image: "pause", volumeMounts: [{ name: "late", mountPath: "/etc/late" }] },
      { volumes: [{ name: "late", configMap: { name: "late" } }] },
    );
  }
  // Some hundred tries each: one that is lost is lost for ever.
  await sleep(1000);
  await host.client.create(
    CONFIG_MAPS,
    { metadata: { name: "late", namespace: "default" }, data: { key: "value" } },
    { namespace: "default" },
  );
  for (const name of names) await host.until(name, ({ phase }) => phase === "Running");
  t.pass("all run");
});
