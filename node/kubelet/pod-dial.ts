// A connection to a port of a pod from the pod's own loopback, as the container runtime makes it for port-forward.
// Knows sockets and sandboxes.

import type { Socket } from "node:net";
import { dialError } from "../../common/dial-error.js";
import type { NetNs } from "../../dataplane/kernel/netns.js";

/** 127.0.0.1 first: few programs listen on ::1 only. */
const LOOPBACKS = [
  { host: "127.0.0.1", network: "tcp4" },
  { host: "::1", network: "tcp6" },
] as const;

/** @throws Error in containerd's words, with the reason of each address. */
export async function connectInPod({ id, ns }: { id: string; ns: NetNs }, port: number): Promise<Socket> {
  const reasons: string[] = [];
  for (const { host, network } of LOOPBACKS) {
    try {
      return await connected(ns.connect({ host, port }));
    } catch (error) {
      reasons.push(dialError(error as NodeJS.ErrnoException, host, port, network));
    }
  }
  const [v4, v6] = reasons;
  throw new Error(
    `failed to execute portforward in network namespace "${ns.name}": failed to connect to localhost:${port} inside namespace "${id}", IPv4: ${v4} IPv6 ${v6}`,
  );
}

function connected(socket: Socket): Promise<Socket> {
  return new Promise((resolve, reject) => {
    socket.once("error", reject);
    socket.once("connect", () => {
      socket.off("error", reject);
      resolve(socket);
    });
  });
}
