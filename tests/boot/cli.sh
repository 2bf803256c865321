#!/bin/bash
# What a user gets wrong: cli.sh TRAPEZE. Each call must end with its status and say one line.
set -u
trapeze=$1
work=$(mktemp -d)
trap 'chmod -R u+rwX "$work"; rm -rf "$work"' EXIT
passed=0 failed=0

expect() { # status pattern arguments...
    local status=$1 pattern=$2 got
    shift 2
    timeout 60 "$trapeze" "$@" >"$work/out" 2>"$work/err" </dev/null
    got=$?
    grep -v '^trapeze: engine ' "$work/err" >"$work/said"
    if [ $got = "$status" ] && [ "$(wc -l <"$work/said")" = 1 ] && grep -qE -- "$pattern" "$work/said"; then
        passed=$((passed + 1)); echo "PASS $*"
    else
        failed=$((failed + 1)); echo "FAIL $* (status $got): $(cat "$work/err")"
    fi
}

head -c 100000 /dev/zero >"$work/zeros"
: >"$work/empty"
head -c 700 /dev/zero | tr '\0' 'x' >"$work/short"
mkdir "$work/dir"
printf '\177ELF\2\1\1\0\0\0\0\0\0\0\0\0\2\0\267\0\1\0\0\0' >"$work/arm64" # EM_AARCH64
head -c 4096 /dev/zero >>"$work/arm64"

expect 2 'no command .boot.' boot
expect 2 'no option .--kernle.' run --kernle x
expect 2 '--kernel: give it a value' run --kernel
expect 2 '--stats takes no value' run --stats=yes
expect 2 'goes after' run vmlinuz
expect 2 '--memory: 0 is out of range' run --memory 0
expect 2 '--memory: 1M is out of range' run --memory 1M
expect 2 '--memory: 10T is out of range' run --memory 10T
expect 2 "'512X' is not a size" run --memory 512X
expect 2 "'' is not a size" run --memory ''
expect 2 "'-5M' is not a size" run --memory -5M
expect 2 '--cpus: 0 is out of range' run --cpus 0
expect 2 '--cpus: 65 is out of range' run --cpus 65
expect 2 "'two' is not a number" run --cpus two
expect 2 'one processor only' run --cpus 2 --engine lockstep --kernel "$work/zeros"
expect 2 "there is no 'bridge'" run --net bridge
expect 2 'give it as' run --publish 80
expect 2 'give it as' run --publish 70000:80
expect 2 'give it as' run --publish 8080:80/icmp
expect 2 'not an IPv4 address' run --publish localhost:8080:80
expect 2 'is for --net user' run --net none --publish 8080:80 --kernel "$work/zeros"
expect 2 '--code-cache: 128K is out of range' run --code-cache 128K
expect 2 '--code-cache: 2G is out of range' run --code-cache 2G
expect 2 "--code-cache: 'many' is not a size" run --code-cache many
expect 2 '--disk: give it a file' run --disk ,ro
expect 2 "'rw' is not understood" run --disk x,rw
expect 2 'exclude each other' run --disk x,ro,scratch
expect 2 "$work/none" run --disk "$work/none"
expect 2 'neither a file nor' run --disk "$work/dir,ro"
expect 2 'whole sectors' run --disk "$work/short"
expect 2 'whole sectors' run --disk "$work/empty"
expect 2 "takes one name" image debian
expect 2 "'x,cid=2' is not understood" run --vsock x,cid=2
expect 2 "'x,y' is not understood" run --vsock x,y
expect 2 "socket '$work/none/x'" run --vsock "$work/none/x"
expect 2 "socket '$work/short': Address already in use" run --vsock "$work/short"
expect 2 "socket '$work/none/x'" run --control "$work/none/x"
expect 2 'a socket and a request' control x
expect 2 "$work/none" control "$work/none" stop
expect 2 'is no request' control x "$(printf 'a%.0s' {1..300})"
expect 2 "there is no .image disk'" image disk
expect 2 'takes two names' image overlay x
expect 2 "name ends in .overlay" image overlay "$work/zeros" "$work/new"
expect 2 "$work/none" image overlay "$work/none" "$work/new.overlay"
truncate -s 65536 "$work/disk"
"$trapeze" image overlay "$work/disk" "$work/new.overlay"
expect 2 'File exists' image overlay "$work/disk" "$work/new.overlay"
cp "$work/zeros" "$work/no.overlay"
expect 2 'named .overlay, but is none' run --disk "$work/no.overlay"
expect 2 'no category .all.' run --trace all
expect 2 "there is no 'warp'" run --engine warp
expect 2 "lockstep: kvm can only be compared with an engine that counts" run --engine lockstep:kvm,kvm
expect 2 'no option .--jason.' doctor --jason
expect 2 '--json takes no value' doctor --json=yes
expect 2 "'all' is no option" doctor all
expect 2 'leave out --kernel' run --kernel "$work/zeros" -- true
expect 2 "$work/none" run --kernel "$work/none"
expect 2 "$work/dir" run --kernel "$work/dir"
expect 2 "$work/empty" run --kernel "$work/empty"
expect 2 "$work/zeros" run --kernel "$work/zeros"
expect 2 "$work/short" run --kernel "$work/short"
expect 2 "$work/arm64" run --kernel "$work/arm64"
expect 2 '--trace-file: /nowhere/x' run --kernel "$work/zeros" --trace io --trace-file /nowhere/x
guest=$(dirname "$trapeze")/guest
if [ -s "$guest/vmlinuz" ]; then
    head -c 1000000 "$guest/vmlinuz" >"$work/truncated"
    expect 2 "$work/truncated" run --kernel "$work/truncated"
    expect 2 "$work/none" run --initrd "$work/none"
    truncate -s 400M "$work/large"
    expect 2 "$work/large" run --memory 256M --initrd "$work/large"
    expect 2 "vmlinuz" run --memory 16M
