#!/bin/bash
# The kvm engine on a KVM with hardware virtualization, wherever there is QEMU: run.sh BUILD [STEP]...
# QEMU's TCG has SVM; Debian's kernel in there has kvm-amd; its initramfs holds this build, the engine tests and the
# default guest. Slow, but a real KVM. STEPs are some of those below (all if none); or --command 'SHELL COMMAND',
# with FILES in its /bin.
# Prints what each said, PASS or FAIL for each, and the sum; everything is in BUILD/kvm-test/console at the end, and
# what a machine has said so far in BUILD/kvm-test/*.console.
set -u
here=$(cd "$(dirname "$0")" && pwd)
build=$(realpath "${1:?usage: run.sh BUILD [STEP]...}")
shift
work=${WORK:-$build/kvm-test}

skip() { echo "kvm tests: skipped: $*"; exit 77; }
fail() { echo "kvm tests: $*" >&2; exit 2; }

# What differs is KVM's, or QEMU's processor's: each line of these lists says why.
known='--differs /differs/kvm-differs.txt --differs /differs/nested-differs.txt --differs /differs/qemu-differs.txt'
# seconds | step | command; those of the second list in a machine of their own beside the first one, if there is a
# processor for it; of the third in one with four processors, of the fourth in one with XSAVE and AVX. QEMU 7.2 seems
# not to let KVM intercept XSETBV: XCR0 is lost at the next entry into the guest, unless KVM has been told of its value
# before (--xcr0). So most tests have a processor without XSAVE.
steps="60|doctor|trapeze doctor
3600|engine|engine-run --engine kvm --limit 120 $known --differs /differs/turns-differs.txt /images
300|contract|engine-contract kvm
300|processors|trapeze run --engine kvm --cpus 2 -- sh -c 'test \$(nproc) = 2'
300|auto|trapeze run -- true 2>&1 | tee /tmp/auto; grep -q 'engine kvm' /tmp/auto
1500|guests|DATA=3000 sh /guests.sh /bin/trapeze /bin/guest kvm
900|figures|sh /figures.sh /bin/guest/vmlinuz /bin/guest/initrd.img '$(sed -n 's/^#define GUEST_CMDLINE.*"\(.*\)"/\1/p' "$here/../../src/control/guest.h")' /bin/first.elf
600|devices|sh /devices.sh
120|refused|sh /refused.sh /bin/trapeze /bin/refusing /bin/first.elf
60|shadow|shadow; test \$? = 1
60|pdpte|pdpte; test \$? = 1
60|absent|mv /dev/kvm /dev/away; trapeze run --engine kvm; status=\$?; mv /dev/away /dev/kvm; test \$status = 2"
long_steps="7200|lockstep|engine-run --engine lockstep:kvm,interp --limit 300 $known --differs /differs/lockstep-differs.txt /images"
smp_steps="2400|smp|engine-run --engine kvm --limit 250 --filter /smp_ $known /images"
xsave_steps="600|avx|engine-run --engine kvm --xcr0 7 --filter /fpu_ $known --differs /differs/avx-differs.txt /images"

command -v qemu-system-x86_64 >/dev/null || skip "qemu-system-x86_64 is not installed"
[ -s "$build/guest/vmlinuz" ] || skip "no guest in $build/guest: make guest"
deb=$(ls "$build/apt/amd64/$(sed -n 's/^kernel //p' "$build/guest/VERSION").deb" 2>/dev/null) ||
    skip "the package of the guest's kernel is not in $build/apt: UPDATE=1 make guest"

# --- initramfs ------------------------------------------------------------------------

root=$work/root
rm -rf "$work"/{root,*.root,*.cpio,*.console}
mkdir -p "$root"/{bin,modules,images,proc,sys,dev,tmp,lib64} || fail "cannot write to $work"
dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$root/modules" --strip-components=10 --wildcards \
    '*/virt/lib/irqbypass.ko' '*/x86/kvm/kvm.ko' '*/x86/kvm/kvm-amd.ko' --transform 's,.*/,a/b/c/d/e/f/g/h/i/j/,' ||
    fail "cannot unpack $deb"
busybox=$(command -v busybox) || fail "busybox-static is needed"
cp "$busybox" "$root/bin/busybox"
for name in $("$busybox" --list); do [ "$name" = busybox ] || ln -s busybox "$root/bin/$name"; done
cp "$here/init.sh" "$root/init"
chmod 755 "$root/init"
mkdir "$root/differs"
cp "$here"/*-differs.txt "$here/../engine/qemu-differs.txt" "$root/differs/"
cp "$here/../boot/guests.sh" "$root/"
cp "$build/tests/engine/long.elf" "$build/tests/engine/prot.elf" "$root/images/"
mkdir "$root/bin/guest"
cp "$build/guest/vmlinuz" "$build/guest/initrd.img" "$root/bin/guest/"
cp "$here"/{figures,devices,refused}.sh "$root/"
cp "$build/tests/kvm/first.elf" "$root/bin/"
qemu=$(command -v qemu-system-x86_64)
for program in "$build"/{trapeze,tests/engine/engine-run,tests/engine/engine-contract,tests/kvm/{cputime,shadow,pdpte,refusing},tests/boot/{terminal,vsock_peer}} "$qemu"; do
    [ -x "$program" ] || continue
    cp -L "$program" "$root/bin/"
    strip --strip-debug "$root/bin/${program##*/}"
    ldd "$program" 2>/dev/null | sed -n 's/.*[ \t]\(\/[^ ]*\) (.*/\1/p' | while read -r library; do
        mkdir -p "$root${library%/*}"
        cp -L -n "$library" "$root$library"
    done
