#!/bin/bash
# The monitor under ThreadSanitizer: threads.sh BUILD GUEST. Interpreted only: translated code is not instrumented.
# Races on guest RAM are the guest's own (tsan.supp).
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
build=$1 guest=$2
export TSAN_OPTIONS="suppressions=$root/tests/tsan.supp history_size=4 exitcode=66"
log=$(mktemp)
failed=0

# GCC's tsan does not know fences; what they order is atomic all the same.
[ -f "$build/build.ninja" ] || meson setup "$build" "$root" -Db_sanitize=thread -Dc_args=-Wno-tsan >/dev/null || exit 2
ninja -C "$build" trapeze tests/engine/engine-run tests/engine/engine-contract tests/unit/test_share tests/engine/long.elf \
    tests/engine/prot.elf >"$log" || { cat "$log"; exit 2; }
mkdir -p "$build/guest" && cp "$guest"/* "$build/guest/" || exit 2

# Time limits are wide: this is an order of magnitude slower, and nothing here measures time.
try() {
    "$@" >"$log" 2>&1 </dev/null
    local status=$?
    if [ $status = 0 ] && ! grep -q 'WARNING: ThreadSanitizer' "$log"; then
        echo "PASS $*"
    else
        failed=$((failed + 1))
        echo "FAIL $* (status $status)"
        grep -A30 'WARNING: ThreadSanitizer\|^FAIL' "$log" | head -200
    fi
}

try "$build/tests/unit/test_share"
try "$build/tests/engine/engine-contract" interp
try "$build/tests/engine/engine-run" --engine interp --limit 300 --filter smp_ "$build/tests/engine"
try timeout 2400 "$build/trapeze" run --engine interp --cpus 2 -- true
rm -f "$log"
[ $failed = 0 ]
