// What a test of the cluster's DNS asks for: pods and Services of every kind that has names of its own. Pure.

/** Where names in `default` end. */
export const D = "default.svc.cluster.local";

export const MANIFEST = `
apiVersion: v1
kind: Pod
metadata: { name: box }
spec: { containers: [{ name: main, image: busybox, command: [sleep, infinity] }] }
---
apiVersion: v1
kind: Pod
metadata: { name: web, labels: { app: web } }
spec: { containers: [{ name: main, image: nginx, ports: [{ containerPort: 80 }] }] }
---
apiVersion: v1
kind: Pod
metadata: { name: db-0, labels: { app: db } }
spec: { hostname: db-0, subdomain: db, containers: [{ name: main, image: nginx }] }
---
apiVersion: v1
kind: Pod
metadata: { name: db-1, labels: { app: db } }
spec: { hostname: db-1, subdomain: db, containers: [{ name: main, image: nginx }] }
---
apiVersion: v1
kind: Pod
metadata: { name: late, labels: { app: late } }
spec:
  hostname: late
  subdomain: early
  containers: [{ name: main, image: nginx, readinessProbe: { exec: { command: ["false"] } } }]
---
apiVersion: v1
kind: Service
metadata: { name: web }
spec: { clusterIP: 10.96.0.80, selector: { app: web }, ports: [{ name: http, port: 80 }] }
---
apiVersion: v1
kind: Service
metadata: { name: db }
spec: { clusterIP: None, selector: { app: db }, ports: [{ name: sql, port: 5432, targetPort: 80 }] }
---
apiVersion: v1
kind: Service
metadata: { name: late }
spec: { clusterIP: None, selector: { app: late }, ports: [{ port: 80 }] }
---
apiVersion: v1
kind: Service
metadata: { name: early }
spec: { clusterIP: None, publishNotReadyAddresses: true, selector: { app: late }, ports: [{ port: 80 }] }
---
apiVersion: v1
kind: Service
metadata: { name: ext }
spec: { type: ExternalName, externalName: example.org }
---
apiVersion: v1
kind: Service
metadata: { name: inner }
spec: { type: ExternalName, externalName: web.${D} }
---
apiVersion: v1
kind: Service
metadata: { name: crowd }
spec: { clusterIP: None, ports: [{ port: 80 }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: crowd-1, labels: { kubernetes.io/service-name: crowd } }
addressType: IPv4
ports: [{ port: 80 }]
endpoints: [${Array.from({ length: 100 }, (_, n) => `{ addresses: [10.1.0.${n + 1}] }`).join(", ")}]
`;
