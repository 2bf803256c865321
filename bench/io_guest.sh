#!/bin/sh
# The measurements of io.sh: as a guest's first program (`rdinit=/bench/io`), or on the host. What to do is in the
# environment, which the kernel fills from its command line: io_disk=FILE io_direct=0|1 io_seconds=N io_server=ADDRESS,
# io_port=N (none: no network). Prints report.h's lines; a figure is a rate.
if [ $$ = 1 ]; then
    PATH=/bin:/sbin:/usr/bin:/usr/sbin
    mount -t proc proc /proc
    mount -t sysfs sysfs /sys
    mount -t devtmpfs devtmpfs /dev
    mkdir -p /dev/shm
    mount -t tmpfs tmpfs /dev/shm
    mount -t tmpfs tmpfs /tmp
    modprobe -a virtio_pci virtio_blk virtio_net
    ip link set lo up
    if ip link set eth0 up; then
        ip addr add 10.0.2.15/24 dev eth0
        ip route add default via 10.0.2.2
    fi
fi
cd /tmp || exit 1

report() { # group name rate
    case $3 in
    '' | 0 | 0.00 | *[!0-9.]*) echo "BENCH failed $1 $2" ;;
    *) echo "BENCH $1 $2 $3" ;;
    esac
}

disk() { # name operation block-size depth field-of-the-terse-output
    report disk "$1" "$(fio --name=x --filename="$io_disk" --direct="$io_direct" --rw="$2" --bs="$3" --iodepth="$4" \
        --ioengine=libaio --time_based --runtime="$io_seconds" --size="$io_size" --norandommap --thread --invalidate=0 \
        --output-format=terse --terse-version=3 2>&1 | cut -d ';' -f "$5")"
}

net() { # name options...
    name=$1
    shift
    # Bits a second, as the receiver has them.
    report net "$name" "$(iperf3 -c "$io_server" -p "$io_port" -t "$io_seconds" -f k "$@" | sed -n 's/.* \([0-9.]*\) Kbits.*receiver.*/\1/p')"
}

echo
echo "BENCH start"
for depth in 1 32; do
    disk read-4k-$depth randread 4k $depth 8
    disk write-4k-$depth randwrite 4k $depth 49
done
disk read-1M read 1M 1 7
disk write-1M write 1M 1 48
if [ -n "$io_server" ]; then
    net send
    net receive -R
fi
echo "BENCH end"
[ $$ != 1 ] || poweroff -f
