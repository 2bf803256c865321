/* tests/device/uart16550.c: PC16550D, register by register. */
#include "tests/device/fixture.h"

#include "backend/char/backends.h"
#include "backend/char/buffer.h"
#include "device/legacy/uart16550.h"

#define COM1 0x3f8
enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR, FCR = IIR };

struct uart_test {
    struct fixture f;
    struct chardev *chardev;
    struct uart *uart;
};

static int setup(void **state)
{
    struct uart_test *t = calloc(1, sizeof(*t));

    fixture_open(&t->f);
    t->chardev = chardev_buffer_new(NULL);
    t->uart = uart_new(t->f.bus, COM1, t->f.loop, fixture_line(&t->f), t->chardev, NULL);
    assert_non_null(t->uart);
    *state = t;
    return 0;
}

static int teardown(void **state)
{
    struct uart_test *t = *state;

    uart_free(t->uart);
    chardev_free(t->chardev);
    fixture_close(&t->f);
    free(t);
    return 0;
}

static uint8_t rd(struct uart_test *t, unsigned reg)
{
    return in8(&t->f, (uint16_t)(COM1 + reg));
}

static void wr(struct uart_test *t, unsigned reg, uint8_t value)
{
    out8(&t->f, (uint16_t)(COM1 + reg), value);
}

static void feed(struct uart_test *t, const char *text, size_t expect)
{
    assert_int_equal(chardev_buffer_feed(t->chardev, text, strlen(text)), expect);
}

static void test_reset_state(void **state)
{
    struct uart_test *t = *state;

    assert_int_equal(rd(t, IER), 0);
    assert_int_equal(rd(t, IIR), 0x01);
    assert_int_equal(rd(t, LCR), 0);
    assert_int_equal(rd(t, MCR), 0);
    assert_int_equal(rd(t, LSR), 0x60);
    assert_int_equal(rd(t, MSR), 0xb0); /* the other end is there */
    wr(t, SCR, 0x5a);
    assert_int_equal(rd(t, SCR), 0x5a);
    wr(t, LCR, 0x80);
    assert_int_equal(rd(t, DATA) | rd(t, IER) << 8, 12);
    wr(t, DATA, 0x34);
    wr(t, IER, 0x12);
    assert_int_equal(rd(t, DATA) | rd(t, IER) << 8, 0x1234);
    wr(t, LCR, 0x03);
    assert_int_equal(rd(t, IER), 0);
    wr(t, IER, 0xff);
    assert_int_equal(rd(t, IER), 0x0f);
}

static void test_output(void **state)
{
    struct uart_test *t = *state;

    wr(t, DATA, 'o');
    wr(t, DATA, 'k');
    assert_string_equal(chardev_buffer_output(t->chardev, NULL), "ok");
    assert_int_equal(rd(t, LSR), 0x60);
    bus_port_write(t->f.bus, COM1, 0x0061, 2); /* a word write goes to two registers */
    assert_string_equal(chardev_buffer_output(t->chardev, NULL), "oka");
}

/* Enabling the interrupt of an empty transmitter raises it; telling it in IIR clears it; so does new data, briefly. */
static void test_thre(void **state)
{
    struct uart_test *t = *state;

    wr(t, MCR, 0x08);
    wr(t, IER, 0x02);
    assert_true(t->f.level);
    assert_int_equal(rd(t, IIR), 0x02);
    assert_false(t->f.level);
    assert_int_equal(rd(t, IIR), 0x01);
    wr(t, IER, 0x02); /* no change: nothing new */
    assert_false(t->f.level);
    wr(t, IER, 0x00);
    wr(t, IER, 0x02); /* as Linux tests it */
    assert_true(t->f.level);
    assert_int_equal(rd(t, IIR), 0x02);
    wr(t, DATA, 'x');
    assert_true(t->f.level);
    assert_int_equal(rd(t, IIR), 0x02);
    assert_false(t->f.level);
}

