/*
 * tests/device/virtio.c: the transport and the queues, with the entropy device
 * behind them: set-up, both ring formats, indirect tables, event index, reset,
 * and what a driver can get wrong.
 */
#include "tests/device/virtio_guest.h"

#include "device/virtio/rng.h"

struct virtio_test {
    struct vg g;
    struct virtio_rng *rng;
};

static int setup(void **state)
{
    struct virtio_test *t = calloc(1, sizeof(*t));

    vg_open(&t->g);
    t->rng = virtio_rng_new(t->g.host, t->g.mem, NULL);
    assert_non_null(t->rng);
    vg_enable(&t->g);
    *state = t;
    return 0;
}

static int teardown(void **state)
{
    struct virtio_test *t = *state;

    virtio_rng_free(t->rng);
    vg_close(&t->g);
    free(t);
    return 0;
}

static const uint64_t formats[] = {0, VG_EVENT, VG_PACKED, VG_PACKED | VG_EVENT, VG_PACKED | VG_EVENT | VG_TABLES};
static const struct vg_buffer one = {VG_DATA, 64, VG_WRITE};

static bool is_zero(struct vg *g, gpa_t gpa, unsigned len)
{
    for (unsigned i = 0; i < len; i++)
        if (*vg_ram(g, gpa + i))
            return false;
    return true;
}

static void test_capabilities(void **state)
{
    struct virtio_test *t = *state;
    struct vg *g = &t->g;
    unsigned at = (unsigned)bus_mmio_read(g->f.bus, vg_config(g, 0x34), 1), seen = 0;

    assert_int_equal(bus_mmio_read(g->f.bus, vg_config(g, 0), 4), 0x10441af4);
    for (unsigned i = 0; at && i < 48; i++) {
        if (bus_mmio_read(g->f.bus, vg_config(g, at), 1) == 9)
            seen |= 1u << bus_mmio_read(g->f.bus, vg_config(g, at + 3), 1);
        at = (unsigned)bus_mmio_read(g->f.bus, vg_config(g, at + 1), 1);
    }
    assert_int_equal(seen, 1 << 1 | 1 << 2 | 1 << 3 | 1 << 5); /* no device configuration */
}

static void test_transfer(void **state)
{
    struct virtio_test *t = *state;
    struct vg *g = &t->g;

    for (unsigned i = 0; i < ARRAY_SIZE(formats); i++) {
        vg_start(g, formats[i], 1);
        for (unsigned round = 0; round < 3 * VG_SIZE; round++) {
            const struct vg_buffer three[] = {
                {VG_DATA, 40, VG_WRITE}, {VG_DATA + 100, 1, VG_WRITE}, {VG_DATA + 200, 30, VG_WRITE}};

            memset(vg_ram(g, VG_DATA), 0, 4096);
            vg_add(g, 0, three, 3);
            vg_kick(g, 0);
            assert_int_equal(vg_used(g, 0, 3), 71);
            assert_int_equal(vg_used(g, 0, 3), -1);
            assert_false(is_zero(g, VG_DATA, 40));
            assert_false(is_zero(g, VG_DATA + 200, 30));
            assert_true(is_zero(g, VG_DATA + 40, 60));
            assert_true(is_zero(g, VG_DATA + 230, 60));
        }
        assert_int_equal(vg_status(g), 0xf);
    }
}

/* What the device changes in memory, rings included, is told to whoever keeps something derived from it. */
static uint8_t *told_ram;

static void told(void *opaque, gpa_t gpa, uint64_t len)
{
    memcpy(told_ram + gpa, vg_ram(opaque, gpa), len);
}

static void test_writes_are_told(void **state)
{
    struct virtio_test *t = *state;
    struct vg *g = &t->g;

    told_ram = malloc(VG_RAM);
    assert_non_null(told_ram);
    mem_set_listener(g->mem, told, g);
    for (unsigned i = 0; i < ARRAY_SIZE(formats); i++) {
        vg_start(g, formats[i], 1);
        for (unsigned round = 0; round < 3 * VG_SIZE; round++) {
            vg_add(g, 0, &one, 1);
            memcpy(told_ram, vg_ram(g, 0), VG_RAM);
            vg_kick(g, 0);
            assert_int_equal(vg_used(g, 0, 1), 64);
            assert_memory_equal(told_ram, vg_ram(g, 0), VG_RAM);
        }
    }
    free(told_ram);
}

static void test_indirect(void **state)
{
    struct virtio_test *t = *state;
    struct vg *g = &t->g;

    for (unsigned packed = 0; packed < 2; packed++) {
        struct vg_buffer many[100];

        vg_start(g, VG_TABLES | (packed ? VG_PACKED : 0), 1);
        for (unsigned i = 0; i < 100; i++)
            many[i] = (struct vg_buffer){VG_DATA + 16 * i, 8, VG_WRITE};
        for (unsigned round = 0; round < 40; round++) {
            vg_add_indirect(g, 0, many, 100);
            vg_kick(g, 0);
            assert_int_equal(vg_used(g, 0, 1), 800);
        }
    }
}

