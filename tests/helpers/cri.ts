// As much of a CRI client as the tests of containerd need: unary gRPC over HTTP/2 on its socket, and protobuf of the
// few messages by field number (api.proto of k8s.io/cri-api).

import { connect as connectHttp2, constants } from "node:http2";
import { connect } from "node:net";

type Value = string | number | Buffer;

/** A message: fields by number, repeated ones as lists. */
export function message(fields: Readonly<Record<number, Value | readonly Value[]>>): Buffer {
  const parts = Object.entries(fields).flatMap(([number, value]) =>
    [value].flat().map((one) => {
      if (typeof one === "number") return Buffer.concat([varint(Number(number) << 3), varint(one)]);
      const bytes = Buffer.from(one as string);
      return Buffer.concat([varint((Number(number) << 3) | 2), varint(bytes.length), bytes]);
    }),
  );
  return Buffer.concat(parts);
}

function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = value;
  for (; rest > 127; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 128);
  return Buffer.from([...bytes, rest]);
}

/** The last value of each field; of messages and texts the bytes. */
export function fieldsOf(bytes: Buffer): Map<number, Buffer | number> {
  const fields = new Map<number, Buffer | number>();
  let at = 0;
  const next = (): number => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++] ?? 0;
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const key = next();
    const value = next();
    const isNumber = (key & 7) === 0;
    fields.set(key >> 3, isNumber ? value : bytes.subarray(at, at + value));
    if (!isNumber) at += value;
  }
  return fields;
}

export const textOf = (bytes: Buffer, field: number): string => String(fieldsOf(bytes).get(field) ?? "");

/** One call of the RuntimeService. @throws Error with gRPC's status. */
export function callRuntime(socket: string, method: string, request: Buffer): Promise<Buffer> {
  const session = connectHttp2("http://localhost", { createConnection: () => connect(socket) });
  return new Promise<Buffer>((resolve, reject) => {
    session.once("error", reject);
    const stream = session.request({
      [constants.HTTP2_HEADER_METHOD]: "POST",
      [constants.HTTP2_HEADER_PATH]: `/runtime.v1.RuntimeService/${method}`,
      "content-type": "application/grpc",
      te: "trailers",
    });
    const chunks: Buffer[] = [];
    let status: Record<string, unknown> = {};
    const take = (headers: Record<string, unknown>) => {
      status = { ...status, ...headers };
    };
    stream.on("response", take).on("trailers", take).on("error", reject);
    stream.on("data", (chunk: Buffer) => chunks.push(chunk));
    stream.on("end", () => {
      if (status["grpc-status"] !== "0") {
        reject(new Error(`${method}: ${decodeURIComponent(String(status["grpc-message"]))}`));
        return;
      }
      resolve(Buffer.concat(chunks).subarray(5));
    });
    const head = Buffer.alloc(5);
    head.writeUInt32BE(request.length, 1);
    stream.end(Buffer.concat([head, request]));
  }).finally(() => session.close());
}