static void test_out2_gates(void **state)
{
    struct uart_test *t = *state;

    wr(t, IER, 0x02);
    assert_false(t->f.level);
    wr(t, MCR, 0x08);
    assert_true(t->f.level);
    wr(t, MCR, 0x18); /* loopback takes OUT2 away */
    assert_false(t->f.level);
}

static void test_receive_no_fifo(void **state)
{
    struct uart_test *t = *state;
    unsigned accepts;

    wr(t, MCR, 0x08);
    wr(t, IER, 0x01);
    feed(t, "ab", 1);
    assert_true(t->f.level);
    assert_int_equal(rd(t, IIR), 0x04);
    assert_int_equal(rd(t, LSR), 0x61);
    feed(t, "b", 0);
    accepts = chardev_buffer_accepts(t->chardev);
    assert_int_equal(rd(t, DATA), 'a');
    assert_false(t->f.level);
    assert_int_equal(rd(t, LSR), 0x60);
    assert_int_equal(chardev_buffer_accepts(t->chardev), accepts + 1);
    feed(t, "b", 1);
    assert_int_equal(rd(t, DATA), 'b');
}

static void test_fifo_trigger(void **state)
{
    static const struct {
        uint8_t fcr;
        unsigned level;
    } cases[] = {{0x01, 1}, {0x41, 4}, {0x81, 8}, {0xc1, 14}};
    struct uart_test *t = *state;
    unsigned i, n;

    wr(t, MCR, 0x08);
    wr(t, IER, 0x01);
    for (i = 0; i < ARRAY_SIZE(cases); i++) {
        wr(t, FCR, cases[i].fcr | 0x02);
        for (n = 1; n < cases[i].level; n++) {
            feed(t, "x", 1);
            assert_false(t->f.level);
        }
        feed(t, "x", 1);
        assert_true(t->f.level);
        assert_int_equal(rd(t, IIR), 0xc4);
        rd(t, DATA);
        assert_false(t->f.level);
    }
}

static void test_fifo_full(void **state)
{
    struct uart_test *t = *state;
    unsigned i;

    wr(t, MCR, 0x03);
    wr(t, FCR, 0x01);
    feed(t, "0123456789abcdefgh", 16);
    feed(t, "z", 0);
    for (i = 0; i < 16; i++)
        assert_int_equal(rd(t, DATA), "0123456789abcdef"[i]);
    assert_int_equal(rd(t, LSR), 0x60);
    feed(t, "z", 1);
    wr(t, FCR, 0x03);
    assert_int_equal(rd(t, LSR), 0x60);
    feed(t, "z", 1);
    wr(t, FCR, 0x00); /* leaving FIFO mode clears as well */
    assert_int_equal(rd(t, LSR), 0x60);
    wr(t, FCR, 0xc0); /* no trigger level without FCR0 */
    assert_int_equal(rd(t, IIR), 0x01);
}

/* 9600 8N1: four characters are 4.17 ms. */
static void test_timeout(void **state)
{
    struct uart_test *t = *state;

    wr(t, LCR, 0x03);
    wr(t, MCR, 0x08);
    wr(t, FCR, 0xc1);
    wr(t, IER, 0x01);
    feed(t, "ab", 2);
    fixture_pass(&t->f, 4 * MS, MS);
    assert_false(t->f.level);
    feed(t, "c", 1); /* starts again */
    fixture_pass(&t->f, 4 * MS, MS);
    assert_false(t->f.level);
    fixture_pass(&t->f, MS, MS);
    assert_true(t->f.level);
    assert_int_equal(rd(t, IIR), 0xcc);
    assert_int_equal(rd(t, DATA), 'a');
    assert_false(t->f.level);
    fixture_pass(&t->f, 5 * MS, MS);
    assert_true(t->f.level);
    rd(t, DATA);
    rd(t, DATA);
    fixture_pass(&t->f, 20 * MS, MS);
    assert_false(t->f.level);
}

