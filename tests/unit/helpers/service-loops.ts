// The controllers of load-balancer addresses and of ServiceCIDRs on the API in this process, and Services for them.

import { type KubeClient, SERVICES } from "../../../common/client.js";
import type { Service, Stored } from "../../../common/k8s.js";
import type { ControllerContext } from "../../../control/controllers/context.js";
import { EventBroadcaster } from "../../../control/controllers/events.js";
import { LoadBalancerController } from "../../../control/controllers/load-balancer.js";
import { queueController } from "../../../control/controllers/reconcile.js";
import { ServiceCidrController } from "../../../control/controllers/service-cidr.js";
import type { LocalApi } from "./local-cluster.js";

export const POOL = "192.168.56.200-192.168.56.202";

/** The Service default/a of type LoadBalancer, with the addresses that its status tells. */
export function balanced(spec: Service["spec"] = {}, ips: string[] = []): Stored<Service> {
  return {
    apiVersion: "v1",
    kind: "Service",
    metadata: { name: "a", namespace: "default", uid: "u", resourceVersion: "1", creationTimestamp: "" },
    spec: { type: "LoadBalancer", ipFamilies: ["IPv4"], ...spec },
    status: { loadBalancer: { ingress: ips.map((ip) => ({ ip })) } },
  };
}

interface Running {
  api: LocalApi;
  stop(): Promise<void>;
}

/** Both controllers at work on `api`, with informers of their own. */
export async function start(api: LocalApi, serviceCIDRs = ["10.96.0.0/16"]): Promise<Running> {
  const { client, log } = api;
  const informers = api.newInformers();
  const events = new EventBroadcaster({ client, log });
  const context: ControllerContext = { client, informers, events, log, now: Date.now };
  const loops = [
    queueController(context, "lb", 1, (queue) => new LoadBalancerController(context, queue, { pool: POOL })),
    queueController(
      context,
      "cidr",
      1,
      (queue) => new ServiceCidrController(context, queue, { serviceCIDRs }),
    ),
  ];
  events.start();
  informers.start();
  await informers.synced();
  for (const loop of loops) loop.start();
  return {
    api,
    async stop() {
      for (const loop of loops) await loop.stop();
      await events.stop();
      informers.stop();
    },
  };
}

export const WHERE = { namespace: "default" };

/** Creates the Service default/`name`, of one port. */
export async function create(client: KubeClient, name: string, spec: Service["spec"] = {}): Promise<void> {
  const service: Service = { metadata: { name }, spec: { ports: [{ port: 80 }], ...spec } };
  await client.create(SERVICES, service, WHERE);
}
