// kubeplumb kubeconfig --from-vagrant: by which address the API server of the VMs is reached.

import { readFileSync } from "node:fs";
import t from "tap";
import { asReached } from "../../cli/commands/kubeconfig.js";
import { connectionOf, parseKubeconfig } from "../../client/kubeconfig.js";
import { clusterKubeconfig } from "../helpers/cli.js";

/** As vagrant 2.3.4 prints it. */
const status = (provider: string): string => `1795322222,control,metadata,provider,${provider}
1795322222,control,provider-name,${provider}
1795322222,control,state,running
1795322222,control,state-human-short,running
1795322222,control,state-human-long,
1795322222,,ui,info,Current machine states:\\n\\ncontrol                   running (${provider})
`;

t.test("with QEMU by the forwarded port, else as the VM says", async (t) => {
  const given = clusterKubeconfig("kubeplumb", "https://192.168.56.10:6443");
  t.equal(asReached(given, status("libvirt")), given);
  t.equal(asReached(given, status("virtualbox")), given);

  const reached = asReached(given, status("qemu"));
  const { server, ...rest } = connectionOf(parseKubeconfig(reached));
  const { server: _, ...before } = connectionOf(parseKubeconfig(given));
  t.equal(server, "https://127.0.0.1:15643");
  t.match(readFileSync("Vagrantfile", "utf8"), 'host: 15643, host_ip: "127.0.0.1"', "which is forwarded");
  t.strictSame(rest, before, "nothing else differs");
});
