// The node agent on a real host namespace: images, logs until the end, and what is left when it stops.

import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { WebSocket } from "ws";
import { CONFIG_MAPS, EVENTS, PODS } from "../../common/client.js";
import type { PodStatus } from "../../common/k8s.js";
import { client, host, ip, main, restarts, shell, waitFor } from "../helpers/agent-host.js";

t.test("a changed image: the container runs anew, whatever the restart policy", async (t) => {
  const change = (name: string, container: object) =>
    client.patch(
      PODS,
      name,
      "merge",
      { spec: { containers: [{ name: "main", ...container }] } },
      { namespace: "default" },
    );
  await host.pod("changed", { image: "nginx:1.27" }, { restartPolicy: "Never" });
  await host.running("changed");
  await change("changed", { image: "nginx:1.28" });
  await host.event("changed", "Killing", /^Container main definition changed, will be restarted$/);
  const phases = new Set<string | undefined>();
  const anew = await host.until("changed", (status) => {
    phases.add(status.phase);
    return restarts(status) === 1;
  });
  t.same([...phases], ["Running"], "it is not over in between");
  t.match(await host.curl("-i", ip(anew)), /Server: nginx\/1\.28/);

  const backingOff = /^back-off (\S+) restarting/;
  const delay = (status: PodStatus) => backingOff.exec(main(status)?.state?.waiting?.message ?? "")?.[1];
  await host.pod("reset", shell("exit 1"));
  const long = await host.until("reset", (status) => delay(status) === "800ms");
  await change("reset", { ...shell("exit 1"), image: "alpine" });
  const short = await host.until(
    "reset",
    (status) => restarts(status) > restarts(long.status ?? {}) && delay(status) !== undefined,
  );
  t.equal(delay(short.status ?? {}), "400ms", "another definition has its own back-off");

  await host.pod("last", { image: "nginx" }, { restartPolicy: "Always" });
  await host.running("last");
  const over = host.until("last", (status) => status.phase === "Succeeded");
  await change("last", { image: "ngnix:9" });
  await client.delete(PODS, "last", { namespace: "default" });
  t.match(main((await over).status)?.state, { terminated: { exitCode: 0 } }, "its end is what is told of it");

  await host.pod("twice", { image: "ngnix:1" });
  await host.until("twice", (status) => main(status)?.state?.waiting?.reason === "ImagePullBackOff");
  await change("twice", { image: "ngnix:2" });
  const other = await host.until("twice", (status) =>
    /ngnix:2/.test(main(status)?.state?.waiting?.message ?? ""),
  );
  t.equal(main(other.status)?.state?.waiting?.reason, "ErrImagePull", "tried at once");
});

