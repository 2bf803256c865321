#!/bin/sh
# What engine/bt/leaf.c was compiled to calls nothing outside and touches no vector register (leaf.h says why).
# Usage: leaf.sh LIBRARY. Status 1: it does.
set -u
outside=$(nm -u "$1" | grep ' U ')
vectors=$(objdump -d "$1" | grep -E '%([xyz]mm|mm|st)[0-9(]')
[ -z "$outside$vectors" ] && exit 0
echo "$outside$vectors"
exit 1
