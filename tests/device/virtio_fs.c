/* tests/device/virtio_fs.c: a shared directory's queues: requests there and back, at once or by a thread, and resets.
 */
#include "tests/device/virtio_guest.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device/virtio/fs.h"

#define REQUEST VG_DATA
#define DATA    (VG_DATA + 0x100000)
#define ANSWER  (VG_DATA + 0x20000)
#define ROOM    0x10000u

struct fs_test {
    struct vg g;
    char dir[32];
    struct fs *fs;
    struct virtio_fs *share;
};

static int setup(void **state)
{
    struct fs_test *t = calloc(1, sizeof(*t));
    const struct fs_config config = {.path = t->dir};

    strcpy(t->dir, "/tmp/trapeze-fs-XXXXXX");
    assert_non_null(mkdtemp(t->dir));
    t->fs = fs_open(&config, "--share", NULL);
    assert_non_null(t->fs);
    vg_open(&t->g);
    t->share = virtio_fs_new(t->g.host, t->g.mem, t->fs, "a-tag", 2, NULL);
    assert_non_null(t->share);
    vg_enable(&t->g);
    *state = t;
    return 0;
}

static int teardown(void **state)
{
    struct fs_test *t = *state;
    char command[64];

    virtio_fs_free(t->share);
    vg_close(&t->g);
    fs_close(t->fs);
    snprintf(command, sizeof(command), "rm -rf %s", t->dir);
    assert_int_equal(system(command), 0);
    free(t);
    return 0;
}

/* Waits for the server's threads. */
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

static void put_request(struct vg *g, uint32_t opcode, uint64_t node, const void *body, uint32_t len)
{
    const struct fuse_in_header header = {.len = (uint32_t)sizeof(header) + len, .opcode = opcode, .nodeid = node};

    memcpy(vg_ram(g, REQUEST), &header, sizeof(header));
    memcpy(vg_ram(g, REQUEST + sizeof(header)), body, len);
    memset(vg_ram(g, ANSWER), 0xee, 64);
}

/* A request on queue 1, its header, body, `data` bytes of DATA and answer each in buffers of their own: the error. */
static int32_t ask(struct vg *g, uint32_t opcode, uint64_t node, const void *body, uint32_t len, uint32_t data)
{
    const struct vg_buffer b[] = {
        {REQUEST, 40, 0},       {REQUEST + 40, len, 0},        {DATA, data, 0},
        {ANSWER, 16, VG_WRITE}, {ANSWER + 16, 1000, VG_WRITE}, {ANSWER + 1016, ROOM, VG_WRITE}};
    const unsigned skip = data ? 0 : 1;
    struct vg_buffer list[6] = {b[0], b[1]};
    int64_t n;

    memcpy(list + 2, b + 2 + skip, sizeof(b) - (2 + skip) * sizeof(*b));
    put_request(g, opcode, node, body, len);
    if (data)
        VG_PUT(g, REQUEST, uint32_t, 40 + len + data);
    vg_add(g, 1, list, 6 - skip);
    vg_kick(g, 1);
    n = used(g, 1, 6 - skip);
    assert_true(n >= 16);
    assert_int_equal(VG_GET(g, ANSWER, uint32_t), n);
    assert_int_equal(vg_status(g), 0xf);
    return VG_GET(g, ANSWER + 4, int32_t);
}

static int32_t init(struct vg *g)
{
    const struct fuse_init_in in = {.major = 7, .minor = 36, .flags = FUSE_BIG_WRITES};

    return ask(g, FUSE_INIT, 0, &in, sizeof(in), 0);
}

static void test_config(void **state)
{
    struct vg *g = &((struct fs_test *)*state)->g;
    char tag[36];

    for (unsigned i = 0; i < sizeof(tag); i++)
        tag[i] = (char)vg_get(g, 0x2000 + i, 1);
    assert_memory_equal(tag, "a-tag\0\0", 7);
    assert_int_equal(tag[35], 0);
    assert_int_equal(vg_get(g, 0x2024, 4), 2);
    assert_int_equal(vg_get(g, 0x12, 2), 3); /* and the one for FORGETs */
}

