#!/bin/bash
# Real kernels to a real end: guests.sh TRAPEZE GUEST_DIRECTORY [ENGINE]. Prints a line a case and the sum.
# GUEST_DIRECTORY holds vmlinuz and initrd.img as guest/mkguest.sh makes them.
set -u
trapeze=$1 guest=$2 engine=${3:-interp}
[ -s "$guest/vmlinuz" ] || { echo "no guest in $guest: make guest"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export XDG_DATA_HOME=$work # where `trapeze run` finds that guest
if [ ! "$guest" -ef "$(dirname "$trapeze")/guest" ]; then
    mkdir -p "$work/bin" && cp "$trapeze" "$work/bin/trapeze" && ln -s "$(realpath "$guest")" "$work/bin/guest"
    trapeze=$work/bin/trapeze
fi
passed=0 failed=0

run() { timeout 300 "$trapeze" run --engine "$engine" "$@"; }

result() { # name condition-status
    if [ "$2" = 0 ]; then passed=$((passed + 1)); echo "PASS $1"
    else failed=$((failed + 1)); echo "FAIL $1"; tail -n 20 "$work/out" "$work/err" 2>/dev/null; fi
}

run -- sh -c 'exit 42' >"$work/out" 2>"$work/err"
[ $? = 42 ]; result "status of a job" $?

head -c "${DATA:-300000}" /dev/urandom >"$work/data"
run -- sh -c 'cat; echo told >&2' <"$work/data" >"$work/out" 2>"$work/err"
status=$?
[ $status = 0 ] && cmp -s "$work/data" "$work/out" && grep -qx told "$work/err"; result "a job's streams, binary data" $?

run -- no-such-command >"$work/out" 2>"$work/err" </dev/null
[ $? = 127 ]; result "a command that is not there" $?

run -- sh -c 'kill -9 $$' >"$work/out" 2>"$work/err" </dev/null
[ $? = 137 ]; result "a job killed by a signal" $?

run --demo >"$work/out" 2>"$work/err" </dev/null
[ $? = 0 ] && grep -q '^primes  78498 ' "$work/out"; result "the demonstration" $?

printf 'echo hello from $((6 * 7))\nexit 9\n' | run >"$work/out" 2>"$work/err"
[ $? = 9 ] && grep -qx 'hello from 42' "$work/out"; result "a shell on a pipe" $?

run -- poweroff -f >"$work/out" 2>"$work/err" </dev/null
[ $? = 0 ]; result "power-off" $?

run -- sh -c 'echo c >/proc/sysrq-trigger; sleep 60' >"$work/out" 2>"$work/err" </dev/null
[ $? = 120 ] && grep -q 'Kernel panic' "$work/err"; result "a kernel panic ends the run with its message" $?

run --stats -- true >"$work/out" 2>"$work/err" </dev/null
[ $? = 0 ] && grep -q 'guest instructions retired' "$work/err"; result "statistics" $?

"$trapeze" run --engine "$engine" -- sleep 600 >"$work/out" 2>"$work/err" </dev/null &
sleep 2; kill -TERM $!; wait $!
[ $? = 143 ]; result "SIGTERM ends the run" $?

run -- yes 2>"$work/err" </dev/null | head -n 3 >"$work/out"
[ "$(wc -l <"$work/out")" = 3 ]; result "a reader that goes away ends the job" $?

echo "$passed passed, $failed failed"
[ $failed = 0 ]
