/* tests/device/virtio_blk.c: the disk's requests, their errors, and resets with requests under way. */
#include "tests/device/virtio_guest.h"

#include <fcntl.h>
#include <unistd.h>

#include "device/virtio/blk.h"

#define SECTORS 256
#define HEADER  VG_DATA
#define STATUS  (VG_DATA + 0x100)
#define BUFFER  (VG_DATA + 0x1000)

struct blk_test {
    struct vg g;
    char path[32];
    struct block *block;
    struct virtio_blk *blk;
};

static void open_disk(struct blk_test *t, bool readonly)
{
    const struct block_config config = {t->path, readonly, false};

    t->block = block_open(&config, NULL);
    assert_non_null(t->block);
    vg_open(&t->g);
    t->blk = virtio_blk_new(t->g.host, t->g.mem, t->block, "serial-0123456789-abcdefgh", 2, NULL);
    assert_non_null(t->blk);
    vg_enable(&t->g);
}

static void close_disk(struct blk_test *t)
{
    virtio_blk_free(t->blk);
    vg_close(&t->g);
    block_close(t->block);
}

static int setup(void **state)
{
    struct blk_test *t = calloc(1, sizeof(*t));
    uint8_t sector[512];
    int fd;

    strcpy(t->path, "/tmp/trapeze-blk-XXXXXX");
    fd = mkstemp(t->path);
    for (unsigned i = 0; i < SECTORS; i++) {
        memset(sector, (int)i, sizeof(sector));
        assert_int_equal(write(fd, sector, sizeof(sector)), sizeof(sector));
    }
    close(fd);
    open_disk(t, false);
    *state = t;
    return 0;
}

static int teardown(void **state)
{
    struct blk_test *t = *state;

    close_disk(t);
    unlink(t->path);
    free(t);
    return 0;
}

/* Waits for the disk's threads. */
static int64_t used(struct vg *g, unsigned q, unsigned n)
{
    int64_t len = -1;

    for (unsigned i = 0; i < 5000 && len < 0; i++) {
        len = vg_used(g, q, n);
        if (len < 0)
            usleep(1000);
    }
    return len;
}

static void put_header(struct vg *g, uint32_t type, uint64_t sector)
{
    VG_PUT(g, HEADER, uint32_t, type);
    VG_PUT(g, HEADER + 4, uint32_t, 0);
    VG_PUT(g, HEADER + 8, uint64_t, sector);
    *vg_ram(g, STATUS) = 0xee;
}

/* A request on queue 1 with one buffer; its status. */
static uint8_t request(struct vg *g, uint32_t type, uint64_t sector, uint32_t len, bool write)
{
    const struct vg_buffer b[] = {{HEADER, 16, 0}, {BUFFER, len, write ? 0 : VG_WRITE}, {STATUS, 1, VG_WRITE}};
    const struct vg_buffer none[] = {{HEADER, 16, 0}, {STATUS, 1, VG_WRITE}};

    put_header(g, type, sector);
    vg_add(g, 1, len ? b : none, len ? 3 : 2);
    vg_kick(g, 1);
    assert_true(used(g, 1, len ? 3 : 2) >= 1);
    assert_int_equal(vg_status(g), 0xf);
    return *vg_ram(g, STATUS);
}

static void test_config(void **state)
{
    struct vg *g = &((struct blk_test *)*state)->g;

    assert_int_equal(vg_get(g, 0x2000, 8), SECTORS);
    assert_int_equal(vg_get(g, 0x200c, 4), 254);
    assert_int_equal(vg_get(g, 0x2014, 4), 512);
    assert_int_equal(vg_get(g, 0x2022, 2), 2);
    assert_int_equal(vg_get(g, 0x203c, 4), 0);
    assert_int_equal(vg_get(g, 0x2800, 8), 0);
    vg_put(g, 0x2000, 1, 8);
    assert_int_equal(vg_get(g, 0x2000, 8), SECTORS);
}

static void test_requests(void **state)
{
    struct vg *g = &((struct blk_test *)*state)->g;

    for (unsigned packed = 0; packed < 2; packed++) {
        vg_start(g, packed ? VG_PACKED : 0, 2);
        assert_int_equal(request(g, 0, 7, 1024, false), 0);
        assert_int_equal(*vg_ram(g, BUFFER + 511), 7);
        assert_int_equal(*vg_ram(g, BUFFER + 512), 8);
        memset(vg_ram(g, BUFFER), 0x5a, 1024);
        assert_int_equal(request(g, 1, 100, 1024, true), 0);
        assert_int_equal(request(g, 4, 0, 0, false), 0);
        memset(vg_ram(g, BUFFER), 0, 1024);
        assert_int_equal(request(g, 0, 101, 512, false), 0);
        assert_int_equal(*vg_ram(g, BUFFER), 0x5a);
        assert_int_equal(request(g, 8, 0, 20, false), 0);
        assert_memory_equal(vg_ram(g, BUFFER), "serial-0123456789-ab", 20);
        VG_PUT(g, BUFFER, uint64_t, 100);
        VG_PUT(g, BUFFER + 8, uint64_t, 1 | BIT(32));
        assert_int_equal(request(g, 13, 0, 16, true), 0);
        assert_int_equal(request(g, 0, 100, 1024, false), 0);
        assert_int_equal(*vg_ram(g, BUFFER), 0);
        assert_int_equal(*vg_ram(g, BUFFER + 512), 0x5a);
        VG_PUT(g, BUFFER, uint64_t, 0);
        VG_PUT(g, BUFFER + 8, uint64_t, SECTORS);
        assert_int_equal(request(g, 11, 0, 16, true), 0);
        assert_int_equal(request(g, 1, 0, 512 * 8, true), 0);
        for (unsigned i = 0; i < SECTORS; i++) {
            memset(vg_ram(g, BUFFER), (int)i, 512);
            assert_int_equal(request(g, 1, i, 512, true), 0);
        }
    }
}

