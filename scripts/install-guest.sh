#!/bin/sh
# Installs the default guest, if it has been made: install-guest.sh GUEST DATADIR (called by `meson install`; DATADIR is
# below the prefix, or absolute).
set -eu
[ -s "$1/vmlinuz" ] && [ -s "$1/initrd.img" ] || { echo "no default guest in $1: none installed"; exit 0; }
case $2 in
/*) to=${DESTDIR:-}$2 ;;
*) to=$MESON_INSTALL_DESTDIR_PREFIX/$2 ;;
esac
mkdir -p "$to"
for file in vmlinuz initrd.img; do
    cp "$1/$file" "$to/$file"
    chmod 644 "$to/$file"
done
echo "default guest: $to"
