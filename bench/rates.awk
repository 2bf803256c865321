# The table of io.sh: medians of the rates in lines of "COLUMN GROUP NAME RATE", and ours as parts of the host's own and
# as multiples of qemu-tcg's. -v columns="native bt ... qemu-tcg".
BEGIN {
    count = split(columns, column, " ")
    unit["disk 4k"] = "IO/s"
    unit["disk 1M"] = "MiB/s"
    unit["net"] = "Mbit/s"
}

{
    row = $2 " " $3
    if (!(row in known)) { known[row] = 1; order[++rows] = row }
    list[row, $1] = list[row, $1] " " $4
}

function median(text,    n, i, j, t, v) {
    n = split(text, v, " ")
    for (i = 2; i <= n; i++)
        for (j = i; j > 1 && v[j - 1] + 0 > v[j] + 0; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
    return n ? (v[int((n + 1) / 2)] + v[int(n / 2) + 1]) / 2 : 0
}

function part(rate, base) {
    return rate && base ? sprintf("%.2f", rate / base) : "-"
}

END {
    qemu = column[count] == "qemu-tcg" ? "qemu-tcg" : ""
    last = qemu ? count - 1 : count
    printf "%-20s%8s", "", ""
    for (c = 1; c <= count; c++) printf "%12s", column[c]
    for (c = 2; c <= last; c++) printf "  |%16s", column[c] " / native"
    for (c = 2; qemu && c <= last; c++) printf "  |%16s", column[c] " / QEMU"
    print ""
    for (r = 1; r <= rows; r++) {
        row = order[r]
        split(row, word, " ")
        kind = word[1] == "disk" ? (word[2] ~ /4k/ ? "disk 4k" : "disk 1M") : word[1]
        printf "%-20s%8s", row, unit[kind]
        for (c = 1; c <= count; c++) {
            rate[c] = median(list[row, column[c]]) / (kind == "disk 1M" ? 1024 : kind == "net" ? 1000 : 1)
            printf "%12.0f", rate[c]
        }
        for (c = 2; c <= last; c++) printf "  |%16s", part(rate[c], rate[1])
        for (c = 2; qemu && c <= last; c++) printf "  |%16s", part(rate[c], rate[count])
        print ""
    }
}
