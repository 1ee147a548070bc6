// Images of a container runtime, as containers ask for them. Knows the runtime's image service.

import { type Image, parseReference, type ResolvedImage } from "../images/index.js";
import type { ImageSource } from "../pods/runtime.js";
import type { CriClient } from "./client.js";

/** The runtime itself merges what a spec says with what the image does. */
const OF_THE_RUNTIME: Pick<Image, "names" | "entrypoint" | "cmd"> = { names: [], entrypoint: [], cmd: [] };

export class CriImages implements ImageSource {
  readonly #client: CriClient;

  constructor(client: CriClient) {
    this.#client = client;
  }

  async find(reference: string): Promise<ResolvedImage | "invalid" | undefined> {
    const parsed = parseReference(reference);
    if (!parsed) return "invalid";
    return (await this.#status(reference, parsed.tag))?.image;
  }

  async pull(reference: string): Promise<{ image: ResolvedImage; bytes: number }> {
    const tag = parseReference(reference)?.tag ?? "latest";
    await this.#client.pullImage(tagged(reference));
    const found = await this.#status(reference, tag);
    if (!found) throw new Error(`the runtime has pulled ${reference} and does not have it`);
    return found;
  }

  async #status(
    reference: string,
    tag: string,
  ): Promise<{ image: ResolvedImage; bytes: number } | undefined> {
    const found = await this.#client.imageStatus(tagged(reference));
    if (!found) return undefined;
    const { id, repoDigests, uid, username, size } = found;
    const user = username && !uid ? { name: username } : { uid: uid?.value ?? 0 };
    const image = { ...OF_THE_RUNTIME, user };
    return { image: { reference, imageID: repoDigests[0] ?? id, tag, image }, bytes: size };
  }
}

/** With the tag that a reference without one stands for, as the kubelet gives it to the runtime. */
export function tagged(reference: string): string {
  const path = reference.slice(reference.lastIndexOf("/") + 1);
  return /[:@]/.test(path) ? reference : `${reference}:latest`;
}
