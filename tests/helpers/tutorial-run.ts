// The tutorials (tests/e2e/tutorial/*.txt), each in a cluster of its own, with the oldest and the newest kubectl that
// can be had. KUBEPLUMB_TUTORIAL=look runs only those whose name begins so. In several files: one has but some minutes.

import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { createCluster } from "../../index.js";
import { installCommand } from "./cli.js";
import { projectFile, projectFiles } from "./golden.js";
import { kubectlVersion, minorVersion } from "./kubectl-versions.js";
import { parseTutorial, Shell } from "./tutorial.js";

const OLDEST = ["1.27", "1.28", "1.29", "1.30"];
const NEWEST = ["1.36", "1.35", "1.34", "1.33"];

const first = (versions: readonly string[]): string | undefined => {
  for (const version of versions) {
    const program = kubectlVersion(version);
    if (program) return program;
  }
  return undefined;
};

/** Every so many-th of the chapters, from the `part`th on (0 is the first). */
export function runTutorials(part: number, parts: number): void {
  t.setTimeout(600_000);
  // The two of a chapter side by side: most of the time is waiting.
  t.jobs = 2;
  const programs = [first(OLDEST), first(NEWEST)].filter((program) => program !== undefined);
  t.ok(programs.length > 0, "there is a kubectl");
  t.comment(`kubectl ${programs.map(minorVersion).join(" and ")}`);

  const directory = mkdtempSync(join(tmpdir(), "kubeplumb-tutorial-"));
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));

  const wanted = process.env.KUBEPLUMB_TUTORIAL ?? "";
  const mine = projectFiles("tests/e2e/tutorial").filter((_file, n) => n % parts === part);
  for (const name of mine.filter((file) => file.startsWith(wanted))) {
    for (const program of programs) {
      const version = minorVersion(program) ?? "";
      void t.test(`${name}, kubectl ${version}`, { buffered: true }, async (t) => {
        const cluster = await createCluster({ nodes: 3 });
        const home = mkdtempSync(join(directory, "home-"));
        const bin = join(home, "bin");
        const own = installCommand(join(home, "own"));
        mkdirSync(bin);
        symlinkSync(program, join(bin, "kubectl"));
        // A reader's cluster has the name that needs no --name.
        const command = `#!/bin/sh\nverb=$1; shift\nexec '${own}' "$verb" --name ${cluster.info.name} "$@"\n`;
        writeFileSync(join(bin, "kubeplumb"), command, { mode: 0o755 });
        const shell = new Shell(home, {
          PATH: `${bin}:${process.env.PATH}`,
          HOME: home,
          KUBECONFIG: join(cluster.info.dir, "kubeconfig"),
          KUBEPLUMB_HOME: join(cluster.info.dir, ".."),
          LANG: "C.UTF-8",
          TZ: "UTC",
          // Where a tutorial says 8001 and the like: two of them run at a time.
          PORTS: String(180 + programs.indexOf(program)),
        });
        try {
          for (const { title, actions } of parseTutorial(projectFile(`tests/e2e/tutorial/${name}`))) {
            for (const action of actions) {
              const wrong = await shell.perform(action);
              if (wrong !== undefined) t.fail(`${title}: ${wrong}`);
            }
            t.pass(title);
          }
        } finally {
          shell.close();
          await cluster.stop();
        }
      });
    }
  }
}
