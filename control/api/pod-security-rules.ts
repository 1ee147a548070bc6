// The rules of the Pod Security Standards, each with what it says of a pod that breaks it, in the words of the real
// server (k8s.io/pod-security-admission/policy). Pure; knows the fields of a pod.

import type { Container, PodSpec, SecurityContext } from "kubernetes-types/core/v1.js";

/** A rule that a pod breaks: what it is about, and what of the pod breaks it. */
export interface Violation {
  reason: string;
  detail: string;
}

export interface Rule {
  id: string;
  level: "baseline" | "restricted";
  /** The first minor version of Kubernetes that has the rule in this form. */
  since: number;
  /** A rule of the level below that says less of the same. */
  overrides?: string;
  /** Not asked of pods for Windows from this version on. */
  linuxOnlySince?: number;
  check(spec: PodSpec, annotations: Readonly<Record<string, string>>): Violation | undefined;
}

type Context = SecurityContext | undefined;

const quoted = (names: readonly string[]): string => names.map((name) => `"${name}"`).join(", ");
const sorted = (values: Iterable<string>): string[] => [...new Set(values)].sort();
const plural = (word: string, count: number): string => (count === 1 ? word : `${word}s`);
const named = (word: string, names: readonly string[]): string =>
  `${plural(word, names.length)} ${quoted(names)}`;

/** In the order of the real server's visitor, which is the order of names in messages. */
function containersOf(spec: PodSpec): Container[] {
  const { initContainers = [], containers = [], ephemeralContainers = [] } = spec;
  return [...initContainers, ...containers, ...ephemeralContainers];
}

const namesOf = (spec: PodSpec, breaks: (container: Container) => boolean): string[] =>
  containersOf(spec)
    .filter(breaks)
    .map(({ name }) => name);

/** `pod and container "a"`: whose setting it is; empty when nobody's. */
function setters(podDoes: boolean, containers: readonly string[]): string {
  const pod = podDoes ? ["pod"] : [];
  return [...pod, ...(containers.length > 0 ? [named("container", containers)] : [])].join(" and ");
}

/** A setting of the pod and of its containers, and who of them has it in a way that is not allowed. */
function settings<T>(spec: PodSpec, of: (context: Context) => T | undefined, bad: (value: T) => boolean) {
  const isBad = (context: Context): boolean => {
    const value = of(context);
    return value !== undefined && bad(value);
  };
  const contexts = [spec.securityContext as Context, ...containersOf(spec).map((one) => one.securityContext)];
  return {
    who: setters(
      isBad(spec.securityContext as Context),
      namesOf(spec, ({ securityContext }) => isBad(securityContext)),
    ),
    values: contexts.filter(isBad).map((context) => of(context) as T),
  };
}

/** Those that do not set what has to be set: neither themselves nor the pod for them. */
function silent(spec: PodSpec, of: (context: Context) => unknown, podSets: boolean): string[] {
  return podSets ? [] : namesOf(spec, ({ securityContext }) => of(securityContext) === undefined);
}

const when = (broken: boolean, reason: string, detail: () => string): Violation | undefined =>
  broken ? { reason, detail: detail() } : undefined;

function addedCapabilities(spec: PodSpec, allowed: ReadonlySet<string>): string | undefined {
  const beyond = ({ securityContext }: Container): string[] =>
    (securityContext?.capabilities?.add ?? []).filter((name) => !allowed.has(name));
  const bad = namesOf(spec, (one) => beyond(one).length > 0);
  if (bad.length === 0) return undefined;
  const names = sorted(containersOf(spec).flatMap(beyond));
  return `${named("container", bad)} must not include ${quoted(names)} in securityContext.capabilities.add`;
}

const DEFAULT_CAPABILITIES: ReadonlySet<string> = new Set(
  (
    "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE SETFCAP SETGID SETPCAP SETUID " +
    "SYS_CHROOT"
  ).split(" "),
);
const RESTRICTED_CAPABILITIES: ReadonlySet<string> = new Set(["NET_BIND_SERVICE"]);

