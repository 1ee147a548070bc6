// registry.k8s.io/hpa-example: the web server of the HorizontalPodAutoscaler walk-through, which computes for every
// request. It runs as a process of its own, so that its work is measured as a pod's and holds up nobody else.

import { fileURLToPath } from "node:url";
import type { Image } from "./types.js";

const NODE = "/opt/hpa-example/node";
const SERVER = "/opt/hpa-example/server.mjs";

export const hpaExample: Image = {
  names: [
    "registry.k8s.io/hpa-example",
    "k8s.gcr.io/hpa-example",
    "gcr.io/google_containers/hpa-example",
    "hpa-example",
  ],
  entrypoint: [],
  // Interpreted, as PHP is: compiled, the loop would be done before anybody had measured it.
  cmd: [NODE, "--jitless", "--no-expose-wasm", SERVER],
  programs: {
    [NODE]: process.execPath,
    [SERVER]: fileURLToPath(new URL("./hpa-example-server.js", import.meta.url)),
  },
  workingDir: "/",
};
