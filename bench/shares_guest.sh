#!/bin/sh
# The measurements of shares.sh: as a guest's first program (`rdinit=/bench/shares`), or on the host (share=DIR). Prints
# report.h's lines.
if [ $$ = 1 ]; then
    export PATH=/usr/bin:/bin:/sbin:/usr/sbin share=/mnt HOME=/tmp
    export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*' GIT_OPTIONAL_LOCKS=0
    mount -t proc proc /proc
    mount -t sysfs sysfs /sys
    mount -t devtmpfs devtmpfs /dev
    mount -t tmpfs tmpfs /tmp
    mkdir /mnt
    modprobe -a virtio_pci virtiofs
    mount -t virtiofs bench /mnt
fi
cd "$share/tree" || exit 1

forget() { # what the guest has in its caches
    sync
    [ $$ != 1 ] || echo 3 >/proc/sys/vm/drop_caches
}

measure() { # name command...
    name=$1
    shift
    begin=$(/usr/bin/date +%s%N)
    if "$@" >/dev/null 2>/tmp/bench-error; then
        echo "BENCH share $name $(($(/usr/bin/date +%s%N) - begin))"
    else
        echo "BENCH failed share $name"; cat /tmp/bench-error
    fi
}

echo
echo "BENCH start"
forget
measure find /usr/bin/find . -newer /proc/version
forget
measure status-first git status
measure status-again git status
sleep 2 # what is known of the files is too old now
measure status-later git status
measure cat sh -c '/usr/bin/find python3 -type f -name "*.py" -exec /usr/bin/cat {} +'
forget
measure read-256M /usr/bin/dd if=../big of=/dev/null bs=1M
measure write-64M /usr/bin/dd if=/dev/zero of=../written bs=1M count=64
measure write-4k /usr/bin/dd if=/dev/zero of=../written bs=4k count=4096
measure untar /usr/bin/tar -xf ../small.tar -C ..
measure rm /usr/bin/rm -r ../linux ../written
echo "BENCH end"
[ $$ != 1 ] || poweroff -f
