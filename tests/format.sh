#!/bin/sh
# All C sources are as clang-format leaves them: format.sh SOURCE_ROOT. Skipped (77) without clang-format.
command -v clang-format >/dev/null || exit 77
cd "$1" || exit 2
find src tests fuzz bench guest -name '*.[ch]' -print0 | xargs -0 clang-format --dry-run --Werror
