// Manifests of tests: Deployments and Services with as few words as a test can have. Pure.

type Words = Record<string, unknown>;

/** The echo server of the Kubernetes tutorials, on port 8080. */
export const BOOTCAMP = "gcr.io/google-samples/kubernetes-bootcamp";

/** agnhost's netexec on port 8080: Ready when it answers there, with its pod's addresses in $IPS. */
export const netexec = (...args: string[]) => ({
  name: "main",
  image: "registry.k8s.io/e2e-test-images/agnhost:2.53",
  args: ["netexec", "--http-port=8080", ...args],
  readinessProbe: { httpGet: { path: "/healthz", port: 8080 } },
  env: [{ name: "IPS", valueFrom: { fieldRef: { fieldPath: "status.podIPs" } } }],
});

/** `deployment("web", { containers: [{ name: "main", image: "nginx" }] }, { replicas: 2 })`. */
export function deployment(name: string, podSpec: Words, spec: Words = {}, metadata: Words = {}) {
  const labels = { app: name };
  return {
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: { name, ...metadata },
    spec: { selector: { matchLabels: labels }, template: { metadata: { labels }, spec: podSpec }, ...spec },
  };
}

export function service(name: string, spec: Words) {
  return { apiVersion: "v1", kind: "Service", metadata: { name }, spec };
}

/** All as one text for kubectl's stdin. */
export const manifest = (...items: object[]): string =>
  JSON.stringify({ apiVersion: "v1", kind: "List", items });
