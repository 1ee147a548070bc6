// A host in a namespace of its own on which CNI plugins are called as a container runtime calls them: a process a
// verb, environment and standard input.

import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { isIP } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { posixSpawn, type Spawned } from "../../dataplane/kernel/posix-spawn.js";
import { RtNetlink } from "../../dataplane/kernel/rtnetlink.js";

/** Whether an address answers. */
export const pings = (from: NetNs, to: string, seconds = 10): Promise<boolean> =>
  from.exec("ping", ["-c1", `-W${seconds}`, to]).then(
    () => true,
    () => false,
  );

export interface Call {
  id: string;
  ns?: NetNs;
  ifName?: string;
  args?: string;
  /** CNI_PATH; default: where the host's scripts are. */
  path?: string;
}

/** What a plugin printed, and how it ended. */
export interface Said {
  exitCode: number | null;
  // biome-ignore lint/suspicious/noExplicitAny: results and errors of any version are looked into.
  json: any;
  stderr: string;
}

/** Where Debian or anybody else has put the reference plugins; undefined without them. */
export const REFERENCE = ["/opt/cni/bin", "/usr/lib/cni"].find((path) =>
  existsSync(join(path, "host-local")),
);

export class PluginHost {
  readonly dir = mkdtempSync(join(tmpdir(), "kubeplumb-plugin-"));
  readonly bin = join(this.dir, "bin");
  readonly ns: NetNs;
  readonly rt: RtNetlink;

  constructor(name: string) {
    this.ns = NetNs.create(name);
    this.rt = RtNetlink.open(this.ns);
    mkdirSync(this.bin);
    const main = new URL("../../cni/main.js", import.meta.url).href;
    for (const type of ["kubeplumb-cni", "kubeplumb-portmap"]) {
      // With its extension node knows that it is a module; runtimes call it by the name without.
      const module = join(this.bin, `${type}.mjs`);
      const text = `#!${process.execPath}\nimport { runProcess } from "${main}";\nawait runProcess("${type}");\n`;
      writeFileSync(module, text, { mode: 0o755 });
      this.script(type, `exec ${process.execPath} ${module}`);
    }
  }

  /** A plugin in shell. */
  script(name: string, body: string): void {
    writeFileSync(join(this.bin, name), `#!/bin/sh\n${body}\n`, { mode: 0o755 });
  }

  /** Starts a verb. `conf.type` is the program, looked for in the call's path. */
  start(verb: string, conf: Record<string, unknown>, call: Call): Spawned {
    const { id, ns, ifName = "eth0", args = "", path = this.bin } = call;
    const env = {
      PATH: process.env.PATH,
      CNI_COMMAND: verb,
      CNI_CONTAINERID: id,
      CNI_IFNAME: ifName,
      CNI_PATH: path,
      CNI_ARGS: args,
      ...(ns && { CNI_NETNS: ns.path }),
    };
    const program = path
      .split(":")
      .map((dir) => join(dir, String(conf.type)))
      .find((one) => existsSync(one));
    return this.ns.run(() => posixSpawn(program ?? "missing", [], { input: JSON.stringify(conf), env }));
  }

  /** The result of an ADD. @throws Error with what the plugin says. */
  async added(conf: Record<string, unknown>, call: Call): Promise<Said["json"]> {
    const { exitCode, json } = await this.run("ADD", conf, call);
    if (exitCode !== 0) throw new Error(JSON.stringify(json));
    return json;
  }

  async run(verb: string, conf: Record<string, unknown>, call: Call): Promise<Said> {
    const { exitCode, stdout, stderr } = await this.start(verb, conf, call).ended;
    return { exitCode, json: stdout.trim() === "" ? undefined : JSON.parse(stdout), stderr };
  }

  /** What attachments have left on the host. */
  async traces(network: string, dataDir = this.dir): Promise<{ ports: string[]; addresses: string[] }> {
    const store = join(dataDir, "networks", network);
    const links = await this.rt.listLinks();
    return {
      ports: links.filter(({ kind }) => kind === "veth").map(({ name }) => name),
      addresses: existsSync(store) ? readdirSync(store).filter((name) => isIP(name) !== 0) : [],
    };
  }

  close(): void {
    this.rt.close();
    this.ns.close();
    rmSync(this.dir, { recursive: true, force: true });
  }
}
