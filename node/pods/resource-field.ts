// resourceFieldRef: requests and limits of a container as numbers, as the kubelet's ExtractContainerResourceValue. Pure.

import type { ResourceFieldSelector } from "kubernetes-types/core/v1.js";
import type { Container } from "../../common/k8s.js";

const UNITS = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
const BINARY = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/** A quantity ("500m", "1.5Gi", "1e3") in its own unit. @throws RangeError when it is none. */
export function quantity(text: string): number {
  const [, digits = "", unit = ""] = /^([+-]?[\d.]+(?:[eE][+-]?\d+)?)([A-Za-z]*)$/.exec(text) ?? [];
  const power = UNITS.indexOf(unit);
  const factor = power >= 0 ? 10 ** (3 * (power - 3)) : 1024 ** BINARY.indexOf(unit);
  if (digits === "" || factor < 1e-9) throw new RangeError(`"${text}" is not a quantity`);
  return Number(digits) * factor;
}

/**
 * The value, in units of the divisor (1 when there is none), rounded up. Without a limit it is what the node can give.
 * @throws RangeError for a resource that cannot be asked for.
 */
export function resourceValue(
  container: Pick<Container, "resources">,
  { resource, divisor }: ResourceFieldSelector,
  allocatable: Readonly<Record<string, string>>,
): string {
  const [, list, name = ""] = /^(limits|requests)\.(cpu|memory|ephemeral-storage)$/.exec(resource) ?? [];
  if (!list) throw new RangeError(`unsupported container resource : ${resource}`);
  const { limits = {}, requests = {} } = container.resources ?? {};
  const asked = list === "requests" ? (requests[name] ?? "0") : (limits[name] ?? allocatable[name] ?? "0");
  const unit = quantity(String(divisor ?? "1")) || 1;
  // A float's error must not cost a whole unit.
  return String(Math.ceil(quantity(String(asked)) / unit - 1e-9));
}
