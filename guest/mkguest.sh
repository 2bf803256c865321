#!/bin/sh
# guest/mkguest.sh: makes the default guest: a Debian kernel and an initramfs of
# busybox and our init. Called by "make guest".
#
#   guest/mkguest.sh [OUT [KERNEL]]  makes  OUT/vmlinuz  OUT/initrd.img  OUT/VERSION
#
# OUT is where the guest goes (build/guest), KERNEL the package to take the
# kernel from (linux-image-cloud-amd64); an i386 kernel (linux-image-686-pae)
# brings an i386 init and busybox along.
#
# The kernel's package is fetched with apt-get and unpacked into the build tree;
# nothing is installed, and neither dpkg's architectures nor apt's lists change.
#
# What is there and newer than the sources stays as it is. UPDATE=1 in the
# environment looks for newer packages; CC names the C compiler (cc).
set -eu

here=$(cd "$(dirname "$0")" && pwd)
OUT=${1:-$here/../build/guest}
KERNEL=${2:-linux-image-cloud-amd64}
CC=${CC:-cc}
case $KERNEL in
*-686 | *-686-pae | *-686-pae-* | *:i386) ARCH=i386 ;;
*) ARCH=amd64 ;;
esac
KERNEL=${KERNEL%:*}

exec 3>&1 # progress, also from within $(...)
say() { echo "guest: $*" >&3; }
fail() {
    full=
    if [ -d "${OUT:-}" ] && [ "$(df -Pk "$OUT" | sed -n '2s/^[^ ]* *[0-9]* *[0-9]* *\([0-9]*\) .*/\1/p')" -lt 1024 ]; then
        full=" (the file system of $OUT is full)"
    fi
    echo "guest: $*$full" >&2
    exit 2
}
# apt-get may wait for ever when the disk fills up under it: what it needs is looked for before.
room() { # directory MiB
    free=$(($(df -Pk "$1" | sed -n '2s/^[^ ]* *[0-9]* *[0-9]* *\([0-9]*\) .*/\1/p') / 1024))
    [ "$free" -ge "$2" ] || fail "the file system of $1 has $free MiB free; it takes $2 MiB to make the guest"
}
need() { command -v "$1" >/dev/null 2>&1 || fail "$1 is needed, but not installed ($2)"; }

need apt-get "the guest is made from Debian packages"
need dpkg-deb "package dpkg"
need "$CC" "package gcc"
mkdir -p "$OUT" "$OUT/../apt" 2>/dev/null || fail "cannot write to $OUT"
OUT=$(cd "$OUT" && pwd)
APT=$(cd "$OUT/../apt" && pwd)

up_to_date() {
    [ -z "${UPDATE:-}" ] && [ -s "$OUT/vmlinuz" ] && [ -s "$OUT/initrd.img" ] &&
        grep -qx "asked-for $KERNEL" "$OUT/VERSION" 2>/dev/null &&
        [ -z "$(find "$here" "$here/../src/backend/char/job_protocol.h" -newer "$OUT/VERSION" -name '*.[chs]*')" ]
}
if up_to_date; then
    echo "guest: up to date: $OUT/vmlinuz, $OUT/initrd.img"
    exit 0
fi
room "$OUT" 64
work=$(mktemp -d "$OUT/tmp.XXXXXX") || fail "cannot write to $OUT"
trap 'rm -rf "$work"' EXIT
trap 'exit 2' INT TERM HUP
log=$work/log

# --- packages ----------------------------------------------------------------

# apt with state of its own, for one architecture.
apt_private() {
    tool=$1
    shift
    state=$APT/$ARCH
    mkdir -p "$state/state/lists/partial" "$state/cache/archives/partial"
    [ -e "$state/status" ] || : >"$state/status"
    "$tool" -q -o Dir::State="$state/state" -o Dir::State::status="$state/status" -o Dir::Cache="$state/cache" \
        -o APT::Architecture="$ARCH" -o APT::Architectures::="$ARCH" -o APT::Sandbox::User="$(id -un)" \
        -o Acquire::Languages=none -o Acquire::Retries=2 "$@"
}

# Why a package is not known: no such one, or no lists.
no_package() {
    why=$(grep -E '^[EW]: ' "$log" | head -n 1 | cut -c 4-200)
    [ -z "$why" ] && fail "there is no package $1 for $ARCH"
    fail "package lists cannot be read: $why"
}

