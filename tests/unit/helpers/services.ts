// Services as somebody writes them, and one Service over its life, for tests of what the API engine makes of them.

import type { ServiceSpec } from "kubernetes-types/core/v1.js";
import { StatusError } from "../../../common/client.js";
import type { Service, Stored } from "../../../common/k8s.js";
import { errorText } from "../../../control/resources/validation/field.js";
import { CONTEXT, causes, type Kinds, kind, kinds } from "./kinds.js";

/** A Service with one port and what is given. */
export const service = (spec: ServiceSpec = {}): Service => ({ spec: { ports: [{ port: 80 }], ...spec } });
/** Kinds of a cluster of both families. */
export const DUAL = kinds("10.96.0.0/16", "fd00:10:96::/112");
export const POLICY = "spec.ipFamilyPolicy: Invalid value:";

/** One Service after another state of itself, as the engine would write it. */
export class Life {
  readonly kinds: Kinds;
  /** What is stored; undefined before the first write. */
  stored: (Stored & Service) | undefined;

  constructor(
    from: Kinds,
    readonly name = "x",
  ) {
    this.kinds = from;
  }

  get spec(): ServiceSpec {
    return this.stored?.spec ?? {};
  }

  /** A PUT of exactly this, the first time a POST. Returns what is wrong with it. */
  put(service: Service): string[] {
    const d = kind("Service", this.kinds);
    const { stored } = this;
    const metadata = { name: this.name, namespace: "ns", ...stored?.metadata };
    const draft = structuredClone({ ...service, metadata }) as Stored & Service;
    return causes(() => {
      d.setDefaults?.(draft);
      if (stored) d.prepareForUpdate?.(draft, stored, CONTEXT);
      else d.prepareForCreate?.(draft, CONTEXT);
      const errors = d.validate(draft, stored).map(errorText);
      if (errors.length > 0) return errors;
      d.allocate?.(draft, stored).commit();
      this.stored = draft;
      return [];
    });
  }

  /** A merge patch of the spec. */
  patch(spec: Partial<ServiceSpec>): string[] {
    return this.put({ spec: { ...structuredClone(this.spec), ...spec } as ServiceSpec });
  }
}

/** Code and text of the error that `run` throws. */
export function thrown(run: () => unknown): string {
  try {
    run();
    return "";
  } catch (error) {
    if (!(error instanceof StatusError)) throw error;
    return `${error.code} ${error.message}`;
  }
}
