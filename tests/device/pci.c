/* tests/device/pci.c: both ways into configuration space, BARs that move, the pin, MSI and MSI-X. */
#include "tests/device/fixture.h"

#include "bus/pci.h"

#define ECAM   0xe0000000ull
#define WINDOW 0xc0000000ull
#define SLOT   1

struct pci_test {
    struct fixture f;
    struct pci_host *host;
    struct pci_function *function;
    unsigned sent;
    struct msi_message last;
    uint64_t written, offset;
    unsigned reads, writes; /* of the hooked range */
    unsigned again, route;  /* messages by the short way, and what the last one's sender remembered */
    unsigned bells;
    gpa_t bell[4]; /* where they are; 0: nowhere */
};

static void record(void *opaque, const struct msi_message *message)
{
    struct pci_test *t = opaque;

    t->sent++;
    t->last = *message;
}

static void record_again(void *opaque, unsigned *route, const struct msi_message *message)
{
    struct pci_test *t = opaque;

    record(t, message);
    t->again++;
    t->route = (*route)++;
}

static int add_bell(void *opaque, void (*ring)(void *bell_opaque, unsigned number), void *bell_opaque, unsigned number)
{
    struct pci_test *t = opaque;

    return t->bells < 4 ? (int)t->bells++ : -1;
}

static void place_bell(void *opaque, int bell, gpa_t gpa, bool on)
{
    struct pci_test *t = opaque;

    assert_true(bell >= 0 && bell < 4);
    assert_true(t->bell[bell] == (on ? 0 : gpa));
    t->bell[bell] = on ? gpa : 0;
}

static uint64_t bar_read(void *opaque, uint64_t offset, unsigned size)
{
    return 0x1122334455667700ull + offset;
}

static void bar_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct pci_test *t = opaque;

    t->offset = offset;
    t->written = value;
}

static void hook_read(void *opaque, unsigned offset, unsigned size)
{
    struct pci_test *t = opaque;

    t->reads++;
    pci_config_put(t->function, 0x68, "\x5a", 1);
}

static void hook_written(void *opaque, unsigned offset, unsigned size)
{
    ((struct pci_test *)opaque)->writes++;
}

static const struct bus_ops ops = {bar_read, bar_write};

static int setup(void **state)
{
    struct pci_test *t = calloc(1, sizeof(*t));
    struct pci_host_config config = {
        .ecam = ECAM,
        .window = WINDOW,
        .window_size = 0x100000,
        .msi = {record, t, record_again},
        .intx = {{0}, fixture_line(&t->f)},
        .bells = {add_bell, place_bell, t},
    };
    const struct pci_function_config function = {
        .vendor = 0x1234,
        .device = 0x5678,
        .subsystem_vendor = 0x9abc,
        .subsystem = 0xdef0,
        .class_code = 0x010203,
        .revision = 4,
        .msix_vectors = 3,
        .config_read = hook_read,
        .config_written = hook_written,
        .opaque = t,
    };

    fixture_open(&t->f);
    config.intx[1] = fixture_line(&t->f);
    t->host = pci_host_new(t->f.bus, &config, NULL);
    assert_non_null(t->host);
    t->function = pci_add(t->host, &function, NULL);
    assert_non_null(t->function);
    assert_int_equal(pci_add_bar(t->function, 0, 0x4000, &ops, t, NULL), 0);
    *state = t;
    return 0;
}

static int teardown(void **state)
{
    struct pci_test *t = *state;

    pci_host_free(t->host);
    fixture_close(&t->f);
    free(t);
    return 0;
}

static uint32_t get(struct pci_test *t, unsigned offset, unsigned size)
{
    return (uint32_t)bus_mmio_read(t->f.bus, ECAM + (SLOT << 15) + offset, size);
}

static void put(struct pci_test *t, unsigned offset, uint32_t value, unsigned size)
{
    bus_mmio_write(t->f.bus, ECAM + (SLOT << 15) + offset, value, size);
}

