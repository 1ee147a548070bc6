// Probes by gRPC's health protocol against a real HTTP/2 server: what is asked, and what is said of each answer.

import { createServer, type IncomingHttpHeaders } from "node:http2";
import { type AddressInfo, connect } from "node:net";
import t from "tap";
import type { NetNs } from "../../dataplane/kernel/netns.js";
import { grpcProbe } from "../../node/pods/grpc-probe.js";

const frame = (...bytes: number[]): Buffer => Buffer.from([0, 0, 0, 0, bytes.length, ...bytes]);

t.test("the health protocol", async (t) => {
  let answer: { body?: Buffer; status?: string; message?: string } | undefined;
  const asked: { headers: IncomingHttpHeaders; body: Buffer }[] = [];
  const server = createServer();
  server.on("stream", (stream, headers) => {
    const chunks: Buffer[] = [];
    stream.on("data", (chunk: Buffer) => chunks.push(chunk));
    stream.on("error", () => {});
    stream.on("end", () => {
      asked.push({ headers, body: Buffer.concat(chunks) });
      if (!answer) return;
      const { body, status = "0", message } = answer;
      stream.respond({ ":status": 200, "content-type": "application/grpc" }, { waitForTrailers: true });
      stream.once("wantTrailers", () =>
        stream.sendTrailers({ "grpc-status": status, ...(message ? { "grpc-message": message } : {}) }),
      );
      stream.end(body);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.teardown(() => server.close());
  const { port } = server.address() as AddressInfo;
  const target = { hostNs: { connect } as unknown as NetNs, podIP: "127.0.0.1" };
  const probe = (service?: string, timeoutMs = 20_000) =>
    grpcProbe({ port, ...(service === undefined ? {} : { service }) }, target, timeoutMs);

  answer = { body: frame(8, 1) };
  t.same(await probe(), { success: true, message: "service healthy" });
  t.match(asked[0], {
    headers: { ":path": "/grpc.health.v1.Health/Check", "content-type": "application/grpc" },
  });
  t.same(asked[0]?.body, frame(), "of the server as a whole");
  await probe("my-service");
  t.same(asked[1]?.body, frame(0x0a, 10, ...Buffer.from("my-service")));
  await probe("x".repeat(200));
  t.same(asked[2]?.body.subarray(5, 9), Buffer.from([0x0a, 200, 1, 120]), "a long name");

  const failed = (message: string) => ({ success: false, message });
  for (const [body, status] of [
    [frame(8, 2), "NOT_SERVING"],
    [frame(), "UNKNOWN"],
    [frame(8, 3), "SERVICE_UNKNOWN"],
  ] as const) {
    answer = { body };
    t.same(await probe(), failed(`service unhealthy (responded with "${status}")`));
  }
  answer = { status: "5", message: "unknown service" };
  t.same(
    await probe(),
    failed("error: health rpc probe failed: rpc error: code = NotFound desc = unknown service"),
  );
  answer = { status: "12", message: "unknown method" };
  const none =
    "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): unknown method";
  t.same(await probe(), failed(none));
  answer = undefined;
  t.same(await probe("", 1000), failed("timeout: health rpc did not complete within 1s"));
  const elsewhere = await grpcProbe({ port: 1 }, target, 1000);
  const text = 'timeout: failed to connect service "127.0.0.1:1" within 1s: context deadline exceeded';
  t.same(elsewhere, failed(text));
});
