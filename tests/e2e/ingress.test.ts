// Traffic from outside the hosts: Services of type LoadBalancer and Ingresses, with the real kubectl, and curl beside
// the hosts. What is asked there during an update, an undo and a scale-down must all be answered. In a lab or, without
// addresses of load balancers, on VMs.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { createCluster, DEPLOYMENTS } from "../../index.js";
import { selfSigned } from "../../node/ingress/certificates.js";
import { clusterUnderTest, onlyInLab } from "../helpers/cluster-under-test.js";
import { kubectlOf } from "../helpers/kubectl.js";
import { machineFiles } from "../helpers/machine-files.js";

const OUTSIDE = "underlay";
const { cluster, lab, patience, programs } = await clusterUnderTest(t);
const kubectl = kubectlOf(cluster);

const files = machineFiles(programs.files);
const MANIFEST = `
apiVersion: apps/v1
kind: Deployment
metadata: { name: echo }
spec:
  replicas: 1
  selector: { matchLabels: { app: echo } }
  template:
    metadata: { labels: { app: echo } }
    spec: { containers: [{ name: echo, image: ealen/echo-server }] }
---
apiVersion: v1
kind: Pod
metadata: { name: ws, labels: { app: ws } }
spec:
  volumes: ${JSON.stringify(files.spec.volumes)}
  containers:
    - name: ws
      image: busybox
      command:
        - ${programs.node}
        - -e
        - |
          require("http").createServer((q, r) => r.end("plain")).on("upgrade", (q, s) => {
            s.write("HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n\\r\\n");
            s.on("data", (d) => s.write("echo " + d)).on("error", () => {});
          }).listen(9000);
      volumeMounts: ${JSON.stringify(files.container.volumeMounts)}
      readinessProbe: { tcpSocket: { port: 9000 }, periodSeconds: 1 }
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: parts
  annotations: { nginx.ingress.kubernetes.io/rewrite-target: /$2 }
spec:
  ingressClassName: nginx
  rules:
    - host: parts.example
      http:
        paths:
          - { path: "/echo(/|$)(.*)", pathType: ImplementationSpecific, backend: { service: { name: echo, port: { number: 80 } } } }
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: { name: ws }
spec:
  rules:
    - host: ws.example
      http: { paths: [{ path: /, pathType: Prefix, backend: { service: { name: ws, port: { number: 80 } } } }] }
`;

/** An HTTP request from beside the hosts. */
async function ask(url: string, ...args: string[]): Promise<{ status: number; body: string }> {
  return cluster.curl(OUTSIDE, url, args);
}

async function routeOf(ip: string): Promise<string | undefined> {
  const { stdout } = await cluster.exec(OUTSIDE, ["ip", "route", "get", ip]);
  return cluster.hosts.find((host) => host.ip === /via (\S+)/.exec(stdout)?.[1])?.name;
}

const ready = (deployment: string, ...where: string[]) =>
  kubectl("rollout", "status", `deployment/${deployment}`, `--timeout=${patience}`, ...where);

t.test("a Service of type LoadBalancer", { skip: onlyInLab() }, async (t) => {
  await kubectl("create", "deployment", "lb", "--image=nginx", "--replicas=3");
  await ready("lb");
  t.equal(
    await kubectl("expose", "deployment", "lb", "--type=LoadBalancer", "--port=80"),
    "service/lb exposed",
  );
  const json = "jsonpath={.status.loadBalancer.ingress[0].ip}";
  await kubectl("wait", `--for=${json}`, "service/lb", `--timeout=${patience}`);
  const ip = await kubectl("get", "service", "lb", "-o", json);
  t.match(
    await kubectl("get", "service", "lb"),
    new RegExp(`lb +LoadBalancer +10\\.96\\S+ +${ip} +80:3\\d+/TCP`),
  );
  await cluster.waitForSync();
  await cluster.waitUntil(async () => (await routeOf(ip)) !== undefined);
  t.equal((await ask(`http://${ip}/`)).status, 200);
  t.equal((await cluster.curl("node-1", `http://${ip}/`)).status, 200, "from a host too");
  t.equal((await ask(`http://${ip}:81/`, "--max-time", "2")).status, 0, "other ports are not served");
  const elected = (await routeOf(ip)) ?? "";
  const told = new RegExp(`EnsuredLoadBalancer[^\\n]+\\n[^\\n]+announcing ${ip} from node "${elected}"`);
  await cluster.waitUntil(async () => told.test(await kubectl("describe", "service", "lb")), {
    what: `describe says ${told}`,
  });

  await cluster.exec(elected, ["ip", "link", "set", "eth0", "down"]);
  await cluster.waitUntil(async () => (await ask(`http://${ip}/`, "--max-time", "1")).status === 200, {
    timeoutMs: 60_000,
  });
  t.not(await routeOf(ip), elected, "the address has moved away from the host that is cut off");
  await cluster.exec(elected, ["ip", "link", "set", "eth0", "up"]);
  await cluster.waitUntil(async () => (await routeOf(ip)) === elected);

  await kubectl("scale", "deployment/lb", "--replicas=1");
  await ready("lb");
  await kubectl("patch", "service", "lb", "-p", '{"spec":{"externalTrafficPolicy":"Local"}}');
  const where = "jsonpath={.items[0].spec.nodeName}";
  await cluster.waitUntil(
    async () => (await kubectl("get", "pods", "-l", "app=lb", "-o", "name")).split("\n").length === 1,
  );
  const host = await kubectl("get", "pods", "-l", "app=lb", "-o", where);
  await cluster.waitUntil(async () => (await routeOf(ip)) === host);
  await cluster.waitForSync();
  t.equal((await ask(`http://${ip}/`)).status, 200);
  t.match(
    await kubectl("logs", "deployment/lb", "--tail=1"),
    /^192\.168\.56\.1 - - .* 200 /,
    "the client's address",
  );

  await kubectl("patch", "service", "lb", "-p", '{"spec":{"type":"ClusterIP","externalTrafficPolicy":null}}');
  await cluster.waitUntil(async () => (await routeOf(ip)) === undefined);
  t.match(await kubectl("get", "service", "lb"), /lb +ClusterIP +\S+ +<none> +80\/TCP/);
  await kubectl("delete", "service/lb", "deployment/lb");
});

