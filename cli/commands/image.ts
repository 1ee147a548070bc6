// kubeplumb image: images of this machine's container runtime, for pods of `kubeplumb node --runtime containerd`. CRI only
// knows registries, so archives come in by ctr, which comes with containerd.

import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { CriClient, socketOf } from "../../node/cri/client.js";
import { GrpcError } from "../../node/cri/grpc.js";
import { type CommandSpec, type Context, UsageError } from "../command.js";
import { CONTAINERD } from "../host-paths.js";
import { parseEndpoint } from "../runtime-endpoint.js";
import { formatTable } from "../table.js";

interface Options {
  containerRuntimeEndpoint: string;
}

/** containerd's namespace of what belongs to Kubernetes. */
const NAMESPACE = "k8s.io";
const ASK_MS = 10_000;
/** containerd tells its CRI of new images by events. */
const KNOWN_MS = 10_000;
const LOOK_MS = 50;

const spec: CommandSpec<Options> = {
  description:
    "import takes OCI archives and those of `docker save`; no registry is asked. Needs root, as containerd's socket does.",
  arguments: [
    { flags: "<action>", description: "what to do", choices: ["import", "ls"] },
    { flags: "[file]", description: "to import: the archive", complete: "files" },
  ],
  options: [
    {
      flags: "--container-runtime-endpoint <endpoint>",
      description: "where containerd answers",
      default: CONTAINERD,
      parse: parseEndpoint,
    },
  ],
  examples: [
    ["what a pod may name", "kubeplumb image ls"],
    ["one more", "kubeplumb image import web.tar"],
  ],
  async run(context, [action, file], { containerRuntimeEndpoint: endpoint }) {
    if (action === "import" && !file) throw new UsageError("image import FILE: which one?");
    if (action === "ls" && file) throw new UsageError("image ls takes no file");
    const client = new CriClient(endpoint);
    try {
      if (action === "ls") await list(context, client);
      else await bringIn(context, client, resolve(file ?? ""));
      return 0;
    } catch (error) {
      if (error instanceof GrpcError)
        throw new Error(
          `${endpoint}: ${error.message}; is containerd running there? --container-runtime-endpoint names another socket`,
        );
      throw error;
    } finally {
      client.close();
    }
  },
};

async function list(context: Context, client: CriClient): Promise<void> {
  const images = await client.listImages();
  const rows = images.flatMap(({ id, repoTags, repoDigests, size }) => {
    const names = repoTags.length > 0 ? repoTags : repoDigests.length > 0 ? repoDigests.slice(0, 1) : [""];
    return names.map((name) => {
      const { repository, tag } = taken(name);
      return [repository, tag, id.replace(/^sha256:/, "").slice(0, 13), megabytes(size)];
    });
  });
  rows.sort((a, b) => (`${a[0]}:${a[1]}` < `${b[0]}:${b[1]}` ? -1 : 1));
  context.print(formatTable([["IMAGE", "TAG", "IMAGE ID", "SIZE"], ...rows]));
}

function taken(name: string): { repository: string; tag: string } {
  const [repository = "", digest] = name.split("@");
  const colon = repository.indexOf(":", repository.lastIndexOf("/") + 1);
  if (digest || colon < 0) return { repository: repository || "<none>", tag: "<none>" };
  return { repository: repository.slice(0, colon), tag: repository.slice(colon + 1) };
}

const megabytes = (bytes: number): string => `${(bytes / 1e6).toPrecision(3)}MB`;

async function bringIn(context: Context, client: CriClient, file: string): Promise<void> {
  if (!existsSync(file)) throw new Error(`${file}: there is no such file`);
  const { info } = await client.status(ASK_MS);
  const { containerd } = JSON.parse(info.config ?? "{}") as { containerd?: { snapshotter?: string } };
  const socket = socketOf(client.endpoint);
  // Unpacked for the one that will run it, so that the first pod need not wait for that.
  const snapshotter = containerd?.snapshotter ? ["--snapshotter", containerd.snapshotter] : [];
  const said = await ctr(["-a", socket, "-n", NAMESPACE, "images", "import", ...snapshotter, file]);
  const names = [...said.matchAll(/^unpacking (\S+) /gm)].map(([, name = ""]) => name);
  for (const name of names) {
    await known(client, name);
    context.print(name);
  }
  if (names.length === 0) throw new Error(`${file}: no image with a name is in it\n${said}`.trimEnd());
}

/** What it prints. @throws Error with what it says. */
function ctr(argv: readonly string[]): Promise<string> {
  return new Promise((done, reject) => {
    const child = spawn("ctr", argv, { stdio: ["ignore", "pipe", "pipe"] });
    let [out, err] = ["", ""];
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      out += text;
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      err += text;
    });
    child.once("error", (error: NodeJS.ErrnoException) =>
      reject(error.code === "ENOENT" ? new Error("ctr, which comes with containerd, is not here") : error),
    );
    child.once("close", (code) => {
      if (code === 0) done(out);
      else reject(new Error(err.trim() || `ctr ended with ${code}`));
    });
  });
}

async function known(client: CriClient, name: string): Promise<void> {
  for (const deadline = Date.now() + KNOWN_MS; !(await client.imageStatus(name)); ) {
    if (Date.now() > deadline) throw new Error(`${name} was imported, and containerd's CRI does not know it`);
    await new Promise((wake) => setTimeout(wake, LOOK_MS));
  }
}

export default spec as CommandSpec;
