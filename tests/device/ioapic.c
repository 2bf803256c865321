/* tests/device/ioapic.c: 82093AA: edge and level, masks, remote IRR, both ways of EOI, the messages' format. */
#include "tests/device/fixture.h"

#include "device/irqchip/ioapic.h"

struct ioapic_test {
    struct fixture f;
    struct ioapic *ioapic;
    unsigned sent;
    struct msi_message last;
};

static void record(void *opaque, const struct msi_message *message)
{
    struct ioapic_test *t = opaque;

    t->sent++;
    t->last = *message;
}

static int setup(void **state)
{
    struct ioapic_test *t = calloc(1, sizeof(*t));

    fixture_open(&t->f);
    t->ioapic = ioapic_new(t->f.bus, IOAPIC_BASE, 1, (struct msi_sink){.send = record, .opaque = t}, NULL);
    assert_non_null(t->ioapic);
    *state = t;
    return 0;
}

static int teardown(void **state)
{
    struct ioapic_test *t = *state;

    ioapic_free(t->ioapic);
    fixture_close(&t->f);
    free(t);
    return 0;
}

static uint32_t get(struct ioapic_test *t, uint8_t reg)
{
    bus_mmio_write(t->f.bus, IOAPIC_BASE, reg, 4);
    return (uint32_t)bus_mmio_read(t->f.bus, IOAPIC_BASE + 0x10, 4);
}

static void put(struct ioapic_test *t, uint8_t reg, uint32_t value)
{
    bus_mmio_write(t->f.bus, IOAPIC_BASE, reg, 4);
    bus_mmio_write(t->f.bus, IOAPIC_BASE + 0x10, value, 4);
}

static void set(struct ioapic_test *t, unsigned pin, bool level)
{
    ioapic_set(t->ioapic, pin, level);
}

static void test_registers(void **state)
{
    struct ioapic_test *t = *state;
    unsigned i;

    assert_int_equal(get(t, 0x00), 0x01000000);
    assert_int_equal(get(t, 0x01), 0x00170020);
    assert_int_equal(get(t, 0x02), 0x01000000);
    put(t, 0x00, 0xffffffff);
    assert_int_equal(get(t, 0x00), 0xff000000);
    put(t, 0x01, 0);
    assert_int_equal(get(t, 0x01), 0x00170020);
    for (i = 0; i < 24; i++)
        assert_int_equal(get(t, (uint8_t)(0x10 + 2 * i)), 0x00010000);
    put(t, 0x10, 0xffffffff);
    put(t, 0x11, 0xffffffff);
    assert_int_equal(get(t, 0x10), 0x0001afff); /* not delivery status, remote IRR */
    assert_int_equal(get(t, 0x11), 0xff000000);
    assert_int_equal(get(t, 0x05), 0);
    assert_int_equal(get(t, 0x40), 0);
    assert_int_equal(get(t, 0xff), 0);
    put(t, 0xff, 0xffffffff);
    assert_int_equal(bus_mmio_read(t->f.bus, IOAPIC_BASE, 4), 0xff);
    assert_int_equal(bus_mmio_read(t->f.bus, IOAPIC_BASE + 0x20, 4), 0);
}

static void test_edge(void **state)
{
    struct ioapic_test *t = *state;

    put(t, 0x10 + 2 * 4 + 1, 0x03000000);
    put(t, 0x10 + 2 * 4, 0x0830 | 1 << 8); /* logical, lowest priority, vector 30 */
    set(t, 4, true);
    assert_int_equal(t->sent, 1);
    assert_true(t->last.address == 0xfee03004);
    assert_int_equal(t->last.data, 0x0130);
    set(t, 4, true);
    assert_int_equal(t->sent, 1);
    set(t, 4, false);
    assert_int_equal(t->sent, 1);
    set(t, 4, true); /* no EOI is needed */
    assert_int_equal(t->sent, 2);
    ioapic_eoi(t->ioapic, 0x30);
    assert_int_equal(t->sent, 2);
}

