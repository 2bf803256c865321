/* tests/device/virtio_balloon.c: pages given to the balloon or reported free are gone, and no others. */
#include "tests/device/virtio_guest.h"

#include "device/virtio/balloon.h"

enum { INFLATE, DEFLATE, REPORTING };

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
    static const uint32_t pages[] = {0x301, 0x302, 0x308, 0x400, 0xffffffff, 0x30f, 0x300000};
    const struct vg_buffer b = {VG_DATA, sizeof(pages) + 3, 0};

    vg_start(g, 0, 3);
    fill(g);
    memcpy(vg_ram(g, VG_DATA), pages, sizeof(pages));
    vg_add(g, INFLATE, &b, 1);
    vg_kick(g, INFLATE);
    assert_int_equal(vg_used(g, INFLATE, 1), 0);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(gone(g, i), i == 1 || i == 2 || i == 8 || i == 15);
    fill(g);
    vg_add(g, DEFLATE, &b, 1);
    vg_kick(g, DEFLATE);
    assert_int_equal(vg_used(g, DEFLATE, 1), 0);
    assert_false(gone(g, 1));
}

static void test_reporting(void **state)
{
    struct vg *g = &((struct balloon_test *)*state)->g;
    const struct vg_buffer b[] = {
        {0x300000, 0x2000, VG_WRITE}, {0x304800, 0x2000, VG_WRITE}, {0x308001, 0xffe, VG_WRITE}};

    vg_start(g, BIT(5), 3);
    fill(g);
    vg_add(g, REPORTING, b, 3);
    vg_kick(g, REPORTING);
    assert_int_equal(vg_used(g, REPORTING, 3), 0);
    for (unsigned i = 0; i < 16; i++) /* only whole pages */
        assert_int_equal(gone(g, i), i == 0 || i == 1 || i == 5);
}

static void test_config(void **state)
{
    struct vg *g = &((struct balloon_test *)*state)->g;

    vg_put(g, 0x2004, 17, 4);
    vg_put(g, 0x2000, 17, 4);
    assert_int_equal(vg_get(g, 0x2004, 4), 17);
    assert_int_equal(vg_get(g, 0x2000, 4), 0);
    vg_put(g, 0x2006, 0xffffffff, 4);
    assert_int_equal(vg_get(g, 0x2004, 4), 17);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_inflate), TEST(test_reporting), TEST(test_config)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