/* The capability with that id; 0: there is none. */
static unsigned capability(struct pci_test *t, uint8_t id)
{
    unsigned at = get(t, 0x34, 1);

    while (at && get(t, at, 1) != id)
        at = get(t, at + 1, 1);
    return at;
}

static void test_header(void **state)
{
    struct pci_test *t = *state;

    assert_int_equal(get(t, 0, 4), 0x56781234);
    assert_int_equal(get(t, 8, 4), 0x01020304);
    assert_int_equal(get(t, 0x2c, 4), 0xdef09abc);
    assert_int_equal(get(t, 0x3d, 1), 1);
    assert_int_equal(get(t, 0x100, 4), 0);
    put(t, 0, 0, 4);
    assert_int_equal(get(t, 0, 4), 0x56781234);
    put(t, 4, 0xffffffff, 4);
    assert_int_equal(get(t, 4, 2), 0x0406);
    assert_int_equal(bus_mmio_read(t->f.bus, ECAM, 4), 0x0d578086);
    assert_int_equal(bus_mmio_read(t->f.bus, ECAM + (2 << 15), 4), 0xffffffff);
    assert_int_equal(bus_mmio_read(t->f.bus, ECAM + (SLOT << 15) + (1 << 12), 4), 0xffffffff);
}

static void test_ports(void **state)
{
    struct pci_test *t = *state;

    bus_port_write(t->f.bus, 0xcf8, 0x80000800, 4);
    assert_int_equal(bus_port_read(t->f.bus, 0xcf8, 4), 0x80000800);
    assert_int_equal(bus_port_read(t->f.bus, 0xcfc, 4), 0x56781234);
    assert_int_equal(bus_port_read(t->f.bus, 0xcfe, 2), 0x5678);
    assert_int_equal(bus_port_read(t->f.bus, 0xcfd, 1), 0x12);
    bus_port_write(t->f.bus, 0xcf8, 0, 1); /* only doublewords reach it */
    assert_int_equal(bus_port_read(t->f.bus, 0xcf8, 1), 0xff);
    assert_int_equal(bus_port_read(t->f.bus, 0xcf8, 4), 0x80000800);
    bus_port_write(t->f.bus, 0xcf8, 0x80000804, 4);
    bus_port_write(t->f.bus, 0xcfc, 2, 2);
    assert_int_equal(get(t, 4, 2), 2);
    bus_port_write(t->f.bus, 0xcf8, 0x00000800, 4); /* not enabled */
    assert_int_equal(bus_port_read(t->f.bus, 0xcfc, 4), 0xffffffff);
    bus_port_write(t->f.bus, 0xcf8, 0x80010800, 4); /* another bus */
    assert_int_equal(bus_port_read(t->f.bus, 0xcfc, 4), 0xffffffff);
}

static void test_bar(void **state)
{
    struct pci_test *t = *state;
    uint64_t at = get(t, 0x10, 4), value = 7;

    assert_true(at >= WINDOW && at % 0x4000 == 0);
    assert_true(bus_mmio_read(t->f.bus, at, 8) == UINT64_MAX); /* memory is not enabled */
    put(t, 4, 2, 2);
    assert_true(bus_mmio_read(t->f.bus, at + 8, 8) == 0x1122334455667708);
    assert_int_equal(bus_mmio_read(t->f.bus, at + 8, 2), 0x7708);
    put(t, 0x10, 0xffffffff, 4);
    assert_int_equal(get(t, 0x10, 4), 0xffffc000);
    put(t, 0x10, WINDOW + 0x80000, 4);
    assert_true(bus_mmio_read(t->f.bus, at + 8, 8) == UINT64_MAX);
    bus_mmio_write(t->f.bus, WINDOW + 0x83ffc, 0xabcd, 4);
    assert_int_equal(t->offset, 0x3ffc);
    assert_int_equal(t->written, 0xabcd);
    bus_mmio_write(t->f.bus, WINDOW + 0x83ffc, 1, 8); /* over its end: nobody's */
    assert_int_equal(t->written, 0xabcd);
    put(t, 0x18, 0xffffffff, 4);
    assert_int_equal(get(t, 0x18, 4), 0);
    assert_true(pci_bar_access(t->function, 0, 0x3ffe, 2, true, &value));
    assert_int_equal(t->offset, 0x3ffe);
    assert_false(pci_bar_access(t->function, 0, 0x3fff, 2, true, &value));
    assert_false(pci_bar_access(t->function, 0, UINT64_MAX, 4, false, &value));
    assert_false(pci_bar_access(t->function, 2, 0, 4, false, &value));
    assert_false(pci_bar_access(t->function, 6, 0, 4, false, &value));
    assert_int_not_equal(pci_add_bar(t->function, 2, 0x100000, &ops, t, NULL), 0);
}

