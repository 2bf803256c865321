/* tests/device/pic8259.c: 8259A: initialization, priorities, ends of interrupt, modes, cascade, spurious vectors. */
#include "tests/device/fixture.h"

#include "device/irqchip/pic8259.h"

#define NONE 0xffu

static void intr(void *opaque, bool level)
{
    fixture_set_line(opaque, 0, level);
}

static void program(struct fixture *f, uint8_t icw4)
{
    out8(f, 0x20, 0x11);
    out8(f, 0x21, 0x20);
    out8(f, 0x21, 0x04);
    out8(f, 0x21, icw4);
    out8(f, 0xa0, 0x11);
    out8(f, 0xa1, 0x28);
    out8(f, 0xa1, 0x02);
    out8(f, 0xa1, icw4);
    out8(f, 0x21, 0x00);
    out8(f, 0xa1, 0x00);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    fixture_open(f);
    f->device = pic_new(f->bus, intr, f, NULL);
    assert_non_null(f->device);
    program(f, 0x01);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    pic_free(f->device);
    fixture_close(f);
    free(f);
    return 0;
}

static void up(struct fixture *f, unsigned irq)
{
    pic_set(f->device, irq, true);
}

static void down(struct fixture *f, unsigned irq)
{
    pic_set(f->device, irq, false);
}

static unsigned ack(struct fixture *f)
{
    assert_int_equal(pic_pending(f->device), f->level);
    return f->level ? pic_acknowledge(f->device) : NONE;
}

static uint8_t isr(struct fixture *f, uint16_t port)
{
    out8(f, port, 0x0b);
    return in8(f, port);
}

static uint8_t irr(struct fixture *f, uint16_t port)
{
    out8(f, port, 0x0a);
    return in8(f, port);
}

static void test_edge(void **state)
{
    struct fixture *f = *state;

    up(f, 4);
    assert_int_equal(irr(f, 0x20), 0x10);
    assert_int_equal(ack(f), 0x24);
    assert_int_equal(irr(f, 0x20), 0x00);
    assert_int_equal(isr(f, 0x20), 0x10);
    out8(f, 0x20, 0x20);
    assert_int_equal(ack(f), NONE); /* the line is still up: no edge */
    down(f, 4);
    up(f, 4);
    assert_int_equal(ack(f), 0x24);
}

static void test_mask(void **state)
{
    struct fixture *f = *state;

    out8(f, 0x21, 0x10);
    assert_int_equal(in8(f, 0x21), 0x10);
    up(f, 4);
    assert_int_equal(ack(f), NONE);
    out8(f, 0x21, 0x00); /* it has been remembered */
    assert_int_equal(ack(f), 0x24);
}

static void test_priorities(void **state)
{
    struct fixture *f = *state;

    up(f, 5);
    up(f, 3);
    assert_int_equal(ack(f), 0x23);
    assert_int_equal(ack(f), NONE); /* 5 is below 3 */
    up(f, 1);
    assert_int_equal(ack(f), 0x21); /* 1 is above it */
    out8(f, 0x20, 0x20);            /* non-specific: 1, the highest in service */
    assert_int_equal(isr(f, 0x20), 0x08);
    assert_int_equal(ack(f), NONE);
    out8(f, 0x20, 0x63); /* specific: 3 */
    assert_int_equal(ack(f), 0x25);
}

static void test_rotation(void **state)
{
    struct fixture *f = *state;

    up(f, 3);
    assert_int_equal(ack(f), 0x23);
    out8(f, 0x20, 0xa0); /* rotate on non-specific EOI: 3 is the lowest now */
    down(f, 3);
    up(f, 3);
    up(f, 0);
    up(f, 4);
    assert_int_equal(ack(f), 0x24);
    out8(f, 0x20, 0x20);
    assert_int_equal(ack(f), 0x20);
    out8(f, 0x20, 0xe0); /* rotate on specific EOI of 0 */
    assert_int_equal(ack(f), 0x23);
    out8(f, 0x20, 0x20);
    out8(f, 0x20, 0xc7); /* set priority: 7 lowest */
    up(f, 1);
    down(f, 0);
    up(f, 0);
    assert_int_equal(ack(f), 0x20);
}

static void test_cascade(void **state)
{
    struct fixture *f = *state;

    up(f, 12);
    up(f, 8);
    assert_int_equal(irr(f, 0x20), 0x04);
    assert_int_equal(ack(f), 0x28);
    assert_int_equal(isr(f, 0x20), 0x04);
    assert_int_equal(isr(f, 0xa0), 0x01);
    out8(f, 0xa0, 0x20);
    assert_int_equal(ack(f), NONE); /* the master's 2 is in service */
    up(f, 5);
    assert_int_equal(ack(f), NONE);
    out8(f, 0x20, 0x20);
    assert_int_equal(ack(f), 0x2c); /* 12, through 2, is above 5 */
    out8(f, 0xa0, 0x20);
    out8(f, 0x20, 0x20);
    assert_int_equal(ack(f), 0x25);
    pic_set(f->device, 2, true); /* not an input */
    pic_set(f->device, 16, true);
    pic_set(f->device, ~0u, true);
}

