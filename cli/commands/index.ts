// The table of commands: name and one line each. The rest of a command is read from its file when it is asked for,
// so that `kubeplumb version` does not load a network stack.

import type { CommandEntry } from "../command.js";

export const commands: readonly CommandEntry[] = [
  { name: "up", summary: "create a cluster and start it", load: () => import("./up.js") },
  { name: "down", summary: "stop a cluster and remove it", load: () => import("./down.js") },
  { name: "status", summary: "show how a cluster is", load: () => import("./status.js") },
  { name: "exec", summary: "run a command in a host or a pod", load: () => import("./exec.js") },
  { name: "shell", summary: "open a shell in a host or a pod", load: () => import("./shell.js") },
  {
    name: "explain",
    summary: "say what happens to a packet to a Service, and why",
    load: () => import("./explain.js"),
  },
  { name: "rules", summary: "show a host's rules, with a note each", load: () => import("./rules.js") },
  {
    name: "publish",
    summary: "open a NodePort on this machine's loopback",
    load: () => import("./publish.js"),
  },
  { name: "kubeconfig", summary: "print or merge the kubeconfig", load: () => import("./kubeconfig.js") },
  { name: "logs", summary: "show the log of a process or a pod", load: () => import("./logs.js") },
  { name: "get", summary: "list clusters or hosts", load: () => import("./get.js") },
  { name: "list", summary: "list clusters", load: () => import("./list.js") },
  { name: "doctor", summary: "check what this machine offers", load: () => import("./doctor.js") },
  {
    name: "proxy",
    summary: "run kube-proxy on this host, beside any API server",
    load: () => import("./proxy.js"),
  },
  {
    name: "control",
    summary: "run the control plane of a cluster of machines",
    load: () => import("./control.js"),
  },
  { name: "node", summary: "run this machine as a node of such a cluster", load: () => import("./node.js") },
  {
    name: "image",
    summary: "import and list images of this machine's container runtime",
    load: () => import("./image.js"),
  },
  {
    name: "token",
    summary: "make, list and delete tokens for machines that join",
    load: () => import("./token.js"),
  },
  {
    name: "install",
    summary: "run control or node as a service of systemd, or bring the CNI plugins",
    load: () => import("./install.js"),
  },
  {
    name: "uninstall",
    summary: "take what was installed off this machine",
    load: () => import("./uninstall.js"),
  },
  { name: "demo", summary: "show Services at work, step by step", load: () => import("./demo.js") },
  { name: "completion", summary: "print a shell completion script", load: () => import("./completion.js") },
  { name: "version", summary: "print the version", load: () => import("./version.js") },
  {
    name: "__complete",
    summary: "candidates for shell completion",
    hidden: true,
    load: () => import("./complete.js"),
  },
];
