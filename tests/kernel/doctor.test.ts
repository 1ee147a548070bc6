// kubeplumb doctor on machines that lack something: each lack is made for real, in a mount, user or process tree of
// its own, and doctor must name it and say what to do. What this machine cannot lack is tested in unit/lab.

import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import type { Check } from "../../lab/doctor.js";
import { directory, installCommand } from "../helpers/cli.js";

const bin = join(directory, "bin");
const command = installCommand(bin);
const FOLDERS = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/** Runs `kubeplumb doctor` at the end of a shell script, in a mount namespace of its own. */
function ran(script: string, output: "text" | "json", path: readonly string[] = []) {
  const env = { ...process.env, PATH: [...path, ...FOLDERS].join(":"), NO_COLOR: "1" };
  const line = script.replace("DOCTOR", `${command} doctor -o ${output}`);
  const argv = ["--mount", "--propagation", "private", "/bin/sh", "-ec", line];
  return spawnSync("unshare", argv, { env, encoding: "utf8", timeout: 60_000 });
}

interface Diagnosis {
  code: number | null;
  ok: boolean;
  /** All but what is in order, by name. */
  found: Record<string, Omit<Check, "name">>;
  names: string[];
  /** What is needed and missing, in order. */
  failed: string[];
}

function doctor(script: string, path?: readonly string[]): Diagnosis {
  const { status, stdout, stderr } = ran(script, "json", path);
  if (!stdout) throw new Error(`doctor said nothing: ${stderr}`);
  const { ok, checks } = JSON.parse(stdout) as { ok: boolean; checks: Check[] };
  const lacking = checks.filter((check) => check.status !== "ok");
  const found = Object.fromEntries(lacking.map(({ name, ...rest }) => [name, rest]));
  const failed = lacking.filter((check) => check.status === "fail").map(({ name }) => name);
  return { code: status, ok, found, names: checks.map(({ name }) => name), failed };
}

/** Shell lines that take programs away: what stands there cannot be executed any more. */
function hide(...programs: string[]): string {
  return programs
    .flatMap((program) => FOLDERS.map((folder) => join(folder, program)))
    .filter((path) => existsSync(path))
    .map((path) => `mount --bind /dev/null "$(readlink -f ${path})";`)
    .join(" ");
}

/** Another user, hence without capabilities, whoever runs this. */
const UNPRIVILEGED = "unshare --user --map-user=1000 --map-group=1000";
const WITHOUT_CAPABILITIES = "setpriv --inh-caps=-all --bounding-set=-all";
t.test("a machine that has everything", async (t) => {
  for (const script of ["DOCTOR", `${UNPRIVILEGED} DOCTOR`]) {
    const diagnosis = doctor(script);
    t.match(diagnosis, { code: 0, ok: true }, script);
    t.strictSame(diagnosis.failed, []);
    t.ok(diagnosis.names.includes("vxlan"));
  }
});

t.test("programs that are missing", async (t) => {
  const iptables = doctor(`${hide("iptables", "iptables-save", "iptables-restore")} DOCTOR`);
  t.equal(iptables.code, 1);
  t.strictSame(iptables.failed, ["iptables", "iptables-restore", "iptables-save"], "each is told once");
  t.match(iptables.found.iptables, { detail: "not found", remedy: "sudo apt-get install -y iptables" });
  const unshare = doctor(`${hide("unshare")} DOCTOR`);
  t.match(unshare, { code: 1, found: { unshare: { remedy: "sudo apt-get install -y util-linux" } } });
  t.notOk(unshare.names.includes("vxlan"), "without it nothing further can be tried");

  const text = ran(`${hide("unshare", "nsenter")} DOCTOR`, "text");
  t.equal(text.status, 1);
  t.match(text.stdout, /^✗ unshare +not found\n {2,}sudo apt-get install -y util-linux\n✗ nsenter /m);
  t.match(text.stdout, /\n\n2 things are missing that kubeplumb needs(;.*)?\n$/);
});

t.test("namespaces that are forbidden", async (t) => {
  const forbid = (kind: string, as = "") =>
    doctor(`exec unshare -Ur /bin/sh -ec 'echo 0 > /proc/sys/user/max_${kind}_namespaces; ${as} DOCTOR'`);
  const user = forbid("user", WITHOUT_CAPABILITIES);
  t.match(user, { code: 1, ok: false });
  t.match(user.found["user namespace"], {
    status: "fail",
    detail: /^no user namespaces are allowed at all: unshare: /,
    remedy: "sudo sysctl -w user.max_user_namespaces=28633   (or run kubeplumb with sudo)",
  });
  t.notOk(user.names.includes("vxlan"));
  for (const [kind, word] of [
    ["net", "network"],
    ["pid", "PID"],
  ] as const) {
    t.match(forbid(kind, "echo 0 > /proc/sys/user/max_user_namespaces;"), {
      code: 1,
      found: {
        "network and mount namespace": {
          status: "fail",
          detail: new RegExp(`^no ${word} namespaces are allowed at all: unshare: `),
          remedy: `sudo sysctl -w user.max_${kind}_namespaces=28633`,
        },
      },
    });
  }
});

