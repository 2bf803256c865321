/* tests/device/cmos_rtc.c: MC146818: formats, calendar, setting, update cycle, flags and interrupts. */
#include "tests/device/fixture.h"

#include "device/legacy/cmos_rtc.h"

#define WALL 1709164798 /* 2024-02-28 23:59:58, a Wednesday */

static int setup(void **state)
{
    const struct cmos_rtc_config config = {
        .wall_ns = WALL * (int64_t)SECOND + 250 * (int64_t)MS,
        .memory_low = GIB(3),
        .memory_high = GIB(5),
    };
    struct fixture *f = calloc(1, sizeof(*f));

    fixture_open(f);
    f->device = cmos_rtc_new(f->bus, f->loop, fixture_line(f), &config, NULL);
    assert_non_null(f->device);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    cmos_rtc_free(f->device);
    fixture_close(f);
    free(f);
    return 0;
}

static uint8_t get(struct fixture *f, uint8_t index)
{
    out8(f, 0x70, index);
    return in8(f, 0x71);
}

static void put(struct fixture *f, uint8_t index, uint8_t value)
{
    out8(f, 0x70, index);
    out8(f, 0x71, value);
}

/* century year month day weekday hours minutes seconds */
static void check(struct fixture *f, const char *expect)
{
    char text[40];

    snprintf(text, sizeof(text), "%02x%02x-%02x-%02x %x %02x:%02x:%02x", get(f, 0x32), get(f, 9), get(f, 8), get(f, 7),
             get(f, 6), get(f, 4), get(f, 2), get(f, 0));
    assert_string_equal(text, expect);
}

static void test_formats(void **state)
{
    struct fixture *f = *state;

    check(f, "2024-02-28 4 23:59:58");
    put(f, 0x0b, 0x00);
    check(f, "2024-02-28 4 91:59:58"); /* 11 PM */
    put(f, 0x0b, 0x04);
    check(f, "1418-02-1c 4 8b:3b:3a");
    put(f, 0x0b, 0x06);
    check(f, "1418-02-1c 4 17:3b:3a");
    assert_int_equal(in8(f, 0x70), 0xff);
    assert_int_equal(get(f, 0x0d), 0x80);
    assert_int_equal(get(f, 0x8d), 0x80); /* bit 7 is the NMI mask */
}

static void test_calendar(void **state)
{
    struct fixture *f = *state;

    fixture_pass(f, 1749 * MS, MS);
    check(f, "2024-02-28 4 23:59:59");
    fixture_pass(f, 1 * MS, MS);
    check(f, "2024-02-29 5 00:00:00"); /* leap year */
    fixture_pass(f, 86400 * SECOND, 3600 * SECOND);
    check(f, "2024-03-01 6 00:00:00");
    fixture_pass(f, 306 * 86400 * SECOND, 86400 * SECOND);
    check(f, "2025-01-01 4 00:00:00");
}

/* As Linux and BIOSes do it: SET, write, clear. The phase of the second stays. */
static void test_set(void **state)
{
    struct fixture *f = *state;

    put(f, 0x0b, 0x82);
    put(f, 0x32, 0x19);
    put(f, 9, 0x99);
    put(f, 8, 0x12);
    put(f, 7, 0x31);
    put(f, 6, 0x06);
    put(f, 4, 0x23);
    put(f, 2, 0x59);
    put(f, 0, 0x59);
    fixture_pass(f, 5 * SECOND, SECOND);
    check(f, "1999-12-31 6 23:59:59"); /* stands still */
    put(f, 0x0b, 0x02);
    check(f, "1999-12-31 6 23:59:59");
    fixture_pass(f, 749 * MS, MS);
    check(f, "1999-12-31 6 23:59:59");
    fixture_pass(f, MS, MS);
    check(f, "2000-01-01 7 00:00:00");
    put(f, 2, 0x30); /* without SET: at once */
    check(f, "2000-01-01 7 00:30:00");
    put(f, 6, 0x03); /* the day of the week is the guest's */
    check(f, "2000-01-01 3 00:30:00");
    fixture_pass(f, 86400 * SECOND, 3600 * SECOND);
    check(f, "2000-01-02 4 00:30:00");
}

/* Releasing the divider: the first update comes half a second later. */
static void test_divider_reset(void **state)
{
    struct fixture *f = *state;

    put(f, 0x0a, 0x76);
    fixture_pass(f, 10 * SECOND, SECOND);
    check(f, "2024-02-28 4 23:59:58");
    assert_int_equal(get(f, 0x0a), 0x76);
    put(f, 0x0a, 0x26);
    fixture_pass(f, 499 * MS, MS);
    check(f, "2024-02-28 4 23:59:58");
    fixture_pass(f, 2 * MS, MS);
    check(f, "2024-02-28 4 23:59:59");
}

static void test_uip(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(get(f, 0x0a), 0x26);
    fixture_pass(f, 747 * MS, MS);
    assert_int_equal(get(f, 0x0a), 0x26);
    fixture_pass(f, 1 * MS, MS);
    assert_int_equal(get(f, 0x0a), 0xa6);
    fixture_pass(f, 2 * MS, MS);
    assert_int_equal(get(f, 0x0a), 0x26);
    put(f, 0x0a, 0xa6); /* read-only */
    assert_int_equal(get(f, 0x0a), 0x26);
    put(f, 0x0b, 0x82);
    fixture_pass(f, 999 * MS, MS);
    assert_int_equal(get(f, 0x0a), 0x26);
}

