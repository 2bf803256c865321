#!/bin/sh
# A test under kvm, where that runs at the processor's speed: on_kvm.sh TRAPEZE COMMAND [ARGUMENT]...
trapeze=$1
shift
if ! "$trapeze" doctor --json | grep -q '"name": "kvm", "works": true, "hardware_speed": true'; then
    echo "skipped: kvm does not run at the processor's speed here (see trapeze doctor)"
    exit 77
fi
exec "$@"
