// …/proxy without a cluster: names, connections, and the links that are changed on the way back. Needs no privileges.

import { type AddressInfo, createServer } from "node:net";
import t from "tap";
import { dialFromHere } from "../../control/api/http/proxy-dial.js";
import { splitName } from "../../control/api/http/proxy-location.js";
import { rewriteHtml, rewriteUrl } from "../../control/api/http/proxy-rewrite.js";

const prefix = "/api/v1/namespaces/default/services/web:80/proxy";
const page = { prefix, serverHost: "10.244.1.2:80", requestHost: "localhost:8001" };
const url = (text: string) => rewriteUrl(text, page);

t.test("names", async (t) => {
  t.same(splitName("web"), { scheme: "http", name: "web", port: "" });
  t.same(splitName("web:80"), { scheme: "http", name: "web", port: "80" });
  t.same(splitName("https:web:main"), { scheme: "https", name: "web", port: "main" });
  t.same(splitName("https:web:"), { scheme: "https", name: "web", port: "" });
  for (const bad of ["", "web:", ":80", "ftp:web:80", ":web:80", "a:b:c:d"])
    t.equal(splitName(bad), undefined, bad);
});

t.test("an API server that reaches pods itself", async (t) => {
  const server = createServer((socket) => socket.end("here"));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  const socket = await dialFromHere("node-1", "127.0.0.1", port);
  const said = await new Promise((resolve) => socket.once("data", resolve));
  t.equal(String(said), "here");
  socket.destroy();
  await new Promise((resolve) => server.close(resolve));
  await t.rejects(dialFromHere("node-1", "127.0.0.1", port), {
    message: `dial tcp 127.0.0.1:${port}: connect: connection refused`,
  });
});

t.test("links lead through the proxy again", async (t) => {
  const cases: [string, string][] = [
    ["/", `${prefix}/`],
    ["/a/b?x=1#y", `${prefix}/a/b?x=1#y`],
    ["/a//b/../c/", `${prefix}/a/c/`],
    ["http://10.244.1.2:80/a", `${prefix}/a`],
    ["//10.244.1.2:80/a", `${prefix}/a`],
    ["http://localhost:8001/a", `http://localhost:8001${prefix}/a`],
    [`${prefix}/a`, `${prefix}/a`],
    [`http://localhost:8001${prefix}/a`, `http://localhost:8001${prefix}/a`],
    ["http://10.244.1.2:81/a", "http://10.244.1.2:81/a"],
    ["https://kubernetes.io/a", "https://kubernetes.io/a"],
    ["a/b", "a/b"],
    ["?x=1", "?x=1"],
    ["#top", "#top"],
    ["mailto:a@b", "mailto:a@b"],
    ["javascript:void(0)", "javascript:void(0)"],
    ["", ""],
  ];
  for (const [from, to] of cases) t.equal(url(from), to, from);
});

t.test("a page, byte for byte but for its links", async (t) => {
  const mark = (text: string) => rewriteHtml(text, (link) => `<${link}>`);
  const same = [
    "no tags at all",
    "a < b and b<3 > 1",
    '<!-- <a href="/x"> -->',
    "<script>document.write(\"<a href='/x'>\")</script>",
    '<style>a{background:url("/x")}</style><title><a href="/x"></title>',
    '<p data-href="/x" href="/x">text</p></a href="/x">',
    '<a href>empty</a><a href="">empty</a>',
    '<textarea><a href="/x">',
    "<",
    "<!-- never closed <a href=/x>",
    "\xff\xfe caf\xc3\xa9",
  ];
  for (const text of same) t.equal(mark(text), text, text);
  const cases: [string, string][] = [
    ['<a class="b" href="/x">y</a>', '<a class="b" href="</x>">y</a>'],
    ["<A HREF='/x' >", "<A HREF='</x>' >"],
    ["<a href=/x>z", "<a href=</x>>z"],
    ['<a\n  title="a > b"\n  href = "/x?a=1&amp;b=2">', '<a\n  title="a > b"\n  href = "</x?a=1&amp;b=2>">'],
    ['<img src="/a" alt="/b" usemap="#c"/>', '<img src="</a>" alt="/b" usemap="<#c>"/>'],
    ['<script src="/a"></script><a href="/b">', '<script src="</a>"></script><a href="</b>">'],
    [
      '<title>x</title><link rel=x href="/b"><form action="/c">',
      '<title>x</title><link rel=x href="</b>"><form action="</c>">',
    ],
  ];
  for (const [from, to] of cases) t.equal(mark(from), to, from);
  // CPU time: other programs may have the CPU meanwhile.
  const begin = process.cpuUsage();
  for (const evil of ['<a href="', "<a href='", "<", "<!--", "<a ", "<script>"]) mark(evil.repeat(100_000));
  const { user, system } = process.cpuUsage(begin);
  t.ok(user + system < 5e6, "in a time that grows with the page only");
});
