#!/bin/bash
# Disk and network, side by side in one run: io.sh [ENGINE...]. fio on one disk image and iperf3 against a server on
# the host's loopback: on the host itself, in a guest with one processor under each of our engines (default: bt), and
# in one under QEMU's TCG if it is installed. Medians of ROUNDS (3), each measurement EACH (3) seconds long. The image is
# made in TMPDIR (/var/tmp), and is in the page cache for all.
cd "$(dirname "$0")/.." || exit 2
[ $# -gt 0 ] || set -- bt
# shellcheck source=bench/common.sh
. bench/common.sh
seconds=${EACH:-3} size=512M port=$((20000 + $$ % 20000))
root=$work/root
disk=$(mktemp "${TMPDIR:-/var/tmp}/bench-io.XXXXXX")
trap 'end_running; [ -z "$server" ] || kill "$server"; rm -rf "$work" "$disk"' EXIT
head -c "$size" /dev/urandom >"$disk"

iperf3 -s -B 127.0.0.1 -p "$port" >"$work/iperf3" 2>&1 &
server=$!

mkdir -p "$root/bench"
add_file /usr/bin/fio /usr/bin/iperf3
cp bench/io_guest.sh "$root/bench/io"
list_root | make_initramfs "$work/programs.img"
cat "$build/guest/initrd.img" "$work/programs.img" >"$work/initrd.img" || exit 2

qemu_machine=,pcie=on
qemu_options="-drive if=none,id=d,format=raw,file=$disk -device virtio-blk-pci,drive=d -netdev user,id=n -device virtio-net-pci,netdev=n"
our_options="--disk $disk"
settings() { # disk direct server
    echo "io_disk=$1 io_direct=$2 io_server=$3 io_port=$port io_seconds=$seconds io_size=$size"
}
cmdline="$cmdline rdinit=/bench/io $(settings /dev/vda 1 10.0.2.2)"

for ((round = 1; round <= rounds; round++)); do
    echo "round $round of $rounds: native $monitors" >&2
    # shellcheck disable=SC2046
    start_native env $(settings "$disk" 0 127.0.0.1) sh bench/io_guest.sh
    collect native || exit 1
    for monitor in $monitors; do
        cat "$disk" >/dev/null
        start_guest "$monitor" "$work/initrd.img" 512M
        collect "$monitor" || exit 1
    done
done
awk -v columns="native $monitors" -f bench/rates.awk "$values"
echo "load average of the host at the end: $(cut -d ' ' -f 1-3 /proc/loadavg) (this run alone: 1 to 2)"