t.test("the addresses of Services, and a second range", async (t) => {
  t.match(await kubectl("get", "servicecidrs"), /kubernetes +10\.96\.0\.0\/16/);
  t.match(await kubectl("get", "ipaddresses"), /10\.96\.0\.1 +services\/default\/kubernetes/);
  await cluster.apply(
    "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: { name: more }\nspec: { cidrs: [10.97.0.0/24] }",
  );
  await kubectl("wait", "--for=condition=Ready", "servicecidr/more", `--timeout=${patience}`);
  await kubectl("create", "service", "clusterip", "second", "--tcp=80", "--clusterip=10.97.0.7");
  t.match(await kubectl("get", "ipaddress", "10.97.0.7"), /services\/default\/second/);
  await kubectl("delete", "servicecidr", "more", "--wait=false");
  await cluster.waitUntil(async () =>
    /still IPAddresses/.test(await kubectl("get", "servicecidr", "more", "-o", "yaml")),
  );
  await kubectl("delete", "service", "second");
  await kubectl("wait", "--for=delete", "servicecidr/more", `--timeout=${patience}`);
});

/** Where Ingresses are reached: at their address or, where nobody gives them one, at the controller's host. */
interface Entry {
  ip: string;
  http: number;
  https: number;
}
let entry: Entry = { ip: "", http: 80, https: 443 };
const CONTROLLER = "ingress-kubeplumb-controller";
const NAMESPACE = "ingress-kubeplumb";

async function findEntry(): Promise<Entry> {
  if (lab) {
    const json = "jsonpath={.status.loadBalancer.ingress[0].ip}";
    await kubectl("wait", `--for=${json}`, "ingress/web", `--timeout=${patience}`);
    return { ip: await kubectl("get", "ingress", "web", "-o", json), http: 80, https: 443 };
  }
  await cluster.waitFor(DEPLOYMENTS, CONTROLLER, "Available", { namespace: NAMESPACE });
  const field = (what: string, path: string) =>
    kubectl("-n", NAMESPACE, "get", ...what.split(" "), "-o", `jsonpath=${path}`);
  const [http, https] = (await field(`service ${CONTROLLER}`, "{.spec.ports[*].nodePort}")).split(" ");
  return {
    ip: await field("pods", "{.items[0].status.hostIP}"),
    http: Number(http),
    https: Number(https),
  };
}

