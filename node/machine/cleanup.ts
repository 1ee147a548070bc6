// Takes off a machine what a node leaves there when it stops: rules of the proxy and of the overlay, bridge and tunnel.
// Knows their names; pods must have ended.

import type { Logger } from "../../common/log.js";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { RtNetlink } from "../../dataplane/kernel/rtnetlink.js";
import { DEVICE, removeRules } from "../../dataplane/overlay/index.js";
import { removeProxyRules } from "../../dataplane/proxy/index.js";
import { iptablesOf } from "../kube-proxy/standalone.js";

const BRIDGE = "cni0";

/** What is not there is no error; rules and devices of others stay. */
export async function cleanUpNode(log: Logger): Promise<void> {
  const ns = NetNs.current();
  for (const driver of iptablesOf(ns, 4, log)) {
    await removeProxyRules(driver);
    await removeRules(driver);
  }
  const netlink = RtNetlink.open(ns);
  try {
    for (const device of [BRIDGE, DEVICE[4], DEVICE[6]])
      if (await netlink.getLink(device)) await netlink.deleteLink(device);
  } finally {
    netlink.close();
  }
}
