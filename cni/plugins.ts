// Our plugins by the name that a configuration calls them: the five verbs of each as functions, for this process and for
// the protocol alike.

import * as bridge from "./bridge.js";
import type { LeaseContext } from "./lease.js";
import * as portmap from "./portmap.js";
import type { CniResult, NetConf } from "./types.js";

/** Every verb throws CniError. */
export interface Plugin {
  add(conf: NetConf, call: bridge.Invocation): Promise<CniResult>;
  del(conf: NetConf, call: bridge.Invocation): Promise<void>;
  check(conf: NetConf, call: bridge.Invocation): Promise<void>;
  gc(conf: NetConf, call: LeaseContext): Promise<void>;
  status(conf: NetConf, call: LeaseContext): Promise<void>;
}

export const PLUGINS = { "kubeplumb-cni": bridge, "kubeplumb-portmap": portmap } satisfies Record<
  string,
  Plugin
>;

export type OwnType = keyof typeof PLUGINS;

/** undefined for somebody else's. */
export function ownPlugin(type: string): Plugin | undefined {
  return Object.hasOwn(PLUGINS, type) ? PLUGINS[type as OwnType] : undefined;
}
