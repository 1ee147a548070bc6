// Every form of rule that the driver writes over netlink: those of the service proxy and of the overlay, and what
// else is made of the same parts. The chain TO exists wherever they are used.

/** Those that rules count with; they have to be there before. */
export const COUNTERS = ["counted", "as-long-as-a-name-may-be-XXXXXX"];

const BOTH: readonly string[] = [
  "-j ACCEPT",
  "-j DROP",
  "-j RETURN",
  "-j TO",
  "-g TO",
  "-i eth0 -j ACCEPT",
  "! -i lo -o cni+ -j TO",
  "-i abcdefghijklmno ! -o veth+ -j TO",
  "-p tcp",
  "! -p udp -j TO",
  "-p udplite -j TO",
  "-p esp -j TO",
  '-m comment --comment "kubernetes service portals" -j TO',
  '-m comment --comment "it\'s \\"quoted\\" \\\\ \u00e9" -j TO',
  "-m conntrack --ctstate NEW -m comment --comment first -j TO",
  "-m conntrack --ctstate INVALID -j DROP",
  "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
  "-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP",
  "-m conntrack --ctstate NEW,UNTRACKED,SNAT -j DROP",
  "-m mark --mark 0x4000/0x4000 -j ACCEPT",
  "-m mark ! --mark 0x4000/0x4000 -j RETURN",
  "-m mark --mark 7 -m mark ! --mark 0x1/0xff -j RETURN",
  "-m addrtype --dst-type LOCAL -j TO",
  "-m addrtype --src-type LOCAL -m addrtype ! --dst-type LOCAL,ANYCAST --limit-iface-in -j TO",
  "-m statistic --mode random --probability 0.3333333333 -j TO",
  "-m statistic --mode random ! --probability 0.5 -j TO",
  "-m statistic --mode random --probability 1.0 -j TO",
  "-m recent --name KUBE-SEP-AAAAAAAAAAAAAAAA --rcheck --seconds 10800 --reap -j TO",
  "-m recent --name XY --set -p tcp -m tcp -j TO",
  "-m recent ! --update --seconds 3 --hitcount 4 --name LONGER-THAN-DEFAULT --rdest -j TO",
  "-m recent --remove --name gone -j TO",
  "-m nfacct --nfacct-name counted -j TO",
  "-m conntrack --ctstate INVALID -m nfacct --nfacct-name counted -j DROP",
  "-m comment --comment c -m tcp -p tcp --dport 80 -m nfacct --nfacct-name as-long-as-a-name-may-be-XXXXXX -j TO",
  "-p tcp -m tcp -j TO",
  "-p udp -m udp -j TO",
  "-p sctp -m sctp -j TO",
  "-p tcp --dport 80 -j TO",
  "-m tcp -p tcp --dport 80:90 -j TO",
  "-m comment --comment c -m tcp -p tcp ! --sport 1:9 ! --dport 65535 -j TO",
  "-p udp -m udp --sport 53 --dport 0 -j TO",
  "-p sctp -m sctp --dport 3868 -j TO",
  "-p sctp -m sctp ! --sport 4:5 --dport 3868 -j TO",
  "-j MARK --or-mark 0x4000",
  "-j MARK --xor-mark 0x4000",
  "-j MARK --and-mark 0xffff",
  "-j MARK --set-mark 0x5/0xff",
  "-j MARK --set-xmark 0x4000/0x4000",
];

/** In the nat table only. */
const NAT: readonly string[] = ["-j MASQUERADE", "-m comment --comment masq -j MASQUERADE --random-fully"];

export const NAT_RULES = {
  4: [
    ...NAT,
    "-m tcp -p tcp -j DNAT --to-destination 10.244.1.2:8080",
    "-m recent --name KUBE-SEP-B --set -m udp -p udp -j DNAT --to-destination 10.244.1.2:53",
    "-m sctp -p sctp -j DNAT --to-destination 10.244.1.2:3868",
    "-j DNAT --to-destination 10.244.1.2",
    "! -s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully",
  ],
  6: [
    ...NAT,
    "-m tcp -p tcp -j DNAT --to-destination [fd00:244:0:1::2]:8080",
    "-j DNAT --to-destination fd00:244:0:1::2",
  ],
} as const;

/** In the filter table only. */
export const FILTER_RULES = {
  4: [
    "-j REJECT",
    "-p tcp -j REJECT --reject-with tcp-reset",
    "-j REJECT --reject-with icmp-host-prohibited",
    '-m comment --comment "default/web has no endpoints" -m tcp -p tcp -d 10.96.0.10 --dport 80 -j REJECT',
  ],
  6: [
    "-j REJECT",
    "-p tcp -j REJECT --reject-with tcp-reset",
    "-j REJECT --reject-with icmp6-adm-prohibited",
    "-m udp -p udp -d fd00:96::10 --dport 53 -j REJECT",
  ],
} as const;

const ADDRESSES = {
  4: [
    "-s 10.244.1.2 -j TO",
    "-s 10.244.1.2/32 -d 10.96.0.0/12 -i eth0 -o eth1 -p icmp -j TO",
    "! -s 127.0.0.0/8 -d 127.0.0.0/8 -j DROP",
    "-d 10.0.0.0/25 -j TO",
    "-s 0.0.0.0/0 -j TO",
  ],
  6: [
    "-s fd00:244:0:1::2 -j TO",
    "-s fd00:96::/112 -p ipv6-icmp -j TO",
    "! -s ::1/128 -d fe80::/10 -j DROP",
    "-d ff00::/8 -s fd00::/65 -j TO",
    "-s ::/0 -j TO",
  ],
} as const;

/** Rules that may stand in any table. */
export const ANY_TABLE_RULES: Readonly<Record<4 | 6, readonly string[]>> = {
  4: [...BOTH, ...ADDRESSES[4]],
  6: [...BOTH, ...ADDRESSES[6]],
};

/** Written, but iptables-save prints other words, or words that depend on the machine (/etc/protocols). */
export const LOOSE_RULES = {
  4: ["-s 10.1.2.3/16 -j TO", "-p 47 -j TO"],
  6: ["-s fd00::1:2:3/64 -j TO", "-p 47 -j TO"],
} as const;

export const RULES: Readonly<Record<4 | 6, readonly string[]>> = {
  4: [...ANY_TABLE_RULES[4], ...NAT_RULES[4], ...FILTER_RULES[4]],
  6: [...ANY_TABLE_RULES[6], ...NAT_RULES[6], ...FILTER_RULES[6]],
};
