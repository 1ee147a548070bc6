// What happens to one packet, told beforehand: other rooms import from here.

export { HOST_FACTS_SCRIPT, parseHost } from "./host.js";
export { noteOf, portOf, SHARED_CHAINS } from "./notes.js";
export { type Names, namesOf, type Owner, type Place, placeText } from "./owners.js";
export * from "./packet.js";
export { addressOn, isLocal, isLoopback, nextHop, routeOf, sourceFor } from "./routing.js";
export { type WalkOptions, walk } from "./walk.js";
