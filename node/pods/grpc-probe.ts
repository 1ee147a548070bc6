// A probe by gRPC's health protocol (grpc.health.v1.Health/Check), from the host to the pod. Words of failures as the
// kubelet's (pkg/probe/grpc). Knows the one message each way.

import type { GRPCAction } from "kubernetes-types/core/v1.js";
import { hostPort } from "../../common/ip.js";
import { GrpcChannel, GrpcError, STATUS } from "../cri/grpc.js";
import { goDuration } from "./backoff.js";
import type { ProbeOutcome, ProbeTarget } from "./probe-actions.js";

const CHECK = "/grpc.health.v1.Health/Check";
const SERVING = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
/** google.golang.org/grpc/codes, by number. */
const CODES =
  "OK Canceled Unknown InvalidArgument DeadlineExceeded NotFound AlreadyExists PermissionDenied ResourceExhausted FailedPrecondition Aborted OutOfRange Unimplemented Internal Unavailable DataLoss Unauthenticated".split(
    " ",
  );

/** HealthCheckRequest: field 1, the service. */
function requestOf(service: string): Buffer {
  const text = Buffer.from(service);
  const length = text.length < 128 ? [text.length] : [(text.length & 0x7f) | 0x80, text.length >> 7];
  return service === "" ? Buffer.alloc(0) : Buffer.from([0x0a, ...length, ...text]);
}

/** HealthCheckResponse: field 1, a number below 4, which is left out when it is 0. */
function statusOf(response: Buffer): string {
  const number = response[0] === 0x08 ? (response[1] ?? 0) : 0;
  return SERVING[number] ?? String(number);
}

/** Never rejects for what the other side does. */
export async function grpcProbe(
  { port, service = "" }: GRPCAction,
  { hostNs, podIP }: Pick<ProbeTarget, "hostNs" | "podIP">,
  timeoutMs: number,
): Promise<ProbeOutcome> {
  const failed = (message: string): ProbeOutcome => ({ success: false, message });
  let connected = false;
  const channel = new GrpcChannel(() => {
    const socket = hostNs.connect({ host: podIP, port, timeout: timeoutMs });
    socket.once("connect", () => {
      connected = true;
    });
    return socket;
  });
  try {
    const status = statusOf(await channel.call(CHECK, requestOf(service), timeoutMs));
    return status === "SERVING"
      ? { success: true, message: "service healthy" }
      : failed(`service unhealthy (responded with "${status}")`);
  } catch (error) {
    if (!(error instanceof GrpcError)) throw error;
    const within = goDuration(timeoutMs);
    if (!connected)
      return failed(
        `timeout: failed to connect service "${hostPort(podIP, port)}" within ${within}: context deadline exceeded`,
      );
    if (error.status === STATUS.unimplemented)
      return failed(
        `error: this server does not implement the grpc health protocol (grpc.health.v1.Health): ${error.message}`,
      );
    if (error.status === STATUS.deadlineExceeded)
      return failed(`timeout: health rpc did not complete within ${within}`);
    return failed(
      `error: health rpc probe failed: rpc error: code = ${CODES[error.status] ?? error.status} desc = ${error.message}`,
    );
  } finally {
    channel.close();
  }
}