/* The pin, its ISR, MSI-X. */
static void test_interrupts(void **state)
{
    struct virtio_test *t = *state;
    struct vg *g = &t->g;
    uint64_t table = bus_mmio_read(g->f.bus, vg_config(g, 0x14), 4);

    vg_start(g, 0, 1);
    vg_add(g, 0, &one, 1);
    vg_kick(g, 0);
    assert_true(g->f.level);
    assert_int_equal(vg_get(g, 0x1000, 1), 1);
    assert_false(g->f.level);
    assert_int_equal(vg_get(g, 0x1000, 1), 0);
    VG_PUT(g, vg_area(0, 1), uint16_t, 1); /* not wanted */
    vg_add(g, 0, &one, 1);
    vg_kick(g, 0);
    assert_false(g->f.level);
    VG_PUT(g, vg_area(0, 1), uint16_t, 0);

    bus_mmio_write(g->f.bus, table + 0x10, 0xfee00000, 4);
    bus_mmio_write(g->f.bus, table + 0x18, 0x41, 4);
    bus_mmio_write(g->f.bus, table + 0x1c, 0, 4);
    bus_mmio_write(g->f.bus, vg_config(g, 0x58 + 2), 0x8000, 2);
    vg_put(g, 0x16, 0, 2);
    vg_put(g, 0x1a, 2, 2); /* there are two: 0 and 1 */
    assert_int_equal(vg_get(g, 0x1a, 2), 0xffff);
    vg_put(g, 0x1a, 1, 2);
    assert_int_equal(vg_get(g, 0x1a, 2), 1);
    vg_add(g, 0, &one, 1);
    vg_kick(g, 0);
    assert_int_equal(g->messages, 1);
    assert_false(g->f.level);
}

/* With an event index the driver is told once, when that entry is passed. */
static void test_event_index(void **state)
{
    struct virtio_test *t = *state;
    struct vg *g = &t->g;

    vg_start(g, VG_EVENT, 1);
    VG_PUT(g, vg_area(0, 1) + 4 + 2 * VG_SIZE, uint16_t, 2);
    for (unsigned i = 0; i < 4; i++) {
        vg_add(g, 0, &one, 1);
        vg_kick(g, 0);
        assert_int_equal(VG_GET(g, vg_area(0, 2) + 4 + 8 * VG_SIZE, uint16_t), i + 1); /* tell me of the next */
        assert_int_equal(vg_get(g, 0x1000, 1), i == 0 || i == 2);
    }
    vg_start(g, VG_EVENT | VG_PACKED, 1);
    VG_PUT(g, vg_area(0, 1), uint16_t, 0x8002);
    VG_PUT(g, vg_area(0, 1) + 2, uint16_t, 2);
    for (unsigned i = 0; i < 4; i++) {
        vg_add(g, 0, &one, 1);
        vg_kick(g, 0);
        assert_int_equal(VG_GET(g, vg_area(0, 2), uint16_t), 0x8000 | (i + 1));
        assert_int_equal(vg_get(g, 0x1000, 1), i == 0 || i == 2);
    }
    VG_PUT(g, vg_area(0, 1) + 2, uint16_t, 1);
    vg_add(g, 0, &one, 1);
    vg_kick(g, 0);
    assert_int_equal(vg_get(g, 0x1000, 1), 0);
}

static void test_negotiation(void **state)
{
    struct virtio_test *t = *state;
    struct vg *g = &t->g;

    assert_true(vg_offered(g) == (VG_VERSION_1 | VG_PACKED | VG_EVENT | VG_TABLES));
    vg_put(g, 0, 2, 4);
    assert_int_equal(vg_get(g, 4, 4), 0);
    vg_put(g, 0x14, 3, 1);
    vg_put(g, 0x14, 0xb, 1); /* without VERSION_1 */
    assert_int_equal(vg_status(g), 3);
    vg_put(g, 8, 0, 4);
    vg_put(g, 0xc, 1, 4); /* not offered */
    vg_put(g, 8, 1, 4);
    vg_put(g, 0xc, 1, 4);
    vg_put(g, 0x14, 0xb, 1);
    assert_int_equal(vg_status(g), 3);
    vg_negotiate(g, 0);
    vg_put(g, 8, 0, 4);
    vg_put(g, 0xc, 1 << 28, 4); /* too late */
    assert_int_equal(vg_get(g, 0xc, 4), 0);
    vg_put(g, 0x16, 5, 2);
    assert_int_equal(vg_get(g, 0x18, 2), 0);
    vg_put(g, 0x18, 4, 2);
    vg_put(g, 0x16, 0, 2);
    assert_int_equal(vg_get(g, 0x18, 2), 256);
    assert_int_equal(vg_get(g, 0x12, 2), 1);
    assert_int_equal(vg_get(g, 0x14, 4), 0); /* not its width */
    vg_put(g, 0x14, 0, 1);
    vg_put(g, 0x14, 7, 1); /* DRIVER_OK without FEATURES_OK */
    assert_int_equal(vg_status(g), 0x47);
}

