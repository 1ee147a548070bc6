// A host that has just started: the user's first Service does not wait for the cluster's own.

import t from "tap";
import { memoryProxy, settle } from "../helpers/proxy-memory.js";
import { service, slice } from "../helpers/service-objects.js";

t.test(
  "the first Service after the start answers at once, whatever the cluster's DNS did before",
  async (t) => {
    const { kernel, clock, proxy } = memoryProxy();
    proxy.setSynced("services");
    proxy.setSynced("endpointslices");
    proxy.start();
    await settle();
    await clock.advance(0);
    t.equal(kernel.inputs.length, 1, "the first full sync");
    const dns = [{ name: "dns", port: 53, protocol: "UDP" }];
    const http = [{ name: "http", port: 80 }];
    const one = slice("kube-system/kube-dns", dns, ["10.244.0.2"]);
    const both = slice("kube-system/kube-dns", dns, ["10.244.0.2", "10.244.1.2"]);
    const changes = [
      () => proxy.serviceChanged(undefined, service("kube-system/kube-dns", "10.96.0.10", dns)),
      () => proxy.endpointSliceChanged(undefined, one),
      () => proxy.endpointSliceChanged(one, both),
      () => proxy.serviceChanged(undefined, service("default/web", "10.96.0.80", http)),
      () => proxy.endpointSliceChanged(undefined, slice("default/web", http, ["10.244.0.3"])),
    ];
    for (const [n, change] of changes.entries()) {
      change();
      await clock.advance(10);
      t.equal(kernel.inputs.length, n + 2, `change ${n + 1} is in the kernel`);
    }
    await proxy.stop();
  },
);
