// Domain names as text: "web.default.svc.cluster.local", without the last dot; the root is ".". Pure.

import { isIP } from "node:net";
import { formatIp, parseIp } from "../../common/ip.js";

/** Whether `name` is `zone` or below it; upper and lower case are the same. */
export function isWithin(name: string, zone: string): boolean {
  if (zone === ".") return true;
  if (name.length < zone.length) return false;
  if (name.length > zone.length && name.charCodeAt(name.length - zone.length - 1) !== 0x2e) return false;
  return name.slice(name.length - zone.length).toLowerCase() === zone.toLowerCase();
}

/** The longest of `zones` that holds the name. */
export function zoneOf(name: string, zones: readonly string[]): string | undefined {
  let best: string | undefined;
  for (const zone of zones) {
    if (isWithin(name, zone) && zone.length >= (best?.length ?? 0)) best = zone;
  }
  return best;
}

/** A name as written in a file: without its last dot. */
export function plain(name: string): string {
  return name === "." ? name : name.replace(/\.$/, "");
}

/** The address, as {@link comparableAddress} writes it, that a name of in-addr.arpa or ip6.arpa (in lower case) stands for, if it is a whole one. */
export function reverseAddress(name: string): string | undefined {
  const v4 = /^(\d+)\.(\d+)\.(\d+)\.(\d+)\.in-addr\.arpa$/.exec(name);
  if (v4) {
    const address = v4.slice(1).reverse().join(".");
    return isIP(address) ? address : undefined;
  }
  const v6 = /^((?:[0-9a-f]\.){32})ip6\.arpa$/.exec(name);
  if (!v6) return undefined;
  const digits = (v6[1] ?? "").split(".").reverse().join("");
  return comparableAddress(digits.replace(/.{4}(?!$)/g, "$&:"));
}

/** The one text of an address by which it is found again. */
export function comparableAddress(address: string): string {
  const { value, family } = parseIp(address);
  return family === 4 ? address : formatIp(value, family);
}
