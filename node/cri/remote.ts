// The streams of exec and attach as a container runtime serves them: at a URL of its own, over SPDY/3.1, whose streams
// can end one by one (that stdin has ended, a WebSocket of v4.channel.k8s.io cannot say). Knows streams, no containers.

import { request } from "node:http";
import type { Duplex } from "node:stream";
import type { Status } from "../../common/k8s.js";
import type { RemoteProcess } from "../streams/remote-command.js";
import { SpdyConnection, type SpdyStream } from "../streams/spdy/connection.js";

const PROTOCOL = "v4.channel.k8s.io";

/** As the request to the runtime has them. */
export interface RemoteStreams {
  stdin: boolean;
  tty: boolean;
}

/**
 * Opens the streams behind the URL of an Exec or Attach.
 * @throws Error when the runtime does not serve them, with what it says.
 */
export async function openRemote(url: string, { stdin, tty }: RemoteStreams): Promise<RemoteProcess> {
  const transport = await upgraded(url);
  const connection = new SpdyConnection({ transport, side: "client", resetEnds: true });
  const open = (type: string) => connection.open({ streamtype: [type] });
  const error = open("error");
  const input = stdin ? open("stdin") : null;
  const stdout = open("stdout");
  const stderr = tty ? null : open("stderr");
  const sizes = tty ? open("resize") : undefined;
  return {
    stdin: input,
    stdout,
    stderr,
    resize: (columns, rows) => sizes?.write(`${JSON.stringify({ Width: columns, Height: rows })}\n`),
    exited: ending(error).finally(() => connection.close()),
    abandon: () => connection.destroy(),
  };
}

function upgraded(text: string): Promise<Duplex> {
  const url = new URL(text);
  if (url.protocol !== "http:")
    throw new Error(
      `${url.origin}: the runtime serves exec and attach over TLS, which kubeplumb does not speak there`,
    );
  return new Promise((resolve, reject) => {
    const headers = { connection: "Upgrade", upgrade: "SPDY/3.1", "x-stream-protocol-version": PROTOCOL };
    const req = request(url, { method: "POST", headers });
    req.once("error", reject);
    req.once("response", (res) => {
      let body = "";
      res.setEncoding("utf8").on("data", (chunk: string) => {
        body += chunk;
      });
      res.once("end", () => reject(new Error(`${url.origin}: ${res.statusCode} ${body}`)));
    });
    req.once("upgrade", (_res, socket: Duplex, head: Buffer) => {
      if (head.length > 0) socket.unshift(head);
      resolve(socket);
    });
    req.end();
  });
}

/** @throws Error in the runtime's words when the command never ran, or the connection broke. */
async function ending(stream: SpdyStream): Promise<{ exitCode: number }> {
  let text = "";
  for await (const chunk of stream) text += String(chunk);
  // An attachment that has ended says nothing.
  if (text === "") return { exitCode: 0 };
  const status = JSON.parse(text) as Partial<Status>;
  if (status.status === "Success") return { exitCode: 0 };
  const code = status.details?.causes?.find(({ reason }) => reason === "ExitCode")?.message;
  if (code === undefined) throw new Error(status.message ?? text);
  return { exitCode: Number(code) };
}
