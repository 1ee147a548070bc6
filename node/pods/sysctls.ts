// securityContext.sysctls of a pod: which the kubelet lets through (its safe set), and which are of the pod's own network
// namespace. Pure.

import type { Pod, Stored } from "../../common/k8s.js";

/** In the pod's IPC namespace. */
const SAFE_IPC = ["kernel.shm_rmid_forced"];
/** In the pod's network namespace. */
const SAFE_NET = [
  "net.ipv4.ip_local_port_range",
  "net.ipv4.ip_local_reserved_ports",
  "net.ipv4.ip_unprivileged_port_start",
  "net.ipv4.ping_group_range",
  "net.ipv4.tcp_fin_timeout",
  "net.ipv4.tcp_keepalive_intvl",
  "net.ipv4.tcp_keepalive_probes",
  "net.ipv4.tcp_keepalive_time",
  "net.ipv4.tcp_rmem",
  "net.ipv4.tcp_syncookies",
  "net.ipv4.tcp_wmem",
];

/** Slashes and dots are the same, as for sysctl(8). */
const plain = (name: string): string => name.replaceAll("/", ".");

const asked = ({ spec }: Pick<Stored<Pod>, "spec">) => spec?.securityContext?.sysctls ?? [];

/** In the words of the kubelet's admission: why the pod may not run here; undefined when it may. */
export function forbiddenSysctl(pod: Pick<Stored<Pod>, "spec">): string | undefined {
  const { hostNetwork = false, hostIPC = false } = pod.spec ?? {};
  for (const { name } of asked(pod)) {
    const known = plain(name);
    if (SAFE_NET.includes(known) && !hostNetwork) continue;
    if (SAFE_IPC.includes(known) && !hostIPC) continue;
    if (SAFE_NET.includes(known)) return `forbidden sysctl: "${name}" not allowed with host net enabled`;
    if (SAFE_IPC.includes(known)) return `forbidden sysctl: "${name}" not allowed with host ipc enabled`;
    return `forbidden sysctl: "${name}" not allowlisted`;
  }
  return undefined;
}

/** What is to be set in its network namespace. */
export function networkSysctls(pod: Pick<Stored<Pod>, "spec">): { name: string; value: string }[] {
  return asked(pod).flatMap(({ name, value }) =>
    SAFE_NET.includes(plain(name)) ? [{ name: plain(name), value }] : [],
  );
}

/** Whether it asks for one of its IPC namespace. */
export const asksForIpcSysctl = (pod: Pick<Stored<Pod>, "spec">): boolean =>
  asked(pod).some(({ name }) => SAFE_IPC.includes(plain(name)));
