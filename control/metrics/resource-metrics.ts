// What a kubelet's /metrics/resource says, read. Pure; knows the Prometheus text format as far as a kubelet uses it.

/** A cumulative counter and a gauge as of one moment. */
export interface Point {
  /** Milliseconds since the epoch. */
  at: number;
  cpuSeconds: number;
  memoryBytes: number;
  /** Of a container, milliseconds since the epoch. */
  startedAt?: number;
}

/** The points of one kubelet. */
export interface Scrape {
  node: Point | undefined;
  /** namespace/name → container → point */
  pods: Map<string, Map<string, Point>>;
}

type Draft = Partial<Point>;

const LINE = /^([a-z_]+)(?:\{(.*)\})? (\S+)(?: (\d+))?$/;
const FIELDS: Readonly<Record<string, keyof Point>> = {
  cpu_usage_seconds_total: "cpuSeconds",
  memory_working_set_bytes: "memoryBytes",
  start_time_seconds: "startedAt",
};

function labelsOf(text: string): Record<string, string> {
  const pairs = text.matchAll(/([a-z_]+)="((?:[^"\\]|\\.)*)"/g);
  return Object.fromEntries([...pairs].map(([, name = "", value = ""]) => [name, value]));
}

/** A node's or container's figures that are not complete are left out. */
export function parseResourceMetrics(text: string): Scrape {
  const node: Draft = {};
  const drafts = new Map<string, Map<string, Draft>>();
  for (const line of text.split("\n")) {
    const [, name = "", labels = "", value = "", time] = LINE.exec(line) ?? [];
    const [, scope, what = ""] = /^(node|container)_(.+)$/.exec(name) ?? [];
    const field = FIELDS[what];
    if (!scope || !field) continue;
    let draft = node;
    if (scope === "container") {
      const { namespace, pod, container = "" } = labelsOf(labels);
      const containers = drafts.get(`${namespace}/${pod}`) ?? new Map<string, Draft>();
      drafts.set(`${namespace}/${pod}`, containers);
      draft = containers.get(container) ?? {};
      containers.set(container, draft);
    }
    draft[field] = field === "startedAt" ? Number(value) * 1000 : Number(value);
    if (time) draft.at = Number(time);
  }
  const pods = new Map<string, Map<string, Point>>();
  for (const [key, containers] of drafts) {
    const whole = [...containers].filter((entry): entry is [string, Point] => isWhole(entry[1]));
    if (whole.length === containers.size) pods.set(key, new Map(whole));
  }
  return { node: isWhole(node) ? node : undefined, pods };
}

function isWhole(draft: Draft): draft is Point {
  return draft.at !== undefined && draft.cpuSeconds !== undefined && draft.memoryBytes !== undefined;
}
