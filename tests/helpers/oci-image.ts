// A container image of busybox as an OCI archive, made here: no registry is asked. Debian's busybox-static is all that
// is in it.

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";

export const IMAGE = "localhost/kubeplumb-test:1";
const APPLETS = ["sh", "sleep", "timeout", "ping", "wget", "httpd", "ip", "cat"];
const PAGE = "hello of the container";
const TYPE = "application/vnd.oci.image";

/** Writes the archive below `directory`; its path. The image sleeps; /www/index.html is for `httpd -h /www`. */
export function makeImage(directory: string, busybox: string): string {
  const work = mkdtempSync(join(directory, "image-"));
  const root = join(work, "root");
  const layout = join(work, "layout");
  for (const path of [join(root, "bin"), join(root, "www"), join(layout, "blobs/sha256")])
    mkdirSync(path, { recursive: true });
  copyFileSync(busybox, join(root, "bin/busybox"));
  for (const applet of APPLETS) symlinkSync("busybox", join(root, "bin", applet));
  writeFileSync(join(root, "www/index.html"), `${PAGE}\n`);
  const tar = (from: string, to: string) => execFileSync("tar", ["-C", from, "-cf", to, "."]);
  tar(root, join(work, "layer.tar"));
  const blob = (bytes: Buffer | object, type: string) => {
    const data = Buffer.isBuffer(bytes) ? bytes : Buffer.from(JSON.stringify(bytes));
    const hex = createHash("sha256").update(data).digest("hex");
    writeFileSync(join(layout, "blobs/sha256", hex), data);
    return { mediaType: `${TYPE}.${type}`, digest: `sha256:${hex}`, size: data.length };
  };
  const layer = blob(readFileSync(join(work, "layer.tar")), "layer.v1.tar");
  const platform = { architecture: process.arch === "x64" ? "amd64" : process.arch, os: "linux" };
  const config = blob(
    {
      ...platform,
      config: { Env: ["PATH=/bin"], Cmd: ["/bin/sleep", "1000000"] },
      rootfs: { type: "layers", diff_ids: [layer.digest] },
    },
    "config.v1+json",
  );
  const mediaType = `${TYPE}.manifest.v1+json`;
  const manifest = blob({ schemaVersion: 2, mediaType, config, layers: [layer] }, "manifest.v1+json");
  const names = { "org.opencontainers.image.ref.name": IMAGE, "io.containerd.image.name": IMAGE };
  const index = { schemaVersion: 2, manifests: [{ ...manifest, platform, annotations: names }] };
  writeFileSync(join(layout, "index.json"), JSON.stringify(index));
  writeFileSync(join(layout, "oci-layout"), JSON.stringify({ imageLayoutVersion: "1.0.0" }));
  const archive = join(directory, "image.tar");
  tar(layout, archive);
  rmSync(work, { recursive: true });
  return archive;
}