/* The window in configuration space does what BAR 0 does. */
static void test_window(void **state)
{
    struct virtio_test *t = *state;
    struct vg *g = &t->g;
    unsigned at = (unsigned)bus_mmio_read(g->f.bus, vg_config(g, 0x34), 1);

    while (at && !(bus_mmio_read(g->f.bus, vg_config(g, at), 1) == 9 &&
                   bus_mmio_read(g->f.bus, vg_config(g, at + 3), 1) == 5))
        at = (unsigned)bus_mmio_read(g->f.bus, vg_config(g, at + 1), 1);
    assert_int_not_equal(at, 0);
    bus_mmio_write(g->f.bus, vg_config(g, at + 8), 0x14, 4);
    bus_mmio_write(g->f.bus, vg_config(g, at + 12), 1, 4);
    bus_mmio_write(g->f.bus, vg_config(g, at + 16), 3, 1);
    assert_int_equal(vg_status(g), 3);
    vg_put(g, 0x14, 0, 1);
    assert_int_equal(bus_mmio_read(g->f.bus, vg_config(g, at + 16), 1), 0);
    bus_mmio_write(g->f.bus, vg_config(g, at + 8), 0xfffffffc, 4); /* outside */
    bus_mmio_write(g->f.bus, vg_config(g, at + 12), 4, 4);
    bus_mmio_write(g->f.bus, vg_config(g, at + 4), 0xff, 1);
    bus_mmio_read(g->f.bus, vg_config(g, at + 16), 4);
    bus_mmio_write(g->f.bus, vg_config(g, at + 12), 0x80000000, 4);
    bus_mmio_read(g->f.bus, vg_config(g, at + 16), 4);
}

/* --- mistakes: each is a needed reset, and nothing else --------------------------------------------- */

static void expect_broken(struct vg *g)
{
    const uint64_t features = g->features;

    vg_kick(g, 0);
    assert_int_equal(vg_status(g), 0x4f);
    assert_int_equal(vg_used(g, 0, 1), -1);
    assert_int_equal(vg_get(g, 0x1000, 1), 2); /* the configuration "changed" */
    vg_start(g, features, 1);                  /* a reset mends it */
    vg_add(g, 0, &one, 1);
    vg_kick(g, 0);
    assert_int_equal(vg_used(g, 0, 1), 64);
    vg_get(g, 0x1000, 1);
    vg_start(g, features, 1);
}

static void test_bad_buffers(void **state)
{
    static const struct vg_buffer bad[][2] = {
        {{VG_RAM, 1, VG_WRITE}},
        {{VG_RAM - 1, 2, VG_WRITE}},
        {{VG_DATA, UINT32_MAX, VG_WRITE}},
        {{UINT64_MAX, 1, VG_WRITE}},
        {{UINT64_MAX - 4095, 4096, VG_WRITE}},
        {{VG_DATA, 16, VG_WRITE}, {VG_DATA, 16, 0}}, /* written before read */
        {{VG_DATA, 64, VG_INDIRECT}},                /* not negotiated */
    };

    for (unsigned packed = 0; packed < 2; packed++) {
        struct virtio_test *t = *state;
        struct vg *g = &t->g;

        vg_start(g, packed ? VG_PACKED : 0, 1);
        for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
            vg_add(g, 0, bad[i], bad[i][1].len ? 2 : 1);
            expect_broken(g);
        }
    }
}

static void test_bad_tables(void **state)
{
    struct virtio_test *t = *state;
    struct vg *g = &t->g;
    static const struct vg_buffer bad[] = {
        {VG_DATA, 0, VG_INDIRECT},          {VG_DATA, 15, VG_INDIRECT},     {VG_DATA, 17, VG_INDIRECT},
        {VG_DATA, 16 * 257, VG_INDIRECT},   {VG_RAM - 16, 32, VG_INDIRECT}, {VG_DATA, 0xfffffff0, VG_INDIRECT},
        {UINT64_MAX - 15, 32, VG_INDIRECT},
    };

    for (unsigned packed = 0; packed < 2; packed++) {
        struct vg_buffer nested = {VG_DATA, 16, VG_INDIRECT};

        vg_start(g, VG_TABLES | (packed ? VG_PACKED : 0), 1);
        for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
            vg_add(g, 0, &bad[i], 1);
            expect_broken(g);
        }
        vg_add_indirect(g, 0, &nested, 1);
        expect_broken(g);
    }
}

