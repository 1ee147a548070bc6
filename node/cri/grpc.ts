// gRPC with one message each way: what a container runtime's CRI needs, over a unix socket, and a probe. Knows HTTP/2 frames
// and gRPC's statuses, no messages.
// Source: grpc.io, "gRPC over HTTP2".

import {
  type ClientHttp2Session,
  connect as connectHttp2,
  constants,
  type IncomingHttpHeaders,
} from "node:http2";
import { connect, type Socket } from "node:net";

/** Statuses that somebody here asks for. */
export const STATUS = { deadlineExceeded: 4, notFound: 5, unimplemented: 12, unavailable: 14 } as const;

/** Bytes before a message: one says whether it is compressed, four its length. */
const HEAD = 5;
/** setTimeout fires at once beyond this. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;
/** kubelet's maxMsgSize. */
const LARGEST_MESSAGE = 16 << 20;

/** The call was answered with an error, or nobody answers (status unavailable). */
export class GrpcError extends Error {
  override readonly name = "GrpcError";
  readonly status: number;

  constructor(status: number, message: string, options?: ErrorOptions) {
    super(message, options);
    this.status = status;
  }
}

/** The server has not begun with the call. */
class Refused extends GrpcError {}

export class GrpcChannel {
  readonly #open: () => Socket;
  #session: ClientHttp2Session | undefined;

  /** @param to a unix socket's path, or how to connect otherwise. */
  constructor(to: string | (() => Socket)) {
    this.#open = typeof to === "string" ? () => connect(to) : to;
  }

  /** One connection for all calls, made again when it has ended. */
  #connected(): ClientHttp2Session {
    const present = this.#session;
    if (present && !present.closed && !present.destroyed) return present;
    const session = connectHttp2("http://localhost", {
      createConnection: this.#open,
    });
    // The calls that are under way hear of it themselves.
    session.on("error", () => {});
    session.on("goaway", () => session.close());
    session.unref();
    this.#session = session;
    return session;
  }

  /**
   * The answer's bytes. `path` is /package.Service/Method.
   * @throws GrpcError
   */
  async call(path: string, request: Buffer, timeoutMs: number): Promise<Buffer> {
    try {
      return await this.#call(path, request, timeoutMs);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      // The connection was about to end, and nobody has looked at the call.
      this.#session = undefined;
      return await this.#call(path, request, timeoutMs);
    }
  }

  #call(path: string, request: Buffer, timeoutMs: number): Promise<Buffer> {
    const session = this.#connected();
    const wait = Math.min(timeoutMs, LONGEST_TIMER_MS);
    return new Promise((resolve, reject) => {
      // Of a connection that could not be made, the reason stands behind the stream's own error.
      const unavailable = (error: Error) => {
        const cause = error.cause instanceof Error ? error.cause : error;
        const isRefused = stream.rstCode === constants.NGHTTP2_REFUSED_STREAM;
        const Kind = isRefused ? Refused : GrpcError;
        reject(new Kind(STATUS.unavailable, cause.message, { cause }));
      };
      const stream = session.request({
        [constants.HTTP2_HEADER_METHOD]: "POST",
        [constants.HTTP2_HEADER_PATH]: path,
        "content-type": "application/grpc",
        te: "trailers",
        "grpc-timeout": `${Math.ceil(wait / 1000)}S`,
      });
      const timer = setTimeout(() => {
        reject(new GrpcError(STATUS.deadlineExceeded, `${path}: no answer within ${wait} ms`));
        stream.close(constants.NGHTTP2_CANCEL);
      }, wait);
      let headers: IncomingHttpHeaders = {};
      const chunks: Buffer[] = [];
      let bytes = 0;
      const take = (more: IncomingHttpHeaders) => {
        headers = { ...headers, ...more };
      };
      stream.on("response", take).on("trailers", take).on("error", unavailable);
      stream.on("data", (chunk: Buffer) => {
        chunks.push(chunk);
        bytes += chunk.length;
        if (bytes > LARGEST_MESSAGE + HEAD) stream.close(constants.NGHTTP2_CANCEL);
      });
      stream.on("close", () => {
        clearTimeout(timer);
        try {
          resolve(messageOf(headers, Buffer.concat(chunks)));
        } catch (error) {
          reject(error);
        }
      });
      const head = Buffer.alloc(HEAD);
      head.writeUInt32BE(request.length, 1);
      stream.end(Buffer.concat([head, request]));
    });
  }

  close(): void {
    this.#session?.destroy();
  }
}

/** @throws GrpcError */
function messageOf(headers: IncomingHttpHeaders, body: Buffer): Buffer {
  const { "grpc-status": status, "grpc-message": message = "", ":status": http } = headers;
  if (status === undefined)
    throw new GrpcError(
      STATUS.unavailable,
      `no gRPC answer${http ? ` (HTTP ${http})` : ", the connection was cut"}`,
    );
  if (status !== "0") throw new GrpcError(Number(status), percentDecoded(String(message)));
  if (body.length < HEAD || body[0] !== 0 || body.readUInt32BE(1) !== body.length - HEAD)
    throw new GrpcError(STATUS.unavailable, "the gRPC answer is not one whole message");
  return body.subarray(HEAD);
}

/** What is no escape stays as it is. */
function percentDecoded(text: string): string {
  const bytes = text.replace(/%(?![0-9A-Fa-f]{2})/g, "%25");
  try {
    return decodeURIComponent(bytes);
  } catch {
    return text;
  }
}
