#!/bin/bash
# What the bt engine shows of itself: translator.sh TRAPEZE IMAGE-FOLDER. The guest is a bare-metal one.
set -u
trapeze=$1 image=$2/long.elf
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0

result() { # name condition-status
    if [ "$2" = 0 ]; then passed=$((passed + 1)); echo "PASS $1"
    else failed=$((failed + 1)); echo "FAIL $1"; head -n 40 "$work/trace" "$work/out" "$work/err" 2>/dev/null; fi
}

run() { # test arguments...
    local name=$1
    shift
    timeout 60 "$trapeze" run --engine bt --kernel "$image" --append "$name" --memory 64M "$@" >"$work/out" 2>"$work/err" </dev/null
}

# The loop of code_conditions in tests/engine/flow.c begins so.
run flow_conditions --trace bt --trace-file "$work/trace" &&
    grep -q '^bt: [0-9a-f]* (guest-physical [0-9a-f]*), 64-bit: .* instructions, ' "$work/trace" &&
    grep -q '^bt:  1 [0-9a-f]*  test cl, 0x01  *[0-9a-f]*  ' "$work/trace" &&
    grep -q '^bt: (entry from other pages) ' "$work/trace" &&
    grep -q ' jmp 0x.* ; callout$' "$work/trace" && ! grep -q '(bad)' "$work/trace"
result "--trace bt" $?

"$trapeze" run --engine bt --kernel "$image" --append flow_conditions --memory 64M --perf-map >"$work/out" 2>"$work/err" </dev/null &
wait $!
map=/tmp/perf-$!.map
[ -f "$map" ] && grep -qE '^[0-9a-f]+ [0-9a-f]+ trapeze:callout$' "$map" && grep -qE '^[0-9a-f]+ [0-9a-f]+ guest:0x[0-9a-f]+$' "$map" &&
    ! grep -qvE '^[0-9a-f]+ [0-9a-f]+ (trapeze|guest|guest32):' "$map"
result "--perf-map" $?
rm -f "$map"

run flow_much_code --code-cache 256K --stats &&
    grep -q '^ *not counted  guest instructions retired' "$work/err" && ! grep -q MIPS "$work/err" &&
    grep -qE '^ *[0-9]+  segments of translated code recycled$' "$work/err" &&
    grep -qE '^ *[0-9]+  [a-z]+$' "$work/err" && grep -qE 'seconds, .* translating$' "$work/err"
result "a small code cache; --stats" $?

if [ -s "$(dirname "$trapeze")/guest/vmlinuz" ]; then
    rm -f "$work/trace"
    timeout 200 "$trapeze" run --engine bt --code-cache 256K --stats -- sh -c 'i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done; echo $i; exit 42' \
        >"$work/out" 2>"$work/err" </dev/null
    [ $? = 42 ] && grep -qx 3000 "$work/out" && grep -qE '^ *[0-9]{3,}  segments of translated code recycled$' "$work/err"
    result "a whole guest in a small code cache" $?
fi

echo "$passed passed, $failed failed"
[ $failed = 0 ]
