#!/bin/bash
# Debian with systemd from a disk, again and again: soak_disk.sh TRAPEZE [CYCLES [IMAGE]]. Each cycle, on the same disk:
# to the login prompt, what the last cycle installed is there and is removed, apt-get installs it anew from an HTTP
# repository on the host's loopback, poweroff, e2fsck -fn. Prints a line a cycle and the sum. IMAGE is copied, not
# changed; without it, one is made. ENGINE in the environment: the engine (bt).
set -u
trapeze=$1 cycles=${2:-20} image=${3:-}
PATH=$PATH:/sbin:/usr/sbin
for tool in e2fsck python3 dpkg-deb; do
    command -v $tool >/dev/null || { echo "no $tool: packages e2fsprogs, python3, dpkg"; exit 77; }
done
work=$(mktemp -d "${TMPDIR:-/var/tmp}/soak.XXXXXX")
server='' guest=''
end() {
    [ -z "$guest" ] || kill "$guest" 2>/dev/null
    [ -z "$server" ] || kill "$server" 2>/dev/null
    rm -rf "$work"
}
trap end EXIT
trap 'exit 130' INT TERM HUP

# --- the repository ----------------------------------------------------------------------------------------------

package=$work/package
mkdir -p "$package/DEBIAN" "$package/usr/share/soak" "$work/repository"
head -c 4000000 /dev/urandom >"$package/usr/share/soak/data"
(cd "$package" && sha256sum usr/share/soak/data) | sed 's, usr, /usr,' >"$work/sum"
cp "$work/sum" "$package/usr/share/soak/sum"
printf 'Package: soak\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\nDescription: soak test\n' \
    >"$package/DEBIAN/control"
(
    cd "$work/repository" || exit
    dpkg-deb --root-owner-group -b "$package" soak_1_all.deb >/dev/null
    cat "$package/DEBIAN/control"
    printf 'Filename: ./soak_1_all.deb\nSize: %s\nSHA256: %s\n' "$(stat -c %s soak_1_all.deb)" \
        "$(sha256sum soak_1_all.deb | cut -d ' ' -f 1)"
) >"$work/Packages"
mv "$work/Packages" "$work/repository/"
python3 -u -m http.server --bind 127.0.0.1 --directory "$work/repository" 0 >"$work/http" 2>&1 &
server=$!
for _ in $(seq 100); do port=$(sed -n 's/.* port \([0-9]*\) .*/\1/p' "$work/http"); [ -n "$port" ] && break; sleep 0.1; done
[ -n "$port" ] || { echo "no HTTP server:"; cat "$work/http"; exit 1; }

mkfifo "$work/keys"

# --- a cycle -----------------------------------------------------------------------------------------------------

# Waits until the console has said that, behind its first $mark bytes.
await() { # text seconds
    local end=$((SECONDS + $2))
    until tail -c "+$((mark + 1))" "$work/console" | grep -qaF "$1"; do
        [ $SECONDS -lt $end ] && kill -0 "$guest" 2>/dev/null || return 1
        sleep 0.2
    done
}

send() { # line
    mark=$(stat -c %s "$work/console")
    printf '%s\n' "$1" >&"$keys"
}

# Sends a line; it prints its status, which is what is awaited: "$?" as sent is not that.
type_line() { # line seconds
    send "$1; echo status=\$?."
    await 'status=0.' "$2"
}

cycle() { # number
    : >"$work/console"
    mark=0
    "$trapeze" run --engine "${ENGINE:-bt}" --memory 512M --disk "$disk" <"$work/keys" >"$work/console" 2>"$work/stderr" &
    guest=$!
    exec {keys}>"$work/keys"
    await 'login: ' 300 || { echo "no login prompt"; return 1; }
    send root
    await 'root@' 120 || { echo "no shell"; return 1; }
    type_line "stty -echo; systemctl is-system-running --wait >/tmp/state; test \"\$(cat /tmp/state)\" = running" 300 ||
        { echo "systemd is not content"; return 1; }
    if [ "$1" -gt 1 ]; then
        type_line 'sha256sum -c /usr/share/soak/sum && apt-get -qq purge soak && test ! -e /usr/share/soak' 300 ||
            { echo "what was installed before is not there"; return 1; }
    else
        type_line "rm -rf /etc/apt/sources.list*; echo 'deb [trusted=yes] http://10.0.2.2:$port ./' >/etc/apt/sources.list" 60 ||
            { echo "no sources.list"; return 1; }
    fi
    type_line 'apt-get update && apt-get -y install soak && sha256sum -c /usr/share/soak/sum' 300 ||
        { echo "apt-get install"; return 1; }
    send poweroff
    await 'Power down' 300
    exec {keys}>&-
    wait "$guest"
    status=$?
    guest=
    [ $status = 0 ] || { echo "the monitor ended with status $status"; return 1; }
    e2fsck -fn "$disk" >"$work/fsck" 2>&1 || { echo "e2fsck:"; cat "$work/fsck"; return 1; }
}

# --- all of them -------------------------------------------------------------------------------------------------

disk=$work/disk.img
if [ -n "$image" ]; then
    cp --sparse=always "$image" "$disk" || exit 1
else
    "$trapeze" image debian "$disk" --size 2G >"$work/image" 2>&1 || { tail -n 20 "$work/image"; exit 1; }
fi
passed=0
for i in $(seq "$cycles"); do
    began=$SECONDS
    if ! cycle "$i"; then
        echo "FAIL cycle $i; the last on the console and of the monitor:"
        tail -n 20 "$work/console"
        cat "$work/stderr"
        break
    fi
    passed=$((passed + 1))
    echo "PASS cycle $i: $((SECONDS - began)) s"
done
echo "$passed of $cycles passed"
[ "$passed" = "$cycles" ]
