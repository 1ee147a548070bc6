// Writes the import arrows of docs/architecture.md into biome.json as noRestrictedImports rules, one override a
// room. Run it after a change of the table: `node scripts/import-arrows.mjs && npx biome format --write biome.json`.

import { readFileSync, writeFileSync } from "node:fs";

/** room → what it may import beside itself. common/ is open to all. */
const arrows = {
  common: [],
  control: [],
  client: [],
  "dataplane/kernel": [],
  "dataplane/iptables": ["dataplane/kernel"],
  "dataplane/proxy": ["dataplane/kernel", "dataplane/iptables"],
  "dataplane/overlay": ["dataplane/kernel", "dataplane/iptables"],
  "dataplane/trace": ["dataplane/iptables", "dataplane/proxy"],
  "dataplane/firewall": ["dataplane/kernel", "dataplane/iptables", "dataplane/overlay", "dataplane/trace"],
  cni: ["dataplane/kernel", "dataplane/iptables"],
  node: [
    "dataplane/kernel",
    "dataplane/iptables",
    "dataplane/proxy",
    "dataplane/overlay",
    "dataplane/firewall",
    "cni",
    "client",
  ],
  lab: [
    "dataplane/kernel",
    "dataplane/iptables",
    "dataplane/proxy",
    "dataplane/overlay",
    "dataplane/firewall",
    "cni",
    "client",
    "node",
  ],
  cli: [
    "control",
    "dataplane/kernel",
    "dataplane/iptables",
    "dataplane/proxy",
    "dataplane/overlay",
    "dataplane/trace",
    "dataplane/firewall",
    "cni",
    "client",
    "node",
    "lab",
  ],
};
const rooms = [...Object.keys(arrows), "tests", "bench"];

const overrides = Object.entries(arrows).map(([room, allowed]) => {
  const forbidden = rooms.filter((other) => other !== room && other !== "common" && !allowed.includes(other));
  const group = forbidden.flatMap((other) => {
    const sibling = room.startsWith("dataplane/") && other.startsWith("dataplane/");
    return sibling ? [`**/${other}/**`, `../${other.slice("dataplane/".length)}/**`] : [`**/${other}/**`];
  });
  const message = `${room}/ may import only ${["common", ...allowed].join(", ")} (arrows in docs/architecture.md)`;
  const rule = { level: "error", options: { patterns: [{ group, message }] } };
  return {
    includes: [`${room}/**/*.ts`],
    linter: { rules: { style: { noRestrictedImports: rule } } },
  };
});

const config = JSON.parse(readFileSync("biome.json", "utf8"));
config.overrides = overrides;
writeFileSync("biome.json", `${JSON.stringify(config, null, 2)}\n`);
