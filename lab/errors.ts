// The errors a person sees: what was wrong, where, and what to do. Knows nothing of how they are shown.

/** A request that cannot be fulfilled as things are; the message is complete in itself. */
export class ClusterError extends Error {
  override readonly name = "ClusterError";
  /** Stable, for programs. */
  readonly code: ClusterErrorCode;

  constructor(code: ClusterErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

export type ClusterErrorCode =
  | "INVALID_NAME"
  | "INVALID_OPTION"
  | "PATH_TOO_LONG"
  | "NOT_FOUND"
  | "NOT_RUNNING"
  | "DIFFERENT_CONFIG"
  | "PORT_IN_USE"
  | "START_FAILED"
  | "LOCK_TIMEOUT"
  | "COMMAND_FAILED"
  | "WAIT_TIMEOUT";

/** The text of anything thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Whether `error` is a system error with one of these codes (ENOENT, EADDRINUSE, …). */
export function hasCode(error: unknown, ...codes: string[]): boolean {
  return error instanceof Error && "code" in error && codes.includes(String(error.code));
}
