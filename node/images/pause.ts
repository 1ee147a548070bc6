// registry.k8s.io/pause: does nothing, ends with 0 on SIGTERM.

import { EmulatedProcess } from "./emulated.js";
import type { Image } from "./types.js";

export const pause: Image = {
  names: [
    "registry.k8s.io/pause",
    "k8s.gcr.io/pause",
    "gcr.io/google_containers/pause",
    "rancher/pause",
    "pause",
  ],
  entrypoint: ["/pause"],
  cmd: [],
  program: (argv) =>
    argv[0] === "/pause"
      ? async (context) =>
          new EmulatedProcess(context, {
            onTerm: (self) => {
              context.stderr("Shutting down, got signal: Terminated\n");
              self.exit(0);
            },
          })
      : undefined,
};
