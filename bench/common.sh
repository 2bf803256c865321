# Sourced by the benchmarks (bash), from the top of the tree, with the engines as arguments: guests under each monitor,
# and what they print (report.h) made into one table. BUILD is the build tree (build), ROUNDS the number of rounds (3).
# shellcheck shell=bash disable=SC2034
set -u
build=${BUILD:-$PWD/build} rounds=${ROUNDS:-3}
engines=${*:-interp}
kernel=$build/guest/vmlinuz
cmdline="$(sed -n 's/^#define GUEST_CMDLINE.*"\(.*\)"/\1/p' src/control/guest.h) quiet loglevel=3"
[ -s "$kernel" ] || { echo "no guest: make guest" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
values=$work/values
: >"$values"
monitors=$engines
command -v qemu-system-x86_64 >/dev/null && monitors="$engines qemu-tcg"

# A static program. Aligned, so that speed does not hang on where the linker happens to put a loop.
compile() { # output source...
    ${CC:-cc} -std=gnu11 -D_GNU_SOURCE -O2 -falign-functions=64 -falign-loops=64 -static -o "$@" || exit 2
}

make_initramfs() { # output < list
    [ -x "$work/mkinitramfs" ] || compile "$work/mkinitramfs" guest/mkinitramfs.c
    "$work/mkinitramfs" "$1" || exit 2
}

# Runs a guest until it powers itself off: its console on standard output, the monitor's messages in $work/stderr.
guest() { # monitor initrd memory words-for-the-kernel... (QEMU's own options in QEMU_OPTIONS)
    local monitor=$1 initrd=$2 memory=$3
    shift 3
    case $monitor in
    # shellcheck disable=SC2086
    qemu-tcg) exec timeout "${LIMIT:-900}" qemu-system-x86_64 -accel tcg -cpu max -m "$memory" \
        -M "microvm,x-option-roms=off,rtc=on${QEMU_MACHINE:-}" ${QEMU_OPTIONS:-} -kernel "$kernel" -initrd "$initrd" \
        -append "$cmdline $*" -nodefaults -no-reboot -display none -serial stdio ;;
    *) exec timeout "${LIMIT:-900}" "$build/trapeze" run --engine "$monitor" --memory "$memory" --kernel "$kernel" \
        --initrd "$initrd" --append "$cmdline $*" ;;
    esac </dev/null 2>"$work/stderr"
}

# Takes the figures from what a measuring program prints, for the table; other lines are the kernel's.
collect() { # column < output. Status 1: it did not come to its end.
    local line ended=1
    while IFS= read -r line; do
        line=${line%$'\r'}
        case $line in
        "BENCH start") [ "$1" = native ] || add_time "$1" boot init ;;
        "BENCH end") ended=0 ;;
        "BENCH "*) echo "$1 ${line#BENCH }" >>"$values" ;;
        esac
    done
    return $ended
}

now_us() {
    echo "${EPOCHREALTIME/[.,]/}"
}

# The time since $start (now_us) as a figure.
add_time() { # column group name
    echo "$1 $2 $3 $((($(now_us) - start) * 1000))" >>"$values"
}

# Why a guest did not end as it should.
complain() { # column
    echo "$1: did not end right: $(tail -n 1 "$work/stderr" 2>/dev/null)" >&2
}

print_table() {
    awk -v columns="native $monitors" -f bench/table.awk "$values"
}
