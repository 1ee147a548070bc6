// npm run bench [-- NAME [ARGUMENT…]]: builds, then runs one benchmark or, without a name, all but that of VMs.

import { execFileSync, spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { root, setup } from "./setup.mjs";

/** Need namespaces of their own around them: they make hosts without a lab. */
const BARE = new Set(["proxy", "proxy-sync", "cni"]);
const LIBRARIES = new Set([
  "report",
  "memory",
  "bare-objects",
  "kube-proxy",
  "traffic",
  "api-peers",
  "stream",
]);
const VMS = "vm";

const [wanted, ...args] = process.argv.slice(2);
setup({ vms: wanted === VMS });
const names = readdirSync(join(root, "bench"))
  .filter((file) => file.endsWith(".ts"))
  .map((file) => file.slice(0, -3))
  .filter((name) => !LIBRARIES.has(name));
if (wanted !== undefined && !names.includes(wanted)) {
  console.error(`no benchmark ${wanted}; there are: ${names.join(", ")}`);
  process.exit(2);
}
for (const name of wanted === undefined ? names.filter((one) => one !== VMS) : [wanted]) {
  console.log(`# ${name}\n`);
  const node = [process.execPath, join(root, "dist", "bench", `${name}.js`), ...args];
  const user = process.getuid() === 0 ? [] : ["--user", "--map-root-user"];
  // VMs end with it, however it ends.
  const pids = name === VMS ? ["--pid", "--fork", "--kill-child", "--mount-proc"] : [];
  if (name === VMS)
    execFileSync(process.execPath, [join(root, "dist/tests/vm/image.js")], { stdio: "inherit" });
  const argv =
    BARE.has(name) || name === VMS
      ? ["unshare", ...user, "--net", "--mount", "--propagation", "private", ...pids, ...node]
      : node;
  const { status } = spawnSync(argv[0], argv.slice(1), { stdio: "inherit" });
  if (status !== 0) process.exit(status ?? 1);
}
