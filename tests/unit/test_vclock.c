/* tests/unit/test_vclock.c: base/vclock.h. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "base/vclock.h"

#define SECOND 1000000000ull

static uint64_t host_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * SECOND + (uint64_t)ts.tv_nsec;
}

static void sleep_ms(unsigned ms)
{
    const struct timespec ts = {.tv_nsec = ms * 1000000l};

    nanosleep(&ts, NULL);
}

static void test_manual(void **state)
{
    struct vclock *clock = vclock_new_manual(2500000000ull);

    assert_true(vclock_is_manual(clock));
    assert_true(vclock_tsc_hz(clock) == 2500000000ull);
    assert_true(vclock_tsc(clock) == 0);
    vclock_advance_ns(clock, 4);
    assert_true(vclock_tsc(clock) == 10);
    assert_true(vclock_ns(clock) == 4);
    vclock_advance_tsc(clock, 2);
    assert_true(vclock_ns(clock) == 4);
    vclock_advance_tsc(clock, 1);
    assert_true(vclock_ns(clock) == 5);
    assert_true(vclock_host_ns_until(clock, 5) == 0);
    assert_true(vclock_host_ns_until(clock, 6) == UINT64_MAX);
    vclock_resume(clock); /* it has no rate of its own */
    vclock_set_rate(clock, 2, 1);
    assert_true(vclock_ns(clock) == 5);
    vclock_free(clock);
}

/* ns_to_tsc gives the first tick that shows ns, over centuries and for odd frequencies. */
static void test_conversion(void **state)
{
    static const uint64_t hz[] = {1000, 999999999, 1000000000, 1193182, 2500000000, 3141592653, 4999999937ull};
    unsigned i, j;

    for (i = 0; i < ARRAY_SIZE(hz); i++) {
        struct vclock *clock = vclock_new_manual(hz[i]);

        for (j = 0; j < 62; j++) {
            uint64_t ns = 1ull << j | 1, tsc = vclock_ns_to_tsc(clock, ns);

            if (tsc == UINT64_MAX)
                continue;
            assert_true(vclock_tsc_to_ns(clock, tsc) >= ns);
            assert_true(tsc == 0 || vclock_tsc_to_ns(clock, tsc - 1) < ns);
        }
        assert_true(vclock_tsc_to_ns(clock, 3600 * hz[i]) - 3600 * SECOND + 1 <= 1);
        vclock_ns_to_tsc(clock, UINT64_MAX);
        vclock_tsc_to_ns(clock, UINT64_MAX);
        vclock_free(clock);
    }
}

static void test_running(void **state)
{
    struct vclock *clock = vclock_new();
    uint64_t host0 = host_ns(), ns0 = vclock_ns(clock), host1, ns1;
    uint64_t until;

    assert_false(vclock_is_manual(clock));
    assert_true(vclock_tsc_hz(clock) >= 100000000 && vclock_tsc_hz(clock) % 1000 == 0);
    sleep_ms(100);
    host1 = host_ns();
    ns1 = vclock_ns(clock);
    assert_in_range(ns1 - ns0, (host1 - host0) * 999 / 1000 - 100000, (host1 - host0) * 1001 / 1000 + 5000000);
    until = vclock_host_ns_until(clock, ns1 + SECOND);
    assert_in_range(until, SECOND * 9 / 10, SECOND + 1000);
    assert_true(vclock_host_ns_until(clock, ns1) == 0);
    vclock_free(clock);
}

static void test_pause_and_rate(void **state)
{
    struct vclock *clock = vclock_new();
    uint64_t ns, host, passed;

    vclock_pause(clock);
    ns = vclock_ns(clock);
    sleep_ms(5);
    assert_true(vclock_ns(clock) == ns);
    assert_true(vclock_host_ns_until(clock, ns + 1) == UINT64_MAX);
    vclock_set_rate(clock, 1, 10); /* while paused: stays so */
    assert_true(vclock_ns(clock) == ns);
    host = host_ns();
    vclock_resume(clock);
    assert_in_range(vclock_host_ns_until(clock, ns + SECOND), 9 * SECOND, 10 * SECOND + 1000);
    sleep_ms(50);
    passed = vclock_ns(clock) - ns;
    host = host_ns() - host;
    assert_in_range(passed, host / 20, host / 10 + 100);
    vclock_set_rate(clock, 3, 1);
    ns = vclock_ns(clock);
    host = host_ns();
    sleep_ms(20);
    assert_true(vclock_ns(clock) - ns >= 2 * 20000000ull);
    vclock_set_rate(clock, 0, 1); /* refused */
    vclock_set_rate(clock, 1, 0);
    ns = vclock_ns(clock);
    sleep_ms(1);
    assert_true(vclock_ns(clock) > ns);
    vclock_free(clock);
}

struct reader {
    struct vclock *clock;
    _Atomic bool stop;
    uint64_t backwards;
};

static void *read_on(void *opaque)
{
    struct reader *reader = opaque;
    uint64_t last = 0;

    while (!atomic_load(&reader->stop)) {
        uint64_t now = vclock_tsc(reader->clock);

        reader->backwards += now < last;
        last = now;
    }
    return NULL;
}

/* Time never goes back for a reader, whatever another thread does to the clock. */
static void test_concurrent(void **state)
{
    struct reader reader = {.clock = vclock_new()};
    pthread_t thread;
    unsigned i;

    assert_int_equal(pthread_create(&thread, NULL, read_on, &reader), 0);
    for (i = 0; i < 20000; i++) {
        vclock_pause(reader.clock);
        vclock_set_rate(reader.clock, 1 + i % 7, 1 + i % 5);
        vclock_resume(reader.clock);
    }
    atomic_store(&reader.stop, true);
    pthread_join(thread, NULL);
    assert_int_equal(reader.backwards, 0);
    vclock_free(reader.clock);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_manual),         cmocka_unit_test(test_conversion), cmocka_unit_test(test_running),
        cmocka_unit_test(test_pause_and_rate), cmocka_unit_test(test_concurrent),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