static void test_update_interrupt(void **state)
{
    struct fixture *f = *state;

    get(f, 0x0c);
    fixture_pass(f, 750 * MS, 10 * MS);
    assert_false(f->level);
    assert_int_equal(get(f, 0x0c) & 0x90, 0x10); /* flagged, not enabled */
    put(f, 0x0b, 0x12);
    fixture_pass(f, 990 * MS, 10 * MS);
    assert_false(f->level);
    fixture_pass(f, 10 * MS, 10 * MS);
    assert_true(f->level);
    assert_int_equal(get(f, 0x0c) & 0x90, 0x90);
    assert_false(f->level);
    fixture_pass(f, 5 * SECOND, 10 * MS); /* one interrupt until C is read */
    assert_int_equal(f->rises, 2);
    get(f, 0x0c);
    put(f, 0x0b, 0x92); /* SET clears UIE */
    assert_int_equal(get(f, 0x0b), 0x82);
}

static void test_alarm(void **state)
{
    struct fixture *f = *state;

    put(f, 1, 0x05);
    put(f, 3, 0x00);
    put(f, 5, 0x00);
    put(f, 0x0b, 0x22);
    fixture_pass(f, 6 * SECOND, 250 * MS);
    assert_false(f->level);
    fixture_pass(f, SECOND, 250 * MS);
    assert_true(f->level);
    assert_int_equal(get(f, 0x0c) & 0xa0, 0xa0);
    check(f, "2024-02-29 5 00:00:05");

    put(f, 1, 0xff); /* any second of minute 2 */
    put(f, 3, 0x02);
    put(f, 5, 0xc0);
    fixture_pass(f, 114 * SECOND, SECOND);
    assert_false(f->level);
    fixture_pass(f, SECOND, SECOND);
    assert_true(f->level);
    get(f, 0x0c);
    fixture_pass(f, SECOND, SECOND);
    assert_true(f->level);
    get(f, 0x0c);
    put(f, 1, 0x30); /* once an hour */
    fixture_pass(f, 29 * SECOND, SECOND);
    assert_true(f->level);
    get(f, 0x0c);
    fixture_pass(f, 3599 * SECOND, SECOND);
    assert_false(f->level);
    fixture_pass(f, SECOND, SECOND);
    assert_true(f->level);

    get(f, 0x0c);
    put(f, 1, 0x75); /* never */
    fixture_pass(f, 2 * 86400 * SECOND, 600 * SECOND);
    assert_false(f->level);
    assert_int_equal(get(f, 0x0c) & 0x20, 0);
}

static void test_periodic(void **state)
{
    static const struct {
        uint8_t rate;
        unsigned hz;
    } cases[] = {{6, 1024}, {3, 8192}, {1, 256}, {2, 128}, {15, 2}};
    struct fixture *f = *state;
    unsigned i, n, count;

    for (i = 0; i < ARRAY_SIZE(cases); i++) {
        put(f, 0x0a, 0x20 | cases[i].rate);
        put(f, 0x0b, 0x42);
        for (n = count = 0; n < 20000; n++) {
            fixture_pass(f, SECOND / 20000, SECOND);
            if (f->level) {
                count++;
                assert_int_equal(get(f, 0x0c) & 0xc0, 0xc0);
            }
        }
        assert_in_range(count, cases[i].hz - 1, cases[i].hz + 1);
        put(f, 0x0b, 0x02);
    }
    put(f, 0x0a, 0x20); /* rate 0: off */
    get(f, 0x0c);
    fixture_pass(f, SECOND / 2, SECOND / 2);
    assert_int_equal(get(f, 0x0c) & 0x40, 0);
}

static void test_memory(void **state)
{
    struct fixture *f = *state;
    unsigned i, sum = 0;

    assert_int_equal(get(f, 0x15) | get(f, 0x16) << 8, 640);
    assert_int_equal(get(f, 0x30) | get(f, 0x31) << 8, 0xffff);
    assert_int_equal(get(f, 0x34) | get(f, 0x35) << 8, (3072 - 16) * 16);
    assert_int_equal(get(f, 0x5b) | get(f, 0x5c) << 8 | get(f, 0x5d) << 16, 5 * 1024 * 16);
    for (i = 0x10; i <= 0x2d; i++)
        sum += get(f, (uint8_t)i);
    assert_int_equal(get(f, 0x2e) << 8 | get(f, 0x2f), sum);
    put(f, 0x0f, 0x0a);
    assert_int_equal(get(f, 0x0f), 0x0a);
    put(f, 0x7f, 0x55);
    assert_int_equal(get(f, 0x7f), 0x55);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_formats),          TEST(test_calendar), TEST(test_set),      TEST(test_divider_reset), TEST(test_uip),
        TEST(test_update_interrupt), TEST(test_alarm),    TEST(test_periodic), TEST(test_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
