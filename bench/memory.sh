#!/bin/bash
# What a monitor needs beyond its guest's RAM: memory.sh [ENGINE...]: resident memory of the process of each of our
# engines (default: interp and bt) and of QEMU's TCG if it is installed, while the default guest idles at its shell.
#
# "own" is anonymous and shared memory (heap, stacks, code caches, tables), pages mapped twice counted once; "files" is
# the program and its libraries, as far as they are in memory. Guest RAM is what is mapped from 32 TiB on, or QEMU's memfd.
cd "$(dirname "$0")/.." || exit 2
# shellcheck source=bench/common.sh
. bench/common.sh
# QEMU's guest RAM as a memfd too, so that it can be told from the rest.
qemu_machine=,memory-backend=ram
qemu_options='-object memory-backend-memfd,id=ram,size=512M'

print_memory() { # monitor smaps
    awk -v monitor="$1" '
    /^[0-9a-f]+-[0-9a-f]+ / {
        path = $6
        kind = $1 ~ "^200[0-9a-f]........-" || path ~ "^/memfd:memory-backend" ? "ram" : path ~ "^/" && path !~ "^/(memfd:|dev/zero)" ? "file" : "own"
    }
    $1 == "Rss:" { rss = $2 }
    $1 == "Pss:" && kind == "own" { own += $2 }
    $1 == "Rss:" && kind == "ram" { ram += $2 }
    $1 == "Anonymous:" && kind == "file" { own += $2; files += rss - $2 }
    END {
        printf "%-12s%9.1f%9.1f%9.1f%12.1f\n", monitor, (own + files) / 1024, own / 1024, files / 1024, ram / 1024
    }' "$2"
}

printf '%-12s%9s%9s%9s%12s   MiB resident, the guest idle at its shell\n' '' beyond own files 'guest RAM'
for monitor in $monitors; do
    if boot_to_shell "$monitor"; then
        sleep 3
        # The monitor is the child of timeout.
        read -r pid _ <"/proc/$running/task/$running/children"
        cp "/proc/$pid/smaps" "$work/smaps" && print_memory "$monitor" "$work/smaps"
    else
        complain "$monitor"
    fi
    end_running
done
