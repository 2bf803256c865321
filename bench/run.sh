#!/bin/bash
# Speed, side by side in one run: run.sh [ENGINE...]. The small programs of programs.c natively, as a guest's init under
# each of our engines (default: interp) and under QEMU's TCG if it is installed; then the default guest's way to its
# shell. Medians of ROUNDS (3).
cd "$(dirname "$0")/.." || exit 2
. bench/common.sh

compile "$work/programs" bench/programs.c
printf 'dir dev 755\nchar dev/console 600 5 1\nfile init 755 %s\n' "$work/programs" | make_initramfs "$work/initrd.img"

# From the start of the monitor to the shell's first line on the console of the default guest.
boot_to_shell() { # monitor
    local line shell=1 start pid
    start=$(now_us)
    exec {console}< <(guest "$1" "$build/guest/initrd.img" 512M)
    pid=$!
    while IFS= read -r line <&"$console"; do
        case $line in
        "Enter 'help'"*) add_time "$1" boot shell; shell=0; break ;;
        esac
    done
    kill "$pid" 2>/dev/null
    exec {console}<&-
    return $shell
}

for ((round = 1; round <= rounds; round++)); do
    echo "round $round of $rounds: native $monitors" >&2
    collect native < <("$work/programs") || complain native
    for monitor in $monitors; do
        start=$(now_us)
        collect "$monitor" < <(guest "$monitor" "$work/initrd.img" 512M) || complain "$monitor"
        boot_to_shell "$monitor" || complain "$monitor"
    done
done
print_table
