// Which images this node has, and how a reference finds one.

import { createHash } from "node:crypto";
import { agnhost } from "./agnhost.js";
import { bootcamp } from "./bootcamp.js";
import { coredns } from "./coredns.js";
import { echo, echoServer, httpEcho, requestEcho, whoami } from "./echo.js";
import { nginxEchoServer } from "./echoserver.js";
import { guestbook } from "./guestbook.js";
import { helloApp } from "./hello-app.js";
import { hpaExample } from "./hpa-example.js";
import { ingressController } from "./ingress.js";
import { machineImages } from "./machine.js";
import { nginx } from "./nginx.js";
import { nginxHttps } from "./nginx-configured.js";
import { pause } from "./pause.js";
import { goproxy, helloFrontend } from "./proxies.js";
import { helloGo, kubia, kubiaUnhealthy, livenessImage, nodeHello, serveHostnameImage } from "./samples.js";
import { etcd, memcached, redis, redisFollower, redisSlave } from "./servers.js";
import { polinuxStress, vishStress } from "./stress.js";
import type { Image, ImageSpec, ResolvedImage } from "./types.js";

export type { ContainerContext, Emulation, Image, ImageSpec, ResolvedImage, Workload } from "./types.js";

const EMULATED: readonly Image[] = [
  bootcamp,
  nginx,
  agnhost,
  pause,
  echo,
  httpEcho,
  whoami,
  echoServer,
  hpaExample,
  coredns,
  ingressController,
  helloApp,
  requestEcho,
  nginxEchoServer,
  serveHostnameImage,
  livenessImage,
  nodeHello,
  helloGo,
  kubia,
  kubiaUnhealthy,
  polinuxStress,
  vishStress,
  redis,
  redisFollower,
  redisSlave,
  guestbook,
  memcached,
  etcd,
  helloFrontend,
  goproxy,
  nginxHttps,
];

/** A reference taken apart: "nginx:1.29" is docker.io's library/nginx, short "nginx". */
export interface Reference {
  /** Without docker.io/ and library/. */
  name: string;
  tag: string;
  digest?: string;
}

const DOMAIN = /^(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+)(?::\d+)?$|^[A-Za-z0-9-]+:\d+$/;
const COMPONENT = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$/;
const TAG = /^\w[\w.-]{0,127}$/;
const DIGEST = /^[A-Za-z0-9]+:[0-9a-f]{32,}$/;

/** Undefined when the text is no valid image reference (distribution reference grammar). */
export function parseReference(text: string): Reference | undefined {
  const [named = "", digest, ...more] = text.split("@");
  const colon = named.indexOf(":", named.lastIndexOf("/") + 1);
  const name = colon < 0 ? named : named.slice(0, colon);
  const tag = colon < 0 ? undefined : named.slice(colon + 1);
  const [first = "", ...rest] = name.split("/");
  const path = rest.length > 0 && DOMAIN.test(first) ? rest : [first, ...rest];
  if (more.length > 0 || !path.every((component) => COMPONENT.test(component))) return undefined;
  if ((tag !== undefined && !TAG.test(tag)) || (digest !== undefined && !DIGEST.test(digest)))
    return undefined;
  const short = name.replace(/^(?:index\.)?docker\.io\//, "").replace(/^library\//, "");
  return { name: short, tag: tag ?? "latest", ...(digest ? { digest } : {}) };
}

/** All names a pod may use, for messages. */
export function knownImages(mapped: Readonly<Record<string, ImageSpec>> = {}): string[] {
  const emulated = EMULATED.flatMap((image) => {
    const [first = ""] = image.names;
    return Array.isArray(image.tags) ? image.tags.map((tag) => `${first}:${tag}`) : [first];
  });
  const machine = machineImages.map((image) => image.names[0] ?? "");
  return [...emulated, ...machine, ...Object.keys(mapped)];
}

function findImage({ name, tag }: Reference): Image | undefined {
  const image =
    EMULATED.find((one) => one.names.includes(name)) ??
    machineImages.find((one) => one.names.includes(name)) ??
    machineImages.find((one) => one.names.includes(name.slice(name.lastIndexOf("/") + 1)));
  const { tags } = image ?? {};
  const exists = tags instanceof RegExp ? tags.test(tag) : (tags?.includes(tag) ?? true);
  return exists ? image : undefined;
}

/** An image that runs whatever command the pod names. */
const BARE: Image = { names: [], entrypoint: [], cmd: [] };

function mappedImage(spec: Exclude<ImageSpec, string>): { image: Image; tag?: string } | undefined {
  const base = spec.image === undefined ? undefined : parseReference(spec.image);
  const found = base ? findImage(base) : undefined;
  if (spec.image !== undefined && !found) return undefined;
  const below = found ?? BARE;
  const image: Image = {
    ...below,
    entrypoint: spec.command ?? below.entrypoint,
    cmd: spec.args ?? (spec.command ? [] : below.cmd),
    env: { ...below.env, ...spec.env },
  };
  return base ? { image, tag: base.tag } : { image };
}

/**
 * Finds what an image reference stands for: first what the configuration maps (by full reference, then by name
 * without tag), then what is built in, then, with an explicit `command`, anything.
 * @returns undefined for an image nobody knows; "invalid" when the text is no reference.
 */
export function resolveImage(
  text: string,
  options: { mapped?: Readonly<Record<string, ImageSpec>>; hasCommand: boolean },
): ResolvedImage | "invalid" | undefined {
  const reference = parseReference(text);
  if (!reference) return "invalid";
  const { mapped = {} } = options;
  const entry =
    Object.entries(mapped).find(([key]) => key === text) ??
    Object.entries(mapped).find(([key]) => {
      const other = parseReference(key);
      return other?.name === reference.name && (!key.includes(":") || other.tag === reference.tag);
    });
  const spec = entry?.[1];
  const normal = typeof spec === "string" ? { image: spec } : spec;
  const found: { image: Image; tag?: string } | undefined = normal
    ? mappedImage(normal)
    : ({ image: findImage(reference) ?? (options.hasCommand ? BARE : undefined) } as { image: Image });
  if (!found?.image) return undefined;
  if (!options.hasCommand && !normal?.command && found.image.missing?.()) return undefined;
  const repository = text.replace(/@.*$/, "").replace(/:[^:/]*$/, "");
  const digest =
    reference.digest ??
    `sha256:${createHash("sha256").update(`${reference.name}:${reference.tag}`).digest("hex")}`;
  return {
    reference: text,
    imageID: `${repository}@${digest}`,
    tag: found.tag ?? reference.tag,
    image: found.image,
  };
}

/** The kubelet's error for an image that cannot be had, with what to do about it. */
export function unknownImageMessage(text: string, mapped: Readonly<Record<string, ImageSpec>> = {}): string {
  const found = resolveImage(text, { mapped, hasCommand: true });
  const missing = typeof found === "object" ? found.image.missing?.() : undefined;
  if (missing) return missing;
  // The list comes last: an Event has room for a part of it.
  return `kubeplumb has no image of that name and tag; map one in the cluster config under images: (for example images: {"${text}": nginx}); known images: ${knownImages(mapped).join(", ")}`;
}

/** The command line of a container (Kubernetes: command replaces the entrypoint and drops the image's cmd). */
export function commandLine(
  image: Image,
  container: { command?: readonly string[]; args?: readonly string[] },
): string[] {
  const { command, args } = container;
  if (command && command.length > 0) return [...command, ...(args ?? [])];
  return [...image.entrypoint, ...(args && args.length > 0 ? args : image.cmd)];
}
