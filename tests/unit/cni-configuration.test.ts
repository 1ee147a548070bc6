// Which configuration a node takes: the one that is there, or its own.

import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { readConflist } from "../../cni/index.js";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { CniNetwork } from "../../node/host/network.js";

const dir = mkdtempSync(join(tmpdir(), "kubeplumb-node-cni-"));
t.teardown(() => rmSync(dir, { recursive: true }));

/** The configuration that holds after the node's start, of a directory with these files. */
function chosen(name: string, files: Record<string, string>, shared = true) {
  const confDir = join(dir, name);
  mkdirSync(confDir);
  for (const [file, network] of Object.entries(files))
    writeFileSync(
      join(confDir, file),
      JSON.stringify({ cniVersion: "0.4.0", name: network, plugins: [{ type: "bridge" }] }),
    );
  const places = { binDirs: [], stateDir: "/run/x/cni", subnetFile: "/run/x/subnet.env" };
  new CniNetwork({ confDir, shared, ...places, hostNs: NetNs.current() }).ensureConfiguration();
  return { files: readdirSync(confDir), conflist: readConflist(confDir)?.conflist };
}

t.test("its own where there is none, or podman's only; another's stays alone", (t) => {
  const own = { name: "kubeplumb", disableGC: true, plugins: [{ dataDir: "/run/x/cni" }, {}] };
  t.match(chosen("none", {}).conflist, own);
  t.match(chosen("podman", { "87-podman-bridge.conflist": "podman" }).conflist, own);
  t.match(chosen("other", { "50-other.conflist": "other" }), {
    files: ["50-other.conflist"],
    conflist: { name: "other" },
  });
  t.notOk(chosen("lab", {}, false).conflist?.disableGC, "nobody else reads a lab's");
  t.end();
});
