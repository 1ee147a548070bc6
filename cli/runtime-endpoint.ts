// --container-runtime-endpoint, as the kubelet has it. Pure.

import { socketOf } from "../node/cri/client.js";

/** The text itself. @throws Error when it is no unix:///PATH. */
export function parseEndpoint(text: string): string {
  return socketOf(text) && text;
}
