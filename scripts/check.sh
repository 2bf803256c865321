#!/bin/sh
# All tests: the plain build's, then those that read guest data again under sanitizers, then bounded fuzzing.
# Called by `make check` from the top of the tree. The last line is the sum.
set -u
logs=
failed=0

say() {
    printf '\n== %s\n' "$*"
}

setup() { # directory options...
    dir=$1
    shift
    [ -f "$dir/build.ninja" ] || meson setup "$dir" "$@" >"$dir.log" 2>&1 || { cat "$dir.log"; exit 1; }
    rm -f "$dir.log"
    ninja -C "$dir" >"$dir/ninja.log" 2>&1 || { cat "$dir/ninja.log"; exit 1; }
}

run() { # directory meson-test-arguments...
    dir=$1
    shift
    meson test -C "$dir" --no-rebuild --print-errorlogs --logbase "$suite" "$@" || failed=1
    logs="$logs $dir/meson-logs/$suite.json"
}

say 'Build'
setup build
make --no-print-directory guest || exit 1

say 'Tests'
suite=check
run build

say 'Tests under AddressSanitizer and UndefinedBehaviorSanitizer'
setup build-sanitize -Db_sanitize=address,undefined -Db_lundef=false
suite=sanitize
run build-sanitize --suite unit --suite isa --suite device --timeout-multiplier 4

say 'Fuzzing, bounded'
CC=clang setup build-fuzz -Dfuzz=true -Db_sanitize=address,undefined -Db_lundef=false
suite=fuzz
run build-fuzz --suite fuzz

say 'All tests'
# shellcheck disable=SC2086
scripts/sum.py $logs || failed=1
exit $failed
