#!/bin/bash
# Boots the default guest again and again: soak.sh TRAPEZE COUNT [ENGINE]. Each must end with status 42 within 5 minutes.
set -u
trapeze=$1 count=$2 engine=${3:-auto}
failed=0

for ((i = 1; i <= count; i++)); do
    start=$SECONDS
    timeout 300 "$trapeze" run --engine "$engine" -- sh -c 'exit 42' >/dev/null 2>&1 </dev/null
    status=$?
    [ $status = 42 ] || { failed=$((failed + 1)); echo "boot $i: status $status"; }
    printf '\rboot %d of %d: %d s, %d failed ' "$i" "$count" $((SECONDS - start)) "$failed"
done
printf '\n%d passed, %d failed\n' $((count - failed)) "$failed"
[ $failed = 0 ]
