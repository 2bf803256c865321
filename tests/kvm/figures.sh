#!/bin/sh
# What the kvm engine costs, beside QEMU's own use of the same KVM: figures.sh KERNEL INITRD CMDLINE, in the machine of
# run.sh (busybox, root, nothing else running). Prints both sides; status 1 where ours is not what it must be:
#   exits per boot         of the default guest to its shell: no more than QEMU's, with the same kernel and devices
#   memory beyond RAM      of the idle guest's monitor: at most 8 MiB
# and for information the exits of reading from a disk, and the processor time from start to first guest instruction,
# which is judged on a processor, not in an emulator (`start` as first argument does only that, anywhere).
LIMIT_MIB=8 LIMIT_MS=10 MEMORY=256 READS=1000
stats=/sys/kernel/debug/kvm trace=/sys/kernel/tracing
failed=0

# --- start to first guest instruction: of a guest that ends with it -------------------------------

start_time() { # name command...
    name=$1
    shift
    best=
    for _ in 1 2 3 4 5; do
        us=$(cputime "$@" 2>/tmp/start.err) || { echo "$name does not start:"; cat /tmp/start.err; return 1; }
        [ -n "$best" ] && [ "$us" -ge "$best" ] || best=$us
    done
    printf '  %-13s%8s us of processor time from start to end, the best of 5\n' "$name" "$best"
}

# QEMU executes it at the reset vector: mov al, 0; out F4h, al.
make_rom() {
    { head -c 65520 /dev/zero; printf '\260\0\346\364\364\0\0\0\0\0\0\0\0\0\0\0'; } >/tmp/rom
}

start_times() {
    echo "start to first guest instruction, which ends the guest:"
    start_time trapeze trapeze run --engine kvm --net none --memory $MEMORY"M" --kernel "$FIRST"
    ours=$best
    if command -v qemu-system-x86_64 >/dev/null; then
        make_rom
        start_time q35 qemu-system-x86_64 -accel kvm -cpu host,-arch-capabilities -machine q35 -m $MEMORY -nodefaults -display none \
            -bios /tmp/rom -device isa-debug-exit,iobase=0xf4,iosize=4
    fi
}

verdict() { # what, ours, limit
    if [ "$2" -le "$3" ]; then echo "reached: $1: $2, at most $3"
    else failed=1; echo "NOT reached: $1: $2, at most $3"; fi
}

if [ "${1:-}" = start ]; then
    FIRST=${2:?usage: figures.sh start FIRST.ELF}
    start_times
    verdict "us to the first guest instruction" "${ours:-999999}" $((LIMIT_MS * 1000))
    exit $failed
fi
kernel=${1:?} initrd=${2:?} cmdline="${3:?} quiet loglevel=3" FIRST=${4:?}

# --- a boot ---------------------------------------------------------------------------------------------

start_guest() { # monitor [kernel arguments]
    monitor=$1
    shift
    case $monitor in
    trapeze)
        trapeze run --engine kvm --memory $MEMORY"M" --kernel "$kernel" --initrd "$initrd" --append "$cmdline" \
            --disk /tmp/disk --net user <>/tmp/in >/tmp/console 2>/tmp/messages & ;;
    *)
        qemu-system-x86_64 -L /firmware -accel kvm -cpu host -machine "$monitor" -m $MEMORY -nodefaults -display none \
            -no-reboot -serial stdio "$@" \
            -blockdev driver=file,filename=/tmp/disk,node-name=disk -device virtio-blk-pci,disable-legacy=on,drive=disk \
            -netdev user,id=net -device virtio-net-pci,disable-legacy=on,romfile=,netdev=net \
            -device virtio-balloon-pci,disable-legacy=on,free-page-reporting=on -device virtio-rng-pci,disable-legacy=on \
            <>/tmp/in >/tmp/console 2>/tmp/messages & ;;
    esac
    guest=$!
}

wait_for() { # pattern
    waited=0
    until grep -q "$1" /tmp/console; do
        sleep 0.2
        waited=$((waited + 1))
        if [ $waited -gt 1500 ] || ! kill -0 $guest 2>/dev/null; then
            echo "no '$1' from the guest; the last it said:"
            tail -n 5 /tmp/console /tmp/messages
            return 1
        fi
    done
}

