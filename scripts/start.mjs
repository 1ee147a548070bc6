// npm start: whatever a fresh clone lacks, then the demo.

import { spawn } from "node:child_process";
import { constants } from "node:os";
import { join } from "node:path";
import { root, setup } from "./setup.mjs";

setup();
const bin = join(root, "bin", "kubeplumb.mjs");
const demo = spawn(process.execPath, [bin, "demo", ...process.argv.slice(2)], { stdio: "inherit" });
// Ctrl-C reaches both: the demo decides how to end.
for (const name of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(name, () => demo.kill(name));
demo.once("exit", (code, signal) => process.exit(code ?? 128 + constants.signals[signal]));
