// Jobs as somebody sends them, for tests. Pure.

import type { JobSpec } from "../../../common/k8s.js";
import { created } from "./kinds.js";

export const template = (spec: object = {}) => ({
  spec: { restartPolicy: "Never", containers: [{ name: "c", image: "busybox" }], ...spec },
});
export const jobSpec = (more: object = {}): { spec: JobSpec } => ({
  spec: { template: template(), ...more } as JobSpec,
});
/** As the server creates it. */
export const newJob = (more: object = {}) => created<{ spec: JobSpec }>("Job", jobSpec(more));
