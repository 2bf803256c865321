# Sourced by the benchmarks (bash), from the top of the tree, with the engines as arguments: guests under each monitor,
# and what they print (report.h) made into one table. BUILD is the build tree (build), ROUNDS the number of rounds (3),
# LIMIT the seconds that a guest may take (600).
# shellcheck shell=bash disable=SC2034
set -u
build=${BUILD:-$PWD/build} rounds=${ROUNDS:-3}
engines=${*:-interp bt}
kernel=$build/guest/vmlinuz
cmdline="$(sed -n 's/^#define GUEST_CMDLINE.*"\(.*\)"/\1/p' src/control/guest.h) quiet loglevel=3"
[ -s "$kernel" ] || { echo "no guest: make guest" >&2; exit 2; }
work=$(mktemp -d)
trap 'end_running; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
values=$work/values
: >"$values"
monitors=$engines qemu_machine='' qemu_options='' our_options='' start='' running=''

# A static program. Aligned, so that speed does not hang on where the linker happens to put a loop.
compile() { # output source...
    ${CC:-cc} -std=gnu11 -D_GNU_SOURCE -O2 -falign-functions=64 -falign-loops=64 -static -o "$@" || exit 2
}

if false >/dev/null; then
    monitors="$engines qemu-tcg"
    compile "$work/tsc_khz" bench/tsc_khz.c
    qemu_clock=tsc_early_khz=$("$work/tsc_khz")
fi

# Puts a file into $root, at the place it has here, with the libraries it needs.
add_file() { # path...
    local path library
    for path; do
        path=$(realpath -s "$path")
        [ -e "$root$path" ] && continue
        mkdir -p "$root${path%/*}"
        cp -L "$path" "$root$path" || exit 2
        case $(head -c 4 "$path" | tr -d "\0") in
        $'\177ELF')
            for library in $(ldd "$path" 2>/dev/null | grep -o '/[^ ]*'); do add_file "$library"; done ;;
        esac
    done
}

# GCC, with what it needs to make a program of the source.
add_compiler() { # source
    local name
    add_file /usr/bin/gcc /usr/bin/as /usr/bin/ld "$(/usr/bin/gcc -print-prog-name=cc1)" \
        "$(/usr/bin/gcc -print-prog-name=collect2)" "$(/usr/bin/gcc -print-file-name=liblto_plugin.so)"
    # Headers, and what the linker reads.
    # shellcheck disable=SC2046
    add_file $(/usr/bin/gcc -std=gnu11 -O2 -M "$1" | grep -o '/usr/[^ ]*')
    # shellcheck disable=SC2046
    add_file $(/usr/bin/gcc -std=gnu11 -O2 -o "$work/a.out" "$1" -Wl,--trace | grep -E '^/(usr|lib)')
    for name in libc.so libgcc_s.so libgcc.a; do add_file "$(/usr/bin/gcc -print-file-name=$name)"; done
}

# $root as mkinitramfs's list.
list_root() {
    find "$root" -mindepth 1 -type d -printf 'dir %P %m\n' -o -type l -printf 'link %P %l\n' -o \
        -type f -printf "file %P %m $root/%P\n" | sort -k 2
}

make_initramfs() { # output < list
    [ -x "$work/mkinitramfs" ] || compile "$work/mkinitramfs" guest/mkinitramfs.c
    "$work/mkinitramfs" "$1" || exit 2
}

# A guest, until it powers itself off: its console on standard output, the monitor's messages in $work/stderr.
guest() { # monitor initrd memory
    local monitor=$1 initrd=$2 memory=$3
    # shellcheck disable=SC2086
    case $monitor in
    qemu-tcg) exec timeout "${LIMIT:-600}" qemu-system-x86_64 -accel tcg -cpu max -m "$memory" \
        -M "microvm,x-option-roms=off,rtc=on$qemu_machine" $qemu_options -kernel "$kernel" -initrd "$initrd" \
        -append "$cmdline $qemu_clock" -nodefaults -no-reboot -display none -serial stdio ;;
    *) exec timeout "${LIMIT:-600}" "${T:-$build/trapeze}" run --engine "$monitor" --memory "$memory" --kernel "$kernel" \
        --initrd "$initrd" --append "$cmdline" $our_options ;;
    esac </dev/null 2>"$work/stderr"
}

# Starts a guest, or a program of the host: what it prints can be read from the descriptor $console.
start_guest() { # monitor initrd memory
    exec {console}< <(guest "$@")
    running=$!
}

start_native() { # command...
    exec {console}< <(exec "$@" 2>"$work/stderr")
    running=$!
}

end_running() {
    [ -n "$running" ] || return 0
    kill "$running" 2>/dev/null
    wait "$running" 2>/dev/null
    exec {console}<&-
    running=
}

# Takes the figures from what the running measuring program prints, for the table; other lines are the kernel's. With
# $start (now_us) set, the time until its first line is a figure too. Status 1: it did not end well.
collect() { # column
    local line ended=1 failed=0
    : >"$work/console"
    while IFS= read -r line <&"$console"; do
        line=${line%$'\r'}
        case $line in
        "BENCH start") [ -z "$start" ] || add_time "$1" boot init ;;
        "BENCH end") ended=$failed ;;
        "BENCH failed "*) failed=1; echo "$1: $line" >>"$work/console" ;;
        "BENCH "*) echo "$1 ${line#BENCH }" >>"$values" ;;
        ?*) echo "$1: $line" >>"$work/console" ;;
        esac
    done
    end_running
    [ $ended = 0 ] || complain "$1"
    return $ended
}

now_us() {
    echo "${EPOCHREALTIME/[.,]/}"
}

# The time since $start as a figure.
add_time() { # column group name
    echo "$1 $2 $3 $((($(now_us) - start) * 1000))" >>"$values"
}

# Boots the default guest until its shell says its first line on the console. Status 1: it does not come to that.
# Leaves the guest running: end_running ends it.
boot_to_shell() { # monitor
    local line
    start_guest "$1" "$build/guest/initrd.img" 512M
    while IFS= read -r line <&"$console"; do
        case $line in
        "Enter 'help'"*) return 0 ;;
        *) echo "$1: $line" ;;
        esac
    done >"$work/console"
    return 1
}

# The small programs in a guest, then the default guest's way to its shell.
measure_guest() { # monitor, initramfs of the programs
    start=$(now_us)
    start_guest "$1" "$2" 512M
    collect "$1"
    start=$(now_us)
    if boot_to_shell "$1"; then add_time "$1" boot shell; else complain "$1"; fi
    end_running
}

# Why a run did not end well: what its console and its monitor said last.
complain() { # column
    echo "$1 did not end well; the last it said:" >&2
    tail -qn 5 "$work/console" "$work/stderr" >&2 2>/dev/null
}

print_table() {
    awk -v columns="native $monitors" -f bench/table.awk "$values"
    echo "load average of the host at the end: $(cut -d ' ' -f 1-3 /proc/loadavg) (this run alone: 1)"
}
