// Ingress: the routing table, which endpoints a backend has, and the kinds as declared.

import type { IngressSpec } from "kubernetes-types/networking/v1.js";
import t from "tap";
import type { EndpointSlice, Ingress, IngressClass, Service, Stored } from "../../common/k8s.js";
import { targetsOf } from "../../node/ingress/backends.js";
import {
  buildTable,
  findRoute,
  hostOf,
  isOfClass,
  normalPath,
  secretFor,
} from "../../node/ingress/routes.js";
import { backend, ingress, type PathType, rule } from "./helpers/ingresses.js";
import { cells, created, kind, problems, updated } from "./helpers/kinds.js";

/** The backend's Service of a request; 404 when there is no route. */
function ask(ingresses: Stored<Ingress>[], host: string, path: string): string {
  return findRoute(buildTable(ingresses), host, path)?.backend?.service ?? "404";
}

t.test("paths: the table of the Kubernetes documentation", async (t) => {
  // Kind, paths of the Ingress, path of the request, whether it matches.
  const table: [PathType, string, string, boolean][] = [
    ["Prefix", "/", "/anything/at/all", true],
    ["Exact", "/foo", "/foo", true],
    ["Exact", "/foo", "/bar", false],
    ["Exact", "/foo", "/foo/", false],
    ["Exact", "/foo/", "/foo", false],
    ["Prefix", "/foo", "/foo", true],
    ["Prefix", "/foo", "/foo/", true],
    ["Prefix", "/foo/", "/foo", true],
    ["Prefix", "/foo/", "/foo/", true],
    ["Prefix", "/aaa/bb", "/aaa/bbb", false],
    ["Prefix", "/aaa/bbb", "/aaa/bbb", true],
    ["Prefix", "/aaa/bbb/", "/aaa/bbb", true],
    ["Prefix", "/aaa/bbb", "/aaa/bbb/", true],
    ["Prefix", "/aaa/bbb", "/aaa/bbb/ccc", true],
    ["Prefix", "/aaa/bbb", "/aaa/bbbxyz", false],
    ["ImplementationSpecific", "/aaa", "/aaab", true],
  ];
  for (const [type, path, requested, wanted] of table) {
    const found = ask([ingress({ rules: [rule("a.b", [path, "web", type])] })], "a.b", requested);
    t.equal(found, wanted ? "web" : "404", `${type} ${path} ${requested}`);
  }
});

t.test("of several paths the exact one, then the longest", async (t) => {
  const rules = [
    rule("a.b", ["/", "root"], ["/aaa", "aaa"], ["/aaa/bbb", "bbb"], ["/aaa/bbb", "exact", "Exact"]),
  ];
  for (const all of [rules, [rule("a.b", ...([...tuples(rules)].reverse() as never[]))]]) {
    const one = [ingress({ rules: all })];
    t.equal(ask(one, "a.b", "/aaa/bbb"), "exact");
    t.equal(ask(one, "a.b", "/aaa/bbb/"), "bbb");
    t.equal(ask(one, "a.b", "/aaa/ccc"), "aaa");
    t.equal(ask(one, "a.b", "/ccc"), "root");
  }
});

function* tuples(rules: ReturnType<typeof rule>[]): Generator<[string, string, PathType]> {
  for (const { http } of rules)
    for (const { path, pathType, backend: to } of http.paths) yield [path, to.service.name, pathType];
}

t.test("hosts: exact, one label for a wildcard, rules without a host, default backends", async (t) => {
  const all = [
    ingress({
      rules: [
        rule("foo.example", ["/a", "exact"]),
        rule("*.example", ["/", "wildcard"]),
        rule(undefined, ["/", "any"]),
      ],
    }),
  ];
  const table: [string, string, string][] = [
    ["foo.example", "/a", "exact"],
    ["foo.example", "/b", "404"],
    ["bar.example", "/b", "wildcard"],
    ["a.bar.example", "/b", "any"],
    ["example", "/", "any"],
    ["", "/", "any"],
  ];
  for (const [host, path, wanted] of table) t.equal(ask(all, host, path), wanted, `${host}${path}`);

  const own = ingress({ defaultBackend: backend("own"), rules: [rule("foo.example", ["/a", "exact"])] });
  t.equal(ask([own], "foo.example", "/b"), "own");
  t.equal(ask([own], "other", "/b"), "own", "it takes what no rule has");
  const all2 = [own, ingress({ defaultBackend: backend("all") })];
  t.equal(ask(all2, "foo.example", "/b"), "own", "the host's own first");
  t.equal(ask(all2, "other", "/"), "all", "that of an Ingress without rules before others'");
  t.equal(ask([], "foo.example", "/"), "404");
  const resource = { resource: { kind: "Bucket", name: "b" } };
  const path = { path: "/", pathType: "Prefix", backend: resource };
  t.equal(ask([ingress({ rules: [{ host: "a", http: { paths: [path] } }] })], "a", "/"), "404", "no Service");
});

