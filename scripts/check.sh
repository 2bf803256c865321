#!/bin/sh
# All tests: the plain build's with real kernels, those that read guest data again under sanitizers, bounded fuzzing.
# Called by `make check` from the top of the tree. The last line is the sum.
set -u
logs=
broken=

say() {
    printf '\n== %s\n' "$*"
}

broke() { # what, file with what it said
    cat "$2"
    echo "FAILED: $1"
    broken="$broken --failed '$1'"
}

# A build tree is made, or its options set anew, and built. Status 1 if that failed.
build() { # directory options...
    dir=$1
    shift
    if [ -f "$dir/build.ninja" ]; then
        ninja -C "$dir" build.ninja >"$dir.log" 2>&1 && meson configure "$dir" "$@" >"$dir.log" 2>&1
    else
        meson setup "$dir" "$@" >"$dir.log" 2>&1
    fi && ninja -C "$dir" >"$dir.log" 2>&1 || {
        broke "build in $dir" "$dir.log"
        rm -f "$dir.log"
        return 1
    }
    rm -f "$dir.log"
    echo "$dir: built"
}

guest() { # directory package
    guest/mkguest.sh "$@" >build/guest.log 2>&1 || {
        broke "guest of $2" build/guest.log
        return 1
    }
    tail -n 1 build/guest.log
}

run() { # directory name-of-the-log meson-test-arguments...
    dir=$1
    log=$2
    shift 2
    # Its result is counted from its log; one that is not there is counted as a failure.
    rm -f "$dir/meson-logs/$log.json"
    meson test -C "$dir" --no-rebuild --print-errorlogs --logbase "$log" "$@"
    logs="$logs $dir/meson-logs/$log.json"
}

say 'Build'
build build -Dtests=enabled && {
    say 'Guests'
    guest build/guest linux-image-cloud-amd64
    guest build/guest-full linux-image-amd64
    guest build/guest-686 linux-image-686-pae

    say 'Tests'
    run build check
}

# The instruction tests' many states are for the plain build; here it is the forms that count.
say 'Tests under AddressSanitizer and UndefinedBehaviorSanitizer'
build build-sanitize -Dtests=enabled -Disa_states=24 -Db_sanitize=address,undefined -Db_lundef=false &&
    run build-sanitize sanitize --suite unit --suite isa --suite device --timeout-multiplier 4

say 'Fuzzing, bounded'
export CC=clang
build build-fuzz -Dfuzz=true -Db_sanitize=address,undefined -Db_lundef=false && run build-fuzz fuzz --suite fuzz

say 'All tests'
eval "exec scripts/sum.py $broken $logs"
