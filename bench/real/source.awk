# bench/real/source.awk: a C program of some size, always the same: awk -f source.awk -v functions=N.
function random(n) {
    seed = seed * 16807 % 2147483647
    return seed % n
}
function loop(k) {
    print "static unsigned f" k "(unsigned x)\n{"
    print "    static unsigned table[" 8 + random(56) "];\n    unsigned sum = x, n = sizeof(table) / sizeof(table[0]);\n"
    print "    for (unsigned i = 0; i < n; i++) {\n        table[i] += i * " random(1000) "u ^ x;"
    print "        if (table[i] % " 2 + random(7) " == 0)\n            sum += table[(i + " random(50) ") % n] << " \
        1 + random(5) ";"
    print "        else\n            sum ^= table[i] >> " 1 + random(9) ";\n    }\n    return sum;\n}\n"
}
function choice(k,    i, n) {
    n = 4 + random(12)
    print "static unsigned f" k "(unsigned x)\n{\n    unsigned y = " random(10000) ";\n"
    print "    for (; x; x >>= 3)\n        switch (x % " n ") {"
    for (i = 0; i < n; i++)
        print "        case " i ":\n            y = y " substr("+-*^|&", 1 + random(6), 1) " (x + " random(999) ");" \
            (random(4) ? "\n            break;" : " /* fall through */")
    print "        }\n    return y;\n}\n"
}
function text(k) {
    print "static unsigned f" k "(unsigned x)\n{\n    char line[128], *p = line, *word;\n    unsigned sum = 0;\n"
    print "    snprintf(line, sizeof(line), \"%u alpha %x beta %d gamma %o\", x, x ^ " random(9999) ", (int)x, x / 3);"
    print "    while ((word = strsep(&p, \" \")))\n        if (isdigit((unsigned char)*word))"
    print "            sum += (unsigned)strtoul(word, NULL, 10);\n        else\n            sum ^= (unsigned)strlen(word) * " \
        random(99) ";\n    return sum;\n}\n"
}
function numbers(k) {
    print "static unsigned f" k "(unsigned x)\n{\n    struct item { double a, b; short tag; } items[" 4 + random(12) "];"
    print "    int n = sizeof(items) / sizeof(items[0]);\n    double best = " random(100) ";\n"
    print "    for (int i = 0; i < n; i++)\n        items[i] = (struct item){i * " random(50) ".25, (x % 64) / (i + 1.0), (short)i};"
    print "    for (int i = 1; i < n; i++)\n        for (int j = i; j > 0 && items[j].b < items[j - 1].b; j--) {"
    print "            struct item swap = items[j];\n\n            items[j] = items[j - 1];\n            items[j - 1] = swap;"
    print "        }\n    for (int i = 0; i < n; i++)\n        best += items[i].a * items[n - 1 - i].b - items[i].tag;"
    print "    return (unsigned)(long)best;\n}\n"
}
BEGIN {
    seed = 7
    print "#include <ctype.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <sys/types.h>\n"
    for (k = 0; k < functions; k++)
        if (k % 4 == 0) loop(k)
        else if (k % 4 == 1) choice(k)
        else if (k % 4 == 2) text(k)
        else numbers(k)
    print "static unsigned (*const all[])(unsigned) = {"
    for (k = 0; k < functions; k++) print "    f" k ","
    print "};\n\nint main(void)\n{\n    unsigned x = 1;\n"
    print "    for (int i = 0; i < 100; i++)\n        for (unsigned k = 0; k < " functions "; k++)\n            x = x * 16807 + all[k](x);"
    print "    printf(\"%u\\n\", x);\n    return 0;\n}"
}
