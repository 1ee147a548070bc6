// How the API server reaches addresses that only nodes may be able to reach. Knows sockets only.

import { connect, type Socket } from "node:net";
import { dialError } from "../../../common/dial-error.js";

/** A connection, made by a node where the API server cannot. Rejects in Go's words: `dial tcp IP:PORT: …`. */
export type NodeDialer = (node: string, ip: string, port: number) => Promise<Socket>;

/** net.Dialer of kube-apiserver. */
const TIMEOUT_MS = 30_000;

/** From this process itself, as in a cluster whose pods the API server can reach. */
export const dialFromHere: NodeDialer = (_node, host, port) =>
  new Promise((resolve, reject) => {
    const socket = connect({ host, port, noDelay: true });
    const late = Object.assign(new Error("timed out"), { code: "ETIMEDOUT" });
    socket.setTimeout(TIMEOUT_MS, () => socket.destroy(late));
    const fail = (error: Error) => reject(new Error(dialError(error, host, port)));
    socket.once("error", fail);
    socket.once("connect", () => {
      socket.setTimeout(0).off("error", fail);
      resolve(socket);
    });
  });