static void test_bad_split_ring(void **state)
{
    struct virtio_test *t = *state;
    struct vg *g = &t->g;

    vg_start(g, 0, 1);
    vg_add(g, 0, &one, 1);
    VG_PUT(g, vg_area(0, 1) + 4, uint16_t, VG_SIZE); /* no such descriptor */
    expect_broken(g);
    VG_PUT(g, vg_area(0, 1) + 2, uint16_t, VG_SIZE + 1); /* more than there can be */
    expect_broken(g);
    vg_add(g, 0, &one, 1);
    VG_PUT(g, vg_area(0, 0) + 12, uint16_t, VG_WRITE | VG_NEXT); /* a loop of one */
    VG_PUT(g, vg_area(0, 0) + 14, uint16_t, 0);
    expect_broken(g);
    vg_add(g, 0, &one, 1);
    VG_PUT(g, vg_area(0, 0) + 12, uint16_t, VG_WRITE | VG_NEXT);
    VG_PUT(g, vg_area(0, 0) + 14, uint16_t, 0xffff);
    expect_broken(g);
}

static void test_bad_packed_ring(void **state)
{
    struct virtio_test *t = *state;
    struct vg *g = &t->g;

    vg_start(g, VG_PACKED, 1);
    for (unsigned i = 0; i < VG_SIZE; i++) /* a chain without an end */
        vg_write_desc(g, vg_area(0, 0) + 16 * i, &one, 1, 0x80 | VG_WRITE | VG_NEXT, true);
    expect_broken(g);
    vg_write_desc(g, vg_area(0, 0), &one, 1, 0x80 | VG_NEXT | VG_INDIRECT, true);
    expect_broken(g);
}

static void test_bad_queues(void **state)
{
    static const struct {
        gpa_t desc, driver, device;
        uint16_t size;
    } bad[] = {
        {0x10008, 0x11000, 0x12000, 16},     {0x10000, 0x11001, 0x12000, 16},    {0x10000, 0x11000, 0x12002, 16},
        {VG_RAM, 0x11000, 0x12000, 16},      {0x10000, VG_RAM - 8, 0x12000, 16}, {0x10000, 0x11000, UINT64_MAX - 3, 16},
        {0x10000, 0x11000, 0x12000, 0},      {0x10000, 0x11000, 0x12000, 12},    {0x10000, 0x11000, 0x12000, 512},
        {0x10000, 0x11000, 0x12000, 0xffff},
    };
    struct virtio_test *t = *state;
    struct vg *g = &t->g;

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        vg_negotiate(g, 0);
        vg_queue_addresses(g, 0, bad[i].desc, bad[i].driver, bad[i].device);
        vg_put(g, 0x18, bad[i].size, 2);
        vg_put(g, 0x1c, 1, 2);
        assert_int_equal(vg_status(g), 0x4b);
        assert_int_equal(vg_get(g, 0x1c, 2), 0);
        vg_put(g, 0x14, 0xf, 1);
        vg_kick(g, 0);
    }
    vg_negotiate(g, VG_PACKED); /* any size will do there */
    vg_queue_addresses(g, 0, 0x10000, 0x11000, 0x12000);
    vg_put(g, 0x18, 12, 2);
    vg_put(g, 0x1c, 1, 2);
    assert_int_equal(vg_status(g), 0xb);
    vg_put(g, 0x20, 0, 4); /* it stays as it is */
    assert_int_equal(vg_get(g, 0x20, 4), 0x10000);
}

/* By the machine's thread; also when there is nothing, or the device is not ready (any more). */
static void test_doorbell(void **state)
{
    struct virtio_test *t = *state;
    struct vg *g = &t->g;

    assert_non_null(g->ring);
    g->ring(g->ring_opaque, 0);
    vg_start(g, 0, 1);
    g->ring(g->ring_opaque, 0);
    vg_add(g, 0, &one, 1);
    assert_int_equal(vg_used(g, 0, 1), -1);
    g->ring(g->ring_opaque, 0);
    assert_int_equal(vg_used(g, 0, 1), 64);
    vg_put(g, 0x14, 0, 1);
    vg_add(g, 0, &one, 1);
    g->ring(g->ring_opaque, 0);
    assert_int_equal(vg_used(g, 0, 1), -1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_capabilities), TEST(test_transfer),    TEST(test_writes_are_told), TEST(test_indirect),
        TEST(test_interrupts),   TEST(test_event_index), TEST(test_negotiation),     TEST(test_window),
        TEST(test_bad_buffers),  TEST(test_bad_tables),  TEST(test_bad_split_ring),  TEST(test_bad_packed_ring),
        TEST(test_bad_queues),   TEST(test_doorbell),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
