#!/bin/bash
# A shared directory, side by side in one run: shares.sh [ENGINE...]. find, git status, reading and writing in a tree of
# some thousand files: on the host itself, in a guest with one processor under each of our engines (default: bt), and in
# one under QEMU's TCG with its virtiofsd if they are installed. Medians of ROUNDS (3). The tree is made in TMPDIR
# (/var/tmp), and is in the page cache for all.
cd "$(dirname "$0")/.." || exit 2
[ $# -gt 0 ] || set -- bt
# shellcheck source=bench/common.sh
. bench/common.sh
export HOME=$work GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*' GIT_OPTIONAL_LOCKS=0
root=$work/root
share=$(mktemp -d "${TMPDIR:-/var/tmp}/bench-shares.XXXXXX")
daemon=$(ls /usr/lib/qemu/virtiofsd /usr/libexec/virtiofsd 2>/dev/null | head -n 1)
trap 'end_running; rm -rf "$work" "$share"' EXIT
[ -n "$daemon" ] || monitors=${monitors%qemu-tcg}

mkdir "$share/tree"
cp -r /usr/include/linux /usr/include/c++ /usr/share/perl* /usr/lib/python3 "$share/tree" 2>/dev/null
(cd "$share/tree" && git init -q && git add -A && git -c user.name=bench -c user.email=bench@localhost commit -qm tree) ||
    { echo "no tree in $share" >&2; exit 2; }
head -c 256M /dev/urandom >"$share/big"
tar -cf "$share/small.tar" -C "$share/tree" linux
echo "$(find "$share/tree" | wc -l) files, $(du -sh "$share/tree" | cut -f 1)" >&2

mkdir -p "$root/bench"
add_file /usr/bin/git /usr/bin/find /usr/bin/date /usr/bin/tar /usr/bin/dd /usr/bin/rm /usr/bin/cat
cp bench/shares_guest.sh "$root/bench/shares"
list_root | make_initramfs "$work/programs.img"
cat "$build/guest/initrd.img" "$work/programs.img" >"$work/initrd.img" || exit 2

qemu_machine=,pcie=on,memory-backend=ram
qemu_options="-object memory-backend-memfd,id=ram,size=1G,share=on -chardev socket,id=fs,path=$work/socket
    -device vhost-user-fs-pci,chardev=fs,tag=bench"
our_options="--share $share:bench"
cmdline="$cmdline rdinit=/bench/shares"

for ((round = 1; round <= rounds; round++)); do
    echo "round $round of $rounds: native $monitors" >&2
    start_native env share="$share" sh bench/shares_guest.sh
    collect native || exit 1
    for monitor in $monitors; do
        cat "$share/big" >/dev/null
        find "$share/tree" -type f -exec cat {} + >/dev/null
        if [ "$monitor" = qemu-tcg ]; then # serves one guest
            "$daemon" --socket-path="$work/socket" -o source="$share" -o sandbox=chroot >"$work/daemon" 2>&1 &
            while [ ! -S "$work/socket" ] && kill -0 $! 2>/dev/null; do sleep 0.1; done
        fi
        start_guest "$monitor" "$work/initrd.img" 1G
        collect "$monitor" || exit 1
    done
done
print_table
