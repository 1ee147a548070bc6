// The messages of the Container Runtime Interface, v1, as far as a node needs them: fields by number. Data only.
// Source: k8s.io/cri-api, pkg/apis/runtime/v1/api.proto.

import type { Encodable, Message } from "../../common/protobuf.js";

export const NAMESPACE_MODE = { pod: 0, container: 1, node: 2, target: 3 } as const;
export const SANDBOX_READY = 0;
export const CONTAINER_STATE = { created: 0, running: 1, exited: 2, unknown: 3 } as const;
export const PROFILE = { runtimeDefault: 0, unconfined: 1, localhost: 2 } as const;

const wrapped = { value: [1, "int"] } as const satisfies Message;

export const version = {
  request: { version: [1, "string"] },
  response: { runtimeName: [2, "string"], runtimeVersion: [3, "string"] },
} as const satisfies Record<string, Message>;

const condition = {
  type: [1, "string"],
  status: [2, "bool"],
  reason: [3, "string"],
  message: [4, "string"],
} as const satisfies Message;

export const status = {
  request: { verbose: [1, "bool"] },
  response: { status: [1, { conditions: [1, condition, "list"] }], info: [2, "map"] },
} as const satisfies Record<string, Message>;

const sandboxMetadata = {
  name: [1, "string"],
  uid: [2, "string"],
  namespace: [3, "string"],
  attempt: [4, "int"],
} as const satisfies Message;

const namespaceOption = {
  network: [1, "int"],
  pid: [2, "int"],
  ipc: [3, "int"],
  targetId: [4, "string"],
} as const satisfies Message;

const securityProfile = { profileType: [1, "int"], localhostRef: [2, "string"] } as const satisfies Message;

const linuxSandbox = {
  cgroupParent: [1, "string"],
  securityContext: [
    2,
    {
      namespaceOptions: [1, namespaceOption],
      runAsUser: [3, wrapped],
      supplementalGroups: [5, "int", "list"],
      privileged: [6, "bool"],
      runAsGroup: [8, wrapped],
      seccomp: [9, securityProfile],
    },
  ],
  sysctls: [3, "map"],
} as const satisfies Message;

export const sandboxConfig = {
  metadata: [1, sandboxMetadata],
  hostname: [2, "string"],
  logDirectory: [3, "string"],
  dnsConfig: [
    4,
    { servers: [1, "string", "list"], searches: [2, "string", "list"], options: [3, "string", "list"] },
  ],
  portMappings: [
    5,
    { protocol: [1, "int"], containerPort: [2, "int"], hostPort: [3, "int"], hostIp: [4, "string"] },
    "list",
  ],
  labels: [6, "map"],
  annotations: [7, "map"],
  linux: [8, linuxSandbox],
} as const satisfies Message;
export type SandboxConfig = Encodable<typeof sandboxConfig>;

const byId = { id: [1, "string"] } as const satisfies Message;
const nothing = {} as const satisfies Message;

export const runSandbox = {
  request: { config: [1, sandboxConfig] },
  response: byId,
} as const satisfies Record<string, Message>;
export const stopSandbox = { request: byId, response: nothing } as const;
export const removeSandbox = { request: byId, response: nothing } as const;

export const sandboxStatus = {
  request: { id: [1, "string"], verbose: [2, "bool"] },
  response: {
    status: [
      1,
      {
        id: [1, "string"],
        state: [3, "int"],
        network: [5, { ip: [1, "string"], additionalIps: [2, { ip: [1, "string"] }, "list"] }],
      },
    ],
    info: [2, "map"],
  },
} as const satisfies Record<string, Message>;

export const listSandboxes = {
  request: { filter: [1, { labelSelector: [3, "map"] }] },
  response: {
    items: [
      1,
      {
        id: [1, "string"],
        metadata: [2, sandboxMetadata],
        state: [3, "int"],
        createdAt: [4, "int"],
        labels: [5, "map"],
      },
      "list",
    ],
  },
} as const satisfies Record<string, Message>;

const imageSpec = { image: [1, "string"] } as const satisfies Message;
const containerMetadata = { name: [1, "string"], attempt: [2, "int"] } as const satisfies Message;

const resources = {
  cpuPeriod: [1, "int"],
  cpuQuota: [2, "int"],
  cpuShares: [3, "int"],
  memoryLimit: [4, "int"],
  oomScoreAdj: [5, "int"],
} as const satisfies Message;
export type Resources = Encodable<typeof resources>;

