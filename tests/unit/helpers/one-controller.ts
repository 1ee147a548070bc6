// One controller at a time on the API in this process, for tests: with a clock that the test sets ahead, and verbs of
// the API that are the test's own.

import {
  EVENTS,
  isNotFound,
  type KubeClient,
  NAMESPACES,
  PODS,
  type Resource,
  StatusError,
} from "../../../common/client.js";
import { type KubeObject, keyOf, type Pod, type Stored } from "../../../common/k8s.js";
import { silentLogger } from "../../../common/log.js";
import type { WorkQueue } from "../../../common/workqueue.js";
import type { Controller, ControllerContext } from "../../../control/controllers/context.js";
import { EventBroadcaster } from "../../../control/controllers/events.js";
import { queueController, type Reconciler } from "../../../control/controllers/reconcile.js";
import { DEFAULT } from "./controller-objects.js";
import { eventually, openLocalApi } from "./local-cluster.js";
import { CONTAINERS } from "./workload-objects.js";

/** A finalizer that nobody takes off. */
export const HOLD = "example.com/hold";
export const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** The same API, some verbs of which are the test's own. */
function withVerbs(client: KubeClient, own: Partial<KubeClient>): KubeClient {
  const verbs = ["get", "list", "watch", "create", "update", "patch", "delete", "deleteCollection"] as const;
  const all = Object.fromEntries(verbs.map((verb) => [verb, client[verb].bind(client)]));
  return { ...all, ...own } as unknown as KubeClient;
}

/** What an API server says that does not want to. */
export const refusal = () =>
  new StatusError({
    kind: "Status",
    apiVersion: "v1",
    metadata: {},
    status: "Failure",
    code: 403,
    reason: "Forbidden",
    message: "not today",
  });

/** An empty API with the namespace default; controllers started here see `own` instead of its verbs. */
export async function alone(
  t: { teardown(fn: () => unknown): unknown },
  own: (client: KubeClient) => Partial<KubeClient> = () => ({}),
) {
  const { client, informers, close } = await openLocalApi();
  const clock = { ahead: 0 };
  const now = () => Date.now() + clock.ahead;
  const log = silentLogger;
  const events = new EventBroadcaster({ client, log, now });
  const context: ControllerContext = { client: withVerbs(client, own(client)), informers, events, log, now };
  const started: Controller[] = [];
  await client.create(NAMESPACES, { metadata: { name: "default" } });
  events.start();
  t.teardown(async () => {
    await Promise.all(started.map((controller) => controller.stop()));
    await events.stop();
    await close();
  });
  return {
    client,
    informers,
    clock,
    context,
    async start(...controllers: Controller[]): Promise<void> {
      informers.start();
      await informers.synced();
      for (const controller of controllers) controller.start();
      started.push(...controllers);
    },
    queued: <R extends Reconciler>(make: (queue: WorkQueue) => R) =>
      queueController(context, "test", 4, make),
    /** Resolves when the shared cache shows the object as it was written, or a newer state. */
    async cached<T extends KubeObject>(resource: Resource<T>, object: Stored<T>): Promise<void> {
      await eventually(`${keyOf(object)} in the cache`, async () => {
        const seen = informers.get(resource).get(keyOf(object));
        return Number(seen?.metadata.resourceVersion) >= Number(object.metadata.resourceVersion);
      });
    },
    async told(text: RegExp): Promise<void> {
      await eventually(`an Event ${text}`, async () =>
        (await client.list(EVENTS)).items.some(({ reason, message }) => text.test(`${reason}: ${message}`)),
      );
    },
    /** A pod bound to a node. */
    bound: (name: string, nodeName: string, tolerations: object[] = [], finalizers: string[] = []) =>
      client.create(PODS, {
        metadata: { name, ...DEFAULT, finalizers },
        spec: { nodeName, containers: CONTAINERS, tolerations },
      } as Pod),
    async gone(resource: Resource, name: string, namespace?: string): Promise<void> {
      await eventually(`${name} is gone`, async () => {
        try {
          await client.get(resource, name, namespace);
          return false;
        } catch (error) {
          if (!isNotFound(error)) throw error;
          return true;
        }
      });
    },
  };
}
