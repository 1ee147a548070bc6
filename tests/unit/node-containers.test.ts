// What a container gets from the node agent, pure: environment, files, image, mounts.

import t from "tap";
import type { Container, Pod, Service, Stored } from "../../common/k8s.js";
import { FlagError, parseFlags } from "../../node/images/flags.js";
import { commandLine, parseReference, resolveImage, unknownImageMessage } from "../../node/images/index.js";
import { splitHostPort } from "../../node/images/resolve.js";
import {
  ContainerConfigError,
  containerEnv,
  type EnvSources,
  envReferences,
  expand,
  serviceEnv,
  servicesEnv,
} from "../../node/pods/env.js";
import {
  hostNetworkHostsFile,
  parseResolvConf,
  podDns,
  podHostname,
  podHostsFile,
  resolvConf,
} from "../../node/pods/files.js";
import { throughMounts } from "../../node/pods/volumes.js";
import { type FileView, planRoot } from "../../node/process/root-plan.js";
import { launchScript, quote } from "../../node/process/script.js";
import { pod } from "./helpers/node-objects.js";

const service = (name: string, namespace: string, spec: Service["spec"]): Stored<Service> => ({
  apiVersion: "v1",
  kind: "Service",
  metadata: { name, namespace, uid: name, resourceVersion: "1", creationTimestamp: "" },
  ...(spec ? { spec } : {}),
});

t.test("environment of a container", async (t) => {
  t.equal(expand("$(A)-$$(A)-$(NO)-$x-$", { A: "1" }), "1-$(A)-$(NO)-$x-$");
  const web = service("my-web", "shop", {
    clusterIP: "10.96.0.7",
    ports: [
      { name: "http", port: 80, protocol: "TCP" },
      { name: "dns-udp", port: 53, protocol: "UDP" },
    ],
  });
  t.same(serviceEnv(web), {
    MY_WEB_SERVICE_HOST: "10.96.0.7",
    MY_WEB_SERVICE_PORT: "80",
    MY_WEB_SERVICE_PORT_HTTP: "80",
    MY_WEB_SERVICE_PORT_DNS_UDP: "53",
    MY_WEB_PORT: "tcp://10.96.0.7:80",
    MY_WEB_PORT_80_TCP: "tcp://10.96.0.7:80",
    MY_WEB_PORT_80_TCP_PROTO: "tcp",
    MY_WEB_PORT_80_TCP_PORT: "80",
    MY_WEB_PORT_80_TCP_ADDR: "10.96.0.7",
    MY_WEB_PORT_53_UDP: "udp://10.96.0.7:53",
    MY_WEB_PORT_53_UDP_PROTO: "udp",
    MY_WEB_PORT_53_UDP_PORT: "53",
    MY_WEB_PORT_53_UDP_ADDR: "10.96.0.7",
  });
  const all = [
    web,
    service("kubernetes", "default", { clusterIP: "10.96.0.1", ports: [{ name: "https", port: 443 }] }),
    service("other", "elsewhere", { clusterIP: "10.96.0.9", ports: [{ port: 1 }] }),
    service("headless", "shop", { clusterIP: "None", ports: [{ port: 1 }] }),
  ];
  const hosts = (env: Record<string, string>) =>
    Object.keys(env).filter((key) => key.endsWith("_SERVICE_HOST"));
  t.same(hosts(servicesEnv(pod(), all)).sort(), ["KUBERNETES_SERVICE_HOST", "MY_WEB_SERVICE_HOST"]);
  t.same(hosts(servicesEnv(pod({ enableServiceLinks: false }), all)), ["KUBERNETES_SERVICE_HOST"]);

  const sources: EnvSources = {
    configMap: (name) => (name === "conf" ? { color: "blue" } : undefined),
    secret: (name) => (name === "key" ? { token: "s3cret" } : undefined),
    nodeName: "node-1",
    hostIPs: ["192.168.56.11", "fd00:56::11"],
    podIPs: ["10.244.1.5", "fd00:10:244:1::5"],
    allocatable: {},
  };
  const container: Pick<Container, "env" | "envFrom"> = {
    envFrom: [
      { prefix: "C_", configMapRef: { name: "conf" } },
      { secretRef: { name: "gone", optional: true } },
    ],
    env: [
      { name: "NAME", valueFrom: { fieldRef: { fieldPath: "metadata.name" } } },
      { name: "IP", valueFrom: { fieldRef: { fieldPath: "status.podIP" } } },
      { name: "IPS", valueFrom: { fieldRef: { fieldPath: "status.podIPs" } } },
      { name: "HOSTS", valueFrom: { fieldRef: { fieldPath: "status.hostIPs" } } },
      { name: "TIER", valueFrom: { fieldRef: { fieldPath: "metadata.labels['tier']" } } },
      { name: "TOKEN", valueFrom: { secretKeyRef: { name: "key", key: "token" } } },
      { name: "URL", value: "http://$(IP)/$(NAME)/$(LATER)" },
      { name: "LATER", value: "x" },
      { name: "MISSING", valueFrom: { configMapKeyRef: { name: "conf", key: "no", optional: true } } },
    ],
  };
  const labelled = pod({}, { labels: { tier: "front" } });
  t.same(containerEnv(labelled, container, { BASE: "1" }, sources), {
    BASE: "1",
    C_color: "blue",
    NAME: "web-1",
    IP: "10.244.1.5",
    IPS: "10.244.1.5,fd00:10:244:1::5",
    HOSTS: "192.168.56.11,fd00:56::11",
    TIER: "front",
    TOKEN: "s3cret",
    URL: "http://10.244.1.5/web-1/$(LATER)",
    LATER: "x",
  });
  t.same(envReferences(container), { configMaps: new Set(["conf"]), secrets: new Set(["gone", "key"]) });
  const missing = { env: [{ name: "A", valueFrom: { secretKeyRef: { name: "nope", key: "k" } } }] };
  t.throws(
    () => containerEnv(pod(), missing, {}, sources),
    new ContainerConfigError('secret "nope" not found'),
  );
  t.same(serviceEnv(service("bare", "shop", { clusterIP: "10.96.0.8" })), {});
  const absent = { name: "A", valueFrom: { configMapKeyRef: { name: "nope", key: "k", optional: true } } };
  t.same(containerEnv(pod(), { env: [absent] }, {}, sources), {});
  const odd = { env: [{ name: "A", valueFrom: { fieldRef: { fieldPath: "spec.nodename" } } }] };
  t.throws(() => containerEnv(pod(), odd, {}, sources), { message: "unsupported fieldPath: spec.nodename" });
  const noKey = { env: [{ name: "A", valueFrom: { configMapKeyRef: { name: "conf", key: "k" } } }] };
  t.throws(() => containerEnv(pod(), noKey, {}, sources), {
    message: "couldn't find key k in ConfigMap shop/conf",
  });
});

