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

/** Whether two values are the same to Kubernetes: see {@link canonicalJson}. */
export function semanticallyEqual(a: unknown, b: unknown): boolean {
  return a === b || canonicalJson(a) === canonicalJson(b);
}
