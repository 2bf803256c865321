/* tests/device/virtio_balloon.c: pages given to the balloon or reported free are gone, and no others. */
#include "tests/device/virtio_guest.h"

#include "device/virtio/balloon.h"

enum { INFLATE, DEFLATE, STATS, REPORTING = 4 };

#define F_STATS     BIT(1)
#define F_POISON    BIT(4)
#define F_REPORTING BIT(5)

struct balloon_test {
    struct vg g;
    struct virtio_balloon *balloon;
};

static int setup(void **state)
{
    struct balloon_test *t = calloc(1, sizeof(*t));

    vg_open(&t->g);
    t->balloon = virtio_balloon_new(t->g.host, t->g.mem, NULL);
    assert_non_null(t->balloon);
    vg_enable(&t->g);
    *state = t;
    return 0;
}

static int teardown(void **state)
{
    struct balloon_test *t = *state;

    virtio_balloon_free(t->balloon);
    vg_close(&t->g);
    free(t);
    return 0;
}

static void fill(struct vg *g)
{
    memset(vg_ram(g, 0x300000), 0x5a, 0x10000);
}

static bool gone(struct vg *g, unsigned page)
{
    const uint8_t *p = vg_ram(g, 0x300000 + page * 4096ull);

    if (*p)
        assert_int_equal(p[4095], 0x5a);
    return !*p && !p[4095];
}

static void test_inflate(void **state)
{
    struct vg *g = &((struct balloon_test *)*state)->g;
    static const uint32_t pages[] = {0x301, 0x302, 0x308,      0x400, 0xffffffff, 0x30f, 0x30e,
                                     0x30d, 0,     0xffffffff, 0x30a, 0x309,      0x30a, 0x300000};
    const struct vg_buffer b = {VG_DATA, sizeof(pages) + 3, 0};

    vg_start(g, 0, 3);
    fill(g);
    memcpy(vg_ram(g, VG_DATA), pages, sizeof(pages));
    vg_add(g, INFLATE, &b, 1);
    vg_kick(g, INFLATE);
    assert_int_equal(vg_used(g, INFLATE, 1), 0);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(gone(g, i), i == 1 || i == 2 || (i >= 8 && i <= 10) || i >= 13);
    fill(g);
    vg_add(g, DEFLATE, &b, 1);
    vg_kick(g, DEFLATE);
    assert_int_equal(vg_used(g, DEFLATE, 1), 0);
    assert_false(gone(g, 1));
}

/* The queue's number depends on what the driver thinks of queues that are not there. */
static void test_reporting(void **state)
{
    struct vg *g = &((struct balloon_test *)*state)->g;
    const struct vg_buffer b[] = {
        {0x300000, 0x2000, VG_WRITE}, {0x304800, 0x2000, VG_WRITE}, {0x308001, 0xffe, VG_WRITE}};
    static const struct {
        uint64_t features;
        unsigned queue;
    } numbers[] = {
        {F_REPORTING, REPORTING}, {F_REPORTING, 2}, {F_REPORTING | F_STATS, REPORTING}, {F_REPORTING | F_STATS, 3}};

    for (unsigned n = 0; n < ARRAY_SIZE(numbers); n++) {
        vg_start(g, numbers[n].features, 5);
        fill(g);
        vg_add(g, numbers[n].queue, b, 3);
        vg_kick(g, numbers[n].queue);
        assert_int_equal(vg_used(g, numbers[n].queue, 3), 0);
        for (unsigned i = 0; i < 16; i++) /* only whole pages */
            assert_int_equal(gone(g, i), i == 0 || i == 1 || i == 5);
    }
}

static void test_poison(void **state)
{
    struct vg *g = &((struct balloon_test *)*state)->g;
    const struct vg_buffer b = {0x300000, 0x2000, VG_WRITE};

    for (unsigned poison = 0; poison < 2; poison++) {
        vg_start(g, F_REPORTING | F_POISON, 5);
        vg_put(g, 0x200c, poison * 0xaaaaaaaau, 4);
        fill(g);
        vg_add(g, REPORTING, &b, 1);
        vg_kick(g, REPORTING);
        assert_int_equal(vg_used(g, REPORTING, 1), 0);
        assert_int_equal(gone(g, 0), !poison);
    }
}

