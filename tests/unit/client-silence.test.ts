// A server that is gone without closing its connections: its watches end, those that have nothing to say stay.

import t from "tap";
import { ApiClient } from "../../client/api-client.js";
import { CONFIG_MAPS } from "../../common/client.js";
import type { ConfigMap } from "../../common/k8s.js";
import { configMap } from "../helpers/config-map-server.js";
import { serve } from "../helpers/unix-server.js";

t.test("a watch that is promised bookmarks does not wait for ever in silence", async (t) => {
  const { socketPath } = await serve(t, (req, res) => {
    res.writeHead(200, { "content-type": "application/json" });
    res.write(`${JSON.stringify({ type: "ADDED", object: configMap("a", 1) })}\n`);
    // The other watch has news, long after.
    if (!req.url?.includes("allowWatchBookmarks=true")) setTimeout(() => res.end(), 3000);
  });
  // undici looks at its timers once a second.
  const client = new ApiClient({ socketPath, watchSilenceMs: 1000 });
  t.teardown(() => client.close());
  const names = async (allowWatchBookmarks: boolean) => {
    const found: string[] = [];
    const watch = client.watch(CONFIG_MAPS, { resourceVersion: "1", allowWatchBookmarks });
    try {
      for await (const { object } of watch) found.push((object as ConfigMap).metadata?.name ?? "");
      return [...found, "ended"];
    } catch (error) {
      return [...found, (error as Error).name];
    }
  };
  t.strictSame(await Promise.all([names(true), names(false)]), [
    ["a", "BodyTimeoutError"],
    ["a", "ended"],
  ]);
});