t.test("/proc/sys that is read-only, as in a container", async (t) => {
  const script = "mount --bind /proc/sys /proc/sys; mount -o remount,ro,bind /proc/sys;";
  const { code, found } = doctor(`${script} ${UNPRIVILEGED} DOCTOR`);
  t.equal(code, 1);
  t.match(found["PID namespace with /proc"], { status: "warn", remedy: /systempaths=unconfined/ });
  for (const name of ["sysctl ip_forward", "sysctl route_localnet"]) {
    t.match(found[name], { status: "fail", detail: /EROFS/, remedy: /--privileged$/ }, name);
  }
});

t.test("iptables that does not work", async (t) => {
  const fakes = join(directory, "fakes");
  mkdirSync(fakes);
  const restore = (said: string) =>
    writeFileSync(join(fakes, "iptables-restore"), `#!/bin/sh\necho '${said}' >&2\nexit 4\n`, {
      mode: 0o755,
    });
  restore("Could not fetch rule set generation id: Invalid argument");
  writeFileSync(join(fakes, "iptables"), "#!/bin/sh\necho 'iptables v1.8.9 (nf_tables)'\n", { mode: 0o755 });
  const noModule = doctor("DOCTOR", [fakes]);
  t.match(noModule.found["iptables-nft tables"], {
    detail: "Could not fetch rule set generation id: Invalid argument",
    remedy: "sudo modprobe nf_tables",
  });
  t.strictSame(noModule.failed, ["iptables-nft tables"], "no match is tried where there is no table");
  restore("Permission denied (you must be root)");
  t.match(doctor(`${UNPRIVILEGED} DOCTOR`, [fakes]).found["iptables-nft tables"], {
    remedy: "run kubeplumb with sudo",
  });

  // A package that has been taken apart: one match has no library.
  const libraries = join(directory, "xtables");
  const installed = spawnSync("sh", ["-c", "ls -d /usr/lib*/*/xtables /usr/lib*/xtables 2>/dev/null"], {
    encoding: "utf8",
  }).stdout.split("\n")[0] as string;
  mkdirSync(libraries);
  for (const name of readdirSync(installed)) {
    if (name !== "libxt_recent.so") symlinkSync(join(installed, name), join(libraries, name));
  }
  const noMatch = doctor(`XTABLES_LIBDIR=${libraries} DOCTOR`);
  t.strictSame(noMatch.failed, ["iptables recent"]);
  t.match(noMatch.found["iptables recent"], {
    detail: /Couldn't load match `recent'.*[^\n]$/,
    remedy: "sudo apt-get install -y --reinstall iptables",
  });
});

t.test("what is only useful is no failure", async (t) => {
  const old = join(directory, "old");
  mkdirSync(old);
  const kubectl = (said: string) =>
    writeFileSync(join(old, "kubectl"), `#!/bin/sh\necho '${said}'\n`, { mode: 0o755 });
  kubectl('{"clientVersion": {"gitVersion": "v1.29.1"}}');
  const script = `${hide("curl", "ping", "ip")} ulimit -n 1024; DOCTOR`;
  const diagnosis = doctor(script, [old]);
  t.match(diagnosis, { code: 0, ok: true });
  t.match(diagnosis.found, {
    "open files limit": { status: "warn", detail: /^1024: /, remedy: /^ulimit -Hn 65536 / },
    ping: { status: "warn", detail: /kubeplumb exec HOST -- ping/, remedy: /install -y iputils-ping$/ },
    curl: { status: "warn", remedy: "sudo apt-get install -y curl" },
    ip: { status: "warn", remedy: "sudo apt-get install -y iproute2" },
  });
  t.equal(diagnosis.found.kubectl, undefined, "an old one will do");
  kubectl("no JSON");
  t.match(doctor("DOCTOR", [old]).found.kubectl, { detail: "does not tell its version" });
  const none = ran(`${hide("kubectl", "curl")} DOCTOR`, "text");
  t.equal(none.status, 0);
  t.match(none.stdout, /^! kubectl +not found: .*\n {2,}see https:/m);
  t.match(none.stdout, /\nkubeplumb runs here; of what is useful, 2 things are missing\n$/);
});
