// Content negotiation: what the Accept header of a request asks an answer to be. Pure.

import { notAcceptable } from "../status.js";

/** Representations of an object or a list. */
export interface Accepted {
  format: "json" | "yaml";
  /** Absent: the object itself. */
  as?: "Table" | "PartialObjectMetadata" | "PartialObjectMetadataList";
  contentType: string;
}

interface MediaRange {
  type: string;
  parameters: Map<string, string>;
  quality: number;
}

const SUPPORTED = ["application/json", "application/yaml"] as const;

function parseAccept(header: string | undefined): MediaRange[] {
  const ranges = (header || "*/*").split(",").map((text): MediaRange => {
    const [type = "", ...rest] = text.split(";").map((part) => part.trim());
    const parameters = new Map<string, string>();
    for (const part of rest) {
      const equals = part.indexOf("=");
      if (equals > 0) parameters.set(part.slice(0, equals).toLowerCase(), part.slice(equals + 1));
    }
    const quality = Number(parameters.get("q") ?? "1");
    parameters.delete("q");
    return { type: type.toLowerCase(), parameters, quality: Number.isNaN(quality) ? 0 : quality };
  });
  // A stable sort: among equals the client's order counts.
  return ranges.filter((r) => r.quality > 0).sort((a, b) => b.quality - a.quality);
}

function formatOf(type: string): Accepted["format"] | undefined {
  if (type === "application/json" || type === "application/*" || type === "*/*") return "json";
  return type === "application/yaml" ? "yaml" : undefined;
}

function accept({ type, parameters }: MediaRange): Accepted | undefined {
  const format = formatOf(type);
  if (!format) return undefined;
  const contentType = `application/${format}`;
  const as = parameters.get("as");
  if (as === undefined) return { format, contentType };
  const isMeta = parameters.get("g") === "meta.k8s.io" && parameters.get("v") === "v1";
  const isKnown = as === "Table" || as === "PartialObjectMetadata" || as === "PartialObjectMetadataList";
  if (format !== "json" || !isMeta || !isKnown) return undefined;
  return { format, as, contentType };
}

/** @throws StatusError NotAcceptable when nothing that the client accepts can be given (protobuf only, say). */
export function negotiate(header: string | undefined): Accepted {
  for (const range of parseAccept(header)) {
    const accepted = accept(range);
    if (accepted) return accepted;
  }
  throw notAcceptable(SUPPORTED);
}

/** Its name since Kubernetes 1.23; before there was an "@", which no media type may have. */
export const SWAGGER_PROTOBUF = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const SWAGGER_PROTOBUF_TYPES = /^application\/com\.github\.proto-openapi\.spec\.v2[.@]v1\.0\+protobuf$/;

/** Whether the OpenAPI v2 document is wanted as gnostic's protobuf: Go clients read no other form of it. */
export function acceptsSwaggerProtobuf(header: string | undefined): boolean {
  return parseAccept(header).some(({ type }) => SWAGGER_PROTOBUF_TYPES.test(type));
}

/** The version of aggregated discovery that is preferred to the plain documents, if one is. */
export function acceptsAggregated(header: string | undefined): "v2" | "v2beta1" | undefined {
  for (const { type, parameters } of parseAccept(header)) {
    if (formatOf(type) !== "json") continue;
    const isDiscovery =
      parameters.get("g") === "apidiscovery.k8s.io" && parameters.get("as") === "APIGroupDiscoveryList";
    const version = parameters.get("v");
    if (isDiscovery && (version === "v2" || version === "v2beta1")) return version;
    if (!parameters.has("as")) return undefined;
  }
  return undefined;
}
