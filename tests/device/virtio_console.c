/* tests/device/virtio_console.c: a terminal alone, and ports with control messages. */
#include "tests/device/virtio_guest.h"

#include "backend/char/backends.h"
#include "backend/char/buffer.h"
#include "device/virtio/console.h"

#define F_SIZE      BIT(0)
#define F_MULTIPORT BIT(1)

enum { RX, TX, CONTROL_RX, CONTROL_TX, RX1, TX1 };
enum { DEVICE_READY, PORT_ADD, PORT_REMOVE, PORT_READY, CONSOLE_PORT, RESIZE, PORT_OPEN, PORT_NAME };

struct console_test {
    struct vg g;
    struct virtio_console *console;
    struct chardev *chardev[2];
};

static int open_test(void **state, unsigned ports)
{
    struct console_test *t = calloc(1, sizeof(*t));
    struct virtio_console_port port[2] = {{.name = NULL}, {.name = "a name"}};

    vg_open(&t->g);
    for (unsigned i = 0; i < ports; i++) {
        port[i].chardev = t->chardev[i] = chardev_buffer_new(NULL);
        port[i].chardev->rows = 25;
        port[i].chardev->columns = 80;
    }
    t->console = virtio_console_new(t->g.host, t->g.mem, port, ports, NULL);
    assert_non_null(t->console);
    vg_enable(&t->g);
    *state = t;
    return 0;
}

static int open_one(void **state)
{
    return open_test(state, 1);
}

static int open_two(void **state)
{
    return open_test(state, 2);
}

static int teardown(void **state)
{
    struct console_test *t = *state;

    virtio_console_free(t->console);
    for (unsigned i = 0; i < 2; i++)
        chardev_free(t->chardev[i]);
    vg_close(&t->g);
    free(t);
    return 0;
}

static void guest_writes(struct vg *g, unsigned q, const char *text)
{
    const struct vg_buffer b = {VG_DATA, (uint32_t)strlen(text), 0};

    memcpy(vg_ram(g, VG_DATA), text, strlen(text));
    vg_add(g, q, &b, 1);
    vg_kick(g, q);
    assert_int_equal(vg_used(g, q, 1), 0);
}

static void guest_has_room(struct vg *g, unsigned q, uint32_t len)
{
    const struct vg_buffer b = {VG_DATA + 0x1000 * (q + 1), len, VG_WRITE};

    memset(vg_ram(g, b.gpa), 0, len);
    vg_add(g, q, &b, 1);
    vg_kick(g, q);
}

static const char *guest_reads(struct vg *g, unsigned q, int64_t len)
{
    assert_int_equal(vg_used(g, q, 1), len);
    return (const char *)vg_ram(g, VG_DATA + 0x1000 * (q + 1));
}

static void host_has(struct chardev *chardev, const char *text)
{
    assert_string_equal(chardev_buffer_output(chardev, NULL), text);
    chardev_buffer_clear(chardev);
}

/* --- one terminal -------------------------------------------------------------------------- */

static void test_terminal(void **state)
{
    struct console_test *t = *state;
    struct vg *g = &t->g;

    assert_false(vg_offered(g) & F_MULTIPORT);
    for (unsigned packed = 0; packed < 2; packed++) {
        unsigned accepts = chardev_buffer_accepts(t->chardev[0]);

        vg_start(g, F_SIZE | (packed ? VG_PACKED : 0), 2);
        guest_writes(g, TX, "hello");
        host_has(t->chardev[0], "hello");
        assert_int_equal(chardev_buffer_feed(t->chardev[0], "key", 3), 0);
        guest_has_room(g, RX, 2);
        assert_int_equal(chardev_buffer_accepts(t->chardev[0]), accepts + 1);
        assert_int_equal(chardev_buffer_feed(t->chardev[0], "key", 3), 2);
        assert_memory_equal(guest_reads(g, RX, 2), "ke", 2);
        assert_int_equal(chardev_buffer_feed(t->chardev[0], "y", 1), 0);
        assert_int_equal(vg_status(g), 0xf);
    }
    vg_put(g, 0x14, 0, 1);
    assert_int_equal(chardev_buffer_feed(t->chardev[0], "key", 3), 0);
}

