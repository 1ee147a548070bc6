// Control groups that a killed lab has left: the next up and down remove them.

import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { Cgroups, cgroupRecord } from "../../dataplane/kernel/cgroups.js";
import { runningProcess } from "../../lab/launch.js";
import { down, up } from "../../lab/lifecycle.js";
import { clusterPaths } from "../../lab/state.js";
import { freshHome } from "../helpers/lab-homes.js";
import { until } from "../helpers/until.js";

t.setTimeout(240_000);

t.test("groups of a lab that was killed", async (t) => {
  const home = freshHome(t, "g");
  const paths = clusterPaths("g", home);
  const directory = join(paths.hosts, "node-1", "var");
  const record = cgroupRecord(directory);
  /** As a container with a limit in a lab that ends without a word. */
  const leave = (): string[] | undefined => {
    mkdirSync(directory, { recursive: true });
    if (!new Cgroups(record).create("left", { memoryBytes: 64 << 20 })) return undefined;
    return readFileSync(record, "utf8")
      .split("\n")
      .filter((at) => at && existsSync(at));
  };
  await up({ name: "g", home, nodes: 1, ephemeral: true });
  process.kill(runningProcess(paths, "lab")?.pid ?? 0, "SIGKILL");
  await until(() => runningProcess(paths, "lab") === undefined);
  const first = leave();
  await up({ name: "g", home, ephemeral: true });
  if (!first) t.comment("this user may make no control groups here");
  t.same(first?.filter((at) => existsSync(at)) ?? [], [], "up");
  const second = leave();
  await down("g", { home });
  t.same(second?.filter((at) => existsSync(at)) ?? [], [], "down");
  t.notOk(existsSync(home));
});
