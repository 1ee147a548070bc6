// The files of an installation: units of systemd, kernel modules and settings. Pure: text by path.

/** One of the two services. */
export type Role = "control" | "node";

export interface InstallFile {
  text: string | Buffer;
  /** Default 0644. */
  mode?: number;
}

export interface InstallOptions {
  role: Role;
  /** The program that runs: node and the command's file, absolute. */
  program: readonly string[];
  /** What follows the role. */
  args: readonly string[];
  /** For the environment of the service: what must not be seen in the list of processes. */
  secrets: Readonly<Record<string, string>>;
}

export const unitName = (role: Role): string => `kubeplumb-${role}.service`;
export const unitPath = (role: Role): string => `/etc/systemd/system/${unitName(role)}`;
export const environmentPath = (role: Role): string => `/etc/kubeplumb/${role}.env`;
const MODULES = "/etc/modules-load.d/kubeplumb.conf";
const SYSCTLS = "/etc/sysctl.d/90-kubeplumb.conf";
const NETWORKD = "/etc/systemd/networkd.conf.d/90-kubeplumb.conf";

/** All paths of a role: what an uninstallation removes. */
export function installedPaths(role: Role): string[] {
  const own = [unitPath(role), environmentPath(role)];
  return role === "node" ? [...own, MODULES, SYSCTLS, NETWORKD] : own;
}

/** A word of ExecStart: systemd reads quotes, backslashes, % and $ in it (systemd.service(5), COMMAND LINES). */
export function quoted(word: string): string {
  const escaped = word
    .replaceAll("\\", "\\\\")
    .replaceAll('"', '\\"')
    .replaceAll("%", "%%")
    .replaceAll("$", "$$$$");
  return /^[\w@%+=:,./-]+$/.test(word) && escaped === word ? word : `"${escaped}"`;
}

/** For both: restarted whatever happens, told ready by sd_notify, log to the journal. */
const SERVICE = [
  "Type=notify",
  "NotifyAccess=main",
  "Restart=always",
  "RestartSec=2",
  // A node waits for its control plane, however long that is away.
  "TimeoutStartSec=infinity",
  "TimeoutStopSec=30",
  "LimitNOFILE=1048576",
  "TasksMax=infinity",
  "OOMScoreAdjust=-999",
  "NoNewPrivileges=yes",
  "ProtectClock=yes",
  "ProtectHostname=yes",
  "ProtectKernelLogs=yes",
  "ProtectKernelModules=yes",
  "LockPersonality=yes",
  "RestrictRealtime=yes",
  "SystemCallArchitectures=native",
];

/** The API server: files below its state directory and sockets, nothing else. */
const CONTROL = [
  "StateDirectory=kubeplumb/control",
  "StateDirectoryMode=0700",
  "ProtectSystem=strict",
  "ProtectHome=read-only",
  "PrivateTmp=yes",
  "PrivateDevices=yes",
  "ProtectControlGroups=yes",
  "ProtectKernelTunables=yes",
  "ProtectProc=invisible",
  "RestrictNamespaces=yes",
  "RestrictSUIDSGID=yes",
  "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
  // V8 asks for memory protection keys; what else a Node.js to come may try is refused, not the end of it.
  "SystemCallFilter=@system-service @pkey",
  "SystemCallErrorNumber=EPERM",
  // The program may lie in somebody's home.
  "CapabilityBoundingSet=CAP_DAC_READ_SEARCH CAP_NET_BIND_SERVICE",
  "UMask=0077",
];

/**
 * The node makes namespaces, mounts, sysctls, rules and processes of pods, directories where their hostPath says, and
 * volumes whose files get their directory's group (fsGroup): what is left to forbid is less.
 */
const NODE_CAPABILITIES = [
  "CAP_CHOWN",
  "CAP_DAC_OVERRIDE",
  "CAP_DAC_READ_SEARCH",
  "CAP_FOWNER",
  "CAP_FSETID",
  "CAP_KILL",
  "CAP_NET_ADMIN",
  "CAP_NET_BIND_SERVICE",
  "CAP_NET_RAW",
  "CAP_SETFCAP",
  "CAP_SETGID",
  "CAP_SETPCAP",
  "CAP_SETUID",
  "CAP_SYS_ADMIN",
  "CAP_SYS_CHROOT",
  "CAP_SYS_PTRACE",
  "CAP_SYS_RESOURCE",
];
const NODE = [
  "StateDirectory=kubeplumb/node",
  "StateDirectoryMode=0700",
  "RuntimeDirectory=kubeplumb",
  // Which pod has which address outlives the service, as the pods' names in the kernel may.
  "RuntimeDirectoryPreserve=yes",
  "ProtectSystem=true",
  "KillMode=mixed",
  // systemd then hands both on to the groups beside it, where those for the limits of containers are made.
  "Delegate=cpu memory",
  `CapabilityBoundingSet=${NODE_CAPABILITIES.join(" ")}`,
];

const CONTAINERD_UNIT = "containerd.service";

/** Its containers are looked for at the start of the node. */
const runsContainerd = (args: readonly string[]): boolean =>
  args.some((word, at) => word === "--runtime" && args[at + 1] === "containerd");

function unit({ role, program, args }: InstallOptions): string {
  const isControl = role === "control";
  const runtime = runsContainerd(args) ? [CONTAINERD_UNIT] : [];
  const wants = ["network-online.target", ...runtime].join(" ");
  const after = isControl ? wants : `${wants} kubeplumb-control.service`;
  return `${[
    "[Unit]",
    `Description=kubeplumb ${isControl ? "control plane" : "node"}`,
    `Wants=${wants}`,
    `After=${after}`,
    // Tried again for ever, not five times in ten seconds.
    "StartLimitIntervalSec=0",
    "",
    "[Service]",
    `ExecStart=${[...program, role, ...args].map(quoted).join(" ")}`,
    `EnvironmentFile=-${environmentPath(role)}`,
    "Environment=NODE_ENV=production",
    ...SERVICE,
    ...(isControl ? CONTROL : NODE),
    "",
    "[Install]",
    "WantedBy=multi-user.target",
  ].join("\n")}\n`;
}

const MODULES_TEXT = `# kubeplumb node: what iptables, the overlay and bridges of pods need.
br_netfilter
nf_conntrack
vxlan
`;
const SYSCTLS_TEXT = `# kubeplumb node: packets of pods are forwarded, and seen by iptables when they cross the bridge.
net.ipv4.ip_forward = 1
net.ipv6.conf.all.forwarding = 1
net.bridge.bridge-nf-call-iptables = 1
net.bridge.bridge-nf-call-ip6tables = 1
net.ipv4.conf.all.rp_filter = 0
`;

const NETWORKD_TEXT = `# kubeplumb node: systemd-networkd, where it runs, removes routes at its start that are not its own.
[Network]
ManageForeignRoutes=no
ManageForeignRoutingPolicyRules=no
`;

/** Everything that is to be there, by path. */
export function installFiles(options: InstallOptions): Map<string, InstallFile> {
  const { role, secrets } = options;
  const environment = Object.entries(secrets).map(([name, value]) => `${name}=${value}\n`);
  const files = new Map<string, InstallFile>([[unitPath(role), { text: unit(options) }]]);
  files.set(environmentPath(role), { text: environment.join(""), mode: 0o600 });
  if (role === "control") return files;
  files.set(MODULES, { text: MODULES_TEXT });
  files.set(SYSCTLS, { text: SYSCTLS_TEXT });
  files.set(NETWORKD, { text: NETWORKD_TEXT });
  return files;
}