static void test_hook(void **state)
{
    struct pci_test *t = *state;
    unsigned at = pci_add_capability(t->function, 9, "\x10\x05\0\0\0\0", 6);

    assert_int_equal(capability(t, 9), at);
    assert_int_equal(at, 0x64); /* the pin's capabilities come first */
    put(t, at + 2, 0, 1);
    assert_int_equal(get(t, at + 2, 1), 0x10);
    assert_int_equal(t->writes + t->reads, 0);
    pci_hook_config(t->function, at + 4, 4);
    put(t, at + 4, 0x12345678, 4);
    assert_int_equal(get(t, at + 4, 4), 0x1234565a);
    assert_int_equal(t->writes, 1);
    assert_int_equal(t->reads, 1);
    assert_int_equal(pci_add_capability(t->function, 9, (uint8_t[200]){0}, 200), 0);
}

static void test_intx(void **state)
{
    struct pci_test *t = *state;

    pci_set_intx(t->function, true);
    assert_true(t->f.level);
    assert_int_equal(get(t, 6, 2) & 8, 8);
    put(t, 4, 0x400, 2);
    assert_false(t->f.level);
    assert_int_equal(get(t, 6, 2) & 8, 8);
    put(t, 4, 0, 2);
    assert_true(t->f.level);
    pci_set_intx(t->function, false);
    assert_false(t->f.level);
    assert_int_equal(get(t, 6, 2) & 8, 0);
}

static void test_msi(void **state)
{
    struct pci_test *t = *state;
    unsigned at = capability(t, 5);

    put(t, 4, 4, 2);
    put(t, at + 4, 0xfee01003, 4);
    put(t, at + 12, 0x4041, 2);
    put(t, at + 2, 0xffff, 2);
    assert_int_equal(get(t, at + 2, 2), 0x181);
    pci_set_intx(t->function, true);
    assert_int_equal(t->sent, 1);
    assert_true(t->last.address == 0xfee01000);
    assert_int_equal(t->last.data, 0x4041);
    assert_false(t->f.level);
    pci_set_intx(t->function, true);
    assert_int_equal(t->sent, 1);
    pci_set_intx(t->function, false);
    put(t, at + 16, 1, 1);
    pci_set_intx(t->function, true);
    assert_int_equal(t->sent, 1);
    assert_int_equal(get(t, at + 20, 4), 1);
    put(t, at + 16, 0, 1);
    assert_int_equal(t->sent, 2);
    assert_int_equal(get(t, at + 20, 4), 0);
    put(t, at + 2, 0, 2);
    assert_true(t->f.level); /* back to the pin */
}

