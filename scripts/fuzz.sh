#!/bin/sh
# Fuzzes each target in turn: fuzz.sh [SECONDS] (60). What was found stays in build-fuzz/corpus/TARGET, crashing inputs
# in build-fuzz/crashes. The last line is the sum.
set -u
cd "$(dirname "$0")/.." || exit 2
seconds=${1:-60}
case $seconds in
'' | *[!0-9]* | 0) echo "SECONDS is a number of seconds for each target, not '$seconds'" >&2; exit 2 ;;
esac
passed=0 failed=0

if [ ! -f build-fuzz/build.ninja ]; then
    CC=clang meson setup build-fuzz -Dfuzz=true -Db_sanitize=address,undefined -Db_lundef=false >build-fuzz.log 2>&1 ||
        { cat build-fuzz.log; rm -f build-fuzz.log; exit 2; }
    rm -f build-fuzz.log
fi
ninja -C build-fuzz || exit 2
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1

for source in fuzz/fuzz_*.c; do
    name=${source#fuzz/fuzz_}
    name=${name%.c}
    mkdir -p "build-fuzz/corpus/$name" build-fuzz/crashes
    seeds=
    [ -d "fuzz/corpus/$name" ] && seeds=fuzz/corpus/$name
    log=build-fuzz/$name.log
    # shellcheck disable=SC2086
    if "build-fuzz/fuzz/fuzz_$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=8192 \
        -artifact_prefix=build-fuzz/crashes/ "build-fuzz/corpus/$name" $seeds >"$log" 2>&1; then
        passed=$((passed + 1))
        echo "PASS $name: $(tail -n 1 "$log")"
    else
        failed=$((failed + 1))
        echo "FAIL $name: see $log"
        tail -n 30 "$log"
    fi
done
echo "$passed passed, $failed failed"
[ $failed = 0 ]