# Exits of the processor, those that KVM did not handle itself, and which: of all virtual machines there are.
user_exits() {
    awk '/^entries|^overrun/ { n += $2 } END { print n + 0 }' $trace/per_cpu/cpu*/stats
}
show_exits() { # name
    all=$(cat $stats/exits) user=$(user_exits)
    printf '  %-13s%9d exits, %6d of them to the monitor (io %s, mmio %s, halt %s, interrupt window %s, interrupts of the host %s)\n' \
        "$1" "$all" "$user" "$(cat $stats/io_exits)" "$(cat $stats/mmio_exits)" "$(cat $stats/halt_exits)" \
        "$(cat $stats/irq_window_exits)" "$(cat $stats/irq_exits)"
}

# All that is resident but the guest's RAM: that is the mapping of its size, and those at our addresses for it.
memory_beyond() {
    awk -v ram=$((MEMORY * 1024)) '
    /^[0-9a-f]+-[0-9a-f]+ / { ours = $1 ~ /^2000/ }
    $1 == "Size:" { big = $2 >= ram / 2 }
    $1 == "Rss:" && !big && !ours { all += $2 }
    $1 == "Anonymous:" && !big && !ours { own += $2 }
    END { printf "%d %d\n", all, own }' "/proc/$guest/smaps"
}

begin() {
    : >/tmp/console
    head -c 67108864 /dev/zero >/tmp/disk
    echo 0 >$trace/tracing_on; echo >$trace/trace; echo 1 >$trace/tracing_on
}

end_guest() {
    kill $guest
    wait $guest
}

one_guest() { # monitor
    begin
    start_guest "$1" -kernel "$kernel" -initrd "$initrd" -append "$cmdline"
    if wait_for "Enter 'help'"; then
        show_exits "$1" >>/tmp/boots
        boot_all=$all boot_user=$user
        echo "dd if=/dev/vda of=/dev/null bs=4k count=$READS iflag=direct; echo D'O'NE" >/tmp/in
        if wait_for '^DONE'; then
            printf '  %-13s%9d exits, %6d of them to the monitor\n' "$1" $(($(cat $stats/exits) - boot_all)) \
                $(($(user_exits) - boot_user)) >>/tmp/reads
        else failed=1; fi
        read -r kib own_kib <<END
$(memory_beyond)
END
        printf '  %-13s%9d KiB beyond the guest'"'"'s RAM, %d of them its own (the others are of files)\n' "$1" "$kib" "$own_kib" >>/tmp/memories
    else failed=1; fi
    end_guest
}

# QEMU's firmware does its part before the kernel: what it takes until a kernel that does nothing.
firmware() { # machine
    begin
    start_guest "$1" -kernel "$FIRST"
    before=-1 waited=0
    until now=$(cat $stats/exits) && [ "$now" = "$before" ] && { [ "$now" != 0 ] || [ $waited = 30 ]; }; do
        before=$now waited=$((waited + 1))
        sleep 5
    done
    show_exits "its firmware" >>/tmp/boots
    end_guest
}

mount -t debugfs none /sys/kernel/debug 2>/dev/null
mount -t tracefs none $trace 2>/dev/null
rm -f /tmp/boots /tmp/reads /tmp/memories /tmp/in
mkfifo /tmp/in
echo 1 >$trace/events/kvm/kvm_userspace_exit/enable || failed=1
one_guest trapeze
ours_all=$boot_all ours_user=$boot_user ours_kib=$kib
one_guest q35
least_all=$boot_all least_user=$boot_user
firmware q35
least_all=$((least_all - all)) least_user=$((least_user - user))
echo 0 >$trace/events/kvm/kvm_userspace_exit/enable
echo "a boot to the shell:"; cat /tmp/boots
echo "$READS reads of 4 KiB from a disk:"; cat /tmp/reads
echo "memory, the guest idle:"; cat /tmp/memories
start_times

verdict "exits per boot, against QEMU's without its firmware" "$ours_all" "$least_all"
verdict "of them to the monitor" "$ours_user" "$least_user"
verdict "KiB beyond the guest's RAM" "$ours_kib" $((LIMIT_MIB * 1024))
exit $failed
