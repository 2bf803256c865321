#!/bin/bash
# Shared directories under a real kernel: shares.sh TRAPEZE GUEST_DIRECTORY [ENGINE]. Prints a line a case and the sum.
set -u
trapeze=$(realpath "$1") guest=$2 engine=${3:-bt}
[ -s "$guest/vmlinuz" ] || { echo "no guest in $guest: make guest"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0
share=$work/share

run() { timeout 300 "$trapeze" run --engine "$engine" "$@" </dev/null >"$work/out" 2>"$work/err"; }

result() { # name condition-status
    if [ "$2" = 0 ]; then passed=$((passed + 1)); echo "PASS $1"
    else failed=$((failed + 1)); echo "FAIL $1"; tail -n 20 "$work/out" "$work/err" 2>/dev/null; fi
}

mkdir "$share" "$share/dir"
echo secret >"$work/secret"
echo from-the-host >"$share/file"
ln -s ../secret "$share/link"
ln -s "$work/secret" "$share/absolute"

for mistake in "$work/none" "$share,rw" "$share:bad/tag" "$share:a b" /proc; do
    run --share "$mistake" -- true
    [ $? = 2 ] && [ "$(wc -l <"$work/err")" = 1 ] && grep -q -- --share "$work/err"
    result "a mistake: --share ${mistake#"$work/"}" $?
done
run --share "$share" --share "$share" -- true
[ $? = 2 ] && grep -q "two of the tag 'share'" "$work/err"; result "one tag twice" $?
run --root elsewhere -- true
[ $? = 2 ] && grep -q -- --root "$work/err"; result "no such root" $?

run --share "$share" -- sh -ec 'cd /mnt/share; cat file; echo from-the-guest >new; mkdir -p a/b; mv new a/b/c; ln a/b/c hard
    ln -s a sym; cat sym/b/c; chmod 751 a; i=0; while [ $i -lt 300 ]; do echo $i >a/$i; i=$((i + 1)); done; ls a | wc -l
    dd if=/dev/urandom of=big bs=1M count=20 2>/dev/null; sync; echo 3 >/proc/sys/vm/drop_caches; md5sum <big'
[ $? = 0 ] && [ "$(sed -n 1,3p "$work/out")" = "$(printf 'from-the-host\nfrom-the-guest\n301')" ] &&
    [ "$(cat "$share/hard")" = from-the-guest ] && [ "$(stat -c %a "$share/a")" = 751 ] &&
    [ "$(tail -n 1 "$work/out")" = "$(md5sum <"$share/big")" ]; result "read and write" $?

run --share "$share:t,writeback" -- sh -ec 'cd /mnt/t; echo x >w; dd if=w of=w2 bs=1 2>/dev/null; cat big >big2; echo more >>big2; cmp w w2'
[ $? = 0 ] && cmp -s "$share/w" "$share/w2" && [ "$(stat -c %s "$share/big2")" = 20971525 ] &&
    [ "$(tail -c 5 "$share/big2")" = more ]; result "writeback" $?

run --share "$share:t,ro" -- sh -c 'cd /mnt/t; cat file; echo x >file; echo x >new2; rm file; mkdir d; chmod 777 dir; mv file f; touch dir'
[ "$(cat "$work/out")" = from-the-host ] && [ "$(cat "$share/file")" = from-the-host ] && [ ! -e "$share/new2" ] &&
    [ ! -e "$share/d" ] && [ "$(grep -c 'Read-only file system' "$work/err")" -ge 6 ]; result "read-only" $?

run --share "$share" -- sh -c 'cd /mnt/share; cat link absolute ../secret; echo changed >link; echo changed >absolute; ls -l'
! grep -q '^secret' "$work/out" && [ "$(cat "$work/secret")" = secret ]; result "links lead nowhere" $?

mkdir "$work/second"
run --share "$share:one" --share "$work/second:two" -- sh -ec 'cp /mnt/one/file /mnt/two/copy; umount /mnt/two; mkdir /m; mount -t virtiofs two /m; cat /m/copy'
[ $? = 0 ] && [ "$(cat "$work/out")" = from-the-host ] && cmp -s "$share/file" "$work/second/copy"; result "two shares, mounted again" $?

: >"$work/out"
(for _ in $(seq 600); do grep -q from-the-host "$work/out" && break; sleep 0.1; done; sleep 0.5; echo changed >"$share/file"; echo "a longer line" >"$share/dir/later") &
run --share "$share" -- sh -c 'cd /mnt/share; cat file; ls dir; i=0; while ! grep -q changed file && [ $i -lt 20 ]; do sleep 1; i=$((i + 1)); done; cat file; sleep 2; cat dir/later'
wait
[ "$(cat "$work/out")" = "$(printf 'from-the-host\nchanged\na longer line')" ]; result "the host's changes are seen" $?

(cd "$share/dir" && HELLO='from here' run --root host -- sh -c 'pwd; id -u; echo "$HELLO"; echo x >/etc/made && cat /etc/made; cat /proc/1/comm
    echo gone >later; test -d /usr/bin && exit 42')
[ $? = 42 ] && [ "$(cat "$work/out")" = "$(printf '%s\n%s\nfrom here\nx\ninit' "$share/dir" "$(id -u)")" ] && [ ! -e /etc/made ] &&
    [ "$(cat "$share/dir/later")" = "a longer line" ]; result "the host's root, and the current directory" $?

cat >"$share/Makefile" <<'MAKE'
test: ; @echo made here >made; cat made; exit 3
MAKE
if command -v make >/dev/null; then
    (unset MAKEFLAGS MAKELEVEL MFLAGS && cd "$share" && run --root host -- make test) # (we may be under make ourselves)
    [ $? = 2 ] && [ "$(head -n 1 "$work/out")" = "made here" ] && [ ! -e "$share/made" ]; result "make test in the host's root" $?
fi
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
    chmod 755 "$work" "$share"
    (cd "$share" && timeout 300 setpriv --reuid 65534 --regid 65534 --clear-groups "$trapeze" run --engine "$engine" \
        --root host -- sh -c 'id -u; id -g; pwd; echo x >made; touch /tmp/mine && stat -c %u /tmp/mine; cat /etc/shadow' \
        </dev/null >"$work/out" 2>"$work/err")
    [ "$(cat "$work/out")" = "$(printf '65534\n65534\n%s\n65534' "$share")" ] && [ ! -e "$share/made" ] &&
        [ "$(grep -c 'Permission denied' "$work/err")" = 2 ]; result "the host's root as an ordinary user" $?
fi

echo "$passed passed, $failed failed"
[ $failed = 0 ]
