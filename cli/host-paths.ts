// Where kubeplumb keeps things on a machine of its own: state, run files, the services' own files. Names only.

export const CONTROL_DATA = "/var/lib/kubeplumb/control";
/** In the control's data directory. */
export const ADMIN_KUBECONFIG = "admin.kubeconfig";
/** The context in it; those of labs are kubeplumb-NAME. */
export const ADMIN_CONTEXT = "kubeplumb";
export const NODE_DATA = "/var/lib/kubeplumb/node";
export const RUN = "/run/kubeplumb";
/** Where containerd answers, unless it is told otherwise. */
export const CONTAINERD = "unix:///run/containerd/containerd.sock";
export const CNI_CONF = "/etc/cni/net.d";
/** Which address is whose: of kubeplumb node and of the plugins that runtimes call, so that both know. */
export const CNI_STATE = `${RUN}/cni`;
