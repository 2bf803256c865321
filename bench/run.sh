#!/bin/bash
# Speed, side by side in one run: run.sh [ENGINE...]. The small programs of programs.c natively, as a guest's init under
# each of our engines (default: interp and bt) and under QEMU's TCG if it is installed; then the default guest's way to its
# shell. Medians of ROUNDS (3).
cd "$(dirname "$0")/.." || exit 2
# shellcheck source=bench/common.sh
. bench/common.sh

compile "$work/programs" bench/programs.c
printf 'dir dev 755\nchar dev/console 600 5 1\nfile init 755 %s\n' "$work/programs" | make_initramfs "$work/initrd.img"

for ((round = 1; round <= rounds; round++)); do
    echo "round $round of $rounds: native $monitors" >&2
    start=
    start_native "$work/programs"
    collect native
    for monitor in $monitors; do
        measure_guest "$monitor" "$work/initrd.img"
    done
done
print_table
