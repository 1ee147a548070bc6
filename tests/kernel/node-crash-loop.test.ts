// What a status tells of a container that ends again and again: first how it ended, then that the next start is waited for.

import t from "tap";
import type { PodStatus } from "../../common/k8s.js";
import { Harness } from "../unit/helpers/node-harness.js";

t.setTimeout(240_000);

t.test("the end is told before the back-off", async (t) => {
  const backoff = { baseMs: 10_000, maxMs: 10_000 };
  await using host = await Harness.create({ timing: { restartBackoff: backoff, volumesMs: 300 } });
  const state = (status: PodStatus) => status.containerStatuses?.[0]?.state;
  await host.pod("fails", { command: ["sh", "-c", "exit 3"] });
  const told = await host.until(
    "fails",
    (status) => status.containerStatuses?.[0]?.restartCount === 1 && !state(status)?.running,
  );
  t.match(state(told.status ?? {})?.terminated, { exitCode: 3, reason: "Error" });
  t.equal(told.status?.phase, "Running");
  const waiting = await host.until(
    "fails",
    (status) => state(status)?.waiting?.reason === "CrashLoopBackOff",
  );
  t.match(waiting.status?.containerStatuses?.[0]?.lastState?.terminated, { exitCode: 3, reason: "Error" });
});