t.test("an Ingress: hosts, paths, TLS, upgrades, headers", async (t) => {
  await cluster.apply(MANIFEST);
  await kubectl(
    "create",
    "deployment",
    "web",
    "--image=gcr.io/google-samples/kubernetes-bootcamp:v1",
    "--replicas=4",
  );
  await kubectl("expose", "deployment", "web", "--type=NodePort", "--port=80", "--target-port=8080");
  await kubectl("expose", "deployment", "echo", "--port=80");
  await kubectl("expose", "pod", "ws", "--port=80", "--target-port=9000");
  const dir = mkdtempSync(join(tmpdir(), "kubeplumb-tls-"));
  t.teardown(() => rmSync(dir, { recursive: true }));
  const { cert, key } = await selfSigned("secure.example", "secure.example");
  writeFileSync(join(dir, "crt"), cert);
  writeFileSync(join(dir, "key"), key);
  await kubectl("create", "secret", "tls", "cert", `--cert=${join(dir, "crt")}`, `--key=${join(dir, "key")}`);
  const created = await kubectl(
    "create",
    "ingress",
    "web",
    "--rule=foo.example/*=web:80",
    "--rule=secure.example/*=web:80,tls=cert",
  );
  t.equal(created, "ingress.networking.k8s.io/web created");
  entry = await findEntry();
  await ready(CONTROLLER, "-n", NAMESPACE);
  for (const name of ["web", "echo"]) await ready(name);
  await kubectl("wait", "--for=condition=Ready", "pod/ws", `--timeout=${patience}`);
  await cluster.waitForSync();
  t.match(
    await kubectl("get", "ingress", "web"),
    new RegExp(`web +kubeplumb +foo\\.example,secure\\.example +${lab ? entry.ip : ""} +80, 443`),
  );
  t.match(await kubectl("describe", "ingress", "web"), /foo\.example +\n +\/ +web:80 \(10\.244\.[^)]+\)/);
  const synced = async () =>
    /Normal +Sync .* Scheduled for sync/.test(await kubectl("describe", "ingress", "web"));
  await cluster.waitUntil(synced, { what: "the event of the controller" });

  const url = `http://${entry.ip}:${entry.http}`;
  const host = (name: string) => ["-H", `Host: ${name}`];
  await cluster.waitUntil(async () => (await ask(`${url}/`, ...host("foo.example"))).status === 200);
  t.match((await ask(`${url}/`, ...host("foo.example"))).body, /v=1/);
  t.equal((await ask(`${url}/`, ...host("other.example"))).status, 404);
  const redirect = await ask(`${url}/x?y=1`, "-i", ...host("secure.example"));
  t.equal(redirect.status, 308);
  t.match(redirect.body, /^Location: https:\/\/secure\.example\/x\?y=1\r$/m);
  const resolve = (name: string) => ["--resolve", `${name}:${entry.https}:${entry.ip}`];
  const trusted = ["--cacert", join(dir, "crt"), ...resolve("secure.example")];
  t.equal(
    (await ask(`https://secure.example:${entry.https}/`, ...trusted)).status,
    200,
    "the certificate of the Secret, by SNI",
  );
  const own = await cluster.exec(OUTSIDE, [
    "curl",
    "-skv",
    ...resolve("foo.example"),
    `https://foo.example:${entry.https}/`,
  ]);
  t.match(own.stderr, /CN=Kubeplumb Ingress Controller Fake Certificate/, "our own for another host");
  t.match(own.stdout, /v=1/);

  const forged = ["-H", "X-Forwarded-For: 1.2.3.4"];
  const { body } = await ask(`${url}/echo/deep/path?q=1`, ...host("parts.example"), ...forged);
  const seen = JSON.parse(body) as {
    http: { originalUrl: string };
    request: { headers: Record<string, string> };
  };
  t.equal(seen.http.originalUrl, "/deep/path?q=1", "rewritten");
  t.match(seen.request.headers, {
    host: "parts.example",
    "x-forwarded-for": "192.168.56.1",
    "x-real-ip": "192.168.56.1",
    "x-forwarded-host": "parts.example",
    "x-forwarded-proto": "http",
  });
  const client = `
    const headers = { Host: "ws.example", Connection: "Upgrade", Upgrade: "websocket" };
    require("http").get({ host: "${entry.ip}", port: ${entry.http}, headers }).on("upgrade", (answer, socket) => {
      socket.on("data", (data) => { console.log(answer.statusCode, String(data)); process.exit(0); });
      socket.write("hello");
    });`;
  const upgraded = await cluster.exec(OUTSIDE, [process.execPath, "-e", client]);
  t.equal(upgraded.stdout.trim(), "101 echo hello");
  await kubectl("delete", "pod", "ws", "--grace-period=1");
  await cluster.waitUntil(async () => (await ask(`${url}/`, ...host("ws.example"))).status === 503);
});

interface Load {
  /** Resolves after some more requests. */
  goesOn(): Promise<void>;
  stop(): Promise<Record<string, number>>;
}