static void test_msix(void **state)
{
    struct pci_test *t = *state;
    unsigned at = capability(t, 0x11);
    uint64_t table = get(t, 0x14, 4);

    assert_int_equal(get(t, at + 2, 2), 2);
    assert_int_equal(get(t, at + 4, 4), 1);
    put(t, 4, 6, 2);
    assert_int_equal(bus_mmio_read(t->f.bus, table + 0x1c, 4), 1); /* masked */
    bus_mmio_write(t->f.bus, table + 0x10, 0xfee00000, 4);
    bus_mmio_write(t->f.bus, table + 0x18, 0x55, 4);
    bus_mmio_write(t->f.bus, table + 0x30, 0x55, 4); /* past the last vector */
    assert_int_equal(bus_mmio_read(t->f.bus, table + 0x30, 4), 0);
    assert_false(pci_send_msix(t->function, 1));
    put(t, at + 2, 0xc000, 2);
    assert_true(pci_msix_enabled(t->function));
    assert_true(pci_send_msix(t->function, 1));
    assert_false(pci_send_msix(t->function, 3));
    assert_int_equal(t->sent, 0);
    assert_int_equal(bus_mmio_read(t->f.bus, table + 0x800, 8), 2);
    put(t, at + 2, 0x8000, 2);
    assert_int_equal(t->sent, 0);
    bus_mmio_write(t->f.bus, table + 0x1c, 0, 4);
    assert_int_equal(t->sent, 1);
    assert_int_equal(t->last.data, 0x55);
    assert_int_equal(bus_mmio_read(t->f.bus, table + 0x800, 4), 0);
    pci_send_msix(t->function, 1);
    assert_int_equal(t->sent, 2);
    pci_set_intx(t->function, true);
    assert_false(t->f.level);
    put(t, 4, 2, 2); /* not a bus master: nothing goes out */
    pci_send_msix(t->function, 1);
    assert_int_equal(t->sent, 2);
}

/* Each vector has a memory of its own. */
static void test_again(void **state)
{
    struct pci_test *t = *state;
    unsigned at = capability(t, 0x11);
    uint64_t table = get(t, 0x14, 4);

    put(t, 4, 6, 2);
    put(t, at + 2, 0x8000, 2);
    for (unsigned i = 0; i < 2; i++) {
        bus_mmio_write(t->f.bus, table + 16 * i, 0xfee00000, 4);
        bus_mmio_write(t->f.bus, table + 16 * i + 12, 0, 4);
    }
    for (unsigned i = 0; i < 3; i++) {
        pci_send_msix(t->function, 1);
        assert_int_equal(t->route, i);
    }
    pci_send_msix(t->function, 0);
    assert_int_equal(t->route, 0);
    assert_int_equal(t->again, 4);
    assert_int_equal(t->sent, 4);
}

static void test_bells(void **state)
{
    struct pci_test *t = *state;
    uint64_t at = get(t, 0x10, 4);

    pci_add_bells(t->function, 0, 0x3000, 4, 5, NULL, NULL); /* the host has only four */
    assert_int_equal(t->bells, 4);
    assert_true(t->bell[0] == 0);
    put(t, 4, 2, 2);
    assert_true(t->bell[0] == at + 0x3000 && t->bell[3] == at + 0x300c);
    put(t, 4, 6, 2);
    assert_true(t->bell[0] == at + 0x3000);
    put(t, 0x10, WINDOW + 0x80000, 4);
    assert_true(t->bell[0] == WINDOW + 0x83000);
    put(t, 0x10, 0xffffffff, 4); /* outside the window */
    assert_true(t->bell[0] == 0 && t->bell[3] == 0);
    put(t, 0x10, (uint32_t)at, 4);
    assert_true(t->bell[1] == at + 0x3004);
    put(t, 4, 0, 2);
    assert_true(t->bell[0] == 0 && t->bell[3] == 0);
}

static void test_slots(void **state)
{
    struct pci_test *t = *state;
    const struct pci_function_config plain = {.vendor = 1, .device = 2};
    struct error err;

    for (unsigned i = 2; i < PCI_SLOTS; i++)
        assert_non_null(pci_add(t->host, &plain, &err));
    assert_null(pci_add(t->host, &plain, &err));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_header), TEST(test_ports), TEST(test_bar),   TEST(test_hook),  TEST(test_intx),
        TEST(test_msi),    TEST(test_msix),  TEST(test_slots), TEST(test_again), TEST(test_bells),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