done
# What QEMU needs of its own to be run in there.
for file in /usr/share/{qemu,seabios}/{bios-256k.bin,bios-microvm.bin,kvmvapic.bin,linuxboot_dma.bin,multiboot_dma.bin,pvh.bin,qboot.rom}; do
    [ -e "$file" ] || continue
    mkdir -p "$root/firmware"
    cp -L "$file" "$root/firmware/"
done

for file in ${FILES:-}; do cp "$file" "$root/bin/"; done
choose() { # list [STEP]...
    printf '%s\n' "$1" | while IFS='|' read -r limit name command; do
        [ -n "$name" ] || continue
        if [ $# = 1 ] || [[ " $* " = *" $name "* ]]; then echo "$limit|$name|$command"; fi
    done
}
if [ "${1:-}" = --command ]; then
    steps="${LIMIT:-600}|command|$2" long_steps= smp_steps= xsave_steps=
    set --
fi
# On the processor itself, whose KVM may be any: the time to the first guest instruction says nothing in an emulator.
: >"$work/console" >"$work/own-steps"
if [ -w /dev/kvm ] && [ $# = 0 ] && [ -n "$xsave_steps" ] || [[ " $* " = *" start "* ]]; then
    echo "60|start|" >"$work/own-steps"
    { echo "== begin start"
      PATH=$build:$build/tests/kvm:$PATH "$here/figures.sh" start "$build/tests/kvm/first.elf"
      echo "== status $? start"; } 2>&1 | tee "$work/console"
fi
choose "$long_steps" "$@" >"$work/long-steps"
choose "$steps" "$@" >"$work/steps"
choose "$smp_steps" "$@" | grep . >"$work/smp-steps"
choose "$xsave_steps" "$@" | grep . >"$work/xsave-steps"
cat "$work"/{own-,long-,,smp-,xsave-}steps | grep -q . || fail "no such step: $*"

# Its clock's rate is ours; a kernel that measured it on a busy host would have hours pass in minutes.
cc -O2 -o "$work/tsc_khz" "$here/../../bench/tsc_khz.c" || fail "cannot compile bench/tsc_khz.c"

# --- the machine ------------------------------------------------------------------------

(cd "$root" && find . | "$busybox" cpio -o -H newc --quiet) >"$work/root.cpio" || fail "cannot pack the initramfs"

run_steps() { # file, processor, number of processors
    [ -s "$1" ] || return 0
    mkdir -p "$1.root" && cp "$1" "$1.root/steps"
    { cat "$work/root.cpio"; (cd "$1.root" && echo steps | "$busybox" cpio -o -H newc --quiet); } >"$1.cpio" ||
        fail "cannot pack the initramfs"
    timeout $((300 + $(cut -d'|' -f1 "$1" | paste -sd+ | bc))) \
        qemu-system-x86_64 -machine q35 -accel tcg -cpu "$2" -m 2G -smp "$3" -nodefaults -no-reboot \
        -display none -serial stdio -kernel "$build/guest/vmlinuz" -initrd "$1.cpio" \
        -append "console=ttyS0 loglevel=1 tsc=reliable tsc_early_khz=$("$work/tsc_khz") cryptomgr.notests ${APPEND:-}" \
        </dev/null 2>&1 | sed -u 's,\r,,' | tee -a "$1.console"
}

cpu=${CPU:-max,svm=on,xsave=off}
run_steps "$work/long-steps" "$cpu" 1 &
[ "$(nproc)" != 1 ] || wait
run_steps "$work/steps" "$cpu" "${CPUS:-1}"
wait
run_steps "$work/smp-steps" max,svm=on,xsave=off 4
run_steps "$work/xsave-steps" max,svm=on 1
cat "$work"/*.console >>"$work/console" 2>/dev/null
passed=0 failed=0
while IFS='|' read -r _ name _; do
    if grep -qx "== status 0 $name" "$work/console"; then passed=$((passed + 1)); echo "PASS $name"
    else failed=$((failed + 1)); echo "FAIL $name"; fi
done < <(cat "$work"/{own-,long-,,smp-,xsave-}steps)
echo "$passed passed, $failed failed"
[ $failed = 0 ]
