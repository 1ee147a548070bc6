// Firewalls of a machine against what a cluster needs: what other rooms use of it.

export { type Filters, type Finding, judge, mixedVariants } from "./findings.js";
export { controlNeeds, type Need, nodeNeeds, type Place } from "./needs.js";
export { findPlaces, type PlaceOptions } from "./place.js";
export { FilterReader } from "./read.js";
