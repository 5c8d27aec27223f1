#!/usr/bin/env bash
# Installs, upgrades, removes and purges the Debian package in a clean Debian with systemd, beside a pod that asks for its
# gateway all the time. Needs root, apt, and `ip`, `arping`. The Debian is made once, in .tools.
#
#   tests/package.sh target/package/arp-agent_0.2.0-1_amd64.deb
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

new=$(realpath "${1:?usage: tests/package.sh PACKAGE.deb}")
clean=$PWD/.tools/debian
name=arp-package-$$
work=$(mktemp -d)
root=$work/root
prober=

say() { printf 'package: %s\n' "$*"; }

cleanup() {
    local status=$?
    [ "$status" = 0 ] || tail -n 40 "$work"/*.log 2>/dev/null || true
    [ -z "$prober" ] || kill "$prober" 2>/dev/null || true
    # The second signal ends the machine at once.
    [ -z "${machine:-}" ] || { kill "$machine"; sleep 0.5; kill "$machine"; wait "$machine"; } 2>/dev/null || true
    umount -l "$root" "$work/upper" 2>/dev/null || true
    ip netns del "$name" 2>/dev/null || true
    ip netns del "$name-pod" 2>/dev/null || true
    rm -rf "$work"
    exit "$status"
}
trap cleanup EXIT

# A clean Debian with systemd.
command -v systemd-nspawn mmdebstrap >/dev/null ||
    apt-get install -qy --no-install-recommends systemd-container mmdebstrap >"$work/apt.log" 2>&1
if [ ! -e "$clean/made" ]; then
    say "making a Debian in .tools/debian"
    rm -rf "$clean"
    mmdebstrap --quiet --variant=minbase --include=systemd,systemd-sysv,dbus,iproute2 bookworm "$clean"
    touch "$clean/made"
fi
mkdir -p "$root" "$work/upper"
mount -t tmpfs -o mode=755 none "$work/upper"
mkdir "$work/upper/up" "$work/upper/work"
mount -t overlay -o "lowerdir=$clean,upperdir=$work/upper/up,workdir=$work/upper/work" none "$root"

# A node with a pod, as Calico makes it: the gateway is an address that nobody has.
ip netns add "$name"
ip netns add "$name-pod"
node() { ip netns exec "$name" "$@"; }
pod() { ip netns exec "$name-pod" "$@"; }
node ip link set lo up
node ip link add uplink type veth peer name wire
node ip link set wire up
node ip addr add 10.9.0.1/24 dev uplink
node ip link set uplink up
node ip route add default via 10.9.0.254
node ip link add cali0 address ee:ee:ee:ee:ee:ee type veth peer name eth0 netns "$name-pod"
node sysctl -qw net.ipv4.conf.cali0.proxy_arp=1 net.ipv4.conf.cali0.forwarding=1 net.ipv4.neigh.cali0.proxy_delay=0
node ip link set cali0 up
node ip route add 10.244.0.5/32 dev cali0
pod ip addr add 10.244.0.5/32 dev eth0
pod ip link set eth0 up
untouched=$(node tc qdisc show; node tc filter show dev cali0 ingress)

systemd-nspawn -q -D "$root" --boot --register=no --keep-unit --network-namespace-path="/run/netns/$name" \
    --capability=CAP_BPF,CAP_NET_ADMIN,CAP_PERFMON --system-call-filter=bpf --console=pipe >"$work/boot.log" 2>&1 </dev/null &
machine=$!
# The machine's first process: a grandchild at first, and systemd once it has started.
leader=
for _ in $(seq 100); do
    leader=$(ps -o pid=,comm= --ppid "$machine" | awk '$2 == "systemd" { print $1 }' || true)
    [ -n "$leader" ] && break
    sleep 0.1
done
[ -n "$leader" ] || { say "FAILED: the machine does not start"; exit 1; }
inside() { timeout 30 nsenter -t "$leader" -m -p -u -i -n -C -r -w -- "$@" </dev/null; }
for _ in $(seq 300); do
    state=$(inside systemctl is-system-running 2>/dev/null || true)
    case $state in running | degraded) break ;; esac
    sleep 0.1
done
say "the machine is $state"
before=$(inside find / -xdev \( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /var/lib/dpkg -o -path /var/log \
    -o -path /var/cache \) -prune -o -print | sort)
groups=$(inside getent group)

# The pod asks again and again, from here to the end: one request each time, and a line for what came of it.
ask='while [ ! -e "$1" ]; do arping -q -c 1 -w 2 -I eth0 169.254.1.1 && echo answered || echo lost; done'
ip netns exec "$name-pod" sh -c "$ask" sh "$work/stop" >"$work/answers" 2>"$work/arping.log" &
prober=$!
fail() {
    say "FAILED: $*"
    exit 1
}
until_answering() {
    for _ in $(seq 100); do
        inside arp-agent status 2>/dev/null | head -n 1 | grep -q 'answering on 1 of 1 interface' && return 0
        sleep 0.1
    done
    inside arp-agent status || true
    inside journalctl -u arp-agent --no-pager | tail -n 20 || true
    fail "the agent does not answer: $1"
}

say "installed"
cp "$new" "$root/root/new.deb"
inside dpkg -i /root/new.deb >"$work/dpkg.log"
[ "$(inside systemctl is-enabled arp-agent || true)" = disabled ] || fail "the installation enables the unit"
inside systemctl enable --now arp-agent 2>>"$work/dpkg.log"
until_answering "after the installation"
sleep 1
answered=$(inside arp-agent stats --json | sed -n 's/^  "answered": \([0-9]*\),*$/\1/p')
[ "$answered" -gt 5 ] || fail "of a second's requests the fast path answered $answered"
say "$(inside arp-agent status | head -n 1)"
inside su -s /bin/sh nobody -c 'arp-agent status' >/dev/null 2>&1 && fail "everybody may ask"
inside sh -c 'setpriv --reuid=65534 --regid=65534 --groups=$(getent group arp-agent | cut -d: -f3) arp-agent status' >/dev/null ||
    fail "members of the group may not ask"

# The same package as an older and as a newer version: what dpkg and systemd do then.
repack() {
    local to=$work/repack
    rm -rf "$to"
    dpkg-deb -R "$new" "$to"
    sed -i "s/^Version: .*/Version: $1/" "$to/DEBIAN/control"
    dpkg-deb --root-owner-group --build "$to" "$root/root/$1.deb" >/dev/null
}
for version in 9.9.9-1 0.0.1-1; do
    repack "$version"
    inside sh -c 'echo "# mine" >>/etc/arp-agent/arp-agent.toml'
    old=$(inside systemctl show -p MainPID --value arp-agent)
    inside dpkg -i "/root/$version.deb" >>"$work/dpkg.log" 2>&1
    until_answering "after the change to $version"
    [ "$(inside systemctl show -p MainPID --value arp-agent)" != "$old" ] || fail "the agent was not started again"
    inside grep -q '^# mine' /etc/arp-agent/arp-agent.toml || fail "the settings were overwritten"
    say "changed to $version"
