#!/bin/sh
# Makes this VM a part of the cluster, as root:
#
#   provision.sh control ADDRESS                      the control plane
#   provision.sh node ADDRESS SERVER FILE [RUNTIME]   a node
#
# FILE has the line of: kubeplumb token create --print-join-command; a node that has joined needs it no more. RUNTIME is
# emulated or containerd; without it a node stays with what it has, emulated at first.
#
# Done again it changes only what differs. /vagrant is the checkout, built and with its npm packages; what runs is a
# copy of it, so that services start before, or without, the synced folder.
set -eu

role=$1 address=$2 runtime=${5:-}
program=/opt/kubeplumb
node_unit=/etc/systemd/system/kubeplumb-node.service
pki=/var/lib/kubeplumb/node/pki
node_version=20.20.2
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export DEBIAN_FRONTEND=noninteractive

say() { echo "kubeplumb: $*"; }
has() { command -v "$1" > /dev/null; }

# PROGRAM:PACKAGE…
packages() {
  missing=
  for pair; do
    has "${pair%%:*}" || missing="$missing ${pair##*:}"
  done
  [ -n "$missing" ] || return 0
  say "installing$missing"
  apt-get update -qq
  # shellcheck disable=SC2086
  apt-get install -y -qq --no-install-recommends $missing > /dev/null
}

# From nodejs.org, since Debian 12 has an older one.
nodejs() {
  if has node && node -e 'const [a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b >= 19) ? 0 : 1)'; then
    return
  fi
  case $(uname -m) in
    x86_64) machine=x64 ;;
    aarch64) machine=arm64 ;;
    *) say "there is no Node.js for $(uname -m)"; exit 1 ;;
  esac
  mirror=${NODEJS_MIRROR:-https://nodejs.org/dist} name=node-v$node_version-linux-$machine.tar.gz
  say "installing Node.js $node_version"
  work=$(mktemp -d)
  curl -fsSL --retry 3 -o "$work/$name" "$mirror/v$node_version/$name"
  curl -fsSL --retry 3 "$mirror/v$node_version/SHASUMS256.txt" | grep " $name\$" > "$work/sums"
  (cd "$work" && sha256sum --quiet -c sums) || { say "$name is not what it should be"; exit 1; }
  tar -xzf "$work/$name" -C /usr/local --strip-components=1 --no-same-owner "${name%.tar.gz}/bin/node"
  rm -r "$work"
}

# Sets `changed` when something differed.
copy() {
  changed=$(rsync -rlpt --delete --itemize-changes --include=/bin --include=/dist --include=/node_modules \
    --include=/package.json --exclude='/*' /vagrant/ $program/)
  [ -z "$changed" ] || say "copied to $program"
  [ -x /usr/local/bin/kubeplumb ] || ln -s $program/bin/kubeplumb.mjs /usr/local/bin/kubeplumb
}

# containerd looks for plugins in a folder of its own choice (Debian's in /usr/lib/cni), and before 2.0 calls one that it
# does not bring.
plugins() {
  $program/bin/kubeplumb.mjs install cni
  folder=$(containerd config dump | sed -nE "s,^ *bin_dirs? = \[?[\"'](/[^\"']*).*,\1,p" | head -n 1)
  mkdir -p "$folder"
  for plugin in /opt/cni/bin/kubeplumb-* /usr/lib/cni/loopback; do
    [ -e "$folder/${plugin##*/}" ] || ln -sf "$plugin" "$folder/"
  done
}

# kubeplumb install ROLE -- WORDS…, and waits until the service is ready.
service() {
  unit=kubeplumb-$role.service
  was=$(systemctl is-active $unit || true)
  $program/bin/kubeplumb.mjs install "$role" -- "$@"
  [ -z "$changed" ] || [ "$was" != active ] || systemctl restart --no-block $unit
  for _ in $(seq 600); do
    [ -n "$(systemctl list-jobs --no-legend $unit)" ] || [ "$(systemctl is-active $unit)" != active ] || return 0
    sleep 1
  done
  say "$unit is not ready after 10 minutes; its last lines:"
  journalctl -u $unit -n 20 --no-pager -o cat
  exit 1
}

packages iptables:iptables ip:iproute2 ping:iputils-ping curl:curl rsync:rsync
nodejs
copy
if [ "$role" = control ]; then
  service --advertise-address "$address"
else
  case $runtime in
    "") ! grep -qs -e '--runtime containerd' $node_unit || runtime=containerd ;;
    emulated | containerd) ;;
    *) say "RUNTIME=$runtime: emulated or containerd is expected"; exit 1 ;;
  esac
  real=
  if [ "$runtime" = containerd ]; then
    packages containerd:containerd /usr/lib/cni/loopback:containernetworking-plugins
    plugins
    real='--runtime containerd'
  fi
  if [ -s $pki/kubelet-client.pem ]; then
    # It has joined: as it was, so that nothing changes.
    # shellcheck disable=SC2046,SC2086
    service --server "$3" --node-ip "$address" $real \
      $(sed -n 's/^KUBEPLUMB_TOKEN=/--token /p' /etc/kubeplumb/node.env) \
      $(grep -o -e '--discovery-token-ca-cert-hash [^ ]*' $node_unit)
  else
    # kubeplumb node --server URL --token TOKEN --discovery-token-ca-cert-hash HASH
    # shellcheck disable=SC2046,SC2086
    service --server "$3" --node-ip "$address" $real $(sed 's/.* --token/--token/' "$4")
  fi
fi
say "$role is ready at $address"