const PROFILES: ReadonlySet<string> = new Set(["RuntimeDefault", "Localhost"]);
const APPARMOR = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_POD = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER = "container.seccomp.security.alpha.kubernetes.io/";

function appArmor(spec: PodSpec, annotations: Readonly<Record<string, string>>): Violation | undefined {
  const { who, values } = settings(
    spec,
    (context) => context?.appArmorProfile?.type,
    (type) => !PROFILES.has(type),
  );
  const noted = Object.entries(annotations)
    .filter(([key, value]) => key.startsWith(APPARMOR) && !/^$|^runtime\/default$|^localhost\//.test(value))
    .map(([key, value]) => `${key}="${value}"`)
    .sort();
  const all = [...(who ? [who] : []), ...(noted.length > 0 ? [plural("annotation", noted.length)] : [])];
  const bad = [...sorted(values), ...noted];
  return when(
    all.length > 0,
    plural("forbidden AppArmor profile", bad.length),
    () => `${all.join(" and ")} must not set AppArmor profile type to ${quoted(bad)}`,
  );
}

function hostNamespaces(spec: PodSpec): Violation | undefined {
  const fields = (["hostIPC", "hostNetwork", "hostPID"] as const).filter((field) => spec[field]);
  return when(fields.length > 0, "host namespaces", () => fields.map((field) => `${field}=true`).join(", "));
}

function hostPorts(spec: PodSpec): Violation | undefined {
  const portsOf = ({ ports = [] }: Container) =>
    ports.flatMap(({ hostPort }) => (hostPort ? [hostPort] : []));
  const bad = namesOf(spec, (one) => portsOf(one).length > 0);
  const ports = sorted(containersOf(spec).flatMap(portsOf).map(String));
  return when(
    bad.length > 0,
    "hostPort",
    () =>
      `${named("container", bad)} ${bad.length === 1 ? "uses" : "use"} ${plural("hostPort", ports.length)} ${ports.join(", ")}`,
  );
}

function hostsOfProbes(spec: PodSpec): Violation | undefined {
  const hostsOf = ({ livenessProbe, readinessProbe, startupProbe, lifecycle }: Container): string[] =>
    [livenessProbe, readinessProbe, startupProbe, lifecycle?.postStart, lifecycle?.preStop].flatMap((one) =>
      [one?.httpGet?.host, one?.tcpSocket?.host].flatMap((host) => host || []),
    );
  const bad = sorted(namesOf(spec, (one) => hostsOf(one).length > 0));
  const hosts = sorted(containersOf(spec).flatMap(hostsOf));
  return when(
    bad.length > 0,
    "probe or lifecycle host",
    () =>
      `${named("container", bad)} ${bad.length === 1 ? "uses" : "use"} ${plural("probe or lifecycle host", hosts.length)} ${quoted(hosts)}`,
  );
}

function seLinux(types: readonly string[]): Rule["check"] {
  const allowed = new Set(types);
  return (spec) => {
    const { who, values } = settings(
      spec,
      (context) => context?.seLinuxOptions,
      ({ type = "", user, role }) => !allowed.has(type) || Boolean(user) || Boolean(role),
    );
    const bad = sorted(values.map(({ type = "" }) => type).filter((type) => !allowed.has(type)));
    const what = [
      ...(bad.length > 0 ? [named("type", bad)] : []),
      ...(values.some(({ user }) => user) ? ["user may not be set"] : []),
      ...(values.some(({ role }) => role) ? ["role may not be set"] : []),
    ];
    return when(
      who !== "",
      "seLinuxOptions",
      () => `${who} set forbidden securityContext.seLinuxOptions: ${what.join("; ")}`,
    );
  };
}

const seccompOf = (context: Context): string | undefined => context?.seccompProfile?.type;

function seccomp(spec: PodSpec): Violation | undefined {
  const { who, values } = settings(spec, seccompOf, (type) => !PROFILES.has(type));
  return when(
    who !== "",
    "seccompProfile",
    () => `${who} must not set securityContext.seccompProfile.type to ${quoted(sorted(values))}`,
  );
}

function seccompSet(spec: PodSpec): Violation | undefined {
  const missing = silent(spec, seccompOf, seccompOf(spec.securityContext as Context) !== undefined);
  return (
    seccomp(spec) ??
    when(
      missing.length > 0,
      "seccompProfile",
      () =>
        `pod or ${named("container", missing)} must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"`,
    )
  );
}

/** Before the field there were annotations. */
function seccompAnnotations(spec: PodSpec, annotations: Readonly<Record<string, string>>) {
  const keys = [SECCOMP_POD, ...containersOf(spec).map(({ name }) => SECCOMP_CONTAINER + name)];
  const bad = sorted(
    keys.flatMap((key) => {
      const value = annotations[key];
      const isFine = value === undefined || /^(runtime|docker)\/default$|^localhost\//.test(value);
      return isFine ? [] : [`${key}="${value}"`];
    }),
  );
  return when(
    bad.length > 0,
    "seccompProfile",
    () => `forbidden ${plural("annotation", bad.length)} ${bad.join(", ")}`,
  );
}

function sysctls(names: string): Rule["check"] {
  const allowed = new Set(names.split(" "));
  return ({ securityContext }) => {
    const bad = (securityContext?.sysctls ?? []).map(({ name }) => name).filter((name) => !allowed.has(name));
    return when(bad.length > 0, "forbidden sysctls", () => bad.join(", "));
  };
}

const SYSCTLS =
  "kernel.shm_rmid_forced net.ipv4.ip_local_port_range net.ipv4.tcp_syncookies net.ipv4.ping_group_range " +
  "net.ipv4.ip_unprivileged_port_start";
const SYSCTLS_27 = `${SYSCTLS} net.ipv4.ip_local_reserved_ports`;
const SYSCTLS_29 =
  `${SYSCTLS_27} net.ipv4.tcp_keepalive_time net.ipv4.tcp_fin_timeout net.ipv4.tcp_keepalive_intvl ` +
  "net.ipv4.tcp_keepalive_probes";

const VOLUMES: ReadonlySet<string> = new Set([
  "configMap",
  "csi",
  "downwardAPI",
  "emptyDir",
  "ephemeral",
  "image",
  "persistentVolumeClaim",
  "projected",
  "secret",
]);

function volumes({ volumes = [] }: PodSpec): Violation | undefined {
  const typesOf = ({ name: _, ...sources }: { name: string }): string[] => Object.keys(sources);
  const bad = volumes.filter((volume) => !typesOf(volume).some((type) => VOLUMES.has(type)));
  const types = sorted(bad.flatMap((volume) => typesOf(volume)[0] ?? "unknown"));
  return when(bad.length > 0, "restricted volume types", () => {
    const verb = bad.length === 1 ? "uses" : "use";
    return `${named(
      "volume",
      bad.map(({ name }) => name),
    )} ${verb} restricted volume ${named("type", types)}`;
  });
}

function capabilitiesDropped(spec: PodSpec): Violation | undefined {
  const missing = namesOf(spec, ({ securityContext }) => {
    const { drop = [] } = securityContext?.capabilities ?? {};
    return !drop.includes("ALL");
  });
  const added = addedCapabilities(spec, RESTRICTED_CAPABILITIES);
  const details = [
    ...(missing.length > 0
      ? [`${named("container", missing)} must set securityContext.capabilities.drop=["ALL"]`]
      : []),
    ...(added === undefined ? [] : [added]),
  ];
  return when(details.length > 0, "unrestricted capabilities", () => details.join("; "));
}

function nonRoot(spec: PodSpec): Violation | undefined {
  const of = (context: Context): boolean | undefined => context?.runAsNonRoot;
  const reason = "runAsNonRoot != true";
  const { who } = settings(spec, of, (value) => !value);
  const missing = silent(spec, of, spec.securityContext?.runAsNonRoot === true);
  return (
    when(who !== "", reason, () => `${who} must not set securityContext.runAsNonRoot=false`) ??
    when(
      missing.length > 0,
      reason,
      () => `pod or ${named("container", missing)} must set securityContext.runAsNonRoot=true`,
    )
  );
}

const baseline = (id: string, check: Rule["check"], since = 0): Rule => ({
  id,
  level: "baseline",
  since,
  check,
});
const restricted = (id: string, since: number, check: Rule["check"], more: Partial<Rule> = {}): Rule => ({
  id,
  level: "restricted",
  since,
  check,
  ...more,
});

/** In the order in which messages name them: those of baseline first, by name. */
export const RULES: readonly Rule[] = [
  baseline("appArmorProfile", appArmor),
  baseline("capabilities_baseline", (spec) => {
    const detail = addedCapabilities(spec, DEFAULT_CAPABILITIES);
    return detail === undefined ? undefined : { reason: "non-default capabilities", detail };
  }),
  baseline("hostNamespaces", hostNamespaces),
  baseline("hostPathVolumes", ({ volumes = [] }) => {
    const names = volumes.filter(({ hostPath }) => hostPath).map(({ name }) => name);
    return when(names.length > 0, "hostPath volumes", () => named("volume", names));
  }),
  baseline("hostPorts", hostPorts),
  baseline("hostProbesAndHostLifecycle", hostsOfProbes, 34),
  baseline("privileged", (spec) => {
    const names = namesOf(spec, ({ securityContext }) => securityContext?.privileged === true);
    return when(
      names.length > 0,
      "privileged",
      () => `${named("container", names)} must not set securityContext.privileged=true`,
    );
  }),
  baseline("procMount", (spec) => {
    const of = ({ securityContext }: Container): string => securityContext?.procMount ?? "Default";
    const names = namesOf(spec, (one) => of(one) !== "Default");
    const values = sorted(containersOf(spec).map(of)).filter((value) => value !== "Default");
    return when(
      names.length > 0,
      "procMount",
      () => `${named("container", names)} must not set securityContext.procMount to ${quoted(values)}`,
    );
  }),
  baseline("seLinuxOptions", seLinux(["", "container_t", "container_init_t", "container_kvm_t"])),
  baseline(
    "seLinuxOptions",
    seLinux(["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"]),
    31,
  ),
  baseline("seccompProfile_baseline", seccompAnnotations),
  baseline("seccompProfile_baseline", seccomp, 19),
  baseline("sysctls", sysctls(SYSCTLS)),
  baseline("sysctls", sysctls(SYSCTLS_27), 27),
  baseline("sysctls", sysctls(SYSCTLS_29), 29),
  baseline("sysctls", sysctls(`${SYSCTLS_29} net.ipv4.tcp_rmem net.ipv4.tcp_wmem`), 32),
  baseline("windowsHostProcess", (spec) => {
    const { who } = settings(
      spec,
      (context) => context?.windowsOptions?.hostProcess,
      (value) => value,
    );
    return when(
      who !== "",
      "hostProcess",
      () => `${who} must not set securityContext.windowsOptions.hostProcess=true`,
    );
  }),
  restricted(
    "allowPrivilegeEscalation",
    8,
    (spec) => {
      const names = namesOf(
        spec,
        ({ securityContext }) => securityContext?.allowPrivilegeEscalation !== false,
      );
      return when(
        names.length > 0,
        "allowPrivilegeEscalation != false",
        () => `${named("container", names)} must set securityContext.allowPrivilegeEscalation=false`,
      );
    },
    { linuxOnlySince: 25 },
  ),
  restricted("capabilities_restricted", 22, capabilitiesDropped, {
    overrides: "capabilities_baseline",
    linuxOnlySince: 25,
  }),
  restricted("restrictedVolumes", 0, volumes, { overrides: "hostPathVolumes" }),
  restricted("runAsNonRoot", 0, nonRoot),
  restricted("runAsUser", 23, (spec) => {
    const { who } = settings(
      spec,
      (context) => context?.runAsUser,
      (uid) => uid === 0,
    );
    return when(who !== "", "runAsUser=0", () => `${who} must not set runAsUser=0`);
  }),
  restricted("seccompProfile_restricted", 19, seccompSet, {
    overrides: "seccompProfile_baseline",
    linuxOnlySince: 25,
  }),
];