t.test("files of a pod", async (t) => {
  t.equal(
    podHostname(pod({}, { name: `${"a".repeat(62)}-b` })),
    "a".repeat(62),
    "63 characters, no dash at the end",
  );
  const named = pod({
    hostname: "db",
    subdomain: "pg",
    hostAliases: [{ ip: "10.0.0.1", hostnames: ["a", "b"] }],
  });
  const hosts = podHostsFile(named, ["10.244.1.5", "fd00:10:244:1::5"], "cluster.local");
  t.match(hosts, /^10\.244\.1\.5\tdb\.pg\.shop\.svc\.cluster\.local\tdb$/m);
  t.match(hosts, /^fd00:10:244:1::5\tdb\.pg\.shop\.svc\.cluster\.local\tdb$/m);
  t.match(hosts, /^# Entries added by HostAliases\.\n10\.0\.0\.1\ta\tb$/m);
  t.equal(
    hostNetworkHostsFile(named, "127.0.0.1 localhost\n\n"),
    "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n\n# Entries added by HostAliases.\n10.0.0.1\ta\tb\n",
  );
  const node = parseResolvConf("# c\nnameserver 9.9.9.9\nsearch lan # home\noptions edns0\n");
  t.same(node, { nameservers: ["9.9.9.9"], searches: ["lan"], options: ["edns0"] });
  const dns = (spec: Partial<Pod["spec"]>, clusterDNS?: string) =>
    resolvConf(podDns(pod(spec), { clusterDNS, clusterDomain: "cluster.local", node }));
  t.equal(
    dns({}, "10.96.0.10"),
    "search shop.svc.cluster.local svc.cluster.local cluster.local lan\nnameserver 10.96.0.10\noptions ndots:5\n",
  );
  t.notMatch(dns({}), /nameserver/, "no cluster DNS: asked nobody rather than nobody who answers");
  t.match(dns({ dnsPolicy: "Default" }, "10.96.0.10"), /nameserver 9\.9\.9\.9/);
  t.match(
    dns({ hostNetwork: true }, "10.96.0.10"),
    /nameserver 9\.9\.9\.9/,
    "ClusterFirst on the host network",
  );
  t.equal(
    dns({
      dnsPolicy: "None",
      dnsConfig: { nameservers: ["1.1.1.1"], searches: ["x"], options: [{ name: "ndots", value: "2" }] },
    }),
    "search x\nnameserver 1.1.1.1\noptions ndots:2\n",
  );
  t.match(
    dns({ dnsPolicy: "ClusterFirstWithHostNet", hostNetwork: true }, "10.96.0.10"),
    /nameserver 10\.96\.0\.10/,
  );
  t.equal(
    dns({ dnsPolicy: "Default", dnsConfig: { nameservers: ["9.9.9.9", "1.1.1.1"] } }).match(/nameserver/g)
      ?.length,
    2,
    "each once",
  );
  t.match(
    dns({ dnsConfig: { options: [{ name: "ndots", value: "1" }] } }, "10.96.0.10"),
    /^options ndots:1$/m,
  );
});

t.test("images", async (t) => {
  t.same(parseReference("nginx"), { name: "nginx", tag: "latest" });
  t.same(parseReference("docker.io/library/nginx:1.29"), { name: "nginx", tag: "1.29" });
  t.match(parseReference("localhost:5000/a/b_c:v1"), { name: "localhost:5000/a/b_c", tag: "v1" });
  t.match(parseReference(`nginx@sha256:${"0".repeat(64)}`), {
    name: "nginx",
    digest: `sha256:${"0".repeat(64)}`,
  });
  for (const bad of ["", "Nginx", "nginx:", "nginx:a b", "-x", "a//b", `a@sha256:${"0".repeat(64)}@b`])
    t.equal(parseReference(bad), undefined, bad);

  const find = (name: string, hasCommand = false, mapped = {}) => resolveImage(name, { mapped, hasCommand });
  const known = (name: string) => {
    const found = find(name);
    return found !== undefined && found !== "invalid";
  };
  const bootcamp = "gcr.io/google-samples/kubernetes-bootcamp";
  for (const name of [
    `${bootcamp}:v1`,
    `${bootcamp}:v2`,
    "docker.io/jocatalin/kubernetes-bootcamp:v2",
    "kubernetes-bootcamp",
    "nginx:1.29-alpine",
    "registry.k8s.io/e2e-test-images/agnhost:2.53",
    "registry.k8s.io/pause:3.10",
    "busybox:1.28",
    "quay.io/somebody/busybox",
    "nicolaka/netshoot",
    "traefik/whoami",
  ]) {
    t.ok(known(name), name);
  }
  t.notOk(known(`${bootcamp}:v10`), "the tutorial's tag that does not exist");
  t.notOk(known("example.com/app:1"));
  t.equal(find("Bad Name"), "invalid");
  t.ok(find("example.com/app:1", true), "with a command any image will do");
  t.match(find("app", false, { app: `${bootcamp}:v2` }), { tag: "v2", reference: "app" });
  t.match(find("app:3", false, { "app:3": { command: ["sleep"], args: ["1"] } }), {
    image: { entrypoint: ["sleep"], cmd: ["1"] },
  });
  t.equal(find("app:4", false, { "app:3": "nginx" }), undefined, "another tag is another image");
  t.match(
    find("app:3", false, { "app:3": { command: ["exact"] }, app: { command: ["any"] } }),
    { image: { entrypoint: ["exact"], cmd: [] } },
    "the full reference first",
  );
  t.match(find("app:3", false, { app: { command: ["any"] }, "app:3": { command: ["exact"] } }), {
    image: { entrypoint: ["exact"] },
  });
  t.equal(find("app", false, { app: { image: "no/such" } }), undefined, "mapped to nothing");
  t.match(find("app", false, { app: { image: "nginx", command: ["sh"], env: { A: "1" } } }), {
    image: { entrypoint: ["sh"], cmd: [], env: { A: "1", NGINX_VERSION: /./ } },
  });
  const digest = `sha256:${"0".repeat(64)}`;
  t.match(find(`nginx:1.29@${digest}`), { imageID: `nginx@${digest}`, tag: "1.29" });
  t.match(
    unknownImageMessage("x/y"),
    /kubeplumb has no image of that name and tag; map one .* under images: .*; known images: .*nginx/,
  );

  const image = { names: [], entrypoint: ["/e"], cmd: ["c"] };
  t.same(commandLine(image, {}), ["/e", "c"]);
  t.same(commandLine(image, { args: ["a"] }), ["/e", "a"]);
  t.same(commandLine(image, { command: ["x"] }), ["x"], "a command drops the image's cmd");
  t.same(commandLine(image, { command: ["x"], args: ["a"] }), ["x", "a"]);

  const kinds = { port: "number", tcp: "boolean", name: "string", wait: "duration" } as const;
  t.same(parseFlags(["--port=1", "-tcp", "--name", "n", "--wait=1m1.5s", "rest"], kinds), {
    flags: { port: 1, tcp: true, name: "n", wait: 61_500 },
    operands: ["rest"],
  });
  t.throws(() => parseFlags(["--nope"], kinds), new FlagError("unknown flag: --nope"));
  t.throws(() => parseFlags(["--port", "x"], kinds), new FlagError('invalid argument "x" for "--port" flag'));
  t.throws(() => parseFlags(["--name"], kinds), new FlagError("flag needs an argument: --name"));
  t.same(parseFlags(["--tcp=false", "-"], kinds), { flags: { tcp: false }, operands: ["-"] });
  t.same(splitHostPort("[::1]:80"), { host: "::1", port: 80 });
  t.throws(() => splitHostPort("1.2.3.4"), { message: "address 1.2.3.4: missing port in address" });
});

t.test("the root of a container", async (t) => {
  const existing = ["/", "/etc", "/etc/hosts", "/usr", "/usr/bin", "/usr/lib", "/usr/share", "/home", "/srv"];
  const view: FileView = {
    exists: (path) => existing.includes(path) || path === "/bin" || path === "/var/run",
    realpath: (path) => (path === "/bin" ? "/usr/bin" : path === "/var/run" ? "/run" : path),
    entries: () => [
      { name: "bin", kind: "link", link: "usr/bin" },
      { name: "home", kind: "directory" },
      { name: "etc", kind: "directory" },
      { name: "swap.img", kind: "other" },
      { name: "usr", kind: "directory" },
      { name: "libx", kind: "directory" },
    ],
  };
  const at = (target: string) => ({ source: "/pod/x", target });
  const plan = planRoot(
    {
      mounts: [
        { ...at("/data/sub"), readOnly: true },
        at("/usr/share/nginx/html/"),
        at("/data"),
        { ...at("/bin/sh"), file: true },
      ],
      files: { "/etc/app/app.conf": "x", "/var/run/app.pid": "1", "/data/x": "y" },
    },
    view,
  );
  t.strictSame(plan.overlays, ["etc", "usr"], "what an image brings, and nothing else of this machine");
  t.strictSame(plan.links, [
    { at: "bin", to: "usr/bin" },
    { at: "var/run", to: "/run" },
    { at: "var/lock", to: "/run/lock" },
  ]);
  for (const [at, mode] of [
    ["tmp", 0o1777],
    ["root", 0o700],
    ["var/tmp", 0o1777],
    ["home", 0o755],
  ])
    t.ok(
      plan.directories.some((one) => one.at === at && one.mode === mode),
      String(at),
    );
  t.notOk(plan.directories.some(({ at }) => plan.overlays.includes(at)));
  t.strictSame(
    plan.owned,
    ["etc", "etc/app", "usr", "usr/bin", "usr/lib", "usr/share", "usr/share/nginx"],
    "parents of what is put into the machine's directories, through its links, and the usual places",
  );
  t.strictSame(
    plan.mounts.map(({ target }) => target),
    ["/data", "/data/sub", "/bin/sh", "/usr/share/nginx/html/"],
    "no mount point below one that is mounted later",
  );
  t.match(plan.files, { "/etc/app/app.conf": "x" });
  t.equal(quote("it's"), "'it'\\''s'");
  const common = { protect: true, prefix: ["/usr/bin/setpriv", "--"] };
  const script = launchScript({ ...common, hostname: "web", cwd: "/my dir", tty: false });
  t.match(script, /^mount -t proc proc \/proc/m);
  t.match(script, /^cd '\/my dir' /m);
  t.notMatch(launchScript({ ...common, cwd: "/", tty: true }), "mount");
  t.match(
    launchScript({ ...common, cwd: "/", tty: true }),
    /exec "\$setsid" --ctty \/usr\/bin\/setpriv -- "\$@"/,
  );

  const mounts = [
    { source: "/v/html", target: "/usr/share/nginx/html" },
    { source: "/v/x", target: "/usr/share/nginx/html/x" },
  ];
  t.equal(throughMounts("/usr/share/nginx/html/a.txt", mounts), "/v/html/a.txt");
  t.equal(throughMounts("/usr/share/nginx/html/x/b", mounts), "/v/x/b", "the deepest mount holds it");
  t.equal(throughMounts("/usr/share/nginx/html/../../../v/secret", mounts), undefined, "no way out");
  t.equal(throughMounts("/etc/passwd", mounts), undefined);
});
