// polinux/stress and vish/stress: the images of the pages "Assign Memory Resources" and "Assign CPU Resources". They run as
// a process of their own, which takes what it says, so that limits and measurements are put to a test.

import { fileURLToPath } from "node:url";
import type { Image } from "./types.js";

const NODE = "/opt/stress/node";
const PROGRAM = "/opt/stress/stress.mjs";

const programs = {
  [NODE]: process.execPath,
  [PROGRAM]: fileURLToPath(new URL("./stress-program.js", import.meta.url)),
};

/** Pods name the program by its path in the image. */
const script = (kind: "stress" | "vish") =>
  `#!/bin/sh\nexec ${NODE} --max-semi-space-size=1 ${PROGRAM} ${kind} "$@"\n`;

export const polinuxStress: Image = {
  names: ["polinux/stress"],
  entrypoint: [],
  cmd: ["stress"],
  programs,
  files: () => ({ "/usr/local/bin/stress": script("stress") }),
};

export const vishStress: Image = {
  names: ["vish/stress"],
  entrypoint: ["/stress"],
  cmd: [],
  programs,
  files: () => ({ "/stress": script("vish") }),
};