/* Special fully nested mode: a higher one of the slave gets through while a lower one is in service. */
static void test_fully_nested(void **state)
{
    struct fixture *f = *state;

    program(f, 0x11);
    up(f, 12);
    assert_int_equal(ack(f), 0x2c);
    up(f, 9);
    assert_int_equal(ack(f), 0x29);
    up(f, 14);
    assert_int_equal(ack(f), NONE);
}

static void test_auto_eoi(void **state)
{
    struct fixture *f = *state;

    program(f, 0x03);
    up(f, 12);
    up(f, 9);
    assert_int_equal(ack(f), 0x29);
    assert_int_equal(isr(f, 0x20), 0);
    assert_int_equal(ack(f), 0x2c); /* the slave's second request is a new edge for the master */
    assert_int_equal(ack(f), NONE);
    out8(f, 0x20, 0x80); /* rotate in automatic EOI mode */
    up(f, 0);
    assert_int_equal(ack(f), 0x20);
    down(f, 0);
    up(f, 0);
    up(f, 1);
    assert_int_equal(ack(f), 0x21);
    out8(f, 0x20, 0x00);
}

static void test_special_mask(void **state)
{
    struct fixture *f = *state;

    up(f, 3);
    assert_int_equal(ack(f), 0x23);
    up(f, 6);
    assert_int_equal(ack(f), NONE);
    out8(f, 0x21, 0x08);
    assert_int_equal(ack(f), NONE); /* masked, but in service */
    out8(f, 0x20, 0x68);
    assert_int_equal(ack(f), 0x26);
    out8(f, 0x20, 0x20); /* does not see 3, which is masked */
    assert_int_equal(isr(f, 0x20), 0x08);
    out8(f, 0x20, 0x48);
}

static void test_poll(void **state)
{
    struct fixture *f = *state;

    out8(f, 0x20, 0x0c);
    assert_int_equal(in8(f, 0x20), 0x00);
    up(f, 6);
    out8(f, 0x20, 0x0c);
    assert_int_equal(in8(f, 0x20), 0x86);
    assert_int_equal(isr(f, 0x20), 0x40);
    assert_int_equal(ack(f), NONE);
}

static void test_level(void **state)
{
    struct fixture *f = *state;

    out8(f, 0x4d0, 0xff);
    out8(f, 0x4d1, 0xff);
    assert_int_equal(bus_port_read(f->bus, 0x4d0, 2), 0xdef8);
    up(f, 5);
    assert_int_equal(ack(f), 0x25);
    out8(f, 0x20, 0x20);
    assert_int_equal(ack(f), 0x25); /* still up */
    down(f, 5);
    out8(f, 0x20, 0x20);
    assert_int_equal(ack(f), NONE);
}

/* The request goes away between INT and the acknowledge cycle: vector 7 and nothing in service. */
static void test_spurious(void **state)
{
    struct fixture *f = *state;

    out8(f, 0x4d0, 0x10);
    out8(f, 0x4d1, 0x04);
    up(f, 4);
    assert_true(f->level);
    down(f, 4);
    assert_false(f->level);
    assert_int_equal(pic_acknowledge(f->device), 0x27);
    assert_int_equal(isr(f, 0x20), 0);
    up(f, 10);
    down(f, 10);
    assert_int_equal(pic_acknowledge(f->device), 0x27);
    assert_int_equal(isr(f, 0xa0), 0);
    up(f, 3); /* an edge is kept */
    down(f, 3);
    assert_int_equal(ack(f), 0x23);
}

static void test_init_again(void **state)
{
    struct fixture *f = *state;

    up(f, 3);
    ack(f);
    up(f, 1);
    out8(f, 0x20, 0x13); /* single, ICW4 */
    assert_int_equal(in8(f, 0x21), 0);
    out8(f, 0x21, 0x47);
    out8(f, 0x21, 0x01);
    assert_int_equal(isr(f, 0x20), 0);
    assert_int_equal(ack(f), NONE); /* edges have to come again */
    out8(f, 0x21, 0xfb);            /* an OCW1 by now */
    assert_int_equal(in8(f, 0x21), 0xfb);
    out8(f, 0x21, 0x00);
    down(f, 1);
    up(f, 1);
    assert_int_equal(ack(f), 0x41);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_edge),    TEST(test_mask),         TEST(test_priorities), TEST(test_rotation),
        TEST(test_cascade), TEST(test_fully_nested), TEST(test_auto_eoi),   TEST(test_special_mask),
        TEST(test_poll),    TEST(test_level),        TEST(test_spurious),   TEST(test_init_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
