#!/bin/bash
# Speed, side by side in one run: run.sh [ENGINE...]. The same programs natively, as a guest's init under each of our
# engines (default: interp) and under QEMU's TCG if it is installed; then the way to init. Medians of ROUNDS (3).
set -u
cd "$(dirname "$0")/.."
build=$PWD/build trapeze=$PWD/build/trapeze rounds=${ROUNDS:-3}
engines=${*:-interp}
kernel=$build/guest/vmlinuz
[ -s "$kernel" ] || { echo "no guest: make guest" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmdline="$(sed -n 's/^#define GUEST_CMDLINE.*"\(.*\)"/\1/p' src/control/guest.h) quiet loglevel=3"

${CC:-cc} -std=gnu11 -O2 -static -o "$work/programs" bench/programs.c &&
    ${CC:-cc} -std=gnu11 -D_GNU_SOURCE -O1 -o "$work/mkinitramfs" guest/mkinitramfs.c || exit 2
printf 'dir dev 755\nchar dev/console 600 5 1\nfile init 755 %s\n' "$work/programs" |
    "$work/mkinitramfs" "$work/initrd.img" || exit 2

qemu=
command -v qemu-system-x86_64 >/dev/null && qemu=qemu-tcg
columns="native $engines $qemu"

guest() { # column: runs the guest, its console on standard output
    case $1 in
    qemu-tcg) timeout 180 qemu-system-x86_64 -accel tcg -cpu max -M microvm,x-option-roms=off,rtc=on -m 512 \
        -kernel "$kernel" -initrd "$work/initrd.img" -append "$cmdline" -nodefaults -no-reboot -display none \
        -serial stdio ;;
    *) timeout 900 "$trapeze" run --engine "$1" --memory 512M --kernel "$kernel" --initrd "$work/initrd.img" \
        --append "$cmdline" ;;
    esac </dev/null 2>"$work/stderr"
}

# Milliseconds from a monitor's start to the guest's first line; then the programs' lines.
measure() { # column
    local start line
    start=$(date +%s%N)
    while IFS= read -r line; do
        line=${line%$'\r'}
        case $line in
        *BENCH-START) [ "$1" = native ] || echo "boot $((($(date +%s%N) - start) / 1000000))" ;;
        BENCH-END) ;;
        *[a-z]\ [0-9]*) echo "$line" ;;
        esac
    done < <(if [ "$1" = native ]; then "$work/programs"; else guest "$1"; fi)
}

for ((round = 1; round <= rounds; round++)); do
    for column in $columns; do
        echo "round $round of $rounds: $column" >&2
        measure "$column" >>"$work/$column.values"
    done
done

awk -v columns="$columns" -v dir="$work" '
function median(list, count,    i, j, t, v) {
    split(list, v, " ")
    for (i = 1; i <= count; i++)
        for (j = i + 1; j <= count; j++)
            if (v[j] + 0 < v[i] + 0) { t = v[i]; v[i] = v[j]; v[j] = t }
    return v[int((count + 1) / 2)]
}
BEGIN {
    n = split(columns, column, " ")
    for (c = 1; c <= n; c++) {
        file = dir "/" column[c] ".values"
        while ((getline line < file) > 0) {
            split(line, word, " ")
            if (!(word[1] in seen)) { order[++rows] = word[1]; seen[word[1]] = 1 }
            key = word[1] SUBSEP c
            values[key] = values[key] " " word[2]
            counts[key]++
        }
    }
    printf "%-12s", "time"
    for (c = 1; c <= n; c++) printf "%12s", column[c]
    printf "   against native"
    for (c = 2; c <= n; c++) printf "%10s", column[c]
    if (column[n] == "qemu-tcg") { printf "   against qemu"; for (c = 2; c < n; c++) printf "%10s", column[c] }
    print ""
    for (r = 1; r <= rows; r++) {
        name = order[r]
        printf "%-12s", name
        for (c = 1; c <= n; c++) {
            key = name SUBSEP c
            m[c] = counts[key] ? median(values[key], counts[key]) : 0
            if (m[c]) printf "%12.2f", m[c]; else printf "%12s", "-"
        }
        printf "                 "
        for (c = 2; c <= n; c++)
            if (m[1] && m[c] && name != "boot") { x = m[c] / m[1]; printf "%9.1fx", x; sum[c] += log(x); terms[c]++ }
            else printf "%10s", "-"
        if (column[n] == "qemu-tcg") {
            printf "               "
            for (c = 2; c < n; c++)
                if (m[n] && m[c]) printf "%9.2fx", m[c] / m[n]; else printf "%10s", "-"
        }
        print ""
        if (name == "loop")
            for (c = 2; c <= n; c++) if (m[c]) mips = mips sprintf("  %s %.0f", column[c], 1000 / m[c])
    }
    printf "geometric mean of the programs, against native:"
    for (c = 2; c <= n; c++) if (terms[c]) printf "  %s %.1fx", column[c], exp(sum[c] / terms[c])
    print "\nmillion guest instructions a second on `loop`:" mips
    print "Times are nanoseconds a unit of each program; boot is milliseconds from the start of the monitor to init."
}'
