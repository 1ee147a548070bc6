// What one plugin says to a question, before it is bytes. Types and a few words of the protocol.

import type { Answer } from "dns-packet";

/** Header codes (RFC 1035, 6895). */
export const RCODE = {
  NOERROR: 0,
  FORMERR: 1,
  SERVFAIL: 2,
  NXDOMAIN: 3,
  NOTIMP: 4,
  REFUSED: 5,
  BADVERS: 16,
} as const;

export interface Question {
  /** As it was asked, upper case kept, without the last dot. */
  name: string;
  /** "A", or "UNKNOWN_65" for what has no name here. */
  type: string;
}

/** A record; class IN. */
export type Record = Answer & { name: string; ttl: number };

export interface Reply {
  rcode: number;
  /** AA: this server's own data. */
  authoritative: boolean;
  /** RA: of a server that was asked. */
  recursive?: boolean;
  /** TC: of a server that was asked. */
  truncated?: boolean;
  /** Why there is no answer, for the log. */
  error?: string;
  answers: Record[];
  authorities: Record[];
  additionals: Record[];
}

/** A reply of nothing but its code. */
export function bare(rcode: number): Reply {
  return { rcode, authoritative: false, answers: [], authorities: [], additionals: [] };
}
