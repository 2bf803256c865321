#!/bin/bash
# Devices under a real kernel: devices.sh TRAPEZE GUEST_DIRECTORY VSOCK_PEER TERMINAL [ENGINE]. Prints a line a case and the sum.
set -u
trapeze=$1 guest=$2 peer=$(realpath "$3") terminal=$(realpath "$4") engine=${5:-bt}
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

"$terminal" "$trapeze" run --engine "$engine" >"$work/out" 2>"$work/err"
result "a terminal's size, and its change" $?

# Sockets, started on both sides, one after another and many at once.
cd "$work" || exit 2
"$peer" echo ./sock_80 51 >"$work/echo" 2>&1 &
started=$!
: >out
head -c 3000000 /dev/urandom >data
run --vsock ./sock -- sh -c 'cat >/tmp/peer; chmod +x /tmp/peer; cd /tmp; head -c 3000000 /dev/urandom >d
    ./peer send 80 <d | cmp - d && echo same
    for i in $(seq 50); do (echo "stream $i" | ./peer send 80) & done; wait
    ./peer send 81 </dev/null || echo refused
    ./peer echo 22 21; sleep 1' <"$peer" >"$work/out" 2>"$work/err" &
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

# Memory. The guest fills 256 MiB and frees them: within 5 s 90 % of that is the host's again. Before that Linux needs
# some seconds to report all that was free from the start.
resident() { # KiB
    sed -n 's/^VmRSS:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/$monitor/status"
}
ask() { "$trapeze" control ./control "$@"; }
field() { # name: of a JSON object on standard input, in MiB
    sed -n "s/.*\"$1\": \([0-9]*\).*/\1/p" | awk '{ print int($1 / 1048576) }'
}
: >out
"$trapeze" run --engine "$engine" --memory 1G --control ./control -- sh -c 'cd /tmp; echo up; cat >/dev/null; dd if=/dev/urandom of=f bs=1M count=1 2>/dev/null
    for i in $(seq 256); do cat f >>g; done; echo full; sleep 1; rm f g; echo freed; sleep 300' >out 2>err < <(sleep 20) &
monitor=$!
started="$started $monitor"
wait_for '^full' out
full=$(resident)
wait_for '^freed' out
for _ in $(seq 50); do
    [ $(((full - $(resident)) * 100 / 262144)) -ge 90 ] && break
    sleep 0.1
done
free=$(resident)
echo "256 MiB freed: resident $((full / 1024)) MiB before, $((free / 1024)) MiB after 5 s at most: $(((full - free) * 100 / 262144)) % given back"
[ $(((full - free) * 100 / 262144)) -ge 90 ]; result "memory the guest frees is the host's again" $?

# What the host asks for: nearly all, more than there is, none.
ask balloon >out2 && [ "$(field total <out2)" -gt 900 ] && [ "$(field free <out2)" -gt 800 ]; result "statistics" $?
ask balloon 300M >out2
for _ in $(seq 100); do ask balloon >out2; [ "$(field actual <out2)" = 300 ] && break; sleep 0.1; done
[ "$(field actual <out2)" = 300 ] && [ "$(field free <out2)" -lt 700 ]; result "the balloon grows" $?
ask balloon 2G >out2 && sleep 1 && ask balloon 0 >out2
for _ in $(seq 300); do ask balloon >out2; [ "$(field actual <out2)" = 0 ] && break; sleep 0.1; done
[ "$(field actual <out2)" = 0 ] && [ "$(field free <out2)" -gt 800 ]; result "and goes, even after too much was asked for" $?
ask nonsense >out2
[ $? = 1 ] && ask stop >out2 && wait $monitor; result "the machine is stopped" $?
[ ! -e control ]; result "its socket is gone" $?

echo "$passed passed, $failed failed"
[ $failed = 0 ]
