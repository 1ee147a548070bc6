// A client of a container runtime by CRI v1: its calls by name, each with the time it may take. Knows messages and
// sockets, no pods.

import { type Decoded, decode, type Encodable, encode, type Message } from "../../common/protobuf.js";
import { GrpcChannel, GrpcError, STATUS } from "./grpc.js";
import * as m from "./messages.js";

/** kubelet's --runtime-request-timeout. */
const REQUEST_MS = 120_000;
/** A pull goes on as long as its pod wants it. */
const PULL_MS = 3_600_000;
/** Beside the command's own time. */
const ANSWER_MS = 10_000;

interface Call<Q extends Message, A extends Message> {
  readonly request: Q;
  readonly response: A;
}

export class CriClient {
  /** unix:///run/containerd/containerd.sock */
  readonly endpoint: string;
  readonly #channel: GrpcChannel;

  /** @throws Error for anything but an absolute unix:// path. */
  constructor(endpoint: string) {
    this.endpoint = endpoint;
    this.#channel = new GrpcChannel(socketOf(endpoint));
  }

  async #call<const Q extends Message, const A extends Message>(
    method: string,
    { request, response }: Call<Q, A>,
    value: Encodable<Q>,
    timeoutMs = REQUEST_MS,
  ): Promise<Decoded<A>> {
    const service = /Image/.test(method) ? "ImageService" : "RuntimeService";
    const path = `/runtime.v1.${service}/${method}`;
    return decode(response, await this.#channel.call(path, encode(request, value), timeoutMs));
  }

  /** `timeoutMs` for who only wants to know whether somebody is there. */
  version = (timeoutMs?: number) => this.#call("Version", m.version, { version: "v1" }, timeoutMs);
  status = (timeoutMs?: number) => this.#call("Status", m.status, { verbose: true }, timeoutMs);
  runSandbox = async (config: m.SandboxConfig) =>
    (await this.#call("RunPodSandbox", m.runSandbox, { config }, 2 * REQUEST_MS)).id;
  stopSandbox = (id: string) => this.#call("StopPodSandbox", m.stopSandbox, { id });
  removeSandbox = (id: string) => this.#call("RemovePodSandbox", m.removeSandbox, { id });
  sandboxStatus = (id: string) => this.#call("PodSandboxStatus", m.sandboxStatus, { id, verbose: true });
  listSandboxes = async (labelSelector: Record<string, string>) =>
    (await this.#call("ListPodSandbox", m.listSandboxes, { filter: { labelSelector } })).items;
  createContainer = async (sandboxId: string, config: m.ContainerConfig, sandboxConfig: m.SandboxConfig) =>
    (await this.#call("CreateContainer", m.createContainer, { sandboxId, config, sandboxConfig })).id;
  startContainer = (id: string) => this.#call("StartContainer", m.startContainer, { id });
  /** Returns when it has ended: by its stop signal within `seconds`, or by SIGKILL. */
  stopContainer = (id: string, seconds: number) =>
    this.#call("StopContainer", m.stopContainer, { id, timeout: seconds }, seconds * 1000 + REQUEST_MS);
  /** Not there is as good as removed. */
  removeContainer = (id: string) => this.#call("RemoveContainer", m.removeContainer, { id });
  reopenLog = (id: string) => this.#call("ReopenContainerLog", m.reopenLog, { id });
  listContainers = async (labelSelector: Record<string, string>) =>
    (await this.#call("ListContainers", m.listContainers, { filter: { labelSelector } })).containers;
  containerStatus = (id: string) => this.#call("ContainerStatus", m.containerStatus, { id, verbose: true });
  /** @throws GrpcError deadlineExceeded when the command takes longer; it is killed then. */
  execSync = (id: string, cmd: readonly string[], seconds: number) =>
    this.#call("ExecSync", m.execSync, { id, cmd, timeout: seconds }, (seconds || 3600) * 1000 + ANSWER_MS);
  exec = async (request: Encodable<(typeof m.exec)["request"]>) =>
    (await this.#call("Exec", m.exec, request)).url;
  attach = async (request: Encodable<(typeof m.attach)["request"]>) =>
    (await this.#call("Attach", m.attach, request)).url;
  listImages = async () => (await this.#call("ListImages", m.listImages, {})).images;
  imageStatus = async (image: string) =>
    (await this.#call("ImageStatus", m.imageStatus, { image: { image } })).image;
  pullImage = async (image: string) =>
    (await this.#call("PullImage", m.pullImage, { image: { image } }, PULL_MS)).imageRef;

  close(): void {
    this.#channel.close();
  }
}

/** @throws Error */
export function socketOf(endpoint: string): string {
  const path = /^unix:\/\/(\/.+)$/.exec(endpoint)?.[1];
  if (!path) throw new Error(`${JSON.stringify(endpoint)}: unix:///PATH/TO/SOCKET is expected`);
  return path;
}

export const isNotThere = (error: unknown): boolean =>
  error instanceof GrpcError && error.status === STATUS.notFound;

/** For catch(): what is not there need not be taken away. @throws any other error */
export function unlessGone(error: unknown): void {
  if (!isNotThere(error)) throw error;
}
