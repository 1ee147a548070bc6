// Builds cni/front/front.c into bin/cni-front-x64, which is kept in the repository: installing needs no compiler. Run it
// after a change of the source: `node scripts/build-front.mjs`.

import { execFileSync } from "node:child_process";

const ALONE = ["-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-pie", "-no-pie"];
const SMALL = ["-Os", "-s", "-fno-asynchronous-unwind-tables", "-Wl,--build-id=none", "-Wl,-z,norelro"];
const source = new URL("../cni/front/front.c", import.meta.url).pathname;
const target = process.argv[2] ?? new URL("../bin/cni-front-x64", import.meta.url).pathname;
execFileSync("gcc", [...ALONE, ...SMALL, "-Wall", "-Wextra", "-Werror", "-o", target, source], {
  stdio: "inherit",
});
