#!/bin/bash
# Guests with two processors, side by side in one run: smp.sh [ENGINE...] (default: bt), on a host with two processors or
# more. What a second processor is good for (smp.c) natively, under each engine and under QEMU's TCG if it is
# installed; the small programs of programs.c in guests with two; what an idle one costs. Medians of ROUNDS (3).
cd "$(dirname "$0")/.." || exit 2
[ $# -gt 0 ] || set -- bt
# shellcheck source=bench/common.sh
. bench/common.sh

root=$work/root files=8 idle_s=20

# A C project of some files, each a program of its own by the name of its main(), and one that calls them.
make_project() {
    local n
    mkdir -p "$1"
    for ((n = 1; n <= files; n++)); do awk -f bench/real/source.awk -v functions=$((8 + n)) >"$1/part$n.c"; done
    printf 'int main(void)\n{\n    return 0;\n}\n' >"$1/all.c"
    # shellcheck disable=SC2016
    printf '%s\n' 'parts = $(patsubst %.c,%.o,$(wildcard part*.c))' 'all: $(parts) all.o' \
        '	gcc -o /tmp/all $(addprefix /tmp/,$^)' '%.o: %.c' \
        '	gcc -std=gnu11 -O2 $(if $(filter all,$*),,-Dmain=main_$*) -c -o /tmp/$@ $<' >"$1/Makefile"
}

make_root() {
    local d
    mkdir -p "$root/bench" "$root/dev" "$root/usr/bin" "$root/usr/lib" "$root/usr/lib64"
    mkdir -m 1777 "$root/tmp"
    for d in bin lib lib64; do ln -s "usr/$d" "$root/$d"; done
    add_file /bin/dash /usr/bin/make
    ln -s dash "$root/usr/bin/sh"
    make_project "$root/bench/project"
    add_compiler "$root/bench/project/part1.c"
    compile "$root/init" bench/smp.c
}

processors() { # how many: of the guests from now on
    our_options="--cpus $1" qemu_options="-smp $1"
}

ticks() { # pid: processor time it used, in clock ticks
    awk '{ print $14 + $15 }' "/proc/$1/stat"
}

# The processor time that an engine's guest uses while its shell sleeps, into $work/idle.
measure_idle() { # engine
    local before pid
    "$build/trapeze" run --engine "$1" --cpus 2 -- sh -c "echo ready; sleep $((idle_s + 10))" </dev/null >"$work/console" \
        2>"$work/stderr" &
    pid=$!
    while [ -d /proc/$pid ] && ! grep -q ready "$work/console"; do sleep 0.2; done
    sleep 4
    before=$(ticks $pid)
    sleep $idle_s
    awk -v used=$(($(ticks $pid) - before)) -v hz="$(getconf CLK_TCK)" -v s=$idle_s -v engine="$1" \
        'BEGIN { printf "%s %.2f\n", engine, 100 * used / hz / s }' >>"$work/idle"
    wait $pid
}

make_root
{ echo "char dev/console 600 5 1"; list_root; } | make_initramfs "$work/initrd.img"
compile "$work/programs" bench/programs.c
printf 'dir dev 755\nchar dev/console 600 5 1\nfile init 755 %s\n' "$work/programs" | make_initramfs "$work/programs.img"
: >"$work/idle"

for ((round = 1; round <= rounds; round++)); do
    echo "round $round of $rounds: native $monitors" >&2
    for n in 1 2; do
        start=
        start_native taskset -c 0-$((n - 1)) "$root/init" "$root"
        collect native
        for monitor in $monitors; do
            processors $n
            start_guest "$monitor" "$work/initrd.img" 1G
            collect "$monitor"
        done
    done
    start_native "$work/programs"
    collect native
    for monitor in $monitors; do
        measure_guest "$monitor" "$work/programs.img"
    done
    for engine in $engines; do measure_idle "$engine"; done
done
print_table
sort "$work/idle" | awk '{ list[$1] = list[$1] " " $2 } END { for (e in list) {
    n = split(list[e], v, " "); printf "%s: an idle guest with 2 processors uses %s %% of one of the host'"'"'s\n", e, v[int((n + 1) / 2)] } }'