t.test("of two Ingresses that want the same, the older one has it", async (t) => {
  const [older, newer] = [
    ingress({ rules: [rule("a.b", ["/", "older"])] }),
    ingress({ rules: [rule("a.b", ["/", "newer"], ["/x", "x"])] }),
  ];
  for (const both of [
    [older, newer],
    [newer, older],
  ]) {
    t.equal(ask(both, "a.b", "/"), "older");
    t.equal(ask(both, "a.b", "/x"), "x", "the rest of the newer one is served");
  }
});

t.test("rewrite-target, with and without groups", async (t) => {
  const prefix = "nginx.ingress.kubernetes.io/";
  const table: [string, string, string, string][] = [
    ["/", "/app", "/app", "/"],
    ["/", "/app", "/app/more", "/"],
    ["/$2", "/app(/|$)(.*)", "/app", "/"],
    ["/$2", "/app(/|$)(.*)", "/app/more/and", "/more/and"],
    ["/v2/$1", "/v1/(.*)", "/V1/x", "/v2/x"],
  ];
  for (const [target, path, requested, wanted] of table) {
    const rules = [rule("a.b", [path, "web", "ImplementationSpecific"])];
    const route = findRoute(
      buildTable([ingress({ rules }, { [`${prefix}rewrite-target`]: target })]),
      "a.b",
      requested,
    );
    t.equal(route?.rewrite(requested), wanted, `${path} → ${target}: ${requested}`);
  }
  const broken = [rule("a.b", ["/app(", "web", "ImplementationSpecific"])];
  t.equal(ask([ingress({ rules: broken }, { [`${prefix}use-regex`]: "true" })], "a.b", "/app(x"), "web");
});

t.test("TLS: which Secret a host has, and who is sent to https", async (t) => {
  const tls = [{ hosts: ["a.b", "*.c.d"], secretName: "one" }];
  const rules = [rule("a.b", ["/", "web"]), rule("e.f", ["/", "web"])];
  const table = buildTable([
    ingress({ rules, tls }),
    ingress({ rules: [rule("g.h", ["/", "web"])], tls: [{ secretName: "two" }] }),
    ingress({ rules: [rule("a.b", ["/x", "web"])], tls: [{ hosts: ["a.b"], secretName: "late" }] }),
  ]);
  t.equal(secretFor(table, "a.b"), "ns/one");
  t.equal(secretFor(table, "x.c.d"), "ns/one");
  t.equal(secretFor(table, "x.y.c.d"), undefined, "a wildcard is one label");
  t.equal(secretFor(table, "e.f"), undefined);
  t.equal(secretFor(table, "g.h"), "ns/two", "without hosts those of the rules");
  const redirect = (annotations: Record<string, string>) =>
    findRoute(buildTable([ingress({ rules, tls }, annotations)]), "a.b", "/")?.sslRedirect;
  const prefix = "nginx.ingress.kubernetes.io/";
  t.equal(redirect({}), true);
  t.equal(redirect({ [`${prefix}ssl-redirect`]: "false" }), false);
  t.equal(redirect({ [`${prefix}force-ssl-redirect`]: "true" }), "always");
});