static unsigned config_interrupt(struct vg *g)
{
    return vg_get(g, 0x1000, 1) & 2;
}

static void test_size(void **state)
{
    struct console_test *t = *state;
    struct vg *g = &t->g;
    const struct chardev_client *client = &t->chardev[0]->client;

    vg_start(g, F_SIZE, 2);
    assert_int_equal(vg_get(g, 0x2000, 4), 25 << 16 | 80);
    assert_int_equal(config_interrupt(g), 0);
    guest_writes(g, TX, "x");
    assert_int_equal(config_interrupt(g), 2); /* now it can be told */
    guest_writes(g, TX, "x");
    assert_int_equal(config_interrupt(g), 0);
    t->chardev[0]->rows = 50;
    client->resized(client->opaque, 50, 80);
    assert_int_equal(config_interrupt(g), 2);
    assert_int_equal(vg_get(g, 0x2000, 4), 50 << 16 | 80);
    vg_put(g, 0x2000, 1, 4); /* not the driver's to write */
    assert_int_equal(vg_get(g, 0x2000, 4), 50 << 16 | 80);
}

/* --- ports ----------------------------------------------------------------------------------- */

static void guest_says(struct vg *g, uint32_t id, uint16_t event, uint16_t value)
{
    const struct vg_buffer b = {VG_DATA, 8, 0};

    VG_PUT(g, VG_DATA, uint32_t, id);
    VG_PUT(g, VG_DATA + 4, uint16_t, event);
    VG_PUT(g, VG_DATA + 6, uint16_t, value);
    vg_add(g, CONTROL_TX, &b, 1);
    vg_kick(g, CONTROL_TX);
    assert_int_equal(vg_used(g, CONTROL_TX, 1), 0);
}

/* Gives room for one message and takes it: id, event, value and `more` bytes behind. */
static const char *guest_told(struct vg *g, uint32_t id, uint16_t event, uint16_t value, unsigned more)
{
    const gpa_t at = VG_DATA + 0x1000 * (CONTROL_RX + 1);

    guest_has_room(g, CONTROL_RX, 64);
    assert_int_equal(vg_used(g, CONTROL_RX, 1), 8 + more);
    assert_int_equal(VG_GET(g, at, uint32_t), id);
    assert_int_equal(VG_GET(g, at + 4, uint16_t), event);
    assert_int_equal(VG_GET(g, at + 6, uint16_t), value);
    return (const char *)vg_ram(g, at + 8);
}

static void start_ports(struct vg *g)
{
    vg_start(g, F_SIZE | F_MULTIPORT, 6);
    assert_int_equal(vg_get(g, 0x2004, 4), 2);
    guest_says(g, 0, DEVICE_READY, 1);
    guest_told(g, 0, PORT_ADD, 1, 0);
    guest_told(g, 1, PORT_ADD, 1, 0);
}

