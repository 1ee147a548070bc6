// What the API server changes in an answer that comes through …/proxy: Location, and the links of an HTML page, so that
// they lead through the proxy again (k8s.io/apimachinery util/proxy). Pure.

import { posix } from "node:path";

/** Where an answer comes from and by which name the client asked. */
export interface ProxiedPage {
  /** Path of the proxy: /api/v1/namespaces/NS/pods/NAME/proxy. */
  prefix: string;
  /** address:port of the server behind it. */
  serverHost: string;
  /** The client's Host header. */
  requestHost: string;
}

const URL_PARTS = /^(?:[a-z][a-z0-9+.-]*:)?(?:\/\/([^/?#]*))?([^?#]*)(.*)$/is;

/** A link as the client has to follow it. Relative ones, and those to other hosts, stay as they are. */
export function rewriteUrl(url: string, { prefix, serverHost, requestHost }: ProxiedPage): string {
  const [, host = "", path = "", rest = ""] = URL_PARTS.exec(url) ?? [];
  const isOther = host !== "" && host !== serverHost && host !== requestHost;
  if (isOther || !path.startsWith("/")) return url;
  const origin =
    host !== "" && host === requestHost ? url.slice(0, url.length - path.length - rest.length) : "";
  return origin + (path.startsWith(prefix) ? path : posix.join(prefix, path)) + rest;
}

/** Attributes that hold a URL, by element. */
const URL_ATTRIBUTES: Readonly<Record<string, readonly string[]>> = {
  a: ["href"],
  applet: ["codebase"],
  area: ["href"],
  audio: ["src"],
  base: ["href"],
  blockquote: ["cite"],
  body: ["background"],
  button: ["formaction"],
  command: ["icon"],
  del: ["cite"],
  embed: ["src"],
  form: ["action"],
  frame: ["longdesc", "src"],
  head: ["profile"],
  html: ["manifest"],
  iframe: ["longdesc", "src"],
  img: ["longdesc", "src", "usemap"],
  input: ["src", "usemap", "formaction"],
  ins: ["cite"],
  link: ["href"],
  object: ["classid", "codebase", "data", "usemap"],
  q: ["cite"],
  script: ["src"],
  source: ["src"],
  video: ["poster", "src"],
};

/** Elements whose content is text, whatever it looks like (HTML, 13.1.2). */
const TEXT_ELEMENTS = new Set([
  "script",
  "style",
  "textarea",
  "title",
  "xmp",
  "noembed",
  "noframes",
  "iframe",
]);

const TAG_NAME = /[a-z][^\s/>]*/iy;
const ATTRIBUTE = /[\s/]*([^\s=/>]+)(?:\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s>]*)))?/y;

/**
 * The page with each link in an attribute of {@link URL_ATTRIBUTES} rewritten; everything else stays, byte for byte,
 * when the text was decoded as latin1.
 */
export function rewriteHtml(html: string, rewrite: (url: string) => string): string {
  const out: string[] = [];
  let copied = 0;
  for (let at = html.indexOf("<"); at >= 0; at = html.indexOf("<", at)) {
    if (html.startsWith("<!--", at)) {
      at = html.indexOf("-->", at + 4);
      if (at < 0) break;
      continue;
    }
    TAG_NAME.lastIndex = at + 1;
    const name = TAG_NAME.exec(html)?.[0].toLowerCase();
    if (name === undefined) {
      at++;
      continue;
    }
    at += 1 + name.length;
    const wanted = URL_ATTRIBUTES[name] ?? [];
    for (;;) {
      ATTRIBUTE.lastIndex = at;
      const match = ATTRIBUTE.exec(html);
      if (!match) break;
      const [text, attribute = "", double, single, bare] = match;
      const value = double ?? single ?? bare;
      if (value && wanted.includes(attribute.toLowerCase())) {
        const end = at + text.length - (bare === undefined ? 1 : 0);
        out.push(html.slice(copied, end - value.length), rewrite(value));
        copied = end;
      }
      at += text.length;
    }
    if (TEXT_ELEMENTS.has(name)) {
      const close = new RegExp(`</${name}`, "gi");
      close.lastIndex = at;
      const found = close.exec(html);
      if (!found) break;
      at = found.index;
      // The end tag itself is no start tag: past its first character.
      at++;
    }
  }
  out.push(html.slice(copied));
  return out.join("");
}
