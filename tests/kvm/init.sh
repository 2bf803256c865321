#!/bin/sh
# The init of the machine in which the kvm engine is tested (run.sh): loads KVM, runs /steps, says what came of each.
PATH=/bin
export HOME=/ TERM=dumb
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mkdir -p /dev/pts
mount -t devpts none /dev/pts
mount -t tmpfs none /tmp
ip link set lo up 2>/dev/null
for module in irqbypass kvm kvm-amd; do
    insmod "/modules/$module.ko" || echo "== module $module: not loaded"
done
step=0
while IFS='|' read -r limit name command; do
    step=$((step + 1))
    echo "== begin $name"
    setsid timeout -s KILL "$limit" sh -c "$command" </dev/null 2>&1 &
    wait $!
    status=$?
    kill -KILL -$! 2>/dev/null # what a step that ran out of time has left
    echo "== status $status $name"
done </steps
echo "== end $step"
poweroff -f
