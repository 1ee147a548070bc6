// An HTTP request as a command that this machine has: curl, else wget, else node. Hosts and pods run this machine's
// programs, so one choice serves for all.

import { findProgram } from "../programs.js";

export function httpCommand(url: string, env: NodeJS.ProcessEnv): [string, ...string[]] {
  if (findProgram("curl", env)) return ["curl", "-s", url];
  if (findProgram("wget", env)) return ["wget", "-qO-", url];
  const full = url.includes("://") ? url : `http://${url}`;
  return ["node", "-e", `fetch("${full}").then(r => r.text()).then(console.log)`];
}
