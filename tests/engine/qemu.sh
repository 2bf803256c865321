#!/bin/sh
# qemu.sh RUNNER IMAGES-DIR [FILTER]: runs the engine tests under QEMU's TCG, a second opinion on what they expect.
# Tests named in qemu-differs.txt must fail there (the rest of the line says why QEMU is wrong); others must not.
runner=$1 dir=$2 filter=${3:-.}
here=$(dirname "$0")
passed=0 failed=0 skipped=0 differ=0
out=$(mktemp) list=$(mktemp)
trap 'rm -f "$out" "$list"' EXIT
"$runner" --list >"$list" || exit 2
while read -r name end; do
    image=${name%%/*}
    test=${name#*/}
    echo "$name" | grep -q -- "$filter" || continue
    case $test in smp_*) cpus=4 limit=90 ;; *) cpus=1 limit=8 ;; esac
    timeout $limit qemu-system-x86_64 -accel tcg -cpu max -m 64 -smp $cpus -kernel "$dir/$image.elf" -append "$test" -no-reboot \
        -device isa-debug-exit,iobase=0xf4,iosize=0x04 -serial stdio -display none -monitor none \
        -nodefaults </dev/null >"$out" 2>&1
    status=$?
    # isa-debug-exit ends QEMU with (value << 1) | 1; a triple fault with -no-reboot ends it with 0.
    case "$end:$status" in
    EXIT:1) result=PASS ;;
    EXIT:5) result=SKIP ;;
    SHUTDOWN:0) grep -q "^expecting shutdown" "$out" && result=PASS || result=FAIL ;;
    *) result=FAIL ;;
    esac
    reason=$(sed -n "s|^$name  *||p" "$here/qemu-differs.txt")
    if [ -n "$reason" ] && [ $result = FAIL ]; then
        result=DIFFERS
    elif [ -n "$reason" ]; then
        reason="listed in qemu-differs.txt, but: $result"
        result=FAIL
    fi
    echo "$result $name${reason:+: $reason}"
    case $result in
    PASS) passed=$((passed + 1)) ;;
    SKIP) skipped=$((skipped + 1)) && sed 's/^/    /' "$out" ;;
    DIFFERS) differ=$((differ + 1)) ;;
    FAIL) failed=$((failed + 1)) && echo "    (status $status)" && sed 's/^/    /' "$out" ;;
    esac
done <"$list"
echo "$passed passed, $failed failed, $skipped skipped, $differ differ as known"
[ $failed = 0 ]