done

inside dpkg -r arp-agent >>"$work/dpkg.log" 2>&1
[ "$(node tc qdisc show; node tc filter show dev cali0 ingress)" = "$untouched" ] || fail "something is left on interfaces"
inside test -e /etc/arp-agent/arp-agent.toml || fail "the removal took the settings"
inside dpkg -P arp-agent >>"$work/dpkg.log" 2>&1
inside rm -f /root/new.deb /root/9.9.9-1.deb /root/0.0.1-1.deb
after=$(inside find / -xdev \( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /var/lib/dpkg -o -path /var/log \
    -o -path /var/cache \) -prune -o -print | sort)
# groupdel keeps the files of before.
left=$(diff <(echo "$before") <(echo "$after") | grep '^[<>]' | grep -v '/etc/g\?\(group\|shadow\)-$' || true)
[ -z "$left" ] || fail "files: $left"
[ "$(inside getent group)" = "$groups" ] || fail "the group is left"
inside test ! -e /run/arp-agent || fail "the run directory is left"

touch "$work/stop"
wait "$prober" || true
prober=
lost=$(grep -c lost "$work/answers" || true)
[ "$lost" = 0 ] || fail "of $(wc -l <"$work/answers") requests $lost were lost"
say "removed and purged; nothing is left; $(wc -l <"$work/answers") requests, none lost"
