#!/bin/bash
# Real programs, side by side in one run: real.sh [ENGINE...]. What real/jobs lists, with this host's Debian programs:
# natively, and in a guest's initramfs under each of our engines (default: bt) and under QEMU's TCG if it is
# installed. Each round is a boot, each program runs once in it. Medians of ROUNDS (3). Status 1 if a program failed in
# a guest or printed something else than on the host.
cd "$(dirname "$0")/.." || exit 2
[ $# -gt 0 ] || set -- bt # interp takes minutes a round
# shellcheck source=bench/common2.sh
. bench/common2.sh

# --- the programs' root --------------------------------------------------------------------------------------------

root=$work/root

add_python() {
    add_file /usr/bin/python3
    # shellcheck disable=SC2046
    add_file $(/usr/bin/python3 -c 'import json, sys
for module in list(sys.modules.values()):
    if getattr(module, "__file__", None): print(module.__file__)')
    # Compiled files that do not hang on the sources'"'"' times, which an initramfs does not keep.
    /usr/bin/python3 -m compileall -q --invalidation-mode unchecked-hash -s "$root" "$root"/usr/lib/python3*
}

add_perl() {
    add_file /usr/bin/perl
    # shellcheck disable=SC2046
    add_file $(/usr/bin/perl -Mstrict -Mwarnings -e 'print "$_\n" for values %INC')
}

make_root() {
    local d
    mkdir -p "$root/bench" "$root/dev" "$root/usr/bin" "$root/usr/lib" "$root/usr/lib64"
    mkdir -m 1777 "$root/tmp"
    for d in bin lib lib64; do ln -s "usr/$d" "$root/$d"; done
    add_file /bin/dash /usr/bin/lua5.4 /bin/gzip /usr/bin/sqlite3 /usr/bin/openssl /bin/sed /bin/true /bin/cat /usr/bin/cmp
    awk -f bench/real/source.awk -v functions=60 >"$root/bench/work.c"
    add_compiler "$root/bench/work.c"
    add_python
    add_perl
    ln -s dash "$root/usr/bin/sh"
    cp bench/real/* "$root/bench/"
    awk -f bench/real/words.awk -v lines=60000 >"$root/bench/text"
    compile "$root/init" bench/real.c
}

# --- the rounds ----------------------------------------------------------------------------------------------------

make_root
{ echo "char dev/console 600 5 1"; list_root; } | make_initramfs "$work/initrd.img"
status=0

for ((round = 1; round <= rounds; round++)); do
    echo "round $round of $rounds: native $monitors" >&2
    start_native "$root/init" "$root"
    collect native || exit 1
    for monitor in $monitors; do
        start_guest "$monitor" "$work/initrd.img" 1G
        collect "$monitor" || status=1
    done
done
print_table

awk '
$2 != "real" { next }
$1 == "native" { expected[$3] = $5; next }
expected[$3] != $5 { print $1 ": " $3 " did not print what it prints natively"; bad = 1 }
END { exit bad }' "$values" || status=1
exit $status