static void test_priority(void **state)
{
    struct uart_test *t = *state;

    wr(t, MCR, 0x18);
    wr(t, IER, 0x0f);
    wr(t, DATA, 'a');
    wr(t, DATA, 'b'); /* overrun */
    assert_int_equal(rd(t, IIR), 0x06);
    assert_int_equal(rd(t, LSR), 0x63);
    assert_int_equal(rd(t, IIR), 0x04);
    assert_int_equal(rd(t, DATA), 'b');
    assert_int_equal(rd(t, IIR), 0x02);
    assert_int_equal(rd(t, IIR), 0x00); /* modem lines have moved with loopback */
    rd(t, MSR);
    assert_int_equal(rd(t, IIR), 0x01);
}

static void test_loopback(void **state)
{
    struct uart_test *t = *state;
    unsigned i;

    wr(t, FCR, 0x01);
    wr(t, MCR, 0x10);
    rd(t, MSR);
    wr(t, MCR, 0x1a); /* RTS, OUT2: the test every driver does */
    assert_int_equal(rd(t, MSR), 0x90 | 0x09);
    assert_int_equal(rd(t, MSR), 0x90);
    wr(t, MCR, 0x15); /* DTR, OUT1 */
    assert_int_equal(rd(t, MSR) & 0xf0, 0x60);
    wr(t, MCR, 0x11);
    assert_int_equal(rd(t, MSR), 0x20 | 0x04); /* RI's trailing edge */
    for (i = 0; i < 17; i++)
        wr(t, DATA, (uint8_t)i);
    assert_int_equal(rd(t, LSR), 0x63);
    feed(t, "x", 0); /* the line is cut off */
    for (i = 0; i < 16; i++)
        assert_int_equal(rd(t, DATA), i);
    assert_string_equal(chardev_buffer_output(t->chardev, NULL), "");
    wr(t, MCR, 0x03);
    feed(t, "x", 1);
}

/* A sender waits for DTR, RTS or the receive interrupt: what came before a driver opened the port would be lost. */
static void test_not_listening(void **state)
{
    static const struct {
        unsigned reg;
        uint8_t value;
    } ways[] = {{MCR, 0x01}, {MCR, 0x02}, {IER, 0x01}};
    struct uart_test *t = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(ways); i++) {
        unsigned accepts = chardev_buffer_accepts(t->chardev);

        feed(t, "x", 0);
        wr(t, ways[i].reg, ways[i].value);
        assert_true(chardev_buffer_accepts(t->chardev) > accepts);
        feed(t, "x", 1);
        assert_int_equal(rd(t, DATA), 'x');
        wr(t, ways[i].reg, 0);
    }
}

static void test_hangup(void **state)
{
    struct uart_test *t = *state;

    wr(t, MCR, 0x08);
    wr(t, IER, 0x08);
    chardev_buffer_hangup(t->chardev);
    assert_true(t->f.level);
    assert_int_equal(rd(t, IIR), 0x00);
    assert_int_equal(rd(t, MSR), 0x30 | 0x08);
    assert_false(t->f.level);
}

static void test_nothing_connected(void **state)
{
    struct uart_test *t = *state;
    struct uart *other = uart_new(t->f.bus, 0x2f8, t->f.loop, fixture_line(&t->f), NULL, NULL);

    assert_non_null(other);
    assert_int_equal(in8(&t->f, 0x2f8 + MSR), 0);
    out8(&t->f, 0x2f8, 'x');
    assert_int_equal(in8(&t->f, 0x2f8 + LSR), 0x60);
    assert_null(uart_new(t->f.bus, 0x2ff, t->f.loop, fixture_line(&t->f), NULL, NULL));
    uart_free(other);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_reset_state),     TEST(test_output),       TEST(test_thre),      TEST(test_out2_gates),
        TEST(test_receive_no_fifo), TEST(test_fifo_trigger), TEST(test_fifo_full), TEST(test_timeout),
        TEST(test_priority),        TEST(test_loopback),     TEST(test_hangup),    TEST(test_nothing_connected),
        TEST(test_not_listening),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
