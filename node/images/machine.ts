// Images whose programs this machine has itself: shells and tools. They run as real processes; the images only say
// what their default command is.

import { existsSync } from "node:fs";
import type { Image } from "./types.js";

const shell = (names: string[], cmd: string[]): Image => ({ names, entrypoint: [], cmd });

/**
 * busybox' shell knows `[[` and `echo -e`, which the sh of Debian does not; bash does, under the name sh too. Scripts of
 * walk-throughs use them.
 */
const BASH = ["/bin/bash", "/usr/bin/bash"].find((path) => existsSync(path));
const ash = (names: string[], cmd: string[]): Image => ({
  ...shell(names, cmd),
  ...(BASH ? { shell: BASH } : {}),
});

/** Found by the last part of the name, whatever the registry. */
export const machineImages: readonly Image[] = [
  ash(["busybox", "radial/busyboxplus", "busyboxplus"], ["sh"]),
  ash(["alpine"], ["/bin/sh"]),
  shell(["debian", "ubuntu", "fedora", "rockylinux", "almalinux", "centos", "bash"], ["bash"]),
  shell(["nicolaka/netshoot", "netshoot"], ["bash"]),
  shell(["wbitt/network-multitool", "praqma/network-multitool", "network-multitool"], ["bash"]),
  shell(["jessie-dnsutils", "dnsutils"], ["sleep", "infinity"]),
  ash(["infoblox/dnstools", "dnstools"], ["/bin/sh"]),
  // Its entrypoint puts "curl" before anything that is no command.
  {
    names: ["curlimages/curl", "curl"],
    entrypoint: [
      "/bin/sh",
      "-c",
      'case "$1" in -*|*://*|*.*|*:*) exec curl "$@";; esac; command -v "$1" >/dev/null && exec "$@"; exec curl "$@"',
      "curl",
    ],
    cmd: ["--help"],
  },
];
