#!/bin/bash
# Devices under a real kernel: devices.sh TRAPEZE GUEST_DIRECTORY VSOCK_PEER [ENGINE]. Prints a line a case and the sum.
set -u
trapeze=$1 guest=$2 peer=$(realpath "$3") engine=${4:-bt}
[ -s "$guest/vmlinuz" ] || { echo "no guest in $guest: make guest"; exit 77; }
work=$(mktemp -d)
started=
trap '[ -z "$started" ] || kill $started 2>/dev/null; rm -rf "$work"' EXIT
passed=0 failed=0

run() { timeout 300 "$trapeze" run --engine "$engine" "$@"; }

result() { # name condition-status
    if [ "$2" = 0 ]; then passed=$((passed + 1)); echo "PASS $1"
    else failed=$((failed + 1)); echo "FAIL $1"; tail -n 20 "$work/out" "$work/err" 2>/dev/null; fi
}

wait_for() { # pattern file
    for _ in $(seq 600); do grep -q "$1" "$2" && return 0; sleep 0.1; done
    return 1
}

# 20 MB of standard input and output: over the second serial port that would be some minutes.
head -c 20000000 /dev/urandom >"$work/data"
run -- sh -c 'cat; ls /dev/vport*p0 >&2' <"$work/data" >"$work/out" 2>"$work/err"
[ $? = 0 ] && cmp "$work/data" "$work/out" && grep -q vport "$work/err"; result "a job's streams over a virtio port" $?

run --append modprobe.blacklist=virtio_console -- sh -c 'cat; ls /dev/vport*p0' <"$peer" >"$work/out" 2>"$work/err"
[ $? = 1 ] && cmp "$peer" "$work/out"; result "and over the serial port, without that driver" $?

# Sockets, started on both sides, one after another and many at once.
cd "$work" || exit 2
"$peer" echo ./sock_80 51 >"$work/echo" 2>&1 &
started=$!
head -c 3000000 /dev/urandom >data
run --vsock ./sock -- sh -c 'cat >/tmp/peer; chmod +x /tmp/peer; cd /tmp; head -c 3000000 /dev/urandom >d
    ./peer send 80 <d | cmp - d && echo same
    for i in $(seq 50); do (echo "stream $i" | ./peer send 80) & done; wait
    ./peer send 81 </dev/null || echo refused
    ./peer echo 22 21 & echo serving; wait' <"$peer" >"$work/out" 2>"$work/err" &
monitor=$!
wait_for '^serving' "$work/out"
grep -qx same out && [ "$(grep -c '^stream' out)" = 50 ] && grep -qx refused out; result "sockets to the host" $?
"$peer" send ./sock:23 </dev/null >there 2>&1
[ $? = 1 ]; result "a port of the guest's that nobody has" $?
"$peer" send ./sock:22 <data >back && cmp data back
status=$?
senders=
for i in $(seq 20); do
    echo "stream $i" | "$peer" send ./sock:22 >"many.$i" &
    senders="$senders $!"
done
# shellcheck disable=SC2086
wait $senders
wait $monitor
[ $? = 0 ] && [ $status = 0 ] && [ "$(cat many.* | sort -u | wc -l)" = 20 ] && [ ! -e sock ]; result "sockets to the guest" $?

echo "$passed passed, $failed failed"
[ $failed = 0 ]