static void give_stats(struct vg *g, uint64_t free, unsigned more)
{
    const struct {
        uint16_t tag;
        uint64_t value;
    } __attribute__((packed)) stats[] = {{4, free}, {5, MIB(100)}};
    const struct vg_buffer b = {VG_DATA, (uint32_t)sizeof(stats) + more, 0};

    memset(vg_ram(g, VG_DATA), 0xff, b.len); /* tags that nobody knows */
    memcpy(vg_ram(g, VG_DATA), stats, sizeof(stats));
    vg_add(g, STATS, &b, 1);
    vg_kick(g, STATS);
}

static void test_stats(void **state)
{
    struct balloon_test *t = *state;
    struct vg *g = &t->g;
    struct balloon_info info;

    virtio_balloon_refresh(t->balloon); /* no driver: no harm */
    vg_start(g, F_STATS, 5);
    give_stats(g, MIB(7), 0);
    assert_int_equal(vg_used(g, STATS, 1), -1); /* kept */
    virtio_balloon_get(t->balloon, &info);
    assert_true(info.driver);
    assert_int_equal(info.have, 3 << 4);
    assert_int_equal(info.stat[BALLOON_free], MIB(7));
    assert_int_equal(info.stat[BALLOON_total], MIB(100));
    assert_int_equal(info.updates, 1);
    virtio_balloon_refresh(t->balloon);
    assert_int_equal(vg_used(g, STATS, 1), 0);
    virtio_balloon_refresh(t->balloon); /* not given back twice */
    assert_int_equal(vg_used(g, STATS, 1), -1);
    give_stats(g, MIB(8), 2000);
    give_stats(g, MIB(9), 3); /* a second buffer: the first goes back */
    assert_int_equal(vg_used(g, STATS, 1), 0);
    virtio_balloon_get(t->balloon, &info);
    assert_int_equal(info.stat[BALLOON_free], MIB(9));
    assert_int_equal(info.updates, 3);
    vg_put(g, 0x14, 0, 1);
    virtio_balloon_refresh(t->balloon); /* it was the last driver's */
    virtio_balloon_get(t->balloon, &info);
    assert_false(info.driver || info.have);
}

static void test_target(void **state)
{
    struct balloon_test *t = *state;
    struct vg *g = &t->g;
    struct balloon_info info;

    virtio_balloon_set(t->balloon, MIB(1));
    vg_start(g, 0, 5);
    assert_int_equal(vg_get(g, 0x2000, 4), 256);
    assert_int_equal(vg_get(g, 0x1000, 1), 0);
    virtio_balloon_set(t->balloon, MIB(2) + 1);
    assert_int_equal(vg_get(g, 0x1000, 1), 2);
    assert_int_equal(vg_get(g, 0x2000, 4), 512);
    vg_put(g, 0x2004, 300, 4);
    virtio_balloon_get(t->balloon, &info);
    assert_int_equal(info.target, MIB(2));
    assert_int_equal(info.actual, 300 * 4096);
    vg_put(g, 0x14, 0, 1); /* what it put in is its own again, what is wanted stays */
    assert_int_equal(vg_get(g, 0x2000, 8), 512);
}

static void test_config(void **state)
{
    struct vg *g = &((struct balloon_test *)*state)->g;

    vg_put(g, 0x2004, 17, 4);
    vg_put(g, 0x2000, 17, 4);
    assert_int_equal(vg_get(g, 0x2004, 4), 17);
    assert_int_equal(vg_get(g, 0x2000, 4), 0);
    vg_put(g, 0x2008, 0xffffffff, 4);
    assert_int_equal(vg_get(g, 0x2008, 4), 0);
    vg_put(g, 0x200e, 0xffffffff, 4); /* over its end */
    assert_int_equal(vg_get(g, 0x200c, 4), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_inflate), TEST(test_reporting), TEST(test_config),
                                       TEST(test_poison),  TEST(test_stats),     TEST(test_target)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