t.test("classes, hosts and paths of requests", async (t) => {
  const ours = new Set(["kubeplumb"]);
  t.ok(isOfClass(ingress({ ingressClassName: "kubeplumb" }), ours));
  t.notOk(isOfClass(ingress({ ingressClassName: "other" }), ours));
  t.notOk(isOfClass(ingress({}), ours), "without a class it is nobody's");
  const annotation = { "kubernetes.io/ingress.class": "kubeplumb" };
  t.ok(isOfClass(ingress({}, annotation), ours));
  t.notOk(isOfClass(ingress({ ingressClassName: "other" }, annotation), ours), "the field counts");
  t.equal(hostOf("Foo.Example:8080"), "foo.example");
  t.equal(hostOf("foo.example."), "foo.example");
  t.equal(hostOf(undefined), "");
  t.equal(normalPath("/a/%62?c=/d"), "/a/b");
  t.equal(normalPath("/a/../b//c"), "/b/c");
  t.equal(normalPath("/%zz"), "/%zz", "no encoding at all");
  t.equal(normalPath("http://other/x"), "/x", "the absolute form");
  t.equal(normalPath("http://["), "http://[", "nonsense");
  t.equal(normalPath("//evil/x"), "/evil/x", "no host in disguise");
});

t.test("endpoints of a backend", async (t) => {
  const service = {
    spec: { ipFamilies: ["IPv4"], ports: [{ name: "http", port: 80, targetPort: "web" }] },
  } as Stored<Service>;
  const slice = (addressType: string, port: object, ...endpoints: object[]) =>
    ({ addressType, ports: [port], endpoints }) as unknown as Stored<EndpointSlice>;
  const end = (ip: string, conditions: object = { ready: true }) => ({ addresses: [ip], conditions });
  const leaving = { ready: false, serving: true, terminating: true };
  const port = { name: "http", port: 8080 };
  const slices = [
    slice("IPv4", port, end("10.0.0.1"), end("10.0.0.2", { ready: false }), end("10.0.0.3", leaving)),
    slice("IPv4", port, end("10.0.0.1"), end("10.0.0.4", {})),
    slice("IPv4", { name: "other", port: 9 }, end("10.0.0.9")),
    slice("IPv6", port, end("fd00::1")),
  ];
  const of = (to: string | number, from = slices, what: Stored<Service> | undefined = service) =>
    targetsOf({ namespace: "ns", service: "s", port: to }, what, from).map(
      ({ host, port: number }) => `${host}:${number}`,
    );
  t.same(of(80), ["10.0.0.1:8080", "10.0.0.4:8080"], "ready ones, each once");
  t.same(of("http"), of(80), "the port by name");
  t.same(of(81), []);
  t.same(of("web"), [], "the name of a target port is no name of a port");
  t.same(of(80, [slice("IPv4", port, end("10.0.0.3", leaving))]), ["10.0.0.3:8080"], "before none at all");
  t.same(
    of(80, [slice("IPv4", port, end("10.0.0.3", { ready: false, serving: false, terminating: true }))]),
    [],
  );
  t.same(targetsOf({ namespace: "ns", service: "s", port: 80 }, undefined, slices), []);
  const external = { spec: { type: "ExternalName", externalName: "a.b." } } as Stored<Service>;
  t.same(of(8080, [], external), ["a.b:8080"]);
});

const valid: IngressSpec = { rules: [rule("a.b", ["/", "web"])] };

