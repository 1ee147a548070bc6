#!/usr/bin/env node
// The CNI plugin as an executable, and with the word "agent" the process that does its work from then on. For
// /opt/cni/bin: a link to cni-front-x64 there under the name kubeplumb-cni, or, on other machines, a link to this file.

if (process.argv[2] === "agent") {
  const { runAgent } = await import("../dist/cni/agent.js");
  await runAgent(process.argv[3]);
} else {
  const { runProcess } = await import("../dist/cni/main.js");
  await runProcess();
}
