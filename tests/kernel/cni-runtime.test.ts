// What the specification asks of a runtime, seen by the plugins that our small libcni calls: order, results and
// arguments that go along, and verbs that a list forbids.

import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { addNetwork, checkNetwork, delNetwork, gcNetwork, parseConflist } from "../../cni/index.js";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { PluginHost } from "../helpers/cni.js";

const host = new PluginHost("host");
t.teardown(() => host.close());
const log = join(host.dir, "calls");
const said = () => (existsSync(log) ? readFileSync(log, "utf8").trim().split("\n") : []);
const forget = () => writeFileSync(log, "");

/** Writes down the verb, and of its configuration whether it has a result and which host port. */
function script(name: string, ip: string): void {
  const result = `{"cniVersion":"1.1.0","ips":[{"address":"${ip}/24"}]}`;
  host.script(
    name,
    `conf=$(cat)
     has=$(echo "$conf" | grep -o '"prevResult":{[^}]*"address":"[0-9.]*' | grep -o '[0-9.]*$')
     port=$(echo "$conf" | grep -o '"hostPort":[0-9]*')
     echo "${name} $CNI_COMMAND prev=$has $port $CNI_ARGS" >> ${log}
     [ "$CNI_COMMAND" != ADD ] || echo '${result}'`,
  );
}

const list = (extra: object = {}) =>
  parseConflist(
    JSON.stringify({
      cniVersion: "1.1.0",
      name: "list",
      plugins: [{ type: "one" }, { type: "two", capabilities: { portMappings: true } }],
      ...extra,
    }),
  );

t.test("the order, the result and the arguments of every verb", async (t) => {
  script("one", "10.0.0.1");
  script("two", "10.0.0.2");
  const ns = NetNs.create("pod");
  const where = { binDirs: [host.bin], stateDir: join(host.dir, "state"), hostNs: host.ns };
  const attachment = { ...where, containerId: "c", ifName: "eth0", netns: ns.path };
  const asked = {
    capabilityArgs: { portMappings: [{ hostPort: 8080, containerPort: 80 }] },
    args: { A: "b" },
  };
  await addNetwork(list(), { ...attachment, ...asked });
  await checkNetwork(list(), attachment);
  t.strictSame(said(), [
    "one ADD prev=  A=b",
    'two ADD prev=10.0.0.1 "hostPort":8080 A=b',
    "one CHECK prev=10.0.0.2  A=b",
    'two CHECK prev=10.0.0.2 "hostPort":8080 A=b',
  ]);
  forget();
  await checkNetwork(list({ disableCheck: true }), attachment);
  await gcNetwork(list({ disableGC: true }), { ...where, valid: [] });
  t.strictSame(said(), [""], "neither is run where the list forbids it");
  forget();
  // Nobody remembers the arguments of ADD any more but our cache: plugins find what they made by them.
  await delNetwork(list(), attachment);
  t.strictSame(said(), ['two DEL prev=10.0.0.2 "hostPort":8080 A=b', "one DEL prev=10.0.0.2  A=b"]);
});