static void test_errors(void **state)
{
    struct vg *g = &((struct blk_test *)*state)->g;

    vg_start(g, 0, 2);
    assert_int_equal(request(g, 0, SECTORS, 512, false), 1);
    assert_int_equal(request(g, 0, SECTORS - 1, 1024, false), 1);
    assert_int_equal(request(g, 0, UINT64_MAX, 512, false), 1);
    assert_int_equal(request(g, 1, UINT64_MAX / 512, 512, true), 1);
    assert_int_equal(request(g, 0, 0, 511, false), 1);
    assert_int_equal(request(g, 1, 0, 1, true), 1);
    assert_int_equal(request(g, 0, SECTORS, 0, false), 0);
    assert_int_equal(request(g, 2, 0, 512, true), 2);
    assert_int_equal(request(g, UINT32_MAX, 0, 512, true), 2);
    VG_PUT(g, BUFFER, uint64_t, UINT64_MAX);
    VG_PUT(g, BUFFER + 8, uint64_t, 8);
    assert_int_equal(request(g, 11, 0, 16, true), 1);
    VG_PUT(g, BUFFER, uint64_t, 0);
    VG_PUT(g, BUFFER + 8, uint64_t, 0xffffffff);
    assert_int_equal(request(g, 13, 0, 16, true), 1);
    VG_PUT(g, BUFFER + 8, uint64_t, 8 | BIT(32));
    assert_int_equal(request(g, 11, 0, 16, true), 2); /* a discard has no flags */
    assert_int_equal(request(g, 11, 0, 32, true), 1);
    assert_int_equal(request(g, 11, 0, 0, true), 1);
}

static void test_no_request(void **state)
{
    static const struct vg_buffer bad[][2] = {
        {{HEADER, 15, 0}, {STATUS, 1, VG_WRITE}},
        {{HEADER, 16, 0}, {STATUS, 0, VG_WRITE}},
        {{HEADER, 0, 0}, {STATUS, 0, VG_WRITE}},
        {{HEADER, 16, VG_WRITE}, {STATUS, 1, VG_WRITE}},
    };
    struct vg *g = &((struct blk_test *)*state)->g;

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        vg_start(g, 0, 2);
        put_header(g, 0, 0);
        vg_add(g, 0, bad[i], 2);
        vg_kick(g, 0);
        assert_int_equal(vg_status(g), 0x4f);
        assert_int_equal(vg_used(g, 0, 2), -1);
    }
}

static void test_readonly(void **state)
{
    struct blk_test *t = *state;

    close_disk(t);
    open_disk(t, true);
    assert_true(vg_offered(&t->g) & BIT(5));
    assert_false(vg_offered(&t->g) & (BIT(13) | BIT(14)));
    vg_start(&t->g, 0, 2);
    assert_int_equal(request(&t->g, 0, 3, 512, false), 0);
    assert_int_equal(request(&t->g, 1, 3, 512, true), 1);
}

/* The file has become shorter: the guest sees I/O errors, and all is well when it is long again. */
static void test_shrunk(void **state)
{
    struct blk_test *t = *state;

    vg_start(&t->g, 0, 2);
    assert_int_equal(truncate(t->path, 4096), 0);
    assert_int_equal(request(&t->g, 0, 7, 512, false), 0);
    assert_int_equal(request(&t->g, 0, 8, 512, false), 1);
    assert_int_equal(truncate(t->path, SECTORS * 512), 0);
    assert_int_equal(request(&t->g, 0, 8, 512, false), 0);
}

/* Writes and flushes are under way when the driver resets: the reset ends, and nothing comes back after it. */
static void test_reset(void **state)
{
    struct vg *g = &((struct blk_test *)*state)->g;

    for (unsigned round = 0; round < 200; round++) {
        const struct vg_buffer b[] = {{HEADER, 16, 0}, {BUFFER, 512, 0}, {STATUS, 1, VG_WRITE}};

        vg_start(g, VG_PACKED, 2);
        put_header(g, 1, round);
        for (unsigned i = 0; i < 4; i++)
            vg_add(g, 0, b, 3);
        vg_kick(g, 0);
        vg_put(g, 0x14, 0, 1);
        for (unsigned i = 0; i < 5000 && vg_status(g); i++)
            usleep(1000);
        assert_int_equal(vg_status(g), 0);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_config),   TEST(test_requests), TEST(test_errors), TEST(test_no_request),
        TEST(test_readonly), TEST(test_shrunk),   TEST(test_reset),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
