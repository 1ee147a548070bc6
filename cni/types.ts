// The words of the CNI specification 1.1: configurations, results, errors. Knows shapes, runs nothing.

/** A route of a result. */
export interface CniRoute {
  /** A block in CIDR notation. */
  dst: string;
  gw?: string;
  mtu?: number;
  advmss?: number;
  priority?: number;
  table?: number;
  scope?: number;
}

export interface CniDns {
  nameservers?: string[];
  domain?: string;
  search?: string[];
  options?: string[];
}

export interface CniInterface {
  name: string;
  mac?: string;
  mtu?: number;
  /** Path of the network namespace; absent for an interface of the host. */
  sandbox?: string;
  socketPath?: string;
  pciID?: string;
}

export interface CniIp {
  /** "10.244.1.2/24". */
  address: string;
  gateway?: string;
  /** Index into the result's interfaces. */
  interface?: number;
}

/** The result of an ADD in the shape of version 1.1, which is what this code works with inside. */
export interface CniResult {
  cniVersion: string;
  interfaces?: CniInterface[];
  ips?: CniIp[];
  routes?: CniRoute[];
  dns?: CniDns;
}

/** One plugin of a configuration list; the keys beyond `type` are the plugin's own. */
export interface PluginConf {
  type: string;
  capabilities?: Record<string, boolean>;
  [key: string]: unknown;
}

/** A configuration list (*.conflist). */
export interface NetConfList {
  cniVersion: string;
  /** All versions the list may be run with (1.1); the highest that is supported is taken. */
  cniVersions?: string[];
  name: string;
  disableCheck?: boolean;
  disableGC?: boolean;
  loadOnlyInlinedPlugins?: boolean;
  plugins: PluginConf[];
}

/** What one plugin gets on its standard input. */
export interface NetConf extends PluginConf {
  cniVersion: string;
  name: string;
  runtimeConfig?: Record<string, unknown>;
  prevResult?: unknown;
}

/** An attachment, as GC lists the valid ones. */
export interface Attachment {
  containerID: string;
  ifname: string;
}

/** Key of the list of valid attachments in a GC configuration. */
export const VALID_ATTACHMENTS = "cni.dev/valid-attachments";

/** That list, checked. Throws CniError 7 for anything else: a missing key never means that everything shall go. */
export function validAttachments(list: unknown): Attachment[] {
  const isAttachment = (item: unknown): item is Attachment => {
    const { containerID, ifname } = (item ?? {}) as Partial<Attachment>;
    return typeof containerID === "string" && typeof ifname === "string";
  };
  if (Array.isArray(list) && list.every(isAttachment)) return list;
  throw new CniError(CODE.invalidConfig, `GC needs ${VALID_ATTACHMENTS}: a list of { containerID, ifname }`, {
    details: JSON.stringify(list),
  });
}

/** Error codes: up to 99 the specification's, from 100 this plugin's own. */
export const CODE = {
  incompatibleVersion: 1,
  unsupportedField: 2,
  unknownContainer: 3,
  invalidEnvironment: 4,
  io: 5,
  decode: 6,
  invalidConfig: 7,
  tryAgain: 11,
  unavailable: 50,
  unavailableLimited: 51,
  /** The kernel refused. */
  kernel: 100,
  /** The interface of the attachment is there already. */
  exists: 101,
  /** The bridge has no free port. */
  bridgeFull: 102,
  /** The bridge has another address than the configuration wants. */
  bridgeAddress: 103,
  /** CHECK found something that is not as ADD left it. */
  checkFailed: 104,
  /** A plugin of the list could not be found or ended without saying why. */
  plugin: 105,
} as const;

/** An error in the shape the specification wants. */
export class CniError extends Error {
  override readonly name = "CniError";
  readonly code: number;
  readonly details: string | undefined;

  constructor(code: number, message: string, options: { details?: string; cause?: unknown } = {}) {
    super(message, { cause: options.cause });
    this.code = code;
    this.details = options.details;
  }

  /** What a plugin prints. */
  toResult(cniVersion: string): { cniVersion: string; code: number; msg: string; details?: string } {
    return {
      cniVersion,
      code: this.code,
      msg: this.message,
      ...(this.details !== undefined && { details: this.details }),
    };
  }
}

const IDENTIFIER = /^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/;

/** Whether a network name or container id is one. */
export function isIdentifier(text: string): boolean {
  return IDENTIFIER.test(text);
}

/** @throws CniError 4 for a container id or interface name that the specification or the kernel forbids. */
export function checkAttachment(containerId: string, ifName: string): void {
  if (!isIdentifier(containerId)) {
    throw new CniError(
      CODE.invalidEnvironment,
      `CNI_CONTAINERID ${JSON.stringify(containerId)} is not valid: a letter or digit, then letters, digits, "_", "." or "-"`,
    );
  }
  const bytes = Buffer.byteLength(ifName);
  if (bytes < 1 || bytes > 15 || ifName === "." || ifName === ".." || /[\s/:]/.test(ifName)) {
    throw new CniError(
      CODE.invalidEnvironment,
      `CNI_IFNAME ${JSON.stringify(ifName)} is not valid: 1 to 15 bytes without space, "/" or ":"`,
    );
  }
}