/* Makes a file, writes 100,000 bytes (by a thread, being many), reads them. */
static void check_file(struct vg *g, const char *name)
{
    struct {
        struct fuse_create_in in;
        char name[16];
    } create = {.in = {.flags = O_RDWR | O_CREAT, .mode = S_IFREG | 0644}};
    struct fuse_write_in write = {.size = 100000};
    struct fuse_read_in read = {.size = ROOM, .offset = 50000};
    uint64_t node;

    strcpy(create.name, name);
    assert_int_equal(ask(g, FUSE_CREATE, 1, &create, (uint32_t)(sizeof(create.in) + strlen(name) + 1), 0), 0);
    node = VG_GET(g, ANSWER + 16, uint64_t);
    write.fh = read.fh = VG_GET(g, ANSWER + 16 + sizeof(struct fuse_entry_out), uint64_t);
    for (unsigned i = 0; i < write.size; i++)
        *vg_ram(g, DATA + i) = (uint8_t)(i * 7 + i / 256);
    assert_int_equal(ask(g, FUSE_WRITE, node, &write, sizeof(write), write.size), 0);
    assert_int_equal(VG_GET(g, ANSWER + 16, uint32_t), write.size);
    assert_int_equal(ask(g, FUSE_READ, node, &read, sizeof(read), 0), 0);
    assert_int_equal(VG_GET(g, ANSWER, uint32_t), 16 + 50000);
    for (unsigned i = 0; i < 50000; i++)
        assert_int_equal(*vg_ram(g, ANSWER + 16 + i), (uint8_t)((i + 50000) * 7 + (i + 50000) / 256));
    assert_int_equal(ask(g, FUSE_FSYNC, node, &(struct fuse_fsync_in){.fh = read.fh}, sizeof(struct fuse_fsync_in), 0),
                     0);
}

static void test_requests(void **state)
{
    struct vg *g = &((struct fs_test *)*state)->g;

    for (unsigned packed = 0; packed < 2; packed++) {
        vg_start(g, packed ? VG_PACKED : 0, 3);
        assert_int_equal(init(g), 0);
        check_file(g, packed ? "packed" : "split");
    }
}

static void test_forget(void **state)
{
    struct vg *g = &((struct fs_test *)*state)->g;
    const struct vg_buffer b = {REQUEST, 48, 0};
    const struct fuse_forget_in in = {1};

    vg_start(g, 0, 3);
    assert_int_equal(init(g), 0);
    put_request(g, FUSE_FORGET, 1, &in, sizeof(in));
    vg_add(g, 0, &b, 1);
    vg_kick(g, 0);
    assert_int_equal(vg_used(g, 0, 1), 0);
    assert_int_equal(vg_status(g), 0xf);
}

/* What is no request comes back empty, and the device goes on. */
static void test_no_request(void **state)
{
    static const struct vg_buffer bad[][2] = {
        {{REQUEST, 39, 0}, {ANSWER, 100, VG_WRITE}},
        {{REQUEST, 0, 0}, {ANSWER, 0, VG_WRITE}},
        {{REQUEST, 40, 0}, {ANSWER, 15, VG_WRITE}},
        {{REQUEST, 40, VG_WRITE}, {ANSWER, 100, VG_WRITE}},
    };
    struct vg *g = &((struct fs_test *)*state)->g;

    vg_start(g, 0, 3);
    assert_int_equal(init(g), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        put_request(g, FUSE_STATFS, 1, "", 0);
        vg_add(g, 1, bad[i], 2);
        vg_kick(g, 1);
        assert_int_equal(used(g, 1, 2), 0);
        assert_int_equal(vg_status(g), 0xf);
    }
    assert_int_equal(ask(g, FUSE_STATFS, 1, "", 0, 0), 0);
}

/* Requests are under way when the driver resets: the reset ends, nothing comes after it, and the server has forgotten
 * the guest. */
static void test_reset(void **state)
{
    struct vg *g = &((struct fs_test *)*state)->g;
    const struct fuse_fsync_in in = {0};

    for (unsigned round = 0; round < 50; round++) {
        const struct vg_buffer b[] = {{REQUEST, 56, 0}, {ANSWER, 100, VG_WRITE}};

        vg_start(g, VG_PACKED, 3);
        assert_int_equal(ask(g, FUSE_STATFS, 1, "", 0, 0), -EIO);
        assert_int_equal(init(g), 0);
        put_request(g, FUSE_FSYNC, 1, &in, sizeof(in));
        for (unsigned i = 0; i < 4; i++)
            vg_add(g, 1, b, 2);
        vg_kick(g, 1);
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
        TEST(test_config), TEST(test_requests), TEST(test_forget), TEST(test_no_request), TEST(test_reset),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