fi
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
    chmod 755 "$work"; install -m 000 /dev/null "$work/secret"
    setpriv --reuid 65534 --clear-groups --inh-caps=-all "$trapeze" --version >/dev/null 2>&1 && {
        timeout 60 setpriv --reuid 65534 --clear-groups "$trapeze" run --kernel "$work/secret" 2>"$work/err"
        if [ $? = 2 ] && grep -q 'ermission denied' "$work/err"; then passed=$((passed + 1)); echo "PASS no permission"
        else failed=$((failed + 1)); echo "FAIL no permission: $(cat "$work/err")"; fi
        if [ "$(stat -c %a /dev/kvm 2>/dev/null)" = 600 ]; then
            timeout 60 setpriv --reuid 65534 --clear-groups "$trapeze" run --engine kvm --kernel x >"$work/out" 2>"$work/err"
            if [ $? = 2 ] && [ "$(wc -l <"$work/err")" = 1 ] && grep -q 'no permission for /dev/kvm' "$work/err"; then
                passed=$((passed + 1)); echo "PASS no permission for KVM"
            else failed=$((failed + 1)); echo "FAIL no permission for KVM: $(cat "$work/err")"; fi
        fi
    }
fi
# A multiboot guest of our own: its status by the exit port; a triple fault, and what began it.
image=$(dirname "$trapeze")/tests/engine/long.elf
timeout 60 "$trapeze" run --kernel "$image" --append nested_benign_first --memory 64M >"$work/out" 2>"$work/err" </dev/null
if [ $? = 0 ]; then passed=$((passed + 1)); echo "PASS multiboot, exit port"
else failed=$((failed + 1)); echo "FAIL multiboot, exit port: $(cat "$work/out" "$work/err")"; fi
timeout 60 "$trapeze" run --engine interp --kernel "$image" --append shutdown_no_idt --memory 64M >"$work/out" 2>"$work/err" </dev/null
if [ $? = 121 ] && grep -q 'triple fault). It began with #' "$work/err" && grep -q '^rip ' "$work/err"; then
    passed=$((passed + 1)); echo "PASS triple fault"
else failed=$((failed + 1)); echo "FAIL triple fault: $(cat "$work/err")"; fi
# auto: one line says what was taken and why: kvm and bt's speeds, or why one of them does not work.
timeout 60 "$trapeze" run --kernel "$image" --append shutdown_no_idt --memory 64M >"$work/out" 2>"$work/err" </dev/null
if [ "$(grep -c '^trapeze: engine ' "$work/err")" = 1 ] &&
    grep -qE '^trapeze: engine (kvm .*auto: [0-9]+ million instructions a second, bt [0-9]+|bt .*auto: not kvm: .+|interp .*not bt: .+)\)$' "$work/err"; then
    passed=$((passed + 1)); echo "PASS auto says what it took"
else failed=$((failed + 1)); echo "FAIL auto's line: $(cat "$work/err")"; fi
# doctor: one line an engine and a fact, its status what it says about run; the same as JSON.
"$trapeze" doctor >"$work/out" 2>"$work/err"
status=$?
said=$(tail -n 1 "$work/out")
case $status:$said in
"0:\`trapeze run\` works: engine "* | "1:\`trapeze run\` cannot work: "*) fits=1 ;;
*) fits= ;;
esac
if [ -n "$fits" ] && [ ! -s "$work/err" ] && grep -qE '^  interp +works  [1-9][0-9]* million' "$work/out" &&
    grep -qE '^  kvm +(works|slow|no) ' "$work/out" && grep -qE '^  memory overcommit +(yes|no) ' "$work/out"; then
    passed=$((passed + 1)); echo "PASS doctor"
else failed=$((failed + 1)); echo "FAIL doctor (status $status): $(cat "$work/out" "$work/err")"; fi
"$trapeze" doctor --json >"$work/out" 2>"$work/err"
if [ $? = $status ] && python3 - "$work/out" $status <<'END' >"$work/said" 2>&1
import json, sys
report = json.load(open(sys.argv[1]))
assert report["run"]["works"] == (sys.argv[2] == "0")
assert any(e["name"] == "interp" and e["works"] and e["mips"] > 0 for e in report["engines"])
assert all(e["works"] or e["reason"] for e in report["engines"])
assert {"virtualization", "protection-keys", "fsgsbase", "avx2", "io-uring", "tap", "overcommit",
        "locked-memory"} <= {fact["name"] for fact in report["host"]}
assert report["native_mips"] > 0
END
then passed=$((passed + 1)); echo "PASS doctor --json"
else failed=$((failed + 1)); echo "FAIL doctor --json: $(cat "$work/said" "$work/out" "$work/err")"; fi
for words in --help --version 'run --help' 'doctor --help'; do
    # shellcheck disable=SC2086
    if "$trapeze" $words >"$work/out" 2>"$work/err" && [ -s "$work/out" ] && [ ! -s "$work/err" ]; then
        passed=$((passed + 1)); echo "PASS $words"
    else
        failed=$((failed + 1)); echo "FAIL $words"
    fi
done

echo "$passed passed, $failed failed"
[ $failed = 0 ]
