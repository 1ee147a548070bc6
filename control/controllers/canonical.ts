// One text for equal objects, whatever the order of their fields: for comparing and hashing. Knows JSON only.

/**
 * JSON with sorted keys. Absent, null and empty lists are the same, as in Kubernetes' semantic equality; empty
 * objects are kept, since `emptyDir: {}` is something else than no emptyDir.
 */
export function canonicalJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(",")}]`;
  if (typeof value !== "object" || value === null) return JSON.stringify(value) ?? "null";
  const parts: string[] = [];
  for (const [key, field] of Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1))) {
    if (field === undefined || field === null || (Array.isArray(field) && field.length === 0)) continue;
    parts.push(`${JSON.stringify(key)}:${canonicalJson(field)}`);
  }
  return `{${parts.join(",")}}`;
}

function isAbsent(value: unknown): boolean {
  return value === undefined || value === null || (Array.isArray(value) && value.length === 0);
}

/** Whether two JSON values are the same to Kubernetes: absent, null and empty lists are, the order of fields is not. */
export function semanticallyEqual(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (isAbsent(a) || isAbsent(b)) return isAbsent(a) && isAbsent(b);
  if (typeof a !== "object" || typeof b !== "object") return false;
  if (Array.isArray(a) || Array.isArray(b)) {
    if (!Array.isArray(a) || !Array.isArray(b) || a.length !== b.length) return false;
    return a.every((item, index) => semanticallyEqual(item, b[index]));
  }
  const [x, y] = [a as Record<string, unknown>, b as Record<string, unknown>];
  for (const key in x) if (!semanticallyEqual(x[key], y[key])) return false;
  for (const key in y) if (!(key in x) && !isAbsent(y[key])) return false;
  return true;
}