const containerSecurity = {
  capabilities: [1, { add: [1, "string", "list"], drop: [2, "string", "list"] }],
  privileged: [2, "bool"],
  namespaceOptions: [3, namespaceOption],
  runAsUser: [5, wrapped],
  runAsUsername: [6, "string"],
  readonlyRootfs: [7, "bool"],
  supplementalGroups: [8, "int", "list"],
  noNewPrivs: [11, "bool"],
  runAsGroup: [12, wrapped],
  maskedPaths: [13, "string", "list"],
  readonlyPaths: [14, "string", "list"],
  seccomp: [15, securityProfile],
} as const satisfies Message;
export type ContainerSecurity = Encodable<typeof containerSecurity>;

export const containerConfig = {
  metadata: [1, containerMetadata],
  image: [2, imageSpec],
  command: [3, "string", "list"],
  args: [4, "string", "list"],
  workingDir: [5, "string"],
  envs: [6, { key: [1, "string"], value: [2, "string"] }, "list"],
  mounts: [
    7,
    {
      containerPath: [1, "string"],
      hostPath: [2, "string"],
      readonly: [3, "bool"],
      propagation: [5, "int"],
    },
    "list",
  ],
  labels: [9, "map"],
  annotations: [10, "map"],
  logPath: [11, "string"],
  stdin: [12, "bool"],
  stdinOnce: [13, "bool"],
  tty: [14, "bool"],
  linux: [15, { resources: [1, resources], securityContext: [2, containerSecurity] }],
} as const satisfies Message;
export type ContainerConfig = Encodable<typeof containerConfig>;

export const createContainer = {
  request: { sandboxId: [1, "string"], config: [2, containerConfig], sandboxConfig: [3, sandboxConfig] },
  response: byId,
} as const satisfies Record<string, Message>;
export const startContainer = { request: byId, response: nothing } as const;
export const stopContainer = {
  request: { id: [1, "string"], timeout: [2, "int"] },
  response: nothing,
} as const satisfies Record<string, Message>;
export const removeContainer = { request: byId, response: nothing } as const;
export const reopenLog = { request: byId, response: nothing } as const;

export const listContainers = {
  request: { filter: [1, { labelSelector: [4, "map"] }] },
  response: {
    containers: [
      1,
      {
        id: [1, "string"],
        sandboxId: [2, "string"],
        metadata: [3, containerMetadata],
        state: [6, "int"],
        labels: [8, "map"],
      },
      "list",
    ],
  },
} as const satisfies Record<string, Message>;

export const containerStatus = {
  request: { id: [1, "string"], verbose: [2, "bool"] },
  response: {
    status: [
      1,
      {
        id: [1, "string"],
        metadata: [2, containerMetadata],
        state: [3, "int"],
        createdAt: [4, "int"],
        startedAt: [5, "int"],
        finishedAt: [6, "int"],
        exitCode: [7, "int"],
        image: [8, imageSpec],
        imageRef: [9, "string"],
        reason: [10, "string"],
        message: [11, "string"],
        annotations: [13, "map"],
        logPath: [15, "string"],
      },
    ],
    info: [2, "map"],
  },
} as const satisfies Record<string, Message>;

export const execSync = {
  request: { id: [1, "string"], cmd: [2, "string", "list"], timeout: [3, "int"] },
  response: { stdout: [1, "bytes"], stderr: [2, "bytes"], exitCode: [3, "int"] },
} as const satisfies Record<string, Message>;

const url = { url: [1, "string"] } as const satisfies Message;
export const exec = {
  request: {
    id: [1, "string"],
    cmd: [2, "string", "list"],
    tty: [3, "bool"],
    stdin: [4, "bool"],
    stdout: [5, "bool"],
    stderr: [6, "bool"],
  },
  response: url,
} as const satisfies Record<string, Message>;
export const attach = {
  request: {
    id: [1, "string"],
    stdin: [2, "bool"],
    tty: [3, "bool"],
    stdout: [4, "bool"],
    stderr: [5, "bool"],
  },
  response: url,
} as const satisfies Record<string, Message>;

const image = {
  id: [1, "string"],
  repoTags: [2, "string", "list"],
  repoDigests: [3, "string", "list"],
  size: [4, "int"],
  uid: [5, wrapped],
  username: [6, "string"],
} as const satisfies Message;

export const listImages = {
  request: nothing,
  response: { images: [1, image, "list"] },
} as const satisfies Record<string, Message>;
export const imageStatus = {
  request: { image: [1, imageSpec] },
  response: { image: [1, image] },
} as const satisfies Record<string, Message>;
export const pullImage = {
  request: { image: [1, imageSpec] },
  response: { imageRef: [1, "string"] },
} as const satisfies Record<string, Message>;
