// gcr.io/google-samples/hello-app: the web server of Google's and minikube's walk-throughs. 1.0 and 2.0 differ in the
// version that they tell.

import { EmulatedProcess, GO_SIGTERM } from "./emulated.js";
import type { Image } from "./types.js";

export const helloApp: Image = {
  names: ["gcr.io/google-samples/hello-app", "us-docker.pkg.dev/google-samples/containers/gke/hello-app"],
  tags: ["1.0", "2.0"],
  entrypoint: [],
  cmd: ["/hello-app"],
  program: (argv) =>
    argv.at(-1)?.endsWith("/hello-app")
      ? async (context) => {
          const port = Number(context.env.PORT ?? 8080);
          const process = new EmulatedProcess(context, { onTerm: GO_SIGTERM });
          const log = (text: string): void => {
            const now = new Date().toISOString().slice(0, 19).replace("T", " ").replaceAll("-", "/");
            context.stderr(`${now} ${text}\n`);
          };
          const listening = await process.http(port, (request, response) => {
            log(`Serving request: ${request.url?.split("?")[0]}`);
            response.writeHead(200, { "Content-Type": "text/plain; charset=utf-8" });
            response.end(`Hello, world!\nVersion: ${context.tag}.0\nHostname: ${context.hostname}\n`);
          });
          if (listening) log(`Server listening on port ${port}`);
          return process;
        }
      : undefined,
};
