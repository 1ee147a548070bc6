// Which lists and objects server-side apply owns item by item and which as one value, as the Go types declare it with
// +listType, +mapType and +structType. Only what does not follow from the strategic-merge keys is here: a list with a
// merge key is a map by that key, one that merges without a key is a set, any other is atomic.

/** "Type.field": the keys of its items, "set" or "atomic". */
export const LIST_TYPES = {
  "CertificateSigningRequestStatus.conditions": ["type"],
  "Container.ports": ["containerPort", "protocol"],
  "Endpoint.addresses": "set",
  "EphemeralContainer.ports": ["containerPort", "protocol"],
  "JobStatus.conditions": "atomic",
  "PodFailurePolicyOnExitCodesRequirement.values": "set",
  "PodSpec.topologySpreadConstraints": ["topologyKey", "whenUnsatisfiable"],
  "PodStatus.hostIPs": "atomic",
  "ResourceRequirements.claims": ["name"],
  "ServiceSpec.ports": ["port", "protocol"],
  "UncountedTerminatedPods.failed": "set",
  "UncountedTerminatedPods.succeeded": "set",
};

/** Defaults of keys: an item that leaves the field out is the same as one that says it. */
export const KEY_DEFAULTS = { "ContainerPort.protocol": "TCP", "ServicePort.protocol": "TCP" };

/** Types whose objects are one value. */
export const ATOMIC_TYPES = new Set([
  "ConfigMapKeySelector",
  "CrossVersionObjectReference",
  "EndpointAddress",
  "EndpointPort",
  "LabelSelector",
  "LocalObjectReference",
  "NodeSelector",
  "NodeSelectorTerm",
  "ObjectFieldSelector",
  "ObjectReference",
  "OwnerReference",
  "ResourceFieldSelector",
  "RoleRef",
  "ScopeSelector",
  "ScopedResourceSelectorRequirement",
  "SecretKeySelector",
  "SecretReference",
  "ServiceBackendPort",
  "Subject",
  "TopologySelectorTerm",
  "TypedLocalObjectReference",
]);

/** Fields with free keys that are one value. */
export const ATOMIC_MAPS = new Set([
  "PodSpec.nodeSelector",
  "ReplicationControllerSpec.selector",
  "ServiceSpec.selector",
]);
