// Security contexts as privileges, and those as words of setpriv.

import t from "tap";
import type { Container, Pod, Stored } from "../../common/k8s.js";
import { privilegesOf } from "../../node/pods/privileges.js";
import { DEFAULT_CAPABILITIES, setprivOptions } from "../../node/process/privileges.js";

type Contexts = { pod?: object; container?: object };

function privileges({ pod, container }: Contexts) {
  const metadata = { name: "web", namespace: "shop", uid: "u1" };
  const spec = pod ? { securityContext: pod } : {};
  return privilegesOf(
    { metadata, spec } as unknown as Stored<Pod>,
    { name: "main", ...(container ? { securityContext: container } : {}) } as Container,
  );
}

t.test("users and groups", async (t) => {
  t.strictSame(privileges({}), {
    uid: 0,
    gid: 0,
    groups: [],
    capabilities: DEFAULT_CAPABILITIES,
    noNewPrivileges: false,
  });
  const pod = { runAsUser: 1000, runAsGroup: 3000, fsGroup: 2000, supplementalGroups: [4000, 2000] };
  t.match(privileges({ pod }), { uid: 1000, gid: 3000, groups: [4000, 2000] });
  const container = { runAsUser: 0, runAsGroup: 0, allowPrivilegeEscalation: false };
  t.match(
    privileges({ pod, container }),
    { uid: 0, gid: 0, noNewPrivileges: true },
    "a container's own wins",
  );
});

t.test("who may not be root is refused", async (t) => {
  const who = '(pod: "web_shop(u1)", container: main)';
  t.throws(() => privileges({ pod: { runAsNonRoot: true } }), {
    name: "ContainerConfigError",
    message: `container has runAsNonRoot and image will run as root ${who}`,
  });
  t.throws(() => privileges({ container: { runAsNonRoot: true, runAsUser: 0 } }), {
    message: `container's runAsUser breaks non-root policy ${who}`,
  });
  t.equal(privileges({ pod: { runAsNonRoot: true }, container: { runAsUser: 7 } }).uid, 7);
  t.equal(privileges({ pod: { runAsNonRoot: true }, container: { runAsNonRoot: false } }).uid, 0);
});

t.test("capabilities", async (t) => {
  const of = (capabilities: object, more: object = {}) =>
    privileges({ container: { capabilities, ...more } }).capabilities;
  t.strictSame(of({ add: ["CAP_NET_ADMIN", "SYS_TIME"] }), [
    ...DEFAULT_CAPABILITIES,
    "NET_ADMIN",
    "SYS_TIME",
  ]);
  t.strictSame(
    of({ drop: ["net_raw"] }),
    DEFAULT_CAPABILITIES.filter((name) => name !== "NET_RAW"),
  );
  t.strictSame(of({ drop: ["ALL"], add: ["NET_BIND_SERVICE"] }), ["NET_BIND_SERVICE"]);
  t.strictSame(of({ drop: ["ALL"] }), []);
  t.equal(of({ add: ["ALL"] }), "all");
  t.equal(of({ drop: ["ALL"] }, { privileged: true }), "all");
});

t.test("words of setpriv", async (t) => {
  const one = { uid: 1, gid: 2, groups: [3, 4], capabilities: ["NET_RAW"], noNewPrivileges: true };
  t.equal(
    setprivOptions(one, false).join(" "),
    "--pdeathsig keep --regid 2 --groups 3,4 --reuid 1 --inh-caps -all --bounding-set -all,+net_raw --no-new-privs",
  );
  t.equal(
    setprivOptions({ ...one, groups: [], capabilities: "all", noNewPrivileges: false }, false).join(" "),
    "--pdeathsig keep --regid 2 --clear-groups --reuid 1",
  );
  t.equal(
    setprivOptions(one, true).join(" "),
    "--pdeathsig keep --inh-caps -all --bounding-set -all,+net_raw --no-new-privs",
    "nobody to become",
  );
});