static void test_ports(void **state)
{
    struct console_test *t = *state;
    struct vg *g = &t->g;

    start_ports(g);
    guest_says(g, 1, PORT_READY, 1);
    guest_told(g, 1, PORT_OPEN, 1, 0);
    assert_memory_equal(guest_told(g, 1, PORT_NAME, 1, 6), "a name", 7);
    guest_says(g, 0, PORT_READY, 1);
    guest_told(g, 0, CONSOLE_PORT, 1, 0);
    guest_told(g, 0, PORT_OPEN, 1, 0);
    assert_memory_equal(guest_told(g, 0, RESIZE, 1, 4), "\x50\0\x19\0", 4); /* columns, rows */

    guest_writes(g, TX1, "to one");
    host_has(t->chardev[1], "to one");
    host_has(t->chardev[0], "");
    guest_has_room(g, RX1, 16);
    assert_int_equal(chardev_buffer_feed(t->chardev[1], "abc", 3), 0); /* nobody has opened it */
    guest_says(g, 1, PORT_OPEN, 1);
    assert_int_equal(chardev_buffer_feed(t->chardev[1], "abc", 3), 3);
    assert_memory_equal(guest_reads(g, RX1, 3), "abc", 3);
    guest_says(g, 1, PORT_OPEN, 0);
    guest_has_room(g, RX1, 16);
    assert_int_equal(chardev_buffer_feed(t->chardev[1], "abc", 3), 0);
    chardev_buffer_hangup(t->chardev[1]);
    guest_told(g, 1, PORT_OPEN, 0, 0);
}

static void test_port_size(void **state)
{
    struct console_test *t = *state;
    struct vg *g = &t->g;
    const struct chardev_client *client = &t->chardev[0]->client;

    start_ports(g);
    client->resized(client->opaque, 25, 80); /* not open yet: nothing is told */
    guest_says(g, 0, PORT_OPEN, 1);
    t->chardev[0]->columns = 132;
    client->resized(client->opaque, 25, 132);
    client->resized(client->opaque, 25, 132); /* a driver without room is told once */
    assert_memory_equal(guest_told(g, 0, RESIZE, 1, 4), "\x84\0\x19\0", 4);
    guest_has_room(g, CONTROL_RX, 64);
    assert_int_equal(vg_used(g, CONTROL_RX, 1), -1);
}

static void test_nonsense(void **state)
{
    struct console_test *t = *state;
    struct vg *g = &t->g;
    const struct vg_buffer small = {VG_DATA, 7, 0}, huge[] = {{0, VG_RAM / 2, 0}};

    start_ports(g);
    guest_says(g, 2, PORT_READY, 1);
    guest_says(g, UINT32_MAX, PORT_OPEN, 1);
    guest_says(g, 0, PORT_NAME, 1);
    guest_says(g, 1, 0xffff, 0xffff);
    vg_add(g, CONTROL_TX, &small, 1);
    vg_kick(g, CONTROL_TX);
    assert_int_equal(vg_used(g, CONTROL_TX, 1), 0);
    guest_has_room(g, CONTROL_RX, 3); /* a message does not fit: it is cut */
    assert_int_equal(vg_used(g, CONTROL_RX, 1), -1);
    guest_says(g, 0, PORT_READY, 1);
    assert_int_equal(vg_used(g, CONTROL_RX, 1), 3);
    assert_int_equal(vg_status(g), 0xf);
    vg_add(g, TX, huge, 1);
    vg_kick(g, TX);
    assert_int_equal(vg_status(g), 0x4f);
    vg_put(g, 0x14, 0, 1);
    assert_int_equal(vg_status(g), 0);
}

/* A driver that knows one port only. */
static void test_without_multiport(void **state)
{
    struct console_test *t = *state;
    struct vg *g = &t->g;

    vg_start(g, F_SIZE, 2);
    guest_writes(g, TX, "plain");
    host_has(t->chardev[0], "plain");
    guest_has_room(g, RX, 16);
    assert_int_equal(chardev_buffer_feed(t->chardev[0], "abc", 3), 3);
    assert_memory_equal(guest_reads(g, RX, 3), "abc", 3);
    assert_int_equal(chardev_buffer_feed(t->chardev[1], "abc", 3), 0);
}

#define ONE(name) cmocka_unit_test_setup_teardown(name, open_one, teardown)
#define TWO(name) cmocka_unit_test_setup_teardown(name, open_two, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        ONE(test_terminal),  ONE(test_size),     TWO(test_ports),
        TWO(test_port_size), TWO(test_nonsense), TWO(test_without_multiport),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