lists_ready=
update_lists() { # package that is wanted from them
    [ -z "$lists_ready" ] || return 0
    # Lists of today serve; an older one may name packages that are gone.
    if [ -z "${UPDATE:-}" ] && apt_private apt-cache show "$1" >/dev/null 2>&1 && [ -n "$(find "$APT/$ARCH/state/lists" -name '*Packages*' -mtime -1 2>/dev/null)" ]; then
        lists_ready=1
        return 0
    fi
    room "$APT" 200
    say "reading package lists ($ARCH)"
    apt_private apt-get update >"$log" 2>&1 || true
    apt_private apt-cache show "$1" >/dev/null 2>&1 || no_package "$1"
    lists_ready=1
}

# Downloads a package once; prints the file's path.
fetch() {
    deb=$(ls "$APT/$ARCH/$1"_*.deb 2>/dev/null | tail -n 1)
    if [ -z "$deb" ] || [ -n "${UPDATE:-}" ]; then
        update_lists "$1"
        room "$APT" 100
        say "downloading $1 ($ARCH)"
        (cd "$work" && apt_private apt-get download "$1") >"$log" 2>&1 ||
            fail "cannot download $1: $(grep -E '^E:' "$log" | head -n 1 | cut -c 1-200)"
        new=$(ls "$work/$1"_*.deb) || fail "apt-get gave no file for $1"
        rm -f "$APT/$ARCH/$1"_*.deb
        mv "$new" "$APT/$ARCH/" || fail "cannot write to $APT"
        deb=$APT/$ARCH/${new##*/}
    fi
    echo "$deb"
}

# The package with the image: KERNEL itself, or the one a meta package depends on.
resolve_kernel() {
    known=$APT/$ARCH/$KERNEL.image
    if [ ! -s "$known" ] || [ -n "${UPDATE:-}" ]; then
        update_lists "$KERNEL"
        image=$(apt_private apt-cache depends --no-recommends --no-suggests "$KERNEL" 2>/dev/null |
            sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1)
        [ -n "$image" ] || image=$KERNEL
        { echo "$image" >"$work/image" && mv "$work/image" "$known"; } 2>/dev/null || fail "cannot write to $APT"
    fi
    cat "$known"
}

unpack() { # deb, directory
    mkdir -p "$2"
    dpkg-deb --extract "$1" "$2" 2>"$log" || fail "cannot unpack $1: $(head -n 1 "$log")"
}

image=$(resolve_kernel)
kernel_deb=$(fetch "$image")
say "kernel: $image"
# The image itself, and of its modules those for our devices and the file systems people put on them. What is not in
# the package is built in.
modules='virtio virtio_ring virtio_pci virtio_pci_legacy_dev virtio_pci_modern_dev virtio_blk virtio-rng failover
    net_failover virtio_net virtio_balloon virtio_console vsock vmw_vsock_virtio_transport_common
    vmw_vsock_virtio_transport fuse virtiofs overlay ext4 jbd2 mbcache crc16 libcrc32c crc32c_generic'
{
    dpkg-deb --fsys-tarfile "$kernel_deb" | tar -x -C "$work" --wildcards './boot/vmlinuz-*' './lib/modules/*.ko*'
} 2>"$log" || fail "cannot unpack $kernel_deb: $(head -n 1 "$log")"
vmlinuz=$(ls "$work"/boot/vmlinuz-* 2>/dev/null) || fail "$image has no boot/vmlinuz"

# --- modules -----------------------------------------------------------------

version=$(ls "$work/lib/modules" 2>/dev/null | head -n 1)
[ -n "$version" ] || fail "$image has no modules"
for module in $modules; do
    path=$(find "$work/lib/modules/$version" -name "$module.ko" | head -n 1)
    [ -z "$path" ] || echo "${path#"$work/"}"
done >"$work/modules"

# --- programs ----------------------------------------------------------------

if [ "$ARCH" = amd64 ] && [ -x /bin/busybox ] && ! ldd /bin/busybox >/dev/null 2>&1; then
    busybox=/bin/busybox
else
    busybox_deb=$(fetch busybox-static)
    unpack "$busybox_deb" "$work/busybox"
    busybox=$work/busybox/bin/busybox
fi

flags="-std=gnu11 -D_GNU_SOURCE -Os -static -s -I$here/../src -I$here"
if [ "$ARCH" = i386 ]; then
    for package in libc6-dev linux-libc-dev libgcc-12-dev libcrypt-dev; do
        deb=$(fetch "$package")
        unpack "$deb" "$work/sdk"
    done
    sdk=$work/sdk/usr
    gccdir=$(ls -d "$sdk"/lib/gcc/i686-linux-gnu/*)
    flags="$flags -m32 -march=i686 -B$sdk/lib/i386-linux-gnu/ -B$gccdir/ -L$sdk/lib/i386-linux-gnu -L$gccdir"
    flags="$flags -isystem $sdk/include/i386-linux-gnu"
fi
# Which needs which, and which device wants which. depmod looks at what is there: the chosen ones.
mkdir -p "$work/chosen/lib/modules/$version"
while read -r path; do
    mkdir -p "$work/chosen/${path%/*}"
    mv "$work/$path" "$work/chosen/$path"
done <"$work/modules"
rm -rf "$work/lib"
depmod=$busybox
"$depmod" true 2>/dev/null || depmod=/bin/busybox
"$depmod" depmod -b "$work/chosen" "$version" 2>"$log" || fail "depmod: $(head -n 1 "$log") (package busybox-static)"

say "compiling init ($ARCH)"
# shellcheck disable=SC2086
"$CC" $flags -o "$work/init" "$here"/init.c "$here"/drivers.c "$here"/network.c "$here"/shares.c "$here"/channel.c "$here"/shell.c "$here"/job.c "$here"/demo.c \
    2>"$log" || { cat "$log" >&2; fail "init does not compile (a static C library is needed: package libc6-dev)"; }
"$CC" -std=gnu11 -D_GNU_SOURCE -O1 -o "$work/mkinitramfs" "$here/mkinitramfs.c" 2>"$log" ||
    { cat "$log" >&2; fail "mkinitramfs does not compile"; }

# --- initramfs ---------------------------------------------------------------

list() {
    for d in bin sbin dev proc sys tmp run root etc usr usr/bin usr/sbin usr/local usr/local/bin; do
        echo "dir $d 0755"
    done
    echo "char dev/console 0600 5 1"
    echo "char dev/null 0666 1 3"
    echo "file init 0755 $work/init"
    echo "file bin/busybox 0755 $busybox"
    for f in passwd group hosts profile; do
        echo "file etc/$f 0644 $work/etc/$f"
    done
    (cd "$work/chosen" && find lib -type d | sort) | sed 's,.*,dir & 0755,'
    (cd "$work/chosen" && find lib -type f | sort) | sed "s,.*,file & 0644 $work/chosen/&,"
    for f in poweroff halt reboot; do
        echo "link sbin/$f /init"
    done
    # Where busybox does not run (another architecture) init makes the links at boot.
    "$busybox" --list-full 2>/dev/null | grep -vE '^(sbin/(init|poweroff|halt|reboot)|bin/busybox|linuxrc)$' |
        sed 's,.*,link & /bin/busybox,'
}

mkdir "$work/etc"
echo "root:x:0:0:root:/root:/bin/sh" >"$work/etc/passwd"
echo "root:x:0:" >"$work/etc/group"
echo "127.0.0.1 localhost trapeze" >"$work/etc/hosts"
echo "PS1='\\u@\\h:\\w\\$ '; export PS1" >"$work/etc/profile"
say "packing the initramfs"
list >"$work/list"
"$work/mkinitramfs" "$work/initrd.img" <"$work/list" 2>"$log" || fail "$(head -n 1 "$log")"

# --- delivery ----------------------------------------------------------------

{
    echo "kernel $(basename "$kernel_deb" .deb)"
    echo "asked-for $KERNEL"
    echo "arch $ARCH"
    echo "busybox $("$busybox" 2>/dev/null | sed -n '1s/ multi-call.*//p')"
} >"$work/VERSION" || fail "cannot write to $OUT"
# VERSION goes last: with it the guest is whole.
rm -f "$OUT/VERSION"
mv "$vmlinuz" "$OUT/vmlinuz" && mv "$work/initrd.img" "$OUT/initrd.img" && mv "$work/VERSION" "$OUT/VERSION" ||
    fail "cannot write to $OUT"
say "ready: $OUT/vmlinuz, $OUT/initrd.img"
