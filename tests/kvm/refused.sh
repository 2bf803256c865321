#!/bin/sh
# What a KVM may refuse: refused.sh TRAPEZE REFUSING FIRST.ELF. Each must end with its status and say one line; auto goes
# on without such a KVM. What KVM can be done without is done without. For any sh: run.sh runs it too.
trapeze=$1 refusing=$2 first=$3
passed=0 failed=0
err=$(mktemp)
trap 'rm -f "$err"' EXIT

[ -r /dev/kvm ] && [ -w /dev/kvm ] || { echo "skipped: no /dev/kvm that can be opened"; exit 77; }
"$refusing" vm true || { echo "skipped: no seccomp"; exit 77; }

expect() { # what status pattern arguments...
    what=$1 status=$2 pattern=$3
    shift 3
    timeout 60 "$refusing" "$what" "$trapeze" run --kernel "$first" --memory 64M --net none "$@" 2>"$err" </dev/null
    got=$?
    if [ $got = "$status" ] && [ "$(grep -Evc '^trapeze: (engine |warning: --cpus)' "$err")" = "$([ "$status" = 0 ] && echo 0 || echo 1)" ] &&
        grep -qE -- "$pattern" "$err"; then
        passed=$((passed + 1)); echo "PASS $what $*"
    else failed=$((failed + 1)); echo "FAIL $what $* (status $got): $(cat "$err")"; fi
}

expect device 2 '/dev/kvm does not exist' --engine kvm
expect permission 2 'no permission for /dev/kvm' --engine kvm
expect version 2 "is not Linux's KVM" --engine kvm
expect irqchip-capability 2 'too old, it lacks: split interrupt controllers \(Linux 4.4\)' --engine kvm
expect immediate-exit 2 'too old, it lacks: immediate exit \(Linux 4.11\)' --engine kvm
expect many-vcpus 2 '5 processors; 1 to 4 can be had' --engine kvm --cpus 5
expect many-vcpus 0 'engine kvm' --engine kvm --cpus 2
expect cpuid 2 'does not say what it can do: Cannot allocate memory' --engine kvm
expect vm 2 'cannot make a virtual machine: Cannot allocate memory' --engine kvm
expect busy 2 'busy \(another hypervisor has the processor\)' --engine kvm
expect irqchip 2 'does not set up the virtual machine: Cannot allocate memory' --engine kvm
expect memory 2 'does not take .* of guest memory at 0: Cannot allocate memory' --engine kvm
expect vcpu 2 'cannot make processor 0: Cannot allocate memory' --engine kvm
expect second-vcpu 2 'cannot make processor 1: Cannot allocate memory' --engine kvm --cpus 2
expect state 2 'cannot make processor 0: Invalid argument: KVM cannot set registers' --engine kvm
expect run 122 'KVM cannot run the guest: Cannot allocate memory' --engine kvm
# The host has no memory for the guest's. (A sanitizer's own does not fit into so little.)
if (ulimit -v 400000 && "$trapeze" --version >/dev/null 2>&1); then
    (ulimit -v 400000 && timeout 60 "$trapeze" run --engine kvm --kernel "$first" --memory 4G --net none 2>"$err" </dev/null)
    got=$?
    if [ $got = 2 ] && [ "$(wc -l <"$err")" = 1 ] && grep -q 'memory' "$err"; then passed=$((passed + 1)); echo "PASS no memory"
    else failed=$((failed + 1)); echo "FAIL no memory (status $got): $(cat "$err")"; fi
fi
expect ioeventfd 0 'engine kvm' --engine kvm
expect irqfd 0 'engine kvm' --engine kvm
for what in device permission version immediate-exit vm memory vcpu run; do
    expect $what 0 'engine (bt|interp) .*not kvm: ' --engine auto
done
# The doctor says the same, and measures the others and the processor.
"$refusing" version "$trapeze" doctor >"$err" 2>&1
if grep -q "^  kvm  *no  *.*is not Linux's KVM" "$err" && grep -qE '^  bt +works +[1-9]' "$err" &&
    grep -qE '^  \(the processor itself: [1-9]' "$err"; then passed=$((passed + 1)); echo "PASS doctor"
else failed=$((failed + 1)); echo "FAIL doctor: $(cat "$err")"; fi
echo "$passed passed, $failed failed"
[ $failed = 0 ]