/** Requests one after the other until stop() tells what came of them. */
function load(from: string, url: string, ...args: string[]): Load {
  const file = `/tmp/load-${Math.random().toString(36).slice(2)}`;
  const curl = `curl -sS --max-time 60 ${args.map((arg) => `'${arg}'`).join(" ")} -w '\\n%{http_code}\\n'`;
  const command = `${curl} '${url}?[1-1000000]' >${file}.out & echo $! > ${file}; wait`;
  const running = cluster.exec(from, ["sh", "-c", command]);
  const codes = async () => {
    const { stdout } = await cluster.exec(from, ["sh", "-c", `cat ${file}.out || true`]);
    return [...stdout.matchAll(/^(\d{3})\n/gm)].map(([, code = ""]) => code);
  };
  return {
    async goesOn() {
      const before = (await codes()).length;
      await cluster.waitUntil(async () => (await codes()).length > before + 20, { what: `${url} is asked` });
    },
    async stop() {
      await cluster.exec(from, ["sh", "-c", `kill $(cat ${file})`]);
      const { stderr } = await running;
      const count: Record<string, number> = stderr ? { [stderr]: 1 } : {};
      for (const code of await codes()) count[code] = (count[code] ?? 0) + 1;
      await cluster.exec(from, ["rm", file, `${file}.out`]);
      return count;
    },
  };
}

t.test("an update, an undo and a scale-down lose no request", async (t) => {
  const [clusterIP, nodePort] = (
    await kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP} {.spec.ports[0].nodePort}")
  ).split(" ");
  const [host, close] = [
    ["-H", "Host: foo.example"],
    ["-H", "Connection: close"],
  ];
  const loads = {
    ClusterIP: load("node-1", `http://${clusterIP}/`, ...close),
    NodePort: load(OUTSIDE, `http://192.168.56.12:${nodePort}/`, ...close),
    Ingress: load(OUTSIDE, `http://${entry.ip}:${entry.http}/`, ...host, ...close),
    "Ingress, one connection": load(OUTSIDE, `http://${entry.ip}:${entry.http}/`, ...host),
    "Ingress, POST": load(OUTSIDE, `http://${entry.ip}:${entry.http}/`, ...host, "-d", "x=1"),
  };
  const goOn = () => Promise.all(Object.values(loads).map((one) => one.goesOn()));
  await goOn();
  await kubectl(
    "set",
    "image",
    "deployment/web",
    "kubernetes-bootcamp=gcr.io/google-samples/kubernetes-bootcamp:v2",
  );
  await ready("web");
  t.match((await ask(`http://${entry.ip}:${entry.http}/`, ...host)).body, /v=[12]/);
  await goOn();
  await kubectl("rollout", "undo", "deployment/web");
  await ready("web");
  await goOn();
  await kubectl("scale", "deployment/web", "--replicas=1");
  const pods = () => kubectl("get", "pods", "-l", "app=web", "-o", "name");
  await cluster.waitUntil(async () => (await pods()).split("\n").length === 1);
  await goOn();
  for (const [name, one] of Object.entries(loads)) {
    const { 200: answered = 0, ...others } = await one.stop();
    t.same(others, {}, `${name}: nothing but 200`);
    t.ok(answered > 40, `${name}: ${answered} requests`);
  }
});

t.test("both families", { skip: onlyInLab() }, async (t) => {
  await using dual = await createCluster({ nodes: 2, config: { networking: { ipFamily: "dual" } } });
  const ctl = kubectlOf(dual);
  await ctl("create", "deployment", "web", "--image=nginx");
  await dual.apply(
    "apiVersion: v1\nkind: Service\nmetadata: { name: web }\nspec: { type: LoadBalancer, ipFamilyPolicy: PreferDualStack, selector: { app: web }, ports: [{ port: 80 }] }",
  );
  await ctl("create", "ingress", "web", "--default-backend=web:80");
  await ctl("rollout", "status", "deployment/web", `--timeout=${patience}`);
  const json = "jsonpath={.status.loadBalancer.ingress[*].ip}";
  await ctl(
    "wait",
    "--for=jsonpath={.status.loadBalancer.ingress[1].ip}",
    "ingress/web",
    `--timeout=${patience}`,
  );
  await ctl("-n", "ingress-kubeplumb", "rollout", "status", "deployment/ingress-kubeplumb-controller");
  await dual.waitForSync();
  const addresses = `${await ctl("get", "service", "web", "-o", json)} ${await ctl("get", "ingress", "web", "-o", json)}`;
  t.equal(
    addresses,
    "192.168.56.200 fd00:192:168:56::c8 192.168.56.201 fd00:192:168:56::c9",
    "of the Service, and of the Ingress",
  );
  for (const ip of addresses.split(" ")) {
    const url = `http://${ip.includes(":") ? `[${ip}]` : ip}/`;
    await dual.waitUntil(async () => (await dual.curl(OUTSIDE, url, ["--max-time", "2"])).status === 200);
    t.pass(url);
  }
});
