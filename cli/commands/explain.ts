// kubeplumb explain: what will happen to a packet and why, from the rules as they stand; none is sent.

import { requireCluster } from "../clusters.js";
import { type CommandSpec, nameOption, outputOption } from "../command.js";

interface Options {
  name: string;
  namespace: string;
  from?: string;
  output: "tree" | "json";
}

const spec: CommandSpec<Options> = {
  description:
    "DESTINATION is SERVICE, NAMESPACE/SERVICE, either with :PORT (name or number), or IP:PORT[/PROTOCOL]. The rules " +
    "are read from the host where the packet begins and walked as the kernel would; a Service is followed by each of " +
    "its addresses. From where, unless told: a node for a ClusterIP, outside for a NodePort.",
  arguments: [{ flags: "<destination>", description: "a Service or an address", complete: "services" }],
  options: [
    nameOption,
    { flags: "-n, --namespace <namespace>", description: "of names without one", default: "default" },
    {
      flags: "--from <place>",
      description: "pod/NAME, pod/NAMESPACE/NAME, node/NAME or external",
      complete: "places",
    },
    outputOption("tree", "json"),
  ],
  examples: [
    ["a Service, by each of its addresses", "kubeplumb explain web"],
    ["one port of it, from a pod", "kubeplumb explain shop/web:http --from pod/shop/client"],
    ["a NodePort as an outsider reaches it", "kubeplumb explain 192.168.56.12:30080"],
    ["for programs", "kubeplumb explain 10.96.0.10:53/udp -o json"],
  ],
  async run(context, [text = ""], options) {
    const info = await requireCluster(options.name);
    const [
      { ClusterView },
      { readHost },
      { destinations, sourceOf },
      { resultJson, Storyteller },
      { storyText },
    ] = await Promise.all([
      import("../explain/cluster.js"),
      import("../explain/hosts.js"),
      import("../explain/question.js"),
      import("../explain/story.js"),
      import("../explain/print.js"),
    ]);
    const view = await ClusterView.read(info);
    const reads = new Map<string, ReturnType<typeof readHost>>();
    const storyteller = new Storyteller(view, (host, family) => {
      const key = `${host} ${family}`;
      const read = reads.get(key) ?? readHost(info, host, family);
      reads.set(key, read);
      return read;
    });
    const out: unknown[] = [];
    for (const destination of destinations(view, text, options.namespace)) {
      const source = sourceOf(view, options.from, options.namespace, destination);
      const story = await storyteller.tell(source, destination);
      const names = view.names(destination.family);
      if (options.output === "tree") out.push(storyText(story, names, context.style));
      else {
        const { state, way } = destination;
        const { packet, host } = story.leg;
        const results = story.results.map((result) => resultJson(story, result, names));
        out.push({
          ...(state && { service: state.port.service, port: state.port.portName }),
          way,
          host,
          source,
          packet,
          results,
        });
      }
    }
    context.print(options.output === "json" ? JSON.stringify(out, null, 2) : out.join("\n"));
    return 0;
  },
};

export default spec as CommandSpec;
