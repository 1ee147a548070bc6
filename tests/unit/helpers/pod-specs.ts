// Pods as somebody writes them, for tests. Pure.

import type { PodSpec } from "kubernetes-types/core/v1.js";
import type { Pod } from "../../../common/k8s.js";

/** A pod of one container, and what is given. */
export const pod = (spec: Partial<PodSpec> = {}): Pod => ({
  spec: { containers: [{ name: "c", image: "nginx" }], ...spec },
});
/** A pod whose one container has these fields. */
export const container = (fields: object): Pod =>
  pod({ containers: [{ name: "c", image: "nginx", ...fields }] as PodSpec["containers"] });
