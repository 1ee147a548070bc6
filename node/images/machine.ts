// Images whose programs this machine has itself: shells and tools. They run as real processes; the images only say
// what their default command is.

import type { Image } from "./types.js";

const shell = (names: string[], cmd: string[]): Image => ({ names, entrypoint: [], cmd });

/** Found by the last part of the name, whatever the registry. */
export const machineImages: readonly Image[] = [
  shell(["busybox"], ["sh"]),
  shell(["alpine"], ["/bin/sh"]),
  shell(["debian", "ubuntu", "fedora", "rockylinux", "almalinux", "centos", "bash"], ["bash"]),
  shell(["nicolaka/netshoot", "netshoot"], ["bash"]),
  shell(["wbitt/network-multitool", "praqma/network-multitool", "network-multitool"], ["bash"]),
  shell(["jessie-dnsutils", "dnsutils"], ["sleep", "infinity"]),
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
