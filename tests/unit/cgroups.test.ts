// Where control groups may be made, by what the kernel says of itself on machines of both versions.

import t from "tap";
import { findHierarchy } from "../../dataplane/kernel/cgroups.js";
import { forbiddenSysctl, networkSysctls } from "../../node/pods/sysctls.js";
import { standInScript } from "../../node/process/stand-in.js";

const V1 = `23 1 0:20 / / rw - ext4 /dev/vda rw
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:4 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
`;
const V2 = "26 23 0:22 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

t.test("version 1, with version 2 beside it for other things", async (t) => {
  const files = { cgroup: "9:name=systemd:/x\n4:memory:/job/a\n1:cpu,cpuacct:/\n0::/x\n", mountinfo: V1 };
  t.same(findHierarchy("memory", files), {
    version: 1,
    mount: "/sys/fs/cgroup/memory",
    own: "/sys/fs/cgroup/memory/job/a",
  });
  t.same(findHierarchy("cpu", files), {
    version: 1,
    mount: "/sys/fs/cgroup/cpu,cpuacct",
    own: "/sys/fs/cgroup/cpu,cpuacct",
  });
});

t.test("version 2", async (t) => {
  const own = "/sys/fs/cgroup/user.slice/session-3.scope";
  const files = { cgroup: "0::/user.slice/session-3.scope\n", mountinfo: V2 };
  for (const controller of ["memory", "cpu"] as const)
    t.same(findHierarchy(controller, files), { version: 2, mount: "/sys/fs/cgroup", own });
});

t.test("in a container, which sees a part", async (t) => {
  const mountinfo = V1.replace("0:32 / /sys", "0:32 /docker/abc /sys");
  const inside = findHierarchy("memory", { cgroup: "4:memory:/docker/abc/x\n", mountinfo });
  t.equal(inside?.own, "/sys/fs/cgroup/memory/x");
  const namespaced = { cgroup: "0::/../../other\n", mountinfo: V2 };
  t.equal(findHierarchy("memory", namespaced), undefined, "its own group is out of sight");
  t.equal(findHierarchy("memory", { cgroup: "0::/\n", mountinfo: "" }), undefined, "nothing is mounted");
});

t.test("sysctls that a pod may set", async (t) => {
  const pod = (spec: object, ...names: string[]) => ({
    spec: {
      containers: [],
      securityContext: { sysctls: names.map((name) => ({ name, value: "1" })) },
      ...spec,
    },
  });
  t.equal(forbiddenSysctl({ spec: { containers: [] } }), undefined);
  t.equal(forbiddenSysctl(pod({}, "net.ipv4.tcp_syncookies", "kernel/shm_rmid_forced")), undefined);
  t.same(networkSysctls(pod({}, "net/ipv4/tcp_syncookies", "kernel.shm_rmid_forced")), [
    { name: "net.ipv4.tcp_syncookies", value: "1" },
  ]);
  t.equal(
    forbiddenSysctl(pod({}, "net.ipv4.tcp_syncookies", "net.core.somaxconn")),
    'forbidden sysctl: "net.core.somaxconn" not allowlisted',
  );
  t.equal(
    forbiddenSysctl(pod({ hostIPC: true }, "kernel.shm_rmid_forced")),
    'forbidden sysctl: "kernel.shm_rmid_forced" not allowed with host ipc enabled',
  );
});

t.test("the words that bash waits by are one command", async (t) => {
  const lines = standInScript(["/usr/bin/web-server-of-mine --port 80", "a 'worker'"]).split("\n");
  t.same([lines[0], lines.slice(-2)], ["{", ["}", ""]]);
  t.ok(lines.includes("printf %s web-server-of-m > /proc/$$/comm"));
  t.ok(lines.includes("workers() { :; (exec -a 'a '\\''worker'\\''' cat) <&0 & }"));
});
