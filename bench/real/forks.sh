# bench/real/forks.sh: a shell that starts one small program after the other.
i=0
while [ $i -lt 100 ]; do
    /usr/bin/true
    line=$(echo "line $i of it" | sed 's/\([a-z]*\) \([0-9]*\)/\2 \1/')
    (: in a subshell)
    i=$((i + 1))
done
echo "$line"
