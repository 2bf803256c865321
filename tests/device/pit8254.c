/* tests/device/pit8254.c: 8254: each mode's counter and output, reading, BCD, gates, channel 0's interrupts. */
#include "tests/device/fixture.h"

#include "device/legacy/pit8254.h"

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    fixture_open(f);
    f->device = pit_new(f->bus, f->loop, fixture_line(f), NULL);
    assert_non_null(f->device);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    pit_free(f->device);
    fixture_close(f);
    free(f);
    return 0;
}

/* Moves the clock to the middle of the PIT's tick n, counted from the clock's start. */
static void at(struct fixture *f, uint64_t n)
{
    uint64_t ns = (2 * n + 1) * SECOND / (2 * PIT_HZ), now = vclock_ns(f->clock);

    assert_true(ns >= now);
    vclock_advance_ns(f->clock, ns - now);
    loop_poll(f->loop);
}

static unsigned counter(struct fixture *f, unsigned channel)
{
    unsigned low;

    out8(f, 0x43, (uint8_t)(channel << 6));
    low = in8(f, (uint16_t)(0x40 + channel));
    return low | (unsigned)in8(f, (uint16_t)(0x40 + channel)) << 8;
}

static uint8_t status(struct fixture *f, unsigned channel)
{
    out8(f, 0x43, (uint8_t)(0xe0 | 2 << channel));
    return in8(f, (uint16_t)(0x40 + channel));
}

static bool out2(struct fixture *f)
{
    return in8(f, 0x61) & 0x20;
}

/* Channel 2 in a mode, both bytes, with its gate as given. */
static void start2(struct fixture *f, unsigned mode, bool bcd, bool gate, unsigned count)
{
    out8(f, 0x61, gate);
    out8(f, 0x43, (uint8_t)(0xb0 | mode << 1 | bcd));
    out8(f, 0x42, (uint8_t)count);
    out8(f, 0x42, (uint8_t)(count >> 8));
}

static void test_mode0(void **state)
{
    struct fixture *f = *state;

    at(f, 0);
    start2(f, 0, false, true, 1000);
    assert_int_equal(counter(f, 2), 1000);
    assert_false(out2(f));
    at(f, 999);
    assert_int_equal(counter(f, 2), 1);
    assert_false(out2(f));
    at(f, 1000);
    assert_int_equal(counter(f, 2), 0);
    assert_true(out2(f));
    at(f, 1001);
    assert_int_equal(counter(f, 2), 0xffff);
    at(f, 1000 + 0x20000);
    assert_true(out2(f));
    out8(f, 0x61, 0); /* the gate stops the count */
    assert_int_equal(counter(f, 2), 0);
    at(f, 1000 + 0x20100);
    assert_int_equal(counter(f, 2), 0);
    out8(f, 0x61, 1);
    at(f, 1000 + 0x20100 + 5);
    assert_int_equal(counter(f, 2), 0xfffb);
    out8(f, 0x42, 0x10); /* the first byte of a new count takes the output low */
    assert_false(out2(f));
    out8(f, 0x42, 0x00);
    assert_int_equal(counter(f, 2), 16);
}

static void test_mode1(void **state)
{
    struct fixture *f = *state;

    at(f, 0);
    start2(f, 1, false, false, 50);
    assert_true(out2(f));
    at(f, 100);
    assert_true(out2(f));
    out8(f, 0x61, 1);
    assert_false(out2(f));
    at(f, 149);
    assert_false(out2(f));
    assert_int_equal(counter(f, 2), 1);
    at(f, 150);
    assert_true(out2(f));
    out8(f, 0x61, 0);
    out8(f, 0x61, 1); /* triggers again */
    at(f, 170);
    out8(f, 0x61, 0); /* the gate's level does not matter */
    out8(f, 0x61, 1);
    at(f, 219);
    assert_false(out2(f));
    out8(f, 0x42, 10); /* a new count waits for a trigger */
    out8(f, 0x42, 0);
    at(f, 220);
    assert_true(out2(f));
    out8(f, 0x61, 0);
    out8(f, 0x61, 1);
    at(f, 229);
    assert_false(out2(f));
    at(f, 230);
    assert_true(out2(f));
}

static void test_mode2(void **state)
{
    struct fixture *f = *state;

    at(f, 0);
    start2(f, 2, false, true, 10);
    assert_true(out2(f));
    assert_int_equal(counter(f, 2), 10);
    at(f, 8);
    assert_true(out2(f));
    at(f, 9);
    assert_int_equal(counter(f, 2), 1);
    assert_false(out2(f));
    at(f, 10);
    assert_int_equal(counter(f, 2), 10);
    assert_true(out2(f));
    at(f, 13);
    out8(f, 0x42, 100); /* takes over when this period ends */
    out8(f, 0x42, 0);
    assert_int_equal(status(f, 2) & 0x40, 0x40);
    assert_int_equal(counter(f, 2), 7);
    at(f, 20);
    assert_int_equal(counter(f, 2), 100);
    assert_int_equal(status(f, 2) & 0x40, 0);
    at(f, 50);
    assert_int_equal(counter(f, 2), 70);
    out8(f, 0x61, 0); /* stops, output high; opening it begins anew */
    at(f, 60);
    assert_true(out2(f));
    assert_int_equal(counter(f, 2), 70);
    out8(f, 0x61, 1);
    assert_int_equal(counter(f, 2), 100);
}

