// docs/api.md names every kind, verb and subresource that the server serves, and no other.

import t from "tap";
import { controlFor } from "../helpers/control.js";
import { projectFile } from "../helpers/golden.js";

interface ApiResource {
  name: string;
  verbs: string[];
}

const ALL = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

t.test("docs/api.md is what the server says of itself", async (t) => {
  const { admin: client } = await controlFor(t);

  const served: string[] = [];
  const { groups } = await client.json<{ groups: { versions: { groupVersion: string }[] }[] }>(
    "GET",
    "/apis",
  );
  const versions = groups.flatMap((group) => group.versions.map(({ groupVersion }) => groupVersion));
  for (const version of ["v1", ...versions]) {
    const path = version === "v1" ? "/api/v1" : `/apis/${version}`;
    const { resources } = await client.json<{ resources: ApiResource[] }>("GET", path);
    for (const { name, verbs } of resources.filter((one) => !one.name.includes("/"))) {
      const parts = resources
        .filter((one) => one.name.startsWith(`${name}/`))
        .map((one) => one.name.slice(name.length + 1));
      const told = String([...verbs].sort()) === String(ALL) ? "all" : verbs.join(", ");
      served.push(`${name} ${version} ${told} ${parts.sort().join(", ")}`.trim());
    }
  }

  const documented = projectFile("docs/api.md")
    .split("\n")
    .filter((line) => /^\| [a-z]+[a-z, ]* \| \S*v\d/.test(line))
    .flatMap((line) => {
      const [kinds = "", groupVersions = "", verbs = "", parts = ""] = line
        .split("|")
        .slice(1)
        .map((cell) => cell.trim());
      return kinds
        .split(", ")
        .flatMap((kind) =>
          groupVersions.split(", ").map((version) => `${kind} ${version} ${verbs} ${parts}`.trim()),
        );
    });
  t.strictSame(documented.sort(), served.sort());
});
