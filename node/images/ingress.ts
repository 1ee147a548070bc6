// kubeplumb/ingress-controller: the program of node/ingress, with its health page. Its code is loaded with the first
// pod that runs it.

import { setTimeout as sleep } from "node:timers/promises";
import { failedProcess, withFlags } from "./echo.js";
import { EmulatedProcess } from "./emulated.js";
import type { ContainerContext, Image, Workload } from "./types.js";

const CONTROLLER_CLASS = "kubeplumb.dev/ingress";
const HEALTH_PORT = 10_254;
/** How long the start of the container waits for it, so that its first readiness probe finds it ready. */
const START_WAIT_MS = 1000;

const FLAGS = {
  "controller-class": "string",
  "publish-service": "string",
  "access-log": "string",
} as const;

const run = (context: ContainerContext): Promise<Workload> =>
  withFlags(context, context.argv.slice(1), FLAGS, async ({ flags }) => {
    const { IngressController } = await import("../ingress/controller.js");
    let client: Awaited<ReturnType<ContainerContext["api"]>>;
    try {
      client = await context.api("kubeplumb-ingress-controller");
    } catch (error) {
      return failedProcess(context, (error as Error).message, 1);
    }
    const publishService = flags["publish-service"];
    const controller = new IngressController(context, client, {
      controllerClass: String(flags["controller-class"] ?? CONTROLLER_CLASS),
      publishService: publishService === undefined ? undefined : String(publishService),
      accessLog: flags["access-log"] !== "false",
    });
    const process = new EmulatedProcess(context, { onTerm: (self) => void controller.terminate(self) });
    void process.exited.then(async () => {
      await controller.close();
      await client.close();
    });
    await process.http(HEALTH_PORT, (_request, response) => {
      response.writeHead(controller.ready ? 200 : 503, { "Content-Type": "text/plain; charset=utf-8" });
      response.end(controller.ready ? "ok" : "not ready");
    });
    const started = controller.start(process).catch((error: Error) => {
      context.stderr(`${error.message}\n`);
      process.exit(1);
    });
    // The API may be slow to answer; the probes tell when it has.
    await Promise.race([started, sleep(START_WAIT_MS, undefined, { ref: false })]);
    return process;
  });

export const ingressController: Image = {
  names: ["kubeplumb/ingress-controller"],
  entrypoint: ["/ingress-controller"],
  cmd: [],
  program: (argv) => (argv[0] === "/ingress-controller" ? run : undefined),
};
