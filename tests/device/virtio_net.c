/* tests/device/virtio_net.c: frames both ways, merged buffers, checksums, no room, control, what is no frame. */
#include "tests/device/virtio_guest.h"

#include "device/virtio/net.h"

enum { RX, TX, CONTROL };
#define MERGE BIT(15)
#define CSUM  BIT(0)

struct net_test {
    struct vg g;
    struct net net; /* a backend that remembers */
    struct virtio_net *card;
    uint8_t sent[NET_FRAME_MAX];
    size_t sent_len;
    unsigned frames, ready;
};

static struct net_test *test_of(struct net *net)
{
    return container_of(net, struct net_test, net);
}

static int start(struct net *net)
{
    return 0;
}

static void stop(struct net *net)
{
}

static void send_frame(struct net *net, const uint8_t *frame, size_t len)
{
    struct net_test *t = test_of(net);

    memcpy(t->sent, frame, len);
    t->sent_len = len;
    t->frames++;
}

static void ready(struct net *net)
{
    test_of(net)->ready++;
}

static const struct net_ops ops = {start, stop, send_frame, ready, stop};

static int setup(void **state)
{
    struct net_test *t = calloc(1, sizeof(*t));

    vg_open(&t->g);
    t->net = (struct net){.ops = &ops, .mtu = 1500};
    t->card = virtio_net_new(t->g.host, t->g.mem, &t->net, (const uint8_t *)"\x02\x01\x02\x03\x04\x05", NULL);
    assert_non_null(t->card);
    vg_enable(&t->g);
    *state = t;
    return 0;
}

static int teardown(void **state)
{
    struct net_test *t = *state;

    virtio_net_free(t->card);
    vg_close(&t->g);
    free(t);
    return 0;
}

static bool receive(struct net_test *t, size_t len)
{
    static uint8_t frame[NET_FRAME_MAX];

    for (size_t i = 0; i < len; i++)
        frame[i] = (uint8_t)(i * 3);
    return t->net.client.receive(t->net.client.opaque, frame, len);
}

static void test_config(void **state)
{
    struct net_test *t = *state;

    assert_int_equal(vg_get(&t->g, 0x2000, 1), 2);
    assert_int_equal(vg_get(&t->g, 0x2005, 1), 5);
    assert_int_equal(vg_get(&t->g, 0x2006, 2), 1);
    assert_int_equal(vg_get(&t->g, 0x200a, 2), 1500);
}

static void test_send(void **state)
{
    struct net_test *t = *state;
    struct vg *g = &t->g;
    const struct vg_buffer b[] = {{VG_DATA, 5, 0}, {VG_DATA + 5, 27, 0}, {VG_DATA + 32, 40, 0}};

    for (unsigned packed = 0; packed < 2; packed++) {
        vg_start(g, packed ? VG_PACKED : 0, 3);
        memset(vg_ram(g, VG_DATA), 0, 12);
        for (unsigned i = 0; i < 60; i++)
            *vg_ram(g, VG_DATA + 12 + i) = (uint8_t)i;
        vg_add(g, TX, b, 3);
        vg_kick(g, TX);
        assert_int_equal(vg_used(g, TX, 3), 0);
        assert_int_equal(t->frames, packed + 1);
        assert_int_equal(t->sent_len, 60);
        assert_int_equal(t->sent[59], 59);
    }
}

/* The checksum over bytes 20.. of the frame goes to 20 + 6; RFC 1071's own example. */
static void test_checksum(void **state)
{
    struct net_test *t = *state;
    struct vg *g = &t->g;
    const struct vg_buffer b = {VG_DATA, 12 + 28, 0};
    static const uint16_t far_off[][2] = {{20, 0xffff}, {0xffff, 6}, {28, 0}, {27, 0}, {0xffff, 0xffff}};

    vg_start(g, CSUM, 3);
    memset(vg_ram(g, VG_DATA), 0, 40);
    *vg_ram(g, VG_DATA) = 1;
    VG_PUT(g, VG_DATA + 6, uint16_t, 20);
    VG_PUT(g, VG_DATA + 8, uint16_t, 6);
    memcpy(vg_ram(g, VG_DATA + 12 + 20), "\x00\x01\xf2\x03\xf4\xf5\x00\x00", 8);
    vg_add(g, TX, &b, 1);
    vg_kick(g, TX);
    assert_int_equal(t->sent_len, 28);
    assert_memory_equal(t->sent + 26, "\x19\x05", 2); /* ~(0001 + f203 + f4f5) */
    for (unsigned i = 0; i < ARRAY_SIZE(far_off); i++) {
        VG_PUT(g, VG_DATA + 6, uint16_t, far_off[i][0]);
        VG_PUT(g, VG_DATA + 8, uint16_t, far_off[i][1]);
        vg_add(g, TX, &b, 1);
        vg_kick(g, TX);
        assert_memory_equal(t->sent, vg_ram(g, VG_DATA + 12), 28);
    }
}

