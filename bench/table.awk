# The table of a benchmark: medians of the times in lines of "COLUMN GROUP NAME NANOSECONDS ...", and their ratios to
# those of the columns native and qemu-tcg. -v columns="native interp ..." gives the columns in their order.
BEGIN {
    title["integer"] = "user code, integer"
    title["float"] = "user code, floating point"
    title["kernel"] = "kernel work"
    title["real"] = "real programs"
    title["share"] = "a shared directory"
    title["smp"] = "two processors, and one"
    title["boot"] = "boot, from the start of the monitor"
    count = split(columns, column, " ")
}

{
    row = $2 " " $3
    if (!(row in known)) {
        known[row] = 1
        if (!($2 in rows)) order[++groups] = $2
        name[$2, ++rows[$2]] = $3
    }
    list[row, $1] = list[row, $1] " " $4
}

# The middle one; of an even number the mean of both.
function median(text,    n, i, j, t, v) {
    n = split(text, v, " ")
    for (i = 2; i <= n; i++)
        for (j = i; j > 1 && v[j - 1] + 0 > v[j] + 0; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
    return n ? (v[int((n + 1) / 2)] + v[int(n / 2) + 1]) / 2 : 0
}

function time_text(ns) {
    return !ns ? "-" : ns < 1e3 ? sprintf("%.2f ns", ns) : ns < 1e6 ? sprintf("%.2f us", ns / 1e3) : \
        sprintf("%.2f ms", ns / 1e6)
}

function ratio_text(ratio) {
    return ratio ? sprintf("%.2f", ratio) : "-"
}

# The ratios of a row to its time in the base column, for the columns from the second to last. Each goes into the
# geometric mean of its group.
function ratios(row, group, base, last,    c, ratio) {
    printf "  |"
    for (c = 2; c <= last; c++) {
        ratio = time[row, base] ? time[row, column[c]] / time[row, base] : 0
        printf "%10s", ratio_text(ratio)
        if (ratio) { sum[group, base, c] += log(ratio); terms[group, base, c]++ }
    }
}

function means(group, base, last,    c) {
    printf "  |"
    for (c = 2; c <= last; c++)
        printf "%10s", terms[group, base, c] ? ratio_text(exp(sum[group, base, c] / terms[group, base, c])) : "-"
}

function heading(    c) {
    qemu = column[count] == "qemu-tcg" && count > 2 ? count - 1 : 0
    printf "%-16s%*s", "", 12 * count, "time"
    printf "  |%*s", 10 * (count - 1), "time / native"
    if (qemu) printf "  |%*s", 10 * (qemu - 1), "/ QEMU"
    printf "\n%-16s", ""
    for (c = 1; c <= count; c++) printf "%12s", column[c]
    printf "  |"
    for (c = 2; c <= count; c++) printf "%10s", column[c]
    if (qemu) {
        printf "  |"
        for (c = 2; c <= qemu; c++) printf "%10s", column[c]
    }
    print ""
}

function print_group(group,    r, c, row) {
    print title[group]
    for (r = 1; r <= rows[group]; r++) {
        row = group " " name[group, r]
        printf "  %-14s", name[group, r]
        for (c = 1; c <= count; c++) {
            time[row, column[c]] = median(list[row, column[c]])
            printf "%12s", time_text(time[row, column[c]])
        }
        ratios(row, group, "native", count)
        if (qemu) ratios(row, group, "qemu-tcg", qemu)
        print ""
    }
    if (rows[group] < 3) return
    printf "  %-14s%*s", "geometric mean", 12 * count, ""
    means(group, "native", count)
    if (qemu) means(group, "qemu-tcg", qemu)
    print ""
}

# What a second processor is good for.
function print_gains(who) {
    if (time["smp two-on-2-cpus", who])
        printf "%s: two computing processes, 2 processors against 1: %.2f; make -j2 against -j1: %.2f\n", who, \
            time["smp two-on-1-cpu", who] / time["smp two-on-2-cpus", who], time["smp make-j1", who] / time["smp make-j2", who]
}

END {
    heading()
    for (g = 1; g <= groups; g++) if (order[g] != "boot") print_group(order[g])
    if ("boot" in rows) print_group("boot")
    for (c = 2; c <= count; c++)
        if (time["integer loop", column[c]])
            loop = loop sprintf("  %s %.0f", column[c], 1000 / time["integer loop", column[c]])
    for (c = 1; "smp" in rows && c <= count; c++) print_gains(column[c])
    if (loop) print "million guest instructions a second on `loop`:" loop
}
