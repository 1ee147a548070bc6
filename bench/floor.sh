#!/bin/sh
# The floor for bench/up: the same kernel objects as a three-host lab with two pods and one ClusterIP, made by
# iproute2 and iptables alone (no API, no agents), to the first answered request. Run inside `unshare -nm`.
set -eu
mount -t tmpfs tmpfs /run
ip link set lo up
ip link add br0 type bridge
ip addr add 192.168.56.1/21 dev br0
ip link set br0 up
for n in 1 2 3; do
  ip netns add "h$n"
  ip link add "u$n" type veth peer name eth0 netns "h$n"
  ip link set "u$n" master br0 up
  ip -n "h$n" link set lo up
  ip -n "h$n" addr add "192.168.56.1$n/21" dev eth0
  ip -n "h$n" link set eth0 up
  ip -n "h$n" route add default via 192.168.56.1
  ip -n "h$n" link add flannel.1 type vxlan id 1 local "192.168.56.1$n" dev eth0 dstport 8472 nolearning
  ip -n "h$n" link set flannel.1 address "02:00:00:00:00:0$n" up
  ip -n "h$n" addr add "10.244.$n.0/32" dev flannel.1
  ip -n "h$n" link add cni0 type bridge
  ip -n "h$n" addr add "10.244.$n.1/24" dev cni0
  ip -n "h$n" link set cni0 up
  ip netns exec "h$n" sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'
done
for n in 1 2 3; do
  for m in 1 2 3; do
    [ "$n" = "$m" ] && continue
    ip -n "h$n" neigh add "10.244.$m.0" lladdr "02:00:00:00:00:0$m" dev flannel.1 nud permanent
    ip netns exec "h$n" bridge fdb add "02:00:00:00:00:0$m" dev flannel.1 dst "192.168.56.1$m" self permanent
    ip -n "h$n" route add "10.244.$m.0/24" via "10.244.$m.0" dev flannel.1 onlink
  done
done
for n in 2 3; do
  ip netns add "p$n"
  ip -n "h$n" link add "veth$n" type veth peer name eth0 netns "p$n"
  ip -n "h$n" link set "veth$n" master cni0 up
  ip -n "p$n" link set lo up
  ip -n "p$n" addr add "10.244.$n.2/24" dev eth0
  ip -n "p$n" link set eth0 up
  ip -n "p$n" route add default via "10.244.$n.1"
done
ip netns exec p3 node -e 'require("http").createServer((q,r)=>r.end("ok\n")).listen(8080)' &
server=$!
printf '%s\n' '*nat' ':KUBE-SERVICES - [0:0]' '-A OUTPUT -j KUBE-SERVICES' \
  '-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.244.3.2:8080' \
  '-A POSTROUTING -d 10.244.0.0/16 ! -s 10.244.0.0/16 -j MASQUERADE' 'COMMIT' |
  ip netns exec h1 iptables-restore --noflush
until ip netns exec h1 curl -s --max-time 1 http://10.96.0.10/ >/dev/null; do :; done
kill "$server"
