#!/bin/bash
# Disks under a real kernel: disks.sh TRAPEZE GUEST_DIRECTORY [ENGINE] [KILLS] [FAILING]. Prints a line a case and the sum.
# A file system is written to and checked; an overlay; a disk in use; the monitor is killed KILLS times (5) while the
# guest writes with fsync: what it said was written has to be there; and the host's side fails in several ways (FAILING
# is failing.c's program).
set -u
trapeze=$1 guest=$2 engine=${3:-bt} kills=${4:-5} failing=${5:-}
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

# The host fails: the guest sees I/O errors, standard error says why, and what the guest was told is safe is there.
trouble() { # name, pattern on standard error; standard output ends in what the guest's command said
    grep -q "$2" "$work/err" && grep -qx 'I/O error' "$work/out"; result "$1" $?
}

# Numbered blocks until one fails: all before it must be on the disk. A file system of 24 MiB under a disk of 64.
fill='i=0; while head -c 1048576 /dev/zero | tr "\\0" "$(printf "\\\\%03o" $((65 + i % 26)))" >/tmp/b &&
    dd if=/tmp/b of=/dev/vda bs=1M seek=$i conv=notrunc,fsync 2>/dev/null; do i=$((i + 1)); echo $i; done; echo "I/O error"'
cat >"$work/full.sh" <<END
mount -t tmpfs -o size=24m none "$work/small" && truncate -s 64M "$work/small/disk" &&
    timeout 300 "$trapeze" run --engine "$engine" --disk "$work/small/disk" -- sh -c '$fill' </dev/null >"$work/out" 2>"$work/err" &&
    tail -n 2 "$work/out" | head -n 1 >"$work/blocks" && cp --sparse=always "$work/small/disk" "$work/full.img"
END
mkdir "$work/small"
if unshare -Urm true 2>/dev/null; then
    unshare -Urm sh "$work/full.sh"
    trouble "a full host disk" 'a write failed at byte .*No space left on device; the guest sees'
    blocks=$(cat "$work/blocks")
    [ "$blocks" -ge 15 ] && head -c "$((blocks * 1048576))" "$work/full.img" | tr -d '\0' |
        fold -b -w 1048576 | cut -c 1,1048576 >"$work/letters"
    [ "$(wc -l <"$work/letters")" = "$blocks" ] && [ "$(head -n 3 "$work/letters" | tr -d '\n')" = AABBCC ]
    result "what was written before is there" $?
else
    echo "SKIP a full host disk: no user namespaces here"
fi

fresh "$disk"
run --disk "$disk" -- sh -c 'echo ready; while dd if=/dev/vda of=/dev/null bs=1M skip=40 count=1 iflag=direct 2>/dev/null
    do sleep 0.2; done; echo "I/O error"; dd if=/dev/vda of=/dev/null bs=1M count=1 2>/dev/null && echo "the rest is well"' >"$work/out" 2>"$work/err" &
pid=$!
for _ in $(seq 600); do grep -q ready "$work/out" && break; sleep 0.1; done
truncate -s 32M "$disk"
wait $pid
trouble "a disk that becomes shorter" 'a read failed at byte .*the file has become shorter'
grep -q 'the rest is well' "$work/out"; result "and the rest of it" $?

fresh "$disk"
run --disk "$disk" -- sh -c 'mkdir /mnt; mount -t ext4 /dev/vda /mnt; echo ready; i=0; while echo $i >/mnt/f && sync -d /mnt/f 2>/dev/null
    do sleep 0.2; done; echo "I/O error"' >"$work/out" 2>"$work/err" &
pid=$!
for _ in $(seq 600); do grep -q ready "$work/out" && break; sleep 0.1; done
rm "$disk"
wait $pid
trouble "a disk that is deleted" 'a flush failed .*the file has been deleted'

if [ -n "$failing" ] && "$failing" none true; then
    for call in read write flush; do
        fresh "$disk"
        "$failing" $call timeout 300 "$trapeze" run --engine "$engine" --disk "$disk" -- sh -c \
            "dd if=/dev/vda of=/dev/null bs=4k count=1 2>/dev/null || echo 'I/O error'
            dd if=/dev/zero of=/dev/vda bs=4k count=1 conv=fsync 2>/dev/null || echo 'I/O error'" >"$work/out" 2>"$work/err" </dev/null
        trouble "$call fails" "a $call failed at byte"
    done
else
    echo "SKIP failing system calls: no seccomp here"
fi

echo "$passed passed, $failed failed"
[ $failed = 0 ]
