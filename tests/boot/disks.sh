#!/bin/bash
# Disks under a real kernel: disks.sh TRAPEZE GUEST_DIRECTORY [ENGINE] [KILLS]. Prints a line a case and the sum.
# A file system is written to and checked; an overlay; a disk in use; and the monitor is killed KILLS times (5) while
# the guest writes with fsync: what it said was written has to be there.
set -u
trapeze=$1 guest=$2 engine=${3:-bt} kills=${4:-5}
PATH=$PATH:/sbin:/usr/sbin
[ -s "$guest/vmlinuz" ] || { echo "no guest in $guest: make guest"; exit 77; }
command -v mke2fs >/dev/null && command -v debugfs >/dev/null || { echo "no mke2fs, debugfs: package e2fsprogs"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0

run() { timeout 300 "$trapeze" run --engine "$engine" "$@" </dev/null; }

result() { # name condition-status
    if [ "$2" = 0 ]; then passed=$((passed + 1)); echo "PASS $1"
    else failed=$((failed + 1)); echo "FAIL $1"; tail -n 20 "$work/out" "$work/err" 2>/dev/null; fi
}

fresh() { rm -f "$1"; truncate -s 64M "$1" && mke2fs -q -F -t ext4 "$1"; }

disk=$work/disk.img
fresh "$disk"
run --disk "$disk,id=first" --disk "$disk.2,ro" -- true >"$work/out" 2>"$work/err"
[ $? = 2 ]; result "a disk that is not there" $?

run --disk "$disk,id=first" -- sh -c 'cat /sys/block/vda/serial; echo; mkdir /mnt; mount -t ext4 /dev/vda /mnt &&
    dd if=/dev/zero of=/mnt/file bs=1M count=8 conv=fsync && echo kept >/mnt/kept && umount /mnt' >"$work/out" 2>"$work/err"
[ $? = 0 ] && grep -qx first "$work/out" && e2fsck -fn "$disk" >"$work/err" 2>&1 &&
    [ "$(debugfs -R 'cat /kept' "$disk" 2>/dev/null)" = kept ]; result "a file system is written, and clean" $?

run --disk "$disk,scratch" -- sh -c 'mkdir /mnt; mount -t ext4 /dev/vda /mnt && cat /mnt/kept && echo lost >/mnt/kept &&
    umount /mnt && mount -t ext4 /dev/vda /mnt && cat /mnt/kept' >"$work/out" 2>"$work/err"
[ $? = 0 ] && [ "$(cat "$work/out")" = "$(printf 'kept\nlost')" ] &&
    [ "$(debugfs -R 'cat /kept' "$disk" 2>/dev/null)" = kept ]; result "scratch" $?

"$trapeze" image overlay "$disk" "$work/child.overlay" &&
    run --disk "$work/child.overlay" -- sh -c 'mkdir /mnt; mount -t ext4 /dev/vda /mnt && echo new >/mnt/kept; umount /mnt' \
        >"$work/out" 2>"$work/err" &&
    run --disk "$work/child.overlay,ro" -- sh -c 'mkdir /mnt; mount -t ext4 -o ro /dev/vda /mnt && cat /mnt/kept' \
        >"$work/out" 2>"$work/err"
[ $? = 0 ] && [ "$(cat "$work/out")" = new ] && [ "$(debugfs -R 'cat /kept' "$disk" 2>/dev/null)" = kept ]
result "an overlay" $?

"$trapeze" run --engine "$engine" --disk "$disk" -- sleep 100 >"$work/out" 2>"$work/err" </dev/null &
holder=$!
sleep 2
run --disk "$disk,ro" -- true >"$work/out" 2>"$work/err2"
[ $? = 2 ] && grep -q 'in use by another' "$work/err2"; result "a disk in use" $?
kill -TERM $holder
wait $holder

# Each round: lines are written one by one with fsync, and said on standard output when they are safe.
lost=0
for i in $(seq "$kills"); do
    fresh "$disk"
    : >"$work/out"
    "$trapeze" run --engine "$engine" --disk "$disk" -- sh -c 'mkdir /mnt; mount -t ext4 /dev/vda /mnt; i=0
        while :; do i=$((i + 1)); echo "$i" | dd of=/mnt/lines bs=64 oflag=append conv=notrunc,fsync 2>/dev/null && echo "$i"; done' \
        >"$work/out" 2>"$work/err" </dev/null &
    pid=$!
    for _ in $(seq 600); do [ -s "$work/out" ] && break; sleep 0.1; done
    sleep "0.$((RANDOM % 90 + 10))"
    kill -KILL $pid
    wait $pid 2>/dev/null
    last=$(tail -n 1 "$work/out")
    e2fsck -p "$disk" >"$work/fsck" 2>&1 # replays the journal, as a mount does
    [ $? -le 1 ] && e2fsck -fn "$disk" >"$work/fsck" 2>&1 && [ -n "$last" ] &&
        [ "$(debugfs -R 'cat /lines' "$disk" 2>/dev/null | head -n "$last")" = "$(seq "$last")" ] || lost=$((lost + 1))
done
[ $lost = 0 ]; result "killed $kills times while it writes: nothing that was safe is lost" $?

echo "$passed passed, $failed failed"
[ $failed = 0 ]
