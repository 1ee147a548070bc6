// What the tests of container runtimes have in common: their cluster, and what their containers and machines see.

import t, { type Test } from "tap";
import type { Machine } from "./machines.js";
import { RuntimeCluster, type StartOptions } from "./runtime-machines.js";
import { eventually } from "./until.js";

/** Runs the tests of a file in a cluster, unless `skip` says why it cannot be. */
export async function withRuntimeCluster(
  skip: string | false,
  suite: (cluster: RuntimeCluster) => Promise<void>,
  options: (cluster: RuntimeCluster) => StartOptions = () => ({}),
): Promise<void> {
  if (skip) {
    t.pass(skip, { skip });
    t.end();
    return;
  }
  t.setTimeout(220_000);
  const cluster = new RuntimeCluster();
  t.teardown(() => cluster.close());
  await cluster.start(options(cluster));
  await suite(cluster);
}

/** What containers see, by a command in the container `id` of a runtime. */
export function containersBy(exec: (machine: Machine, id: string, ...argv: string[]) => Promise<string>) {
  return {
    // Not by -T: Debian's static busybox crashes with it.
    wget: (machine: Machine, id: string, url: string) =>
      exec(machine, id, "timeout", "5", "wget", "-qO-", url),
    // On a busy machine ctr may end before it has printed all.
    addressOf: (machine: Machine, id: string) =>
      eventually(async () => {
        const shown = await exec(machine, id, "ip", "-4", "addr", "show", "dev", "eth0");
        return / inet ([\d.]+)\/24 /.exec(shown)?.[1];
      }),
  };
}

/** What a machine gets from `url`; nothing when nobody answers. */
export const page = async (machine: Machine, url: string): Promise<string> =>
  (await machine.run("curl", "-sS", "--max-time", "2", url)).out;

/** Port 8081 of machine one leads to a container: from elsewhere, from there, and by 127.0.0.1. */
export async function checkPublished(t: Pick<Test, "match">, { one, two }: RuntimeCluster): Promise<void> {
  for (const [machine, url] of [
    [two, "http://192.168.56.11:8081/"],
    [one, "http://192.168.56.11:8081/"],
    [one, "http://127.0.0.1:8081/"],
  ] as const)
    t.match(await page(machine, url), /hello of the container/, `${machine.name}: ${url}`);
}
