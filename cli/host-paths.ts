// Where kubeplumb keeps things on a machine of its own: state, run files, the services' own files. Names only.

export const CONTROL_DATA = "/var/lib/kubeplumb/control";
/** In the control's data directory. */
export const ADMIN_KUBECONFIG = "admin.kubeconfig";
export const NODE_DATA = "/var/lib/kubeplumb/node";
export const RUN = "/run/kubeplumb";
export const CNI_CONF = "/etc/cni/net.d";
