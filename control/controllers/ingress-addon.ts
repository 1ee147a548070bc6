// The Ingress controller as an add-on: its IngressClasses are there from the start, its Deployment and Service come
// with the first Ingress of such a class, so that a cluster without Ingresses has nothing to carry. Knows what is
// deployed, not what it does (node/ingress).

import {
  DEPLOYMENTS,
  INGRESS_CLASSES,
  INGRESSES,
  isAlreadyExists,
  NAMESPACES,
  type Resource,
  SERVICE_ACCOUNTS,
  SERVICES,
} from "../../common/client.js";
import type { Informer } from "../../common/informer.js";
import {
  type Deployment,
  type Ingress,
  type IngressClass,
  type KubeObject,
  type Namespace,
  RUNTIME_ANNOTATION,
  type Service,
  type ServiceAccount,
} from "../../common/k8s.js";
import type { WorkQueue } from "../../common/workqueue.js";
import type { ControllerContext } from "./context.js";
import { onSight, type Reconciler } from "./reconcile.js";

/** spec.controller of its classes. */
const CONTROLLER = "kubeplumb.dev/ingress";
const NAMESPACE = "ingress-kubeplumb";
const NAME = "ingress-kubeplumb-controller";
const IMAGE = "kubeplumb/ingress-controller";
const HEALTH_PORT = 10_254;
const SELECTOR = { "app.kubernetes.io/name": NAMESPACE, "app.kubernetes.io/component": "controller" };

/** The second one because manifests that were written for ingress-nginx name it. */
const CLASSES: readonly IngressClass[] = [
  ingressClass("kubeplumb", { "ingressclass.kubernetes.io/is-default-class": "true" }),
  ingressClass("nginx", {}),
];

function ingressClass(name: string, annotations: Record<string, string>): IngressClass {
  return {
    apiVersion: "networking.k8s.io/v1",
    kind: "IngressClass",
    metadata: { name, labels: SELECTOR, annotations },
    spec: { controller: CONTROLLER },
  };
}

const metadata = (name: string) => ({ name, namespace: NAMESPACE, labels: SELECTOR });

const namespace: Namespace = {
  apiVersion: "v1",
  kind: "Namespace",
  metadata: { name: NAMESPACE, labels: { "app.kubernetes.io/name": NAMESPACE } },
};

const account: ServiceAccount = { apiVersion: "v1", kind: "ServiceAccount", metadata: metadata(NAMESPACE) };

const service: Service = {
  apiVersion: "v1",
  kind: "Service",
  metadata: metadata(NAME),
  spec: {
    type: "LoadBalancer",
    // Backends are told the client's address, so it must arrive.
    externalTrafficPolicy: "Local",
    ipFamilyPolicy: "PreferDualStack",
    selector: SELECTOR,
    ports: [
      { name: "http", port: 80, targetPort: "http", protocol: "TCP", appProtocol: "http" },
      { name: "https", port: 443, targetPort: "https", protocol: "TCP", appProtocol: "https" },
    ],
  },
};

const deployment: Deployment = {
  apiVersion: "apps/v1",
  kind: "Deployment",
  metadata: metadata(NAME),
  spec: {
    replicas: 1,
    selector: { matchLabels: SELECTOR },
    template: {
      metadata: { labels: SELECTOR, annotations: { [RUNTIME_ANNOTATION]: "emulated" } },
      spec: {
        serviceAccountName: NAMESPACE,
        containers: [
          {
            name: "controller",
            image: IMAGE,
            imagePullPolicy: "IfNotPresent",
            args: [`--controller-class=${CONTROLLER}`, `--publish-service=${NAMESPACE}/${NAME}`],
            ports: [
              { name: "http", containerPort: 80, protocol: "TCP" },
              { name: "https", containerPort: 443, protocol: "TCP" },
            ],
            readinessProbe: { httpGet: { path: "/healthz", port: HEALTH_PORT }, periodSeconds: 1 },
            livenessProbe: { httpGet: { path: "/healthz", port: HEALTH_PORT }, initialDelaySeconds: 10 },
          },
        ],
      },
    },
  },
};

export class IngressAddonController implements Reconciler {
  readonly #context: ControllerContext;
  readonly #ingresses: Informer<Ingress>;
  readonly #classes: Informer<IngressClass>;
  readonly #queue: WorkQueue;

  constructor(context: ControllerContext, queue: WorkQueue) {
    this.#context = context;
    this.#ingresses = context.informers.get(INGRESSES);
    this.#classes = context.informers.get(INGRESS_CLASSES);
    this.#queue = queue;
  }

  watch(): void {
    this.#queue.add("classes");
    const look = onSight(() => this.#queue.add("controller"));
    this.#ingresses.subscribe(look);
    this.#classes.subscribe(look);
  }

  /** `what` is "classes" or "controller". */
  async reconcile(what: string): Promise<void> {
    if (what === "classes") {
      for (const one of CLASSES) await this.#ensure(INGRESS_CLASSES, one);
    } else if (this.#isWanted()) {
      await this.#ensure(NAMESPACES, namespace);
      await this.#ensure(SERVICE_ACCOUNTS, account);
      await this.#ensure(SERVICES, service);
      await this.#ensure(DEPLOYMENTS, deployment);
    }
  }

  #isWanted(): boolean {
    return this.#ingresses.list().some(({ spec, metadata: { annotations } }) => {
      const name = spec?.ingressClassName ?? annotations?.["kubernetes.io/ingress.class"];
      return name !== undefined && this.#classes.get(name)?.spec?.controller === CONTROLLER;
    });
  }

  /** Creates what is missing; what is there may have been changed by whom it belongs to. */
  async #ensure<T extends KubeObject>(resource: Resource<T>, object: T): Promise<void> {
    const present = this.#context.informers
      .get(resource)
      .get([object.metadata?.namespace, object.metadata?.name].filter(Boolean).join("/"));
    if (present) return;
    try {
      await this.#context.client.create(resource, object);
    } catch (error) {
      if (!isAlreadyExists(error)) throw error;
    }
  }
}
