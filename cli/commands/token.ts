// kubeplumb token: the short-lived secrets by which machines join a cluster, kept as kubeadm keeps them.

import { createHash, randomInt, X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { ApiClient } from "../../client/api-client.js";
import { connectionOf, parseKubeconfig } from "../../client/kubeconfig.js";
import { isNotFound, SECRETS } from "../../common/client.js";
import { formatDuration, parseDuration } from "../../common/duration.js";
import { type CommandSpec, type Context, UsageError } from "../command.js";
import { ADMIN_KUBECONFIG, CONTROL_DATA } from "../host-paths.js";
import { formatTable } from "../table.js";

interface Options {
  kubeconfig: string;
  ttl?: number;
  description?: string;
  printJoinCommand?: boolean;
}

const TYPE = "bootstrap.kubernetes.io/token";
const NAMESPACE = "kube-system";
const GROUPS = "system:bootstrappers:kubeadm:default-node-token";
const DAY_MS = 24 * 3_600_000;
const LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789";

const random = (length: number) =>
  Array.from({ length }, () => LETTERS.charAt(randomInt(LETTERS.length))).join("");

const spec: CommandSpec<Options> = {
  description:
    "A token is ID.SECRET; it lets machines join until it ends. Works with clusters of kubeplumb control.",
  arguments: [
    { flags: "<action>", description: "what to do", choices: ["create", "list", "delete"] },
    { flags: "[token]", description: "to delete: the token, or its ID" },
  ],
  options: [
    {
      flags: "--kubeconfig <file>",
      description: "of an administrator",
      default: join(CONTROL_DATA, ADMIN_KUBECONFIG),
      complete: "files",
    },
    {
      flags: "--ttl <duration>",
      description: "how long it is good (default: 24h0m0s); 0 is for ever",
      parse: parseTtl,
    },
    { flags: "--description <text>", description: "what it is for" },
    { flags: "--print-join-command", description: "print the whole command that a machine joins with" },
  ],
  examples: [
    ["what to type on a machine that is to join", "kubeplumb token create --print-join-command"],
    ["which tokens there are", "kubeplumb token list"],
    ["nobody may join with it any more", "kubeplumb token delete abcdef"],
  ],
  async run(context, [action, token], options) {
    if (action === "delete" && !token) throw new UsageError("token delete TOKEN: which one?");
    if (action !== "delete" && token) throw new UsageError(`token ${action} takes no token`);
    const text = readKubeconfig(options.kubeconfig);
    const connection = connectionOf(parseKubeconfig(text, options.kubeconfig));
    const client = new ApiClient(connection);
    try {
      if (action === "create") {
        const made = await create(client, options);
        context.print(options.printJoinCommand ? joinCommand(connection, made) : made);
      } else if (action === "list") await list(context, client);
      else await remove(context, client, token ?? "");
      return 0;
    } finally {
      await client.close();
    }
  },
};

function readKubeconfig(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code !== "ENOENT" && code !== "EACCES") throw error;
    throw new Error(`${message}; run this as root on the control machine, or name another --kubeconfig`);
  }
}

function parseTtl(text: string): number {
  const ms = parseDuration(text);
  if (ms === undefined || ms < 0) throw new Error(`${JSON.stringify(text)}: a duration as 24h is expected`);
  return ms;
}

async function create(client: ApiClient, { ttl = DAY_MS, description }: Options): Promise<string> {
  const [id, secret] = [random(6), random(16)];
  await client.create(SECRETS, {
    metadata: { name: `bootstrap-token-${id}`, namespace: NAMESPACE },
    type: TYPE,
    stringData: {
      "token-id": id,
      "token-secret": secret,
      "usage-bootstrap-authentication": "true",
      "auth-extra-groups": GROUPS,
      ...(ttl > 0 ? { expiration: new Date(Date.now() + ttl).toISOString().replace(/\.\d+Z$/, "Z") } : {}),
      ...(description ? { description } : {}),
    },
  });
  return `${id}.${secret}`;
}

function joinCommand({ server, ca = "" }: { server: string; ca?: string }, token: string): string {
  const key = new X509Certificate(ca).publicKey.export({ type: "spki", format: "der" });
  const hash = createHash("sha256").update(key).digest("hex");
  return `kubeplumb node --server ${server} --token ${token} --discovery-token-ca-cert-hash sha256:${hash}`;
}

async function list(context: Context, client: ApiClient): Promise<void> {
  const { items } = await client.list(SECRETS, { namespace: NAMESPACE, fieldSelector: `type=${TYPE}` });
  const rows = items.map((secret) => {
    const field = (name: string) => Buffer.from(secret.data?.[name] ?? "", "base64").toString();
    return [
      `${field("token-id")}.${field("token-secret")}`,
      timeLeft(field("expiration")),
      field("expiration") || "<never>",
      field("description") || "<none>",
    ];
  });
  context.print(formatTable([["TOKEN", "TTL", "EXPIRES", "DESCRIPTION"], ...rows]));
}

function timeLeft(expiration: string): string {
  if (!expiration) return "<forever>";
  const seconds = Math.floor((Date.parse(expiration) - Date.now()) / 1000);
  return seconds > 0 ? formatDuration(seconds * 1000) : "<invalid>";
}

async function remove(context: Context, client: ApiClient, token: string): Promise<void> {
  const id = token.split(".")[0] ?? "";
  if (!/^[a-z0-9]{6}$/.test(id))
    throw new UsageError(`${JSON.stringify(token)} is no token, and no ID of one`);
  try {
    await client.delete(SECRETS, `bootstrap-token-${id}`, { namespace: NAMESPACE });
  } catch (error) {
    if (isNotFound(error)) throw new Error(`there is no token ${id}`);
    throw error;
  }
  context.note(`bootstrap token "${id}" deleted`);
}

export default spec as CommandSpec;
