// componentstatuses: what older texts ask a new cluster for first, answered from how its parts are.

import t from "tap";
import { COMPONENT_STATUSES, LEASES } from "../../common/client.js";
import type { Lease } from "../../common/k8s.js";
import { leaderFailure } from "../../control/controllers/leader.js";
import { componentStatusDefinition } from "../../control/resources/component-status.js";
import { caught } from "../helpers/caught.js";
import { controlFor } from "../helpers/control.js";

t.test("the parts of a control plane are healthy", async (t) => {
  const { admin } = await controlFor(t);
  const { items } = await admin.list(COMPONENT_STATUSES);
  t.strictSame(
    items.map(({ metadata, conditions }) => [metadata.name, conditions]),
    ["controller-manager", "lmdb", "scheduler"].map((name) => [
      name,
      [{ type: "Healthy", status: "True", message: "ok" }],
    ]),
  );
  t.match(await admin.get(COMPONENT_STATUSES, "lmdb"), { kind: "ComponentStatus" });
  t.match(await caught(admin.get(COMPONENT_STATUSES, "etcd-0")), {
    status: { code: 404, message: 'componentstatuses "etcd-0" not found' },
  });
  t.match(await caught(admin.delete(COMPONENT_STATUSES, "lmdb")), { status: { code: 405 } });
});

t.test("one that fails says why", async (t) => {
  const { columns, answers } = componentStatusDefinition(async () => [
    { name: "lmdb", failure: "no space left on device" },
  ]);
  const [one] = (await answers?.list?.({ user: { name: "admin", groups: [] }, namespace: undefined })) ?? [];
  if (!one) throw new Error("nothing is listed");
  t.strictSame(
    columns.map((column) => column.value(one, 0)),
    ["lmdb", "Unhealthy", "", "no space left on device"],
  );
});

t.test("on a shared store the controllers are as well as the leader's lease", async (t) => {
  const { admin } = await controlFor(t);
  t.match(await leaderFailure(admin), /^lease kube-system\/kube-controller-manager was never held$/);
  const renewTime = "2026-11-22T01:00:00.000000Z";
  await admin.create(LEASES, {
    metadata: { name: "kube-controller-manager", namespace: "kube-system" },
    spec: { holderIdentity: "a", leaseDurationSeconds: 15, renewTime },
  } as Lease);
  const at = Date.parse(renewTime);
  t.equal(await leaderFailure(admin, at + 14_000), undefined);
  t.match(await leaderFailure(admin, at + 16_000), /was last renewed at 2026-11-22T01:00:00/);
});
