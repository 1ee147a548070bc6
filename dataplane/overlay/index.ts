// flannel's VXLAN overlay: what other rooms use of it.

export { DEVICE, PORT } from "./device.js";
export { OverlayRefusal, type OverlayStack } from "./family.js";
export { annotationsFor, type Lease, LeaseError, leaseOf, PUBLIC_IP, podCIDROf } from "./lease.js";
export { Overlay, type OverlayOptions, type OverlayState } from "./overlay.js";
export { type DesiredPeers, desiredPeers, type Self } from "./peers.js";
export { removeRules } from "./rules.js";
export { formatSubnetEnv, subnetEnvPath } from "./subnet-env.js";