static void test_mode3(void **state)
{
    struct fixture *f = *state;

    at(f, 0);
    start2(f, 3, false, true, 10);
    assert_int_equal(counter(f, 2), 10);
    at(f, 4);
    assert_int_equal(counter(f, 2), 2);
    assert_true(out2(f));
    at(f, 5);
    assert_int_equal(counter(f, 2), 10);
    assert_false(out2(f));
    at(f, 9);
    assert_false(out2(f));
    at(f, 10);
    assert_true(out2(f));

    start2(f, 7, false, true, 5); /* 7 is 3; odd: three high, two low */
    at(f, 12);
    assert_true(out2(f));
    at(f, 13);
    assert_false(out2(f));
    at(f, 14);
    assert_false(out2(f));
    at(f, 15);
    assert_true(out2(f));
    assert_int_equal(counter(f, 2), 4);
}

static void test_mode4(void **state)
{
    struct fixture *f = *state;

    at(f, 0);
    start2(f, 4, false, true, 20);
    at(f, 19);
    assert_true(out2(f));
    at(f, 20);
    assert_false(out2(f));
    at(f, 21);
    assert_true(out2(f));
    assert_int_equal(counter(f, 2), 0xffff);
}

static void test_mode5(void **state)
{
    struct fixture *f = *state;

    at(f, 0);
    start2(f, 5, false, false, 20);
    at(f, 30);
    assert_true(out2(f));
    out8(f, 0x61, 1);
    at(f, 49);
    assert_true(out2(f));
    at(f, 50);
    assert_false(out2(f));
    at(f, 51);
    assert_true(out2(f));
}

static void test_bcd(void **state)
{
    struct fixture *f = *state;

    at(f, 0);
    start2(f, 2, true, true, 0x1234);
    assert_int_equal(counter(f, 2), 0x1234);
    at(f, 235);
    assert_int_equal(counter(f, 2), 0x0999);
    start2(f, 0, true, true, 0); /* 10000 */
    at(f, 235);
    assert_int_equal(counter(f, 2), 0x0000);
    at(f, 236);
    assert_int_equal(counter(f, 2), 0x9999);
    start2(f, 2, true, true, 0xffff); /* no BCD number, but no harm */
    at(f, 300);
    counter(f, 2);
}

static void test_reading(void **state)
{
    struct fixture *f = *state;

    at(f, 0);
    start2(f, 2, false, true, 0); /* 65536 */
    at(f, 0x123);
    out8(f, 0x43, 0x80);
    at(f, 0x500);
    out8(f, 0x43, 0x80); /* already latched: no effect */
    assert_int_equal(in8(f, 0x42), 0xdd);
    assert_int_equal(in8(f, 0x42), 0xfe);
    assert_int_equal(in8(f, 0x42), 0x00); /* live again, alternating */
    assert_int_equal(in8(f, 0x42), 0xfb);

    out8(f, 0x43, 0xc8); /* read back status and count of channel 2 */
    assert_int_equal(in8(f, 0x42), 0xb4);
    assert_int_equal(in8(f, 0x42), 0x00);
    assert_int_equal(in8(f, 0x42), 0xfb);

    out8(f, 0x43, 0xa4); /* high byte only */
    assert_int_equal(status(f, 2) & 0x40, 0x40);
    out8(f, 0x42, 0x02);
    at(f, 0x5ff);
    assert_int_equal(in8(f, 0x42), 0x01);
    assert_int_equal(in8(f, 0x42), 0x01);
    out8(f, 0x43, 0x94); /* low byte only */
    out8(f, 0x42, 0x80);
    at(f, 0x60f);
    assert_int_equal(in8(f, 0x42), 0x70);
    assert_int_equal(in8(f, 0x43), 0xff);
}

static void test_interrupts(void **state)
{
    struct fixture *f = *state;
    unsigned before;

    out8(f, 0x43, 0x34); /* 100 Hz */
    out8(f, 0x40, 11932 & 0xff);
    out8(f, 0x40, 11932 >> 8);
    before = f->rises;
    fixture_pass(f, SECOND, MS);
    assert_in_range(f->rises - before, 99, 100);
    out8(f, 0x43, 0x30); /* mode 0: low now, one interrupt */
    assert_false(f->level);
    before = f->rises;
    fixture_pass(f, SECOND / 10, MS);
    assert_int_equal(f->rises, before);
    out8(f, 0x40, 11932 & 0xff);
    out8(f, 0x40, 11932 >> 8);
    fixture_pass(f, 9 * MS, MS);
    assert_int_equal(f->rises, before);
    fixture_pass(f, 2 * MS, MS);
    assert_int_equal(f->rises, before + 1);
    fixture_pass(f, SECOND, 10 * MS);
    assert_int_equal(f->rises, before + 1);
}

/* A period of one tick must not keep the host busy. */
static void test_interrupt_rate(void **state)
{
    struct fixture *f = *state;
    unsigned before;

    out8(f, 0x43, 0x14);
    out8(f, 0x40, 1);
    before = f->rises;
    fixture_pass(f, 10 * MS, 1000);
    assert_in_range(f->rises - before, 1, 520);
}

static void test_port61(void **state)
{
    struct fixture *f = *state;
    unsigned i, toggles = 0, last = 0;

    out8(f, 0x61, 0xff);
    assert_int_equal(in8(f, 0x61) & 0xcf, 0x0f);
    out8(f, 0x61, 0x00);
    for (i = 0; i < 1000; i++) {
        unsigned now = in8(f, 0x61) & 0x10;

        toggles += now != last;
        last = now;
        fixture_pass(f, 1000, 1000);
    }
    assert_in_range(toggles, 64, 68);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_mode0),      TEST(test_mode1),          TEST(test_mode2),  TEST(test_mode3),
        TEST(test_mode4),      TEST(test_mode5),          TEST(test_bcd),    TEST(test_reading),
        TEST(test_interrupts), TEST(test_interrupt_rate), TEST(test_port61),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
