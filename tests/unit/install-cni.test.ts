// kubeplumb install cni below a folder: the files, that a second time changes nothing, and that the plugin that was
// written starts.

import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { parseConflist } from "../../cni/index.js";
import { directory, kubeplumb } from "../helpers/cli.js";

const root = join(directory, "root");
const install = (...words: string[]) => kubeplumb(["install", "cni", "--root", root, ...words]);
const CONFLIST = "/etc/cni/net.d/10-kubeplumb.conflist";
const conflist = () => parseConflist(readFileSync(join(root, CONFLIST), "utf8"));

t.test("plugins and configuration, once", async (t) => {
  const { code, err } = await install();
  t.equal(code, 0);
  for (const path of ["/opt/cni/bin/kubeplumb-cni", "/opt/cni/bin/kubeplumb-portmap", CONFLIST])
    t.match(err, `written: ${path}\n`);
  for (const type of ["kubeplumb-cni", "kubeplumb-portmap"]) {
    const program = join(root, "opt/cni/bin", type);
    t.equal(statSync(program).mode & 0o777, 0o755);
    // An empty PATH: Node is not looked for.
    const env = { CNI_COMMAND: "VERSION", PATH: "", KUBEPLUMB_CNI_SOCKET: join(directory, "nobody.sock") };
    const said = JSON.parse(
      execFileSync(program, { input: '{"cniVersion":"1.1.0"}', env, encoding: "utf8" }),
    );
    t.match(said, { cniVersion: "1.1.0", supportedVersions: /1\.1\.0/ });
  }
  t.match(conflist(), {
    cniVersion: "1.0.0",
    cniVersions: ["1.0.0", "1.1.0"],
    name: "kubeplumb",
    disableGC: true,
    plugins: [
      { subnetFile: "/run/kubeplumb/flannel/subnet.env", dataDir: "/run/kubeplumb/cni" },
      { type: "kubeplumb-portmap", capabilities: { portMappings: true } },
    ],
  });
  t.equal((await install()).err, "all files are as they should be\n");
  writeFileSync(join(root, "opt/cni/bin/kubeplumb-cni"), "older");
  t.equal((await install()).err, "written: /opt/cni/bin/kubeplumb-cni\n");
});

t.test("beside flanneld, and what is refused", async (t) => {
  t.equal((await install("--subnet-file", "/run/flannel/subnet.env")).err, `written: ${CONFLIST}\n`);
  t.equal(conflist().plugins[0]?.subnetFile, "/run/flannel/subnet.env");
  t.notOk(conflist().disableGC, "nobody else of ours is in that network");
  t.match(await install("--subnet-file", "flannel/subnet.env"), { code: 2, err: /an absolute path/ });
  t.match(await install("--", "--name", "x"), { code: 2, err: /nothing follows -- of install cni/ });
  const node = ["install", "node", "--root", root, "--subnet-file", "/x"];
  t.match(await kubeplumb(node), { code: 2, err: /--subnet-file is for install cni/ });
});

t.test("taken away again; the configuration stays for a node that is installed", async (t) => {
  const uninstall = () => kubeplumb(["uninstall", "cni", "--root", root]);
  const unit = join(root, "etc/systemd/system/kubeplumb-node.service");
  mkdirSync(join(unit, ".."), { recursive: true });
  writeFileSync(unit, "");
  const kept = await uninstall();
  t.match(kept.err, "removed: /opt/cni/bin/kubeplumb-portmap\n");
  t.notMatch(kept.err, CONFLIST);
  await kubeplumb(["uninstall", "node", "--root", root]);
  await install();
  t.match((await uninstall()).err, `removed: ${CONFLIST}\n`);
  t.equal((await uninstall()).err, "there is nothing of kubeplumb cni here\n");
});
