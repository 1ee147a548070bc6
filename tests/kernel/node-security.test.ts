// Security contexts of pods on a real host namespace: the steps of "Configure a Security Context for a Pod or Container"
// and of the pages about capabilities, as far as this user may take them.

import t from "tap";
import { CONFIG_MAPS } from "../../common/client.js";
import { mapsOneUser } from "../../node/process/user-ns.js";
import { client, host, main, shell } from "../helpers/agent-host.js";

const sh = async (pod: string, script: string) =>
  (await host.exec(pod, ["sh", "-c", script])).stdout.trimEnd();

const oneUser = mapsOneUser();

t.test("user, group and the group of volumes", { skip: oneUser && "one user" }, async (t) => {
  const metadata = { name: "conf", namespace: "default" };
  await client.create(CONFIG_MAPS, { metadata, data: { key: "value" } });
  const mounts = [
    { name: "vol", mountPath: "/data/demo" },
    { name: "conf", mountPath: "/conf" },
  ];
  await host.pod(
    "demo",
    { ...shell("sleep 1h"), volumeMounts: mounts, securityContext: { allowPrivilegeEscalation: false } },
    {
      securityContext: { runAsUser: 1000, runAsGroup: 3000, fsGroup: 2000, supplementalGroups: [4000] },
      volumes: [
        { name: "vol", emptyDir: {} },
        { name: "conf", configMap: { name: "conf" } },
      ],
    },
  );
  await host.running("demo");
  t.equal(await sh("demo", "id -u; id -g; id -G; echo $HOME"), "1000\n3000\n3000 2000 4000\n/");
  t.match(await sh("demo", "stat -c '%A %u %g' /data/demo"), /^drwxrwsrwx \d+ 2000$/);
  t.equal(
    await sh("demo", "echo hello > /data/demo/testfile; stat -c '%u %g' /data/demo/testfile"),
    "1000 2000",
  );
  t.match(await sh("demo", "stat -L -c '%A %g' /conf/key; cat /conf/key"), /^-rw-r--r-- 2000\nvalue$/);
  t.match(await sh("demo", "touch /etc/x 2>&1"), /Permission denied/);
  t.match(await sh("demo", "ps -o uid= -p 1"), /^ *1000$/);
});

t.test("capabilities", async (t) => {
  await host.pod("plain", shell("sleep 1h"));
  await host.pod("more", {
    ...shell("sleep 1h"),
    securityContext: { capabilities: { add: ["NET_ADMIN", "SYS_TIME"] } },
  });
  await host.pod("privileged", { ...shell("sleep 1h"), securityContext: { privileged: true } });
  for (const name of ["plain", "more", "privileged"]) await host.running(name);
  t.equal(await sh("plain", "grep CapPrm /proc/1/status"), "CapPrm:\t00000000a80425fb");
  t.equal(await sh("more", "grep CapPrm /proc/1/status"), "CapPrm:\t00000000aa0435fb");
  t.match(await sh("plain", "ip link set eth0 mtu 1400 2>&1"), /Operation not permitted/);
  t.equal(await sh("more", "ip link set eth0 mtu 1400 2>&1 && echo done"), "done");
  t.match(await sh("plain", "iptables-save 2>&1"), /Permission denied/);
  t.match(await sh("privileged", "iptables -t nat -N MINE && iptables-save -t nat"), /^:MINE /m);
});

t.test("a root that cannot be written to, and a user that may not be root", async (t) => {
  await host.pod(
    "read-only",
    {
      ...shell("sleep 1h"),
      securityContext: { readOnlyRootFilesystem: true },
      volumeMounts: [{ name: "tmp", mountPath: "/tmp" }],
    },
    { volumes: [{ name: "tmp", emptyDir: {} }] },
  );
  await host.running("read-only");
  t.match(await sh("read-only", "touch /etc/x 2>&1; touch /tmp/x && ls /tmp"), /Read-only file system\nx$/);
  await host.pod("no-root", shell("sleep 1h"), { securityContext: { runAsNonRoot: true } });
  const waiting = await host.until("no-root", (status) => main(status)?.state?.waiting);
  t.match(main(waiting.status)?.state?.waiting, {
    reason: "CreateContainerConfigError",
    message: /^container has runAsNonRoot and image will run as root \(pod: "no-root_default\(/,
  });
});
