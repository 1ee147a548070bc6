// What may be created besides being valid, and with what filled in, as it depends on other objects: the admission
// plugins ServiceAccount and Priority of the real server, with their texts. Knows the store and Pods; no HTTP.

import type { KubeObject, Pod } from "../../common/k8s.js";
import type { Engine, Kind } from "./engine.js";
import { forbidden } from "./status.js";

/** An object that is to be created, before its defaults are filled in; an admission may write into it. */
export interface Admitted {
  engine: Engine;
  kind: Kind;
  namespace: string | undefined;
  /** As errors tell it: generateName when there is no name yet. */
  name: string;
  object: KubeObject;
}

/** @throws StatusError Forbidden when the object is refused. */
export type Admission = (request: Admitted) => Promise<void> | void;

const DEFAULT_ACCOUNT = "default";
/** A new namespace has no account yet: the controller that makes it gets about a second. */
const DEFAULT_ACCOUNT_ATTEMPTS = 10;
const ATTEMPT_INTERVAL_MS = 100;

async function admitServiceAccount({ engine, kind, namespace = "", name, object }: Admitted): Promise<void> {
  if (!isPod(kind)) return;
  const { spec } = object as Pod;
  const account = spec?.serviceAccountName || spec?.serviceAccount || DEFAULT_ACCOUNT;
  const attempts = account === DEFAULT_ACCOUNT ? DEFAULT_ACCOUNT_ATTEMPTS : 1;
  for (
    let attempt = 1;
    !(await engine.store.get(`/registry/serviceaccounts/${namespace}/${account}`));
    attempt++
  ) {
    if (attempt === attempts)
      throw forbidden(
        kind.resource,
        name,
        `error looking up service account ${namespace}/${account}: serviceaccount "${account}" not found`,
      );
    await new Promise((resolve) => setTimeout(resolve, ATTEMPT_INTERVAL_MS));
  }
}

/** The classes that every cluster has; others are not served. */
const PRIORITIES: Readonly<Record<string, number>> = {
  "system-cluster-critical": 2_000_000_000,
  "system-node-critical": 2_000_001_000,
};

function admitPriority({ kind, name, object }: Admitted): void {
  const { spec } = object as Pod;
  if (!isPod(kind) || !spec) return;
  const { priorityClassName = "", priority } = spec;
  const computed = priorityClassName === "" ? 0 : PRIORITIES[priorityClassName];
  if (computed === undefined)
    throw forbidden(kind.resource, name, `no PriorityClass with name ${priorityClassName} was found`);
  if (priority !== undefined && priority !== computed)
    throw forbidden(
      kind.resource,
      name,
      `the integer value of priority (${priority}) must not be provided in pod spec; priority admission controller computed ${computed} from the given PriorityClass name`,
    );
  spec.priority = computed;
}

function isPod({ resource }: Kind): boolean {
  return resource.group === "" && resource.plural === "pods";
}

/** In the order in which the real server asks them. */
export const ADMISSION: readonly Admission[] = [admitServiceAccount, admitPriority];
