// registry.k8s.io/hpa-example: the web server of the HorizontalPodAutoscaler walk-through, which computes for every
// request. It runs as a process of its own, so that its work is measured as a pod's and holds up nobody else.

import { fileURLToPath } from "node:url";
import type { Image } from "./types.js";

export const hpaExample: Image = {
  names: [
    "registry.k8s.io/hpa-example",
    "k8s.gcr.io/hpa-example",
    "gcr.io/google_containers/hpa-example",
    "hpa-example",
  ],
  entrypoint: [],
  // Interpreted, as PHP is: compiled, the loop would be done before anybody had measured it.
  cmd: [
    process.execPath,
    "--jitless",
    "--no-expose-wasm",
    fileURLToPath(new URL("./hpa-example-server.js", import.meta.url)),
  ],
  workingDir: "/",
};
