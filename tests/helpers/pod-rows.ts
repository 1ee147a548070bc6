// Pods as tests look at them through kubectl.

export interface PodRow {
  name: string;
  node: string;
  ip: string;
}

/** The pods that `selection` names, in kubectl's words. `kubectl` answers with its stdout. */
export async function podRows(
  kubectl: (argv: string[]) => Promise<string>,
  ...selection: string[]
): Promise<PodRow[]> {
  const columns = "custom-columns=N:.metadata.name,H:.spec.nodeName,I:.status.podIP";
  const text = await kubectl(["get", "pods", ...selection, "-o", columns, "--no-headers"]);
  return text
    .split("\n")
    .filter(Boolean)
    .map((line) => {
      const [name = "", node = "", ip = ""] = line.trim().split(/ +/);
      return { name, node, ip };
    });
}
