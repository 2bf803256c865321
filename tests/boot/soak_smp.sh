#!/bin/bash
# Boots the default guest with 1, 2, 4 and 16 processors, COUNT times each: soak_smp.sh TRAPEZE COUNT [ENGINE]. Each boot
# must find its processors and end within 5 minutes, without a stall or lock-up in the kernel's log. (That of the first
# boots of a crowded host may be long; the log of what failed is kept.)
set -u
trapeze=$1 count=$2 engine=${3:-bt}
log=$(mktemp)
failed=0 passed=0
bad='rcu.*(stall|detected)|soft lockup|hard LOCKUP|BUG:|WARNING:|Oops|hung_task|blocked for more'

for cpus in 1 2 4 16; do
    slowest=0
    for ((i = 1; i <= count; i++)); do
        start=$SECONDS
        timeout 300 "$trapeze" run --engine "$engine" --cpus $cpus -- sh -c \
            "dmesg; [ \$(nproc) = $cpus ] || exit 1; dmesg | grep -qE '$bad' && exit 3; exit 42" >"$log" 2>&1 </dev/null
        status=$?
        took=$((SECONDS - start))
        [ $took -gt $slowest ] && slowest=$took
        if [ $status = 42 ]; then
            passed=$((passed + 1))
        else
            failed=$((failed + 1))
            keep=$(mktemp -t soak-smp.XXXXXX)
            cp "$log" "$keep"
            printf '\n%d processors, boot %d: status %d; see %s\n' $cpus $i $status "$keep"
        fi
        printf '\r%d processors, boot %d of %d: %d s, %d failed ' $cpus $i "$count" $took $failed
    done
    printf '\n%d processors: slowest boot %d s\n' $cpus $slowest
done
rm -f "$log"
printf '%d passed, %d failed\n' $passed $failed
[ $failed = 0 ]
