/* tests/device/bus.c: who gets which access. */
#include "tests/device/fixture.h"

#include <errno.h>

struct ram {
    uint8_t bytes[64];
    unsigned accesses, widest;
};

static uint64_t ram_read(void *opaque, uint64_t offset, unsigned size)
{
    struct ram *ram = opaque;
    uint64_t value = 0;

    memcpy(&value, ram->bytes + offset, size);
    ram->accesses++;
    ram->widest = MAX(ram->widest, size);
    return value | (size < 8 ? ~0ull << size * 8 : 0); /* rubbish above is the bus's to remove */
}

static void ram_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct ram *ram = opaque;

    memcpy(ram->bytes + offset, &value, size);
    ram->accesses++;
    ram->widest = MAX(ram->widest, size);
}

static const struct bus_ops byte_ops = {ram_read, ram_write, 1};
static const struct bus_ops word_ops = {ram_read, ram_write, 2};
static const struct bus_ops wide_ops = {ram_read, ram_write, 0};

static void test_overlap(void **state)
{
    struct bus *bus = bus_new();
    struct ram ram = {.accesses = 0};

    assert_int_equal(bus_add_port(bus, "a", 0x100, 8, &byte_ops, &ram), 0);
    assert_int_equal(bus_add_port(bus, "b", 0x107, 1, &byte_ops, &ram), -EEXIST);
    assert_int_equal(bus_add_port(bus, "b", 0xff, 2, &byte_ops, &ram), -EEXIST);
    assert_int_equal(bus_add_port(bus, "b", 0xf0, 0x100, &byte_ops, &ram), -EEXIST);
    assert_int_equal(bus_add_port(bus, "b", 0x102, 1, &byte_ops, &ram), -EEXIST);
    assert_int_equal(bus_add_port(bus, "b", 0x108, 1, &byte_ops, &ram), 0);
    assert_int_equal(bus_add_port(bus, "b", 0xff, 1, &byte_ops, &ram), 0);
    assert_int_equal(bus_add_port(bus, "end", 0xffff, 1, &byte_ops, &ram), 0);
    assert_int_equal(bus_add_port(bus, "past", 0xfff0, 0x20, &byte_ops, &ram), -EINVAL);
    assert_int_equal(bus_add_port(bus, "none", 0x200, 0, &byte_ops, &ram), -EINVAL);
    assert_int_equal(bus_add_mmio(bus, "top", UINT64_MAX - 7, 8, &wide_ops, &ram), 0);
    assert_int_equal(bus_add_mmio(bus, "past", UINT64_MAX - 15, 32, &wide_ops, &ram), -EINVAL);
    bus_free(bus);
}

static void test_split(void **state)
{
    struct bus *bus = bus_new();
    struct ram a = {.accesses = 0}, b = {.accesses = 0}, c = {.accesses = 0};

    bus_add_port(bus, "a", 0x10, 4, &byte_ops, &a);
    bus_add_port(bus, "b", 0x14, 8, &word_ops, &b);
    bus_add_mmio(bus, "c", 0x1000, 32, &wide_ops, &c);

    bus_port_write(bus, 0x10, 0x44332211, 4);
    assert_int_equal(a.accesses, 4);
    assert_int_equal(a.widest, 1);
    assert_memory_equal(a.bytes, "\x11\x22\x33\x44", 4);
    assert_int_equal(bus_port_read(bus, 0x11, 2), 0x3322);

    bus_port_write(bus, 0x14, 0xddccbbaa, 4);
    assert_int_equal(b.accesses, 2);
    assert_int_equal(b.widest, 2);
    assert_int_equal(bus_port_read(bus, 0x14, 4), 0xddccbbaa);

    /* over an edge: the rest goes to the neighbour, past the last one to nobody */
    assert_int_equal(bus_port_read(bus, 0x12, 4), 0xbbaa4433);
    b.bytes[7] = 0x77;
    assert_int_equal(bus_port_read(bus, 0x1b, 4), 0xffffff77);

    bus_mmio_write(bus, 0x1008, 0x8877665544332211, 8);
    assert_int_equal(c.accesses, 1);
    assert_int_equal(bus_mmio_read(bus, 0x1009, 4), 0x55443322);
    assert_int_equal(bus_mmio_read(bus, 0x101e, 8), 0xffffffffffff0000);
    bus_free(bus);
}

/* A dword for PCI's CF8 must not end up as a byte in CF9. */
static void test_nobody(void **state)
{
    struct bus *bus = bus_new();
    struct ram a = {.accesses = 0};

    bus_add_port(bus, "a", 0xcf9, 1, &byte_ops, &a);
    bus_port_write(bus, 0xcf8, 0x80000600, 4);
    assert_int_equal(a.accesses, 0);
    assert_int_equal(bus_port_read(bus, 0xcf8, 4), 0xffffffff);
    assert_int_equal(bus_port_read(bus, 0x80, 1), 0xff);
    assert_int_equal(bus_port_read(bus, 0xffff, 2), 0xffff);
    assert_true(bus_mmio_read(bus, 0x1234, 8) == UINT64_MAX);
    assert_int_equal(bus_mmio_read(bus, UINT64_MAX, 2), 0xffff);
    bus_mmio_write(bus, UINT64_MAX, 1, 8);
    bus_free(bus);
}

static void test_many(void **state)
{
    static struct ram rams[200];
    struct bus *bus = bus_new();
    unsigned i;

    for (i = 0; i < 200; i++) { /* in an order that is not theirs */
        unsigned at = i * 77 % 200;

        assert_int_equal(bus_add_mmio(bus, "r", 0x10000ull * at, 64, &wide_ops, &rams[at]), 0);
    }
    for (i = 0; i < 200; i++)
        bus_mmio_write(bus, 0x10000ull * i + 5, i, 1);
    for (i = 0; i < 200; i++)
        assert_int_equal(rams[i].bytes[5], i);
    bus_free(bus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_overlap),
        cmocka_unit_test(test_split),
        cmocka_unit_test(test_nobody),
        cmocka_unit_test(test_many),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
