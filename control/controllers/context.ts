// What every controller is given and what it has to offer. Knows the KubeClient, informers and logs; no kind.

import type { KubeClient } from "../../common/client.js";
import type { InformerFactory } from "../../common/informer.js";
import type { Logger } from "../../common/log.js";
import type { EventBroadcaster } from "./events.js";

/** What all controllers of the process share. */
export interface ControllerContext {
  client: KubeClient;
  informers: InformerFactory;
  events: EventBroadcaster;
  log: Logger;
  /** Milliseconds since the epoch. Tests put their own clock here. */
  now(): number;
}

/** A control loop. Informers are asked for in its constructor, so that all of them start together. */
export interface Controller {
  readonly name: string;
  /** Begins to work; called once, after every informer has synced. */
  start(): void;
  /** Ends all work; resolves when nothing runs any more. */
  stop(): Promise<void>;
}
