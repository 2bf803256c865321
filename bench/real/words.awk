# bench/real/words.awk: some megabytes of text, always the same: awk -f words.awk -v lines=N.
function random(n) {
    seed = seed * 16807 % 2147483647
    return seed % n
}
BEGIN {
    seed = 42
    for (i = 0; i < 4000; i++) {
        word = ""
        for (j = 1 + random(4); j > 0; j--)
            word = word substr("bcdfghklmnprstvwz", 1 + random(17), 1) substr("aeiou", 1 + random(5), 1) \
                (random(3) ? "" : substr("lnrst", 1 + random(5), 1))
        words[i] = word
    }
    for (; lines > 0; lines--) {
        line = ""
        for (j = 6 + random(8); j > 0; j--) line = line words[int(random(4000) * random(1000) / 1000)] " "
        print line random(10000)
    }
}
