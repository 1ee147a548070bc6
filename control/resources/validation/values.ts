// Checks of single values that several kinds share: ports, addresses, numbers, percentages, selectors,
// resource names, configuration keys. Texts are those of apimachinery and the core validation. Knows no kind.

import { Cidr, ipFamily, parseIp } from "../../../common/ip.js";
import type { LabelSelector } from "../../../common/k8s.js";
import type { FieldError } from "../types.js";
import { forbidden, invalid, invalids, oneOf, required } from "./field.js";
import {
  byteLength,
  dns1123Label,
  dns1123Subdomain,
  labelValue,
  maxLengthText,
  qualifiedName,
  regexText,
  validateLabels,
} from "./meta.js";

export const PROTOCOLS = ["SCTP", "TCP", "UDP"] as const;
export const NOT_NEGATIVE = "must be greater than or equal to 0";

/** 1 to 65535. */
export function portNumber(field: string, port: number | undefined): FieldError[] {
  return port !== undefined && Number.isInteger(port) && port >= 1 && port <= 65535
    ? []
    : [invalid(field, port ?? 0, "must be between 1 and 65535, inclusive")];
}

/** What is wrong with an IANA_SVC_NAME; empty when nothing is. */
export function portName(name: string): string[] {
  const wrong: string[] = [];
  if (byteLength(name) > 15) wrong.push(maxLengthText(15));
  if (!/^[-a-z0-9]+$/.test(name)) {
    wrong.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)");
  }
  if (!/[a-z]/.test(name)) wrong.push("must contain at least one letter (a-z)");
  if (name.includes("--")) wrong.push("must not contain consecutive hyphens");
  if (name.startsWith("-") || name.endsWith("-")) wrong.push("must not begin or end with a hyphen");
  return wrong;
}

export function portNumberOrName(field: string, port: number | string | undefined): FieldError[] {
  return typeof port === "string" ? invalids(field, port, portName(port)) : portNumber(field, port);
}

export function nonNegative(field: string, value: number | undefined): FieldError[] {
  return value !== undefined && value < 0 ? [invalid(field, value, NOT_NEGATIVE)] : [];
}

export function label(field: string, value: string): FieldError[] {
  return invalids(field, value, dns1123Label(value));
}

export function subdomain(field: string, value: string): FieldError[] {
  return invalids(field, value, dns1123Subdomain(value));
}

export function qualified(field: string, value: string): FieldError[] {
  return invalids(field, value, qualifiedName(value));
}

export function protocol(field: string, value: string | undefined): FieldError[] {
  return oneOf(field, value, PROTOCOLS);
}

export function ip(field: string, value: string): FieldError[] {
  return ipFamily(value) === 0
    ? [invalid(field, value, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")]
    : [];
}

export function cidr(field: string, value: string): FieldError[] {
  try {
    Cidr.parse(value);
    return [];
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return [invalid(field, value, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")];
  }
}

const LOOPBACK = [Cidr.parse("127.0.0.0/8"), Cidr.parse("::1/128")];
const LINK_LOCAL = [Cidr.parse("169.254.0.0/16"), Cidr.parse("fe80::/10")];
const LINK_LOCAL_MULTICAST = [Cidr.parse("224.0.0.0/24"), Cidr.parse("ff02::/16")];

/** Addresses that cannot be an endpoint or an external IP; `value` must be a valid address. */
export function nonSpecialIp(field: string, value: string): FieldError[] {
  const address = parseIp(value);
  const within = (blocks: readonly Cidr[]) =>
    blocks.some((b) => b.family === address.family && b.contains(value));
  if (address.value === 0n) return [invalid(field, value, `may not be unspecified (${value})`)];
  if (within(LOOPBACK)) {
    return [invalid(field, value, "may not be in the loopback range (127.0.0.0/8, ::1/128)")];
  }
  if (within(LINK_LOCAL)) {
    return [invalid(field, value, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")];
  }
  if (within(LINK_LOCAL_MULTICAST)) {
    return [invalid(field, value, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")];
  }
  return [];
}

/** An int of at least 0 or a percentage: maxSurge, maxUnavailable. */
export function intOrPercent(field: string, value: number | string): FieldError[] {
  if (typeof value === "number") return nonNegative(field, value);
  return /^[0-9]+%$/.test(value)
    ? []
    : [
        invalid(
          field,
          value,
          regexText(
            "a valid percent string must be a numeric string followed by an ending '%'",
            "[0-9]+%",
            "1%",
            "93%",
          ),
        ),
      ];
}

/** IsNotMoreThan100Percent: a number may be anything. */
export function notMoreThanAll(field: string, value: number | string): FieldError[] {
  if (typeof value !== "string" || !/^\d+%$/.test(value) || Number.parseInt(value, 10) <= 100) return [];
  return [invalid(field, value, "must not be greater than 100%")];
}

/** Whether an int or percentage is none of whatever it is of. */
export function isNone(value: number | string): boolean {
  return value === 0 || value === "0%";
}

/** What is wrong with a key of a ConfigMap or Secret. */
export function configKey(key: string): string[] {
  const wrong: string[] = [];
  if (byteLength(key) > 253) wrong.push(maxLengthText(253));
  if (!/^[-._a-zA-Z0-9]+$/.test(key)) {
    wrong.push(
      regexText(
        "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
        "[-._a-zA-Z0-9]+",
        "key.name",
        "KEY_NAME",
        "key-name",
      ),
    );
  }
  if (key === ".") wrong.push("must not be '.'");
  else if (key === "..") wrong.push("must not be '..'");
  else if (key.startsWith("..")) wrong.push("must not start with '..'");
  return wrong;
}

/** A metav1.LabelSelector: labels, operators, and as many values as the operator wants. */
export function labelSelector(field: string, selector: LabelSelector | undefined): FieldError[] {
  if (!selector) return [];
  const errors = validateLabels(selector.matchLabels, `${field}.matchLabels`);
  for (const [i, requirement] of (selector.matchExpressions ?? []).entries()) {
    const path = `${field}.matchExpressions[${i}]`;
    errors.push(...selectorOperator(path, requirement.operator, requirement.values));
    errors.push(...qualified(`${path}.key`, requirement.key ?? ""));
    for (const [j, value] of (requirement.values ?? []).entries()) {
      errors.push(...invalids(`${path}.values[${j}]`, value, labelValue(value)));
    }
  }
  return errors;
}

function selectorOperator(
  path: string,
  operator: string | undefined,
  values: readonly string[] | undefined,
): FieldError[] {
  const count = values?.length ?? 0;
  switch (operator) {
    case "In":
    case "NotIn":
      return count === 0
        ? [required(`${path}.values`, "must be specified when `operator` is 'In' or 'NotIn'")]
        : [];
    case "Exists":
    case "DoesNotExist":
      return count > 0
        ? [forbidden(`${path}.values`, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")]
        : [];
    default:
      return [invalid(`${path}.operator`, operator ?? "", "not a valid selector operator")];
  }
}

/** Whether a selector selects everything, which for a controller is a mistake. */
export function isEmptySelector(selector: LabelSelector): boolean {
  return (
    Object.keys(selector.matchLabels ?? {}).length === 0 && (selector.matchExpressions ?? []).length === 0
  );
}