static void test_not_sent(void **state)
{
    struct net_test *t = *state;
    struct vg *g = &t->g;
    static const uint32_t lengths[] = {0, 1, 12, 25, 12 + 14 + 1505, 70000};

    vg_start(g, 0, 3);
    for (unsigned i = 0; i < ARRAY_SIZE(lengths); i++) {
        const struct vg_buffer b = {VG_DATA, lengths[i], 0};

        vg_add(g, TX, &b, 1);
        vg_kick(g, TX);
        assert_int_equal(vg_used(g, TX, 1), 0);
        assert_int_equal(vg_status(g), 0xf);
    }
    assert_int_equal(t->frames, 0);
}

static void test_receive(void **state)
{
    struct net_test *t = *state;
    struct vg *g = &t->g;
    const struct vg_buffer b[] = {{VG_DATA, 100, VG_WRITE}, {VG_DATA + 1000, 1500, VG_WRITE}};

    for (unsigned packed = 0; packed < 2; packed++) {
        vg_start(g, packed ? VG_PACKED : 0, 3);
        assert_false(receive(t, 60)); /* no room */
        vg_add(g, RX, b, 2);
        vg_kick(g, RX);
        assert_int_equal(t->ready >= packed + 1, 1);
        assert_true(receive(t, 1400));
        assert_int_equal(vg_used(g, RX, 2), 1412);
        assert_int_equal(VG_GET(g, VG_DATA + 10, uint16_t), 1);
        assert_int_equal(*vg_ram(g, VG_DATA + 13), 3);
        assert_int_equal(*vg_ram(g, VG_DATA + 1000), (uint8_t)(88 * 3));
        vg_add(g, RX, b, 1);
        assert_true(receive(t, 1400)); /* will never fit: dropped, and the buffer is still there */
        assert_int_equal(vg_used(g, RX, 1), -1);
        assert_true(receive(t, 60));
        assert_int_equal(vg_used(g, RX, 1), 72);
    }
    vg_put(g, 0x14, 0, 1);
    assert_true(receive(t, 60)); /* no driver */
}

/* A large frame over several chains, which appear together. */
static void test_merged(void **state)
{
    struct net_test *t = *state;
    struct vg *g = &t->g;

    for (unsigned packed = 0; packed < 2; packed++) {
        vg_start(g, MERGE | (packed ? VG_PACKED : 0), 3);
        for (unsigned round = 0; round < 20; round++) {
            for (unsigned i = 0; i < 3; i++) {
                const struct vg_buffer b = {VG_DATA + (packed ? i * 1000 : 0), 500, VG_WRITE};

                vg_add(g, RX, &b, 1);
                assert_int_equal(receive(t, 1400), i == 2); /* two are not enough, and go back */
            }
            assert_int_equal(vg_used(g, RX, 1), 500);
            assert_int_equal(vg_used(g, RX, 1), 500);
            assert_int_equal(vg_used(g, RX, 1), 412);
            assert_int_equal(vg_used(g, RX, 1), -1);
            if (packed) {
                assert_int_equal(VG_GET(g, VG_DATA + 10, uint16_t), 3);
                assert_int_equal(*vg_ram(g, VG_DATA + 1000), (uint8_t)(488 * 3));
                assert_int_equal(*vg_ram(g, VG_DATA + 2411), (uint8_t)(1399 * 3));
            }
        }
        assert_int_equal(vg_status(g), 0xf);
    }
}

static void test_control(void **state)
{
    struct net_test *t = *state;
    struct vg *g = &t->g;
    const struct vg_buffer b[] = {{VG_DATA, 2, 0}, {VG_DATA + 16, 1, 0}, {VG_DATA + 32, 1, VG_WRITE}};

    vg_start(g, 0, 3);
    for (unsigned class = 0; class < 3; class ++) {
        *vg_ram(g, VG_DATA) = (uint8_t) class;
        *vg_ram(g, VG_DATA + 32) = 0xee;
        vg_add(g, CONTROL, b, 3);
        vg_kick(g, CONTROL);
        assert_int_equal(vg_used(g, CONTROL, 3), 1);
        assert_int_equal(*vg_ram(g, VG_DATA + 32), class == 2);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_config),  TEST(test_send),   TEST(test_checksum), TEST(test_not_sent),
        TEST(test_receive), TEST(test_merged), TEST(test_control),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
