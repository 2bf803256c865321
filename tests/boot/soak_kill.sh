#!/bin/bash
# The monitor is killed while its guest writes with fsync: soak_kill.sh TRAPEZE GUEST_DIRECTORY [KILLS]. One disk for
# all rounds; it also holds the kernel that is booted, and is never cleaned up by the host. Each round: the guest boots
# from the disk as the last kill left it, mounts it (the journal is replayed), finds all that was acknowledged, writes
# a new initrd in the old one's place, then writes with fsync until SIGKILL comes at a random moment. Then a copy of
# the disk must be recovered and clean for e2fsck, and hold what was acknowledged. ENGINE: the engine (bt).
set -u
trapeze=$1 guest=$2 kills=${3:-100}
PATH=$PATH:/sbin:/usr/sbin
[ -s "$guest/vmlinuz" ] || { echo "no guest in $guest: make guest"; exit 77; }
command -v mke2fs >/dev/null && command -v debugfs >/dev/null || { echo "no mke2fs, debugfs: package e2fsprogs"; exit 77; }
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d "${TMPDIR:-/var/tmp}/soak.XXXXXX")
pid=
trap '[ -z "$pid" ] || kill -KILL "$pid" 2>/dev/null; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP

${CC:-cc} -std=gnu11 -D_GNU_SOURCE -O2 -static -o "$work/writer" "$here/writer.c" &&
    ${CC:-cc} -std=gnu11 -D_GNU_SOURCE -O2 -o "$work/mkinitramfs" "$here/../../guest/mkinitramfs.c" || exit 2
cat >"$work/init" <<'END'
#!/bin/sh
PATH=/bin:/sbin:/usr/bin:/usr/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
modprobe -a virtio_pci virtio_blk ext4
mkdir -p /mnt
mount -t ext4 /dev/vda /mnt || { echo "LOST the file system: it does not mount"; poweroff -f; }
/soak/writer check /mnt $(echo "$acked" | tr , ' ') || poweroff -f
rm -f /mnt/file* /mnt/renamed* /mnt/temporary*
echo MOUNTED.
cp /mnt/initrd.img /mnt/initrd.new && sync /mnt/initrd.new && mv /mnt/initrd.new /mnt/initrd.img
/soak/writer load /mnt
poweroff -f
END
printf 'dir soak 755\nfile soak/init 755 %s\nfile soak/writer 755 %s\n' "$work/init" "$work/writer" |
    "$work/mkinitramfs" "$work/soak.img" || exit 2
mkdir "$work/root"
cp "$guest/vmlinuz" "$work/root/"
cat "$guest/initrd.img" "$work/soak.img" >"$work/root/initrd.img"
disk=$work/disk.img
truncate -s 256M "$disk"
mke2fs -q -F -t ext4 -d "$work/root" "$disk" || exit 2

# What a round has acknowledged: the last whole line of each writer.
acknowledged() {
    tr -d '\r' <"$1" | awk '/^ACK [0-3] [0-9]+\.$/ { n[$2] = $3 + 0 } END { print n[0] + 0, n[1] + 0, n[2] + 0, n[3] + 0 }'
}

fail() {
    echo "FAIL round $1: $2"
    tail -n 15 "$work/out" "$work/err" "$work/fsck" 2>/dev/null
    failed=$((failed + 1))
}

acked='0 0 0 0' failed=0 total=0 replays=0
for ((i = 1; i <= kills; i++)); do
    : >"$work/out"
    "$trapeze" run --engine "${ENGINE:-bt}" --disk "$disk" \
        --append "rdinit=/soak/init quiet loglevel=3 acked=${acked// /,}" >"$work/out" 2>"$work/err" </dev/null &
    pid=$!
    for _ in $(seq 1200); do grep -q 'MOUNTED\|LOST' "$work/out" && break; kill -0 $pid 2>/dev/null || break; sleep 0.05; done
    grep -q MOUNTED "$work/out" || { fail $i "it did not come up again, or something was lost"; break; }
    sleep "$((RANDOM % 3)).$(printf %03d $((RANDOM % 1000)))"
    kill -KILL $pid
    wait $pid 2>/dev/null
    pid=
    acked=$(acknowledged "$work/out")
    total=$((total + $(echo "$acked" | tr ' ' +)))
    cp --sparse=always "$disk" "$work/copy.img"
    dumpe2fs -h "$work/copy.img" 2>/dev/null | grep -q needs_recovery && replays=$((replays + 1))
    e2fsck -p "$work/copy.img" >"$work/fsck" 2>&1 # replays the journal, as a mount does
    [ $? -le 1 ] && e2fsck -fn "$work/copy.img" >"$work/fsck" 2>&1 || { fail $i "e2fsck is not content"; break; }
    rm -rf "$work/dump"
    mkdir "$work/dump"
    for n in 0 1 2 3; do debugfs -R "dump /file$n $work/dump/file$n" "$work/copy.img" >/dev/null 2>&1; done
    # shellcheck disable=SC2086
    "$work/writer" check "$work/dump" $acked >"$work/check" || { fail $i "$(cat "$work/check")"; break; }
    printf 'round %d of %d: acknowledged %s\n' $i "$kills" "$acked"
done
echo "$((i - 1)) rounds, $replays with a journal to replay, $total records acknowledged, $failed failed"
[ $failed = 0 ]