t.test("an unknown image", async (t) => {
  await host.pod("typo", { image: "ngnix:1" });
  const waiting = (reason: string) => (status: PodStatus) => main(status)?.state?.waiting?.reason === reason;
  const first = await host.until("typo", waiting("ErrImagePull"));
  t.equal(first.status?.phase, "Pending");
  const backing = await host.until("typo", waiting("ImagePullBackOff"));
  t.match(
    main(backing.status)?.state?.waiting?.message,
    /^Back-off pulling image "ngnix:1": ErrImagePull: kubeplumb has no image/,
  );
  const event = await host.event("typo", "Failed", /^Failed to pull image "ngnix:1"/);
  t.match(event.message, /; map one in the cluster config under images: .*; known images: .*nginx/);
  await host.event("typo", "BackOff", /^Back-off pulling image "ngnix:1"$/);
  t.match(await host.logs("typo"), /^400 .*is waiting to start: trying and failing to pull image"/);
  await host.until("typo", waiting("ErrImagePull"));
  await host.pod("wrong", { image: "Not An Image" });
  await host.until("wrong", waiting("InvalidImageName"));
  t.match(await host.logs("wrong"), /^400 .*is waiting to start: InvalidImageName"/);
  await host.pod("absent", { image: "ngnix:1", imagePullPolicy: "Never" });
  const absent = await host.until("absent", waiting("ErrImageNeverPull"));
  const never = 'Container image "ngnix:1" is not present with pull policy of Never';
  t.equal(main(absent.status)?.state?.waiting?.message, never);
  t.match(await host.event("absent", "ErrImageNeverPull"), { type: "Warning", message: never });
  await host.event("absent", "Failed", /^Error: ErrImageNeverPull$/);
  await host.pod("eager", { image: "nginx", imagePullPolicy: "Always" });
  await host.event("eager", "Pulling", /^Pulling image "nginx"$/);
  await host.event("eager", "Pulled", /^Successfully pulled image "nginx" in /);
});

t.test("images: nginx and agnhost", async (t) => {
  await client.create(CONFIG_MAPS, {
    metadata: { name: "site", namespace: "default" },
    data: { "a.txt": "from a volume" },
  });
  await host.pod("nginx", { image: "nginx:1.27" });
  await host.pod(
    "site",
    { image: "nginx", volumeMounts: [{ name: "site", mountPath: "/usr/share/nginx/html" }] },
    { volumes: [{ name: "site", configMap: { name: "site" } }] },
  );
  const nginx = ip(await host.running("nginx"));
  t.match(await host.curl("-i", nginx), /^HTTP\/1\.1 200 OK\r\nServer: nginx\/1\.27\r\n.*Welcome to nginx!/s);
  t.match(await host.curl("-i", `${nginx}/nope`), /^HTTP\/1\.1 404 Not Found\r\n.*<h1>404 Not Found<\/h1>/s);
  t.match(await host.curl("-I", nginx), /^HTTP\/1\.1 200 OK\r\n(?!.*<html>).*Content-Length: [1-9]/s);
  t.match(await host.logs("nginx"), /^\S+ - - \[.*\] "GET \/nope HTTP\/1\.1" 404 \d+ "-" "curl\/.*" "-"$/m);
  const site = ip(await host.running("site"));
  t.equal(await host.curl(`${site}/a.txt`), "from a volume");
  t.match(await host.curl("-i", site), /^HTTP\/1\.1 403 Forbidden\r\n/, "no page for a directory");
  t.match(await host.curl("-i", `${site}/no/`), /^HTTP\/1\.1 404 Not Found\r\n/);
  t.match(await host.curl(`${site}/../../etc/passwd`, "--path-as-is"), /404 Not Found/);

  const agnhost = "registry.k8s.io/e2e-test-images/agnhost:2.53";
  await host.pod("netexec", { image: agnhost, args: ["netexec", "--http-port", "8083", "--udp-port=8084"] });
  await host.pod("names", {
    image: agnhost,
    args: ["serve-hostname", "--tcp", "--http=false", "--port=9376"],
  });
  await host.pod("porter", {
    image: agnhost,
    args: ["porter"],
    env: [{ name: "SERVE_PORT_90", value: "ninety" }],
  });
  const netexec = `${ip(await host.running("netexec"))}:8083`;
  t.equal(await host.curl(`${netexec}/hostname`), "netexec");
  t.equal(await host.curl(`${netexec}/echo?msg=hello&code=201`, "-w", " %{http_code}"), "hello 201");
  t.match(await host.curl(`${netexec}/clientip`), /^10\.244\.1\.1:\d+$/, "the host's address on the bridge");
  t.equal(
    await host.curl(`${netexec}/redirect?location=/hostname`, "-w", "%{http_code} %{redirect_url}"),
    `302 http://${netexec}/hostname`,
  );
  t.same(JSON.parse(await host.curl(`${netexec}/shell?cmd=hostname`)), { output: "netexec\n" });
  t.same(JSON.parse(await host.curl(`${netexec}/shell?cmd=exit%203`)), { error: "exit status 3" });
  const dial = (query: string) =>
    host.curl(`${netexec}/dial?${query}`).then((text) => JSON.parse(text) as unknown);
  const address = netexec.replace(":8083", "");
  t.same(await dial(`host=${address}&port=8084&protocol=udp&request=hostname&tries=2`), {
    responses: ["netexec", "netexec"],
  });
  t.same(await dial(`host=${address}&port=8083&protocol=http&request=echo?msg=x`), { responses: ["x"] });
  t.match(await dial(`host=${address}&port=1&protocol=http&request=hostname`), {
    errors: [/connection refused/],
  });
  const names = ip(await host.running("names"));
  t.equal((await host.ns.exec("bash", ["-c", `cat < /dev/tcp/${names}/9376`])).stdout, "names");
  t.equal(await host.curl(`${ip(await host.running("porter"))}:90/anything`), "ninety");

  const connect = (...args: string[]) => host.exec("netexec", ["/agnhost", "connect", ...args]);
  t.match(await connect(`${address}:8083`), { exitCode: 0, stderr: "" });
  t.match(await connect(`${address}:1`), { exitCode: 1, stderr: "REFUSED\n" });
  t.match(await connect("--protocol=udp", `${address}:8084`), { exitCode: 0 });
  t.match(await connect("--protocol=udp", "--timeout=5s", `${address}:1`), {
    exitCode: 1,
    stderr: /^REFUSED/,
  });
  t.match(await connect("nonsense"), { exitCode: 1, stderr: /^UNKNOWN: address nonsense: missing port/ });
  t.match(await connect("no.such.host.invalid:80"), { exitCode: 1, stderr: /^DNS: / });
  const query = "command=/agnhost&command=connect&command=no.such.host.invalid:80&stdout=true";
  const path = `/exec/default/netexec/main?${query}`;
  const ws = new WebSocket(`ws+unix://${host.socketPath}:${path}`, ["v5.channel.k8s.io"]);
  await new Promise((resolve) => ws.once("message", resolve));
  ws.terminate();
  // As long as the look-up for the client that has gone takes: its answer is for nobody, and disturbs nobody.
  t.match(await connect("no.such.host.invalid:80"), { exitCode: 1 });
  // Ends with its container, as a real process does.
  const serving = host.exec("netexec", ["/agnhost", "netexec", "--http-port=9090", "--udp-port=-1"]);
  await waitFor(async () => (await host.curl(`${address}:9090/hostname`).catch(() => "")) === "netexec");
  await host.curl(`${netexec}/exit?code=5`).catch(() => {});
  const exited = await host.until("netexec", (status) => restarts(status) === 1);
  t.match(main(exited.status)?.lastState?.terminated, { exitCode: 5 });
  t.match(await serving, { exitCode: 137 });
});

t.test("follows logs until the container ends", async (t) => {
  const gate = join(host.directory, "gate");
  mkdirSync(gate);
  await host.pod(
    "talk",
    {
      ...shell("echo first; until [ -e /gate/open ]; do sleep 0.02; done; printf 'second\\nthird\\n'"),
      volumeMounts: [{ name: "gate", mountPath: "/gate" }],
    },
    { restartPolicy: "Never", volumes: [{ name: "gate", hostPath: { path: gate } }] },
  );
  await host.running("talk");
  await waitFor(async () => (await host.logs("talk")) === "first\n");
  const following = host.logs("talk", "follow=true");
  const cut = host.logs("talk", "follow=true&limitBytes=9");
  writeFileSync(join(gate, "open"), "");
  t.equal(await following, "first\nsecond\nthird\n");
  t.equal(await cut, "first\nsec", "to the byte, though more comes in the same chunk");
});

t.test("a new life of the agent starts pods anew and leaks nothing", async (t) => {
  await host.pod("once", { image: "nginx" }, { restartPolicy: "Never" });
  await host.pod(
    "half",
    {},
    {
      restartPolicy: "Never",
      containers: [
        { name: "main", ...shell("exit 4") },
        { name: "other", ...shell("sleep 60") },
      ],
    },
  );
  await host.pod("job", shell("exit 3"), { restartPolicy: "Never" });
  await host.until("job", (status) => status.phase === "Failed");
  const begun = join(host.directory, "begun");
  mkdirSync(begun);
  const init = {
    name: "init",
    ...shell("echo $POD >> /begun/log"),
    env: [{ name: "POD", valueFrom: { fieldRef: { fieldPath: "metadata.name" } } }],
    volumeMounts: [{ name: "begun", mountPath: "/begun" }],
  };
  const withInit = { initContainers: [init], volumes: [{ name: "begun", hostPath: { path: begun } }] };
  await host.pod("again", shell("sleep 60"), withInit);
  await host.pod("over", shell("sleep 60"), { ...withInit, restartPolicy: "Never" });
  await Promise.all([host.running("again"), host.running("over")]);
  const before = await host.running("nginx");
  await host.running("once");
  await host.until("half", (status) => main(status)?.state?.terminated && status.phase === "Running");
  const gated = shell("[ -e /begun/open ] && exec sleep 60; exit 11");
  await host.pod("gated", { ...gated, volumeMounts: init.volumeMounts }, { volumes: withInit.volumes });
  const crashing = await host.until(
    "gated",
    (status) => restarts(status) > 0 && main(status)?.state?.waiting,
  );
  await host.stopAgent(true);
  const links = (await host.netlink.listLinks()).map((link) => link.name);
  t.same(
    links.filter((name) => name.startsWith("veth")),
    [],
    "no veth is left",
  );
  writeFileSync(join(begun, "open"), "");
  await host.start();
  const after = await host.until("nginx", (status, pod) => restarts(status) === 1 && ip(pod) !== ip(before));
  t.match(main(after.status)?.lastState?.terminated, { exitCode: 255, reason: "Unknown" });
  t.match(await host.curl(ip(after)), /Welcome to nginx/);
  await host.until("once", (status) => status.phase === "Failed");
  const half = await host.until("half", (status) => status.phase === "Failed");
  t.match(half.status?.containerStatuses, [
    { state: { terminated: { exitCode: 4, reason: "Error" } } },
    { state: { terminated: { exitCode: 255, reason: "Unknown" } } },
  ]);
  const again = await host.until("again", (status) => restarts(status) === 1 && status.phase === "Running");
  t.match(again.status?.initContainerStatuses, [{ ready: true, state: { terminated: { exitCode: 0 } } }]);
  const over = await host.until("over", (status) => status.phase === "Failed");
  t.match(over.status?.initContainerStatuses, [{ ready: true, state: { terminated: { exitCode: 0 } } }]);
  const log = readFileSync(join(begun, "log"), "utf8").trim().split("\n").sort();
  t.same(log, ["again", "again", "over"], "a new network needs its init containers again");
  const opened = await host.until("gated", (status) => main(status)?.state?.running);
  t.ok(restarts(opened.status ?? {}) > restarts(crashing.status ?? {}));
  t.match(main(opened.status)?.lastState?.terminated, { exitCode: 11, reason: "Error" });
  t.equal((await host.until("job", () => true)).status?.phase, "Failed", "what was finished stays so");

  // Killed, not stopped: the next life gives back what this one took.
  await host.stopAgent(false);
  await host.start();
  await host.until("nginx", (status) => restarts(status) === 2);
  const networks = join(host.directory, "run/cni/networks/kubeplumb");
  const held = () => readdirSync(networks).filter((name) => /^\d+\.\d+\.\d+\.\d+$/.test(name)).length;
  const all = (await client.list(PODS)).items;
  const living = () => all.filter((pod) => host.agent.podSandbox("default", pod.metadata.name)).length;
  await t.resolves(
    waitFor(async () => held() === living()),
    "as many addresses as pods that live",
  );
  t.notOk((await client.list(EVENTS)).items.some((event) => event.reason === "FailedCreatePodSandBox"));
});
