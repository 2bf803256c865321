#!/bin/sh
# The include rules of docs/architecture.md, read from the #include lines: who may know whom.
# Usage: layers.sh SOURCE_ROOT. Prints each breach; status 1 if there is one.
set -u
cd "$1/src" || exit 2
bad=0

# folder: the folders (or headers) it may include besides its own
rules='
base:
x86: base
mem: base
state: base
backend: base
bus: base mem
engine: base mem x86
device: base state mem bus backend
boot: base mem x86
machine: base x86 mem state backend bus engine device boot
control: base backend machine
cli: base control
'

allowed() { # folder included
    case " $(printf '%s' "$rules" | sed -n "s/^$1: *//p") $1 " in
    *" $2 "*) return 0 ;;
    esac
    return 1
}

breach() {
    echo "$1 may not include $2"
    bad=1
}

list=$(find . -name '*.[ch]' | sed 's,^\./,,' | sort)
for file in $list; do
    folder=${file%%/*}
    for header in $(sed -n 's/^#include "\([^"]*\)".*/\1/p' "$file"); do
        target=${header%%/*}
        [ -f "$header" ] || breach "$file" "$header (write it from src/)"
        allowed "$folder" "$target" || breach "$file" "$header"
        case $header in
        */*_internal.h) # stays in its folder
            [ "${header%/*}" = "${file%/*}" ] || breach "$file" "$header" ;;
        engine/*/*) # an engine knows no other; what software engines share is engine/soft
            case $file in
            machine/board.c) ;;
            *) own=${file#engine/}; own=${own%%/*}; other=${header#engine/}; other=${other%%/*}
               [ "$own" = "$other" ] || [ "$other" = soft ] || breach "$file" "$header" ;;
            esac ;;
        device/*/*) # only the board names devices
            case $file in machine/board.c | device/*) ;; *) breach "$file" "$header" ;; esac ;;
        esac
    done
done

# Each header compiles alone.
for header in $(printf '%s\n' "$list" | grep '\.h$'); do
    printf '#include "%s"\n' "$header" |
        ${CC:-cc} -std=gnu11 -D_GNU_SOURCE -Wall -Wextra -Wno-unused-parameter -Werror -I. -fsyntax-only -x c - ||
        { echo "$header does not compile alone"; bad=1; }
done
[ "$bad" = 0 ] && echo "include rules hold for $(printf '%s\n' "$list" | wc -l) files"
exit $bad
