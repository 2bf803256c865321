/* tests/device/virtio_net.c: frames both ways, merged buffers, checksums, no room, control, what is no frame. */
#include "tests/device/virtio_guest.h"

#include "device/virtio/net.h"

enum { RX, TX, CONTROL };
#define MERGE          BIT(15)
#define CSUM           BIT(0)
#define GUEST_CSUM     BIT(1)
#define GUEST_OFFLOADS BIT(2)
#define GUEST_TSO4     BIT(7)
#define GUEST_TSO6     BIT(8)
#define HOST_TSO4      BIT(11)
#define CONTROL_VQ     BIT(17)

struct net_test {
    struct vg g;
    struct net net; /* a backend that remembers */
    struct virtio_net *card;
    uint8_t sent[NET_FRAME_MAX];
    size_t sent_len;
    struct net_offload offload; /* of the frame */
    unsigned frames, ready, takes;
    bool full;
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

static bool send_frame(struct net *net, const struct iovec *iov, unsigned count, const struct net_offload *offload)
{
    struct net_test *t = test_of(net);

    if (t->full)
        return false;
    t->sent_len = 0;
    for (unsigned i = 0; i < count; t->sent_len += iov[i++].iov_len)
        memcpy(t->sent + t->sent_len, iov[i].iov_base, iov[i].iov_len);
    t->offload = *offload;
    if (offload->flags & NET_NEEDS_CSUM)
        net_fill_checksum(t->sent, t->sent_len, offload);
    t->frames++;
    return true;
}

static void set_takes(struct net *net, unsigned takes)
{
    test_of(net)->takes = takes;
}

static void ready(struct net *net)
{
    test_of(net)->ready++;
}

static const struct net_ops ops = {start, stop, send_frame, set_takes, ready, stop};

static int setup(void **state)
{
    struct net_test *t = calloc(1, sizeof(*t));

    vg_open(&t->g);
    t->net = (struct net){.ops = &ops, .mtu = 1500, .gives = NET_TAKES_CSUM | NET_TAKES_TCP4};
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
    return t->net.client.receive(t->net.client.opaque, frame, len, &t->offload);
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

/* A command of the control queue with its data; its answer. */
static unsigned control(struct vg *g, uint8_t class, uint8_t command, const void *data, uint32_t len)
{
    const struct vg_buffer b[] = {{VG_DATA, 2, 0}, {VG_DATA + 16, len, 0}, {VG_DATA + 32, 1, VG_WRITE}};

    *vg_ram(g, VG_DATA) = class;
    *vg_ram(g, VG_DATA + 1) = command;
    memcpy(vg_ram(g, VG_DATA + 16), data, len);
    *vg_ram(g, VG_DATA + 32) = 0xee;
    vg_add(g, CONTROL, b, 3);
    vg_kick(g, CONTROL);
    assert_int_equal(vg_used(g, CONTROL, 3), 1);
    return *vg_ram(g, VG_DATA + 32);
}

static void test_mac(void **state)
{
    struct net_test *t = *state;

    vg_start(&t->g, CONTROL_VQ, 3);
    assert_int_equal(control(&t->g, 1, 1, "\x02\x11\x12\x13\x14\x15", 6), 0);
    assert_int_equal(vg_get(&t->g, 0x2000, 1), 2);
    assert_int_equal(vg_get(&t->g, 0x2005, 1), 0x15);
    assert_int_equal(control(&t->g, 1, 1, "\x02\x11\x12\x13\x14", 5), 1);
    assert_int_equal(control(&t->g, 1, 2, "\x02\x11\x12\x13\x14\x15", 6), 1);
    vg_start(&t->g, 0, 3); /* after a reset */
    assert_int_equal(vg_get(&t->g, 0x2005, 1), 5);
}

/* What is left to the driver: what the backend gives and the driver takes, until a command changes it. */
static void test_guest_offloads(void **state)
{
    struct net_test *t = *state;
    struct vg *g = &t->g;
    const struct vg_buffer b = {VG_DATA + 64, 1500, VG_WRITE};
    const uint64_t one = GUEST_CSUM, bad = GUEST_CSUM | GUEST_TSO6, none = 0;

    vg_start(g, GUEST_CSUM | GUEST_TSO4 | GUEST_OFFLOADS, 3);
    assert_int_equal(t->takes, NET_TAKES_CSUM | NET_TAKES_TCP4);
    t->offload = (struct net_offload){.flags = NET_NEEDS_CSUM, .gso_type = NET_GSO_TCP4, .gso_size = 1000};
    vg_add(g, RX, &b, 1);
    assert_true(receive(t, 1400));
    assert_int_equal(vg_used(g, RX, 1), 1412);
    assert_memory_equal(vg_ram(g, VG_DATA + 64), &t->offload, sizeof(t->offload));
    assert_int_equal(control(g, 5, 0, &one, 8), 0);
    assert_int_equal(t->takes, NET_TAKES_CSUM);
    assert_int_equal(control(g, 5, 0, &bad, 8), 1); /* not negotiated */
    assert_int_equal(control(g, 5, 0, &one, 7), 1);
    assert_int_equal(control(g, 5, 1, &one, 8), 1);
    assert_int_equal(control(g, 5, 0, &none, 8), 0);
    assert_int_equal(t->takes, 0);
    vg_add(g, RX, &b, 1);
    assert_true(receive(t, 1400));
    assert_int_equal(vg_used(g, RX, 1), 1412);
    assert_int_equal(*vg_ram(g, VG_DATA + 64), 0);
    vg_start(g, GUEST_TSO4, 3); /* without checksums there are no segments */
    assert_int_equal(t->takes, 0);
}

static void offer(struct vg *g, const struct net_offload *offload, uint32_t len)
{
    const struct vg_buffer b = {VG_DATA, 12 + len, 0};

    memset(vg_ram(g, VG_DATA), 0, 12);
    memcpy(vg_ram(g, VG_DATA), offload, sizeof(*offload));
    vg_add(g, TX, &b, 1);
    vg_kick(g, TX);
}

/* Packets that the card is to cut go to the backend with what that takes; those that were not negotiated go nowhere. */
static void test_host_offloads(void **state)
{
    struct net_test *t = *state;
    struct vg *g = &t->g;
    const struct net_offload four = {NET_NEEDS_CSUM, NET_GSO_TCP4, 54, 1448, 34, 16};
    static const struct net_offload bad[] = {
        {NET_NEEDS_CSUM, NET_GSO_TCP6, 54, 1448, 34, 16}, /* not negotiated */
        {NET_NEEDS_CSUM, 3, 54, 1448, 34, 16},            /* UDP */
        {NET_NEEDS_CSUM, NET_GSO_TCP4, 54, 0, 34, 16},
        {0, NET_GSO_TCP4, 54, 1448, 34, 16},
        {NET_NEEDS_CSUM, NET_GSO_TCP4 | NET_GSO_ECN, 54, 1448, 34, 16},
    };

    vg_start(g, CSUM | HOST_TSO4, 3);
    offer(g, &four, 60000);
    assert_int_equal(vg_used(g, TX, 1), 0);
    assert_int_equal(t->frames, 1);
    assert_int_equal(t->sent_len, 60000);
    assert_memory_equal(&t->offload, &four, sizeof(four));
    offer(g, &four, NET_FRAME_MAX + 1);
    assert_int_equal(vg_used(g, TX, 1), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        offer(g, &bad[i], 1000);
        assert_int_equal(vg_used(g, TX, 1), 0);
    }
    assert_int_equal(t->frames, 1);
    vg_start(g, 0, 3); /* nothing negotiated: flags mean nothing */
    offer(g, &(const struct net_offload){.flags = NET_NEEDS_CSUM, .csum_start = 20}, 1000);
    assert_int_equal(t->frames, 2);
    assert_int_equal(t->offload.flags, 0);
}

/* A backend without room: frames stay in the queue until it has some, and none is lost or sent twice. */
static void test_no_room(void **state)
{
    struct net_test *t = *state;
    struct vg *g = &t->g;
    const struct vg_buffer b[] = {{VG_DATA, 12, 0}, {VG_DATA + 12, 60, 0}};

    for (unsigned packed = 0; packed < 2; packed++) {
        vg_start(g, packed ? VG_PACKED : 0, 3);
        memset(vg_ram(g, VG_DATA), 0, 72);
        t->frames = 0;
        t->full = true;
        for (unsigned i = 0; i < 4; i++) {
            vg_add(g, TX, b, 2);
            vg_kick(g, TX);
            assert_int_equal(vg_used(g, TX, 2), -1);
        }
        t->net.client.writable(t->net.client.opaque);
        assert_int_equal(vg_used(g, TX, 2), -1);
        t->full = false;
        t->net.client.writable(t->net.client.opaque);
        assert_int_equal(t->frames, 4);
        for (unsigned i = 0; i < 4; i++)
            assert_int_equal(vg_used(g, TX, 2), 0);
        assert_int_equal(vg_used(g, TX, 2), -1);
        t->net.client.writable(t->net.client.opaque);
        assert_int_equal(t->frames, 4);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_config),         TEST(test_send),          TEST(test_checksum), TEST(test_not_sent),
        TEST(test_receive),        TEST(test_merged),        TEST(test_control),  TEST(test_mac),
        TEST(test_guest_offloads), TEST(test_host_offloads), TEST(test_no_room),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
