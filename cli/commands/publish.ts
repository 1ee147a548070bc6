// kubeplumb publish: a NodePort of a running cluster, on this machine's own loopback.

import { SERVICES } from "../../common/client.js";
import type { ClusterInfo, Publish } from "../../lab/types.js";
import { explained, requireCluster } from "../clusters.js";
import { type CommandSpec, nameOption, UsageError } from "../command.js";
import {
  nodePortOf,
  parsePublish,
  parseServicePublish,
  publishedUrl,
  type ServicePublish,
} from "../ports.js";

interface Options {
  name: string;
}

const spec: CommandSpec<Options> = {
  description:
    "It stays until the cluster is taken down. A Service is published by the NodePort that it has now; NodePort and " +
    "LoadBalancer have one.",
  arguments: [
    {
      flags: "<host:node>",
      description: "[ADDRESS:]HOSTPORT:NODEPORT or …:[NAMESPACE/]SERVICE[:PORT]; the address is 127.0.0.1",
    },
  ],
  options: [nameOption],
  examples: [
    ["NodePort 30080 on http://127.0.0.1:8080", "kubeplumb publish 8080:30080"],
    ["port http of a Service", "kubeplumb publish 8080:shop/web:http"],
  ],
  async run(context, [text = ""], { name }) {
    const asked = parse(text);
    const info = await requireCluster(name);
    const publish = "service" in asked ? await ofService(info, asked) : asked;
    const lifecycle = await import("../../lab/lifecycle.js");
    await lifecycle.publish(name, publish);
    context.print(publishedUrl(publish));
    return 0;
  },
};

/** @throws Error when there is no such Service, or it has no such NodePort. */
async function ofService(
  info: ClusterInfo,
  { namespace, service, port, ...where }: ServicePublish,
): Promise<Publish> {
  const { ApiClient } = await import("../../client/api-client.js");
  const client = new ApiClient({ socketPath: info.controlSocket });
  try {
    return { ...where, nodePort: nodePortOf(await client.get(SERVICES, service, namespace), port) };
  } catch (error) {
    throw explained(error, info.name);
  } finally {
    await client.close();
  }
}

function parse(text: string): Publish | ServicePublish {
  try {
    return parseServicePublish(text) ?? parsePublish(text);
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

export default spec as CommandSpec;