t.test("validation, with the real server's texts", async (t) => {
  const wrong = (spec: IngressSpec) => problems("Ingress", { spec });
  t.same(wrong(valid), []);
  t.same(wrong({ defaultBackend: backend("web", "http") }), []);
  t.same(wrong({}), ["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"]);
  const path = (change: object) => {
    const one = { path: "/", pathType: "Prefix", backend: backend("web"), ...change };
    return wrong({ rules: [{ http: { paths: [one] } }] }).map((text) =>
      text.replace("spec.rules[0].http.paths[0]", "P"),
    );
  };
  t.same(path({ pathType: undefined }), ["P.pathType: Required value: pathType must be specified"]);
  t.same(path({ pathType: "Regex" }), [
    'P.pathType: Unsupported value: "Regex": supported values: "Exact", "ImplementationSpecific", "Prefix"',
  ]);
  t.same(path({ path: "x" }), ['P.path: Invalid value: "x": must be an absolute path']);
  t.same(path({ path: "/a//b" }), [`P.path: Invalid value: "/a//b": must not contain '//'`]);
  t.same(path({ path: "/a/.." }), [`P.path: Invalid value: "/a/..": cannot end with '/..'`]);
  t.same(path({ path: "/a//b", pathType: "ImplementationSpecific" }), []);
  t.same(path({ backend: {} }), ['P.backend: Invalid value: "": resource or service backend is required']);
  t.same(path({ backend: { service: { name: "web" } } }), [
    "P.backend: Required value: port name or number is required",
  ]);
  t.same(path({ backend: { service: { name: "web", port: { name: "a", number: 1 } } } }), [
    'P.backend: Invalid value: "": cannot set both port name & port number',
  ]);
  t.same(path({ backend: { service: { name: "web", port: { number: 70_000 } } } }), [
    "P.backend.service.port.number: Invalid value: 70000: must be between 1 and 65535, inclusive",
  ]);
  t.match(path({ backend: { service: { name: "Web", port: { number: 1 } } } }), [
    /^P\.backend\.service\.name: Invalid value: "Web": a DNS-1035 label/,
  ]);
  t.same(wrong({ rules: [{ http: { paths: [] } }] }), ["spec.rules[0].http.paths: Required value"]);
  t.match(wrong({ rules: [{ host: "10.0.0.1" }] }), [
    'spec.rules[0].host: Invalid value: "10.0.0.1": must be a DNS name, not an IP address',
  ]);
  t.match(wrong({ rules: [{ host: "a.*" }] }), [
    /^spec\.rules\[0\]\.host: Invalid value: "a\.\*": a wildcard DNS-1123 subdomain must start with '\*\.'/,
  ]);
  t.match(wrong({ ...valid, tls: [{ hosts: ["A"], secretName: "B" }] }), [
    /^spec\.tls\[0\]\.hosts\[0\]: Invalid value: "A": a lowercase RFC 1123 subdomain/,
    /^spec\.tls\[0\]\.secretName: Invalid value: "B"/,
  ]);
  const annotations = { "kubernetes.io/ingress.class": "other" };
  const both = { metadata: { name: "x", annotations }, spec: { ...valid, ingressClassName: "one" } };
  t.same(problems("Ingress", both), [
    'annotations.kubernetes.io/ingress.class: Invalid value: "other": must match `ingressClassName` when both are specified',
  ]);
  t.same(kind("Ingress").warnings?.(both), [
    `annotation "kubernetes.io/ingress.class" is deprecated, please use 'spec.ingressClassName' instead`,
  ]);
  const controller = (text: string) => problems("IngressClass", { spec: { controller: text } });
  t.same(controller("example.com/x"), []);
  t.same(controller(""), ["spec.controller: Required value"]);
  t.same(controller("x"), [
    'spec.controller: Invalid value: "x": must be a domain-prefixed path (such as "acme.io/foo")',
  ]);
  const one = created("IngressClass", { spec: { controller: "example.com/x" } } as IngressClass);
  t.same(
    updated("IngressClass", one, (draft) => {
      draft.spec = { controller: "example.com/y" };
    }).problems,
    ['spec.controller: Invalid value: "example.com/y": field is immutable'],
  );
});

t.test("columns and generation", async (t) => {
  const plain = created("Ingress", { spec: valid } as Ingress);
  t.match(cells("Ingress", plain), { Name: "x", Class: "<none>", Hosts: "a.b", Address: "", Ports: "80" });
  const hosts = ["a.b", "c.d", "e.f", "g.h"].map((host) => rule(host, ["/", "web"]));
  const full = {
    ...created("Ingress", {
      spec: { ingressClassName: "kubeplumb", tls: [{}], rules: hosts },
    } as Ingress),
    status: { loadBalancer: { ingress: [{ ip: "192.168.56.200" }, { hostname: "lb.example" }] } },
  };
  t.match(cells("Ingress", full), {
    Class: "kubeplumb",
    Hosts: "a.b,c.d,e.f + 1 more...",
    Address: "192.168.56.200,lb.example",
    Ports: "80, 443",
  });
  t.match(cells("Ingress", created("Ingress", { spec: { defaultBackend: backend("web") } } as Ingress)), {
    Hosts: "*",
  });
  t.equal(plain.metadata.generation, 1);
  const changed = updated("Ingress", plain, (draft) => {
    draft.spec = { ...valid, ingressClassName: "kubeplumb" };
  });
  t.equal(changed.draft.metadata.generation, 2);
});
