#!/bin/sh
# Installs the Debian packages that are missing for a purpose: packages.sh build|guest|check|bench|real|io|soak.
# Says which; directly as root, else through sudo. Status 2 and one line if that cannot be done.
set -u

build='gcc libc6-dev make pkg-config meson ninja-build libzydis-dev libzstd-dev liblzma-dev liblz4-dev zlib1g-dev libslirp-dev'
case ${1:-} in
build) want=$build ;;
guest) want="$build busybox-static" ;;
check) want="$build busybox-static libcmocka-dev clang clang-format libclang-rt-14-dev python3 e2fsprogs" ;;
bench) want="$build busybox-static qemu-system-x86" ;;
real) want="$build busybox-static qemu-system-x86 lua5.4 openssl perl-base python3 sqlite3" ;;
io) want="$build busybox-static qemu-system-x86 fio iperf3" ;;
soak) want="$build busybox-static e2fsprogs mmdebstrap python3 uidmap" ;;
*) echo "usage: $0 build|guest|check|bench|real|io|soak" >&2; exit 2 ;;
esac

missing=
for package in $want; do
    dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
done
[ -z "$missing" ] && exit 0

echo "Debian packages to install:$missing"
as_root=
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "not root, and there is no sudo: install them as root, then call again" >&2; exit 2; }
    as_root=sudo
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
{ $as_root apt-get update && $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing; } >"$log" 2>&1 ||
    { tail -n 5 "$log" >&2; echo "apt-get could not install:$missing" >&2; exit 2; }
echo "installed."
