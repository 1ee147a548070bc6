// The security contexts of a pod and of its container as the privileges of a process. Pure.

import type { Container, Pod, Stored } from "../../common/k8s.js";
import type { Image } from "../images/index.js";
import { DEFAULT_CAPABILITIES, type Privileges } from "../process/privileges.js";
import { ContainerConfigError } from "./env.js";

/** Groups that all processes of the pod are in (PodSecurityContext). */
function podGroups({ spec }: Pick<Stored<Pod>, "spec">): number[] {
  const { fsGroup, supplementalGroups = [] } = spec?.securityContext ?? {};
  return [...new Set([...supplementalGroups, ...(fsGroup === undefined ? [] : [fsGroup])])];
}

/** Added and dropped as container runtimes do: ALL first, then one by one. */
function capabilitiesOf({ securityContext }: Container): readonly string[] | "all" {
  const plain = (names: readonly string[] = []) =>
    names.map((name) => name.toUpperCase().replace(/^CAP_/, ""));
  const [add, drop] = [plain(securityContext?.capabilities?.add), plain(securityContext?.capabilities?.drop)];
  if (securityContext?.privileged) return "all";
  if (add.includes("ALL") && drop.length === 0) return "all";
  const base = drop.includes("ALL") ? [] : DEFAULT_CAPABILITIES.filter((name) => !drop.includes(name));
  return [...new Set([...base, ...add.filter((name) => name !== "ALL")])];
}

function whyRoot(asked: number | undefined, user: NonNullable<Image["user"]>): string {
  if (asked !== undefined) return "container's runAsUser breaks non-root policy";
  if ("uid" in user) return "container has runAsNonRoot and image will run as root";
  return `container has runAsNonRoot and image has non-numeric user (${user.name}), cannot verify user is non-root`;
}

/**
 * Of the container's processes. A container's own fields win over the pod's (SecurityContext of the API).
 * @throws ContainerConfigError worded as the kubelet's, when it may not be root and would be.
 */
export function privilegesOf(
  pod: Pick<Stored<Pod>, "spec" | "metadata">,
  container: Container,
  imageUser: Image["user"] = { uid: 0 },
): Privileges {
  const ofPod = pod.spec?.securityContext;
  const own = container.securityContext;
  const asked = own?.runAsUser ?? ofPod?.runAsUser;
  const ofImage = "uid" in imageUser ? imageUser.uid : undefined;
  if ((own?.runAsNonRoot ?? ofPod?.runAsNonRoot) && !(asked ?? ofImage)) {
    const { name, namespace, uid } = pod.metadata;
    const which = `(pod: "${name}_${namespace}(${uid})", container: ${container.name})`;
    throw new ContainerConfigError(`${whyRoot(asked, imageUser)} ${which}`);
  }
  return {
    uid: asked ?? ofImage ?? 0,
    gid: own?.runAsGroup ?? ofPod?.runAsGroup ?? 0,
    groups: podGroups(pod),
    capabilities: capabilitiesOf(container),
    noNewPrivileges: own?.allowPrivilegeEscalation === false,
  };
}
