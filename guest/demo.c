/*
 * guest/demo.c: what `trapeze run` shows to somebody who has no guest yet:
 * which machine this is, some work with its time, a good exit.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "guest.h"

#define PRIMES_BELOW 1000000
#define PI_DIGITS    200
#define PI_ARRAY     (PI_DIGITS * 10 / 3 + 2)

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* The value of the first line "name : value" of /proc/cpuinfo. */
static void cpu_field(const char *name, char *value, size_t size)
{
    FILE *file = fopen("/proc/cpuinfo", "re");
    char line[256];

    snprintf(value, size, "unknown");
    while (file && fgets(line, sizeof(line), file)) {
        char *colon = strchr(line, ':');

        if (!colon || strncmp(line, name, strlen(name)) != 0)
            continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(value, size, "%s", colon + 2);
        break;
    }
    if (file)
        fclose(file);
}

static unsigned count_primes(unsigned below)
{
    uint8_t *composite = calloc(below, 1);
    unsigned count = 0;

    for (unsigned i = 2; composite && i < below; i++) {
        if (composite[i])
            continue;
        count++;
        for (uint64_t j = (uint64_t)i * i; j < below; j += i)
            composite[j] = 1;
    }
    free(composite);
    return count;
}

/* The digits that are certain: digit, then nines, until the next one tells whether a carry reaches them. */
struct spigot {
    char *out;
    unsigned len, held, nines;
};

static void spigot_emit(struct spigot *s, unsigned digit)
{
    if (digit == 9) {
        s->nines++;
        return;
    }
    s->out[s->len++] = (char)('0' + s->held + (digit == 10));
    for (; s->nines > 0; s->nines--)
        s->out[s->len++] = digit == 10 ? '0' : '9';
    s->held = digit == 10 ? 0 : digit;
}

/* Rabinowitz and Wagon's spigot: pi in the mixed base 1/3, 2/5, 3/7, ... */
static void pi_digits(char *out)
{
    unsigned a[PI_ARRAY];
    struct spigot s = {.out = out};

    for (unsigned i = 0; i < PI_ARRAY; i++)
        a[i] = 2;
    for (unsigned n = 0; n < PI_DIGITS; n++) {
        unsigned carry = 0;

        for (unsigned i = PI_ARRAY - 1; i > 0; i--) {
            unsigned x = a[i] * 10 + carry * (i + 1);

            a[i] = x % (2 * i + 1);
            carry = x / (2 * i + 1);
        }
        carry = a[0] * 10 + carry;
        a[0] = carry % 10;
        spigot_emit(&s, carry / 10);
    }
    out[s.len] = 0;
}

void demo_mode(void)
{
    char cpu[128], pi[PI_DIGITS + 16];
    struct utsname name;
    struct sysinfo info;
    unsigned primes;
    double t;

    cpu_field("model name", cpu, sizeof(cpu));
    if (uname(&name) == 0)
        printf("kernel  %s %s %s\n", name.sysname, name.release, name.machine);
    printf("cpu     %ld x %s\n", sysconf(_SC_NPROCESSORS_ONLN), cpu);
    if (sysinfo(&info) == 0)
        printf("memory  %llu MiB, %llu MiB free\n", (unsigned long long)info.totalram * info.mem_unit >> 20,
               (unsigned long long)info.freeram * info.mem_unit >> 20);
    printf("booted  %.2f s ago\n", seconds());
    t = seconds();
    primes = count_primes(PRIMES_BELOW);
    printf("primes  %u below %u, in %.3f s\n", primes, PRIMES_BELOW, seconds() - t);
    t = seconds();
    pi_digits(pi);
    t = seconds() - t;
    /* The first digit is the spigot's leading zero. */
    printf("pi      %c.%.60s..., %d digits in %.3f s\n", pi[1], pi + 2, PI_DIGITS - 2, t);
    fflush(stdout);
    guest_exit(0);
}
