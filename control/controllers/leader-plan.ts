// Whether a control plane may lead, by the Lease that those of one cluster share: client-go's leader election. Pure.

import type { Lease, Stored } from "../../common/k8s.js";

export const LEASE_SECONDS = 15;
/** Who has not renewed for so long stops leading, well before another may begin. */
export const RENEW_DEADLINE_MS = 10_000;
export const RETRY_MS = 2000;

/** The Lease as it was last seen to change, by the looker's own clock: clocks of machines need not agree. */
export interface Observation {
  record: string;
  at: number;
}

export function observe(lease: Stored<Lease>, last: Observation | undefined, now: number): Observation {
  const record = JSON.stringify(lease.spec ?? {});
  return last?.record === record ? last : { record, at: now };
}

/** Undefined while another leads; else the spec to write. `time`: RFC 3339 with microseconds. */
export function claim(
  lease: Stored<Lease>,
  identity: string,
  seen: Observation,
  now: number,
  time: string,
): Lease["spec"] | undefined {
  const {
    holderIdentity,
    leaseDurationSeconds = LEASE_SECONDS,
    leaseTransitions = 0,
    acquireTime,
  } = lease.spec ?? {};
  const mine = holderIdentity === identity;
  if (holderIdentity && !mine && now < seen.at + leaseDurationSeconds * 1000) return undefined;
  return {
    holderIdentity: identity,
    leaseDurationSeconds: LEASE_SECONDS,
    acquireTime: mine && acquireTime ? acquireTime : time,
    renewTime: time,
    leaseTransitions: mine ? leaseTransitions : leaseTransitions + 1,
  };
}