static void test_edge_masked(void **state)
{
    struct ioapic_test *t = *state;

    put(t, 0x10, 0x10030);
    set(t, 0, true);
    assert_int_equal(t->sent, 0);
    put(t, 0x10, 0x00030); /* lost */
    assert_int_equal(t->sent, 0);
    set(t, 0, false);
    set(t, 0, true);
    assert_int_equal(t->sent, 1);
}

static void test_level(void **state)
{
    struct ioapic_test *t = *state;

    put(t, 0x10 + 2 * 9, 0x8041);
    set(t, 9, true);
    assert_int_equal(t->sent, 1);
    assert_int_equal(t->last.data, 0xc041);
    assert_true(t->last.address == 0xfee00000);
    assert_int_equal(get(t, 0x10 + 2 * 9), 0xc041); /* remote IRR */
    set(t, 9, false);
    set(t, 9, true);
    assert_int_equal(t->sent, 1);
    ioapic_eoi(t->ioapic, 0x42); /* another vector */
    assert_int_equal(t->sent, 1);
    ioapic_eoi(t->ioapic, 0x41); /* still up */
    assert_int_equal(t->sent, 2);
    set(t, 9, false);
    bus_mmio_write(t->f.bus, IOAPIC_BASE + 0x40, 0x41, 4); /* the EOI register */
    assert_int_equal(t->sent, 2);
    assert_int_equal(get(t, 0x10 + 2 * 9), 0x8041);
}

static void test_level_masked(void **state)
{
    struct ioapic_test *t = *state;

    set(t, 9, true);
    put(t, 0x10 + 2 * 9, 0x18041);
    assert_int_equal(t->sent, 0);
    put(t, 0x10 + 2 * 9, 0x08041); /* unmasked while up */
    assert_int_equal(t->sent, 1);
    put(t, 0x10 + 2 * 9, 0x18041);
    assert_int_equal(get(t, 0x10 + 2 * 9), 0x1c041); /* masking keeps remote IRR */
    put(t, 0x10 + 2 * 9, 0x08041);
    assert_int_equal(t->sent, 1);
    put(t, 0x10 + 2 * 9, 0x18041);
    ioapic_eoi(t->ioapic, 0x41);
    assert_int_equal(t->sent, 1);
    put(t, 0x10 + 2 * 9, 0x08041);
    assert_int_equal(t->sent, 2);
    put(t, 0x10 + 2 * 9, 0x10041); /* to edge and back clears it without an EOI */
    put(t, 0x10 + 2 * 9, 0x08041);
    assert_int_equal(t->sent, 3);
}

/* Two pins may share a vector; one EOI serves both. */
static void test_shared_vector(void **state)
{
    struct ioapic_test *t = *state;

    put(t, 0x10 + 2 * 10, 0x8050);
    put(t, 0x10 + 2 * 11, 0x8050);
    set(t, 10, true);
    set(t, 11, true);
    assert_int_equal(t->sent, 2);
    ioapic_eoi(t->ioapic, 0x50);
    assert_int_equal(t->sent, 4);
}

/* NMI and ExtINT are acknowledged by no EOI: they act as edges whatever the trigger mode says. */
static void test_other_modes(void **state)
{
    struct ioapic_test *t = *state;

    put(t, 0x10, 0x8700);
    set(t, 0, true);
    assert_int_equal(t->sent, 1);
    assert_int_equal(t->last.data, 0x0700);
    assert_int_equal(get(t, 0x10), 0x8700);
    put(t, 0x12, 0x8400);
    set(t, 1, true);
    assert_int_equal(t->last.data, 0x0400);
    set(t, 24, true);
    set(t, ~0u, true);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_registers),    TEST(test_edge),          TEST(test_edge_masked), TEST(test_level),
        TEST(test_level_masked), TEST(test_shared_vector), TEST(test_other_modes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
