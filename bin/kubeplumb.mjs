#!/usr/bin/env node
// The kubeplumb command: plain JavaScript, so that it can say what to do when nothing has been built yet.

import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

const main = new URL("../dist/cli/main.js", import.meta.url);

if (!existsSync(main)) {
  process.stderr.write(
    `error: kubeplumb is not built yet (${fileURLToPath(main)} is missing); ` +
      "run 'npm start', or 'npm install && npm run build', in its directory\n",
  );
  process.exit(1);
}

const { main: start } = await import(main.href);
await start();
