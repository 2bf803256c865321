/*
 * bench/tsc_khz.c: prints the frequency of the host's time-stamp counter in kHz.
 *
 * A guest under QEMU's TCG sees this counter, but has to find its frequency with
 * the help of the PIT; on a busy host that fails, and without another clock the
 * guest never gets past it. So it is told.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

static uint64_t now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Over a tenth of a second; of many readings at its end the one least interrupted counts. */
int main(void)
{
    uint64_t start = now(), first = __builtin_ia32_rdtsc(), closest = UINT64_MAX, khz = 0;

    while (now() - start < 100000000)
        ;
    for (int i = 0; i < 1000; i++) {
        uint64_t before = now(), ticks = __builtin_ia32_rdtsc(), after = now();

        if (after - before < closest) {
            closest = after - before;
            khz = (ticks - first) * 1000000 / (before + (after - before) / 2 - start);
        }
    }
    printf("%" PRIu64 "\n", khz);
    return 0;
}
